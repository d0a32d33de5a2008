//! The partition loop: reads a worker's slots and applies them to its shard batch by batch.
//!
//! Any failure ends in the same place: the slots are read again, and reading goes on from where the shard says that they
//! stand. So nothing needs to be known of how far a failed batch got. Slots that come or go are no failure: what was read of those
//! that stay is written as if nothing had happened.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::edges::{Clock, Log, Outcomes, Read, Shard, ShardError, TakeOver};
use crate::fresh::{Fresh, Size};
use crate::gateway::SlotMap;
use crate::gather::{Gathered, Gathering};
use crate::health::Health;
use crate::intake::{Advance, DeadLetter, Keyspace, Positions};
use crate::metrics::Metrics;
use crate::prepare::{Prepared, Work, bury, fold, prepare};
use crate::process::{Backoff, Shutdown};
use crate::record::{Batch, Took};
use crate::service::{Rejection, Service};

/// How often an idle worker looks for a successor, and for slots that came or went.
const LOOK: Duration = Duration::from_millis(100);
/// How often an idle worker has looked before it is sure that nothing waits in Kafka: a second, in which what is there has come.
const SURE: u32 = 10;
/// The part of a worker's health that this is.
pub const LOOP: &str = "loop";

/// The loop of one partition, over its edges.
pub struct PartitionLoop<S, H, L, C> {
    /// What is made of records.
    pub service: Arc<S>,
    /// How keys are spread over slots.
    pub keyspace: Keyspace,
    /// The shard.
    pub shard: H,
    /// The log.
    pub log: L,
    /// Time.
    pub clock: C,
    /// Where it says how it fares.
    pub health: Health,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// Wakes the relay.
    pub committed: Arc<Notify>,
    /// What the relay is woken for, and how far it is.
    pub fresh: Arc<Fresh>,
    /// Who owns which slot, as the mover last said.
    pub owners: SlotMap,
    /// Up to where batches are written one by one, because what was gathered was not written; `None` but after that.
    pub singly: Option<Positions>,
}

/// A transaction that was committed.
struct Written {
    number: i64,
    outcomes: Vec<Outcomes>,
    took: Took,
}

/// Why the loop ended, but for a shutdown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoopEnd {
    /// Another worker has taken over.
    Fenced,
    /// The database belongs to another service or partition.
    Foreign {
        /// The service's id in the shard.
        service_id: String,
        /// The partition in the shard.
        partition: i32,
    },
    /// Reading ended, which it never does by itself.
    LogEnded,
}

/// How a turn of the loop ended.
enum Failure {
    End(LoopEnd),
    Shutdown,
    /// What is known of the slots is no longer so.
    Stale,
    /// Slots have come or gone; nothing was written since, and the log has back what was not.
    Changed,
    /// Postgres refuses the data of these records.
    Refused(Rejection),
    /// Something that passes, and whose part it is.
    Passing(&'static str, String),
}

impl From<ShardError> for Failure {
    fn from(error: ShardError) -> Self {
        match error {
            ShardError::Passing(reason) => Self::Passing("postgres", format!("Postgres: {reason}")),
            ShardError::Refused(rejection) => Self::Refused(rejection),
        }
    }
}

/// How a turn begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TakingUp {
    /// All slots are read from where they stand.
    Anew,
    /// Only those that have come; the others are read on.
    Changes,
}

/// What a turn knows of the worker's slots.
struct Known {
    version: i64,
    positions: Positions,
    /// How often each slot had changed its owner.
    epochs: BTreeMap<u32, i64>,
    /// Slots that another shard has, and why they are not read.
    refused: BTreeMap<u32, String>,
    /// When the slots' version was last seen.
    seen: Instant,
    /// How often nothing came since.
    idle: u32,
}

impl Known {
    /// Whether a slot is past an offset, or somebody else's.
    fn is_past(&self, slot: u32, offset: i64) -> bool {
        self.positions.get(&slot).is_none_or(|next| *next >= offset)
    }
}

/// Batches on their way into one transaction.
struct Turn<P> {
    work: Work<P>,
    size: Size,
    /// The records; of what was gathered they are not kept.
    batch: Option<Batch>,
}

impl<S: Service, H: Shard<S>, L: Log<S>, C: Clock> PartitionLoop<S, H, L, C> {
    /// Becomes the shard's owner; waits for a shard that is not there or not prepared. `false`: the shutdown came first.
    pub async fn take_over(&mut self, shutdown: &mut Shutdown) -> Result<bool, LoopEnd> {
        self.metrics.behind().lost();
        let mut backoff = Backoff::default();
        loop {
            let taken = tokio::select! {
                biased;
                () = shutdown.wait() => return Ok(false),
                taken = self.shard.take_over() => taken,
            };
            match taken {
                Ok(TakeOver::Owned { times }) => {
                    self.metrics.taken_over(times);
                    return Ok(true);
                }
                Ok(TakeOver::Foreign { service_id, partition }) => {
                    return Err(LoopEnd::Foreign { service_id, partition });
                }
                Ok(TakeOver::NotPrepared) => {
                    self.health.waiting_for(LOOP, "the shard is not prepared yet: the service's init Job does that");
                }
                Err(ShardError::Passing(reason) | ShardError::Refused(Rejection { reason, .. })) => {
                    self.metrics.failure("postgres");
                    self.health.waiting_for(LOOP, format!("Postgres: {reason}"));
                }
            }
            if self.pause(&mut backoff, shutdown).await {
                return Ok(false);
            }
        }
    }

    /// Turns the loop until the shutdown or a successor. A batch in hand is finished first.
    pub async fn run(&mut self, shutdown: &mut Shutdown) -> Result<(), LoopEnd> {
        let mut backoff = Backoff::default();
        // The version of the slots that were stale last.
        let mut stale_before = None;
        let mut taking_up = TakingUp::Anew;
        loop {
            let (version, Err(failure)) = match self.take_up(taking_up).await {
                Ok(known) => (Some(known.version), self.turn(shutdown, &mut backoff, known).await),
                Err(failure) => (None, Err(failure)),
            };
            // What was gathered of slots that stay is read again too.
            let changed = matches!(failure, Failure::Changed) && self.service.gathering().is_none();
            taking_up = if changed { TakingUp::Changes } else { TakingUp::Anew };
            self.metrics.behind().lost();
            let stale = matches!(failure, Failure::Stale | Failure::Changed);
            let again = stale && stale_before == Some(version);
            match failure {
                Failure::End(end) => return Err(end),
                Failure::Shutdown => return Ok(()),
                // Once is what a change of the slots looks like; the same slots again and again would be a loop without a breath.
                Failure::Stale | Failure::Changed if !again => {}
                Failure::Stale | Failure::Changed => {
                    self.health.waiting_for(LOOP, "the shard's slots do not stand where the log was read")
                }
                Failure::Passing(part, reason) => {
                    self.metrics.failure(part);
                    self.health.waiting_for(LOOP, reason);
                }
                // Each single record that is refused was buried; this one is refused as a dead letter too.
                Failure::Refused(rejection) => self.health.waiting_for(LOOP, rejection.reason),
            }
            if (!stale || again) && self.pause(&mut backoff, shutdown).await {
                return Ok(());
            }
            stale_before = stale.then_some(version);
            // After a failure, the shard that is met again may have been taken back: the relay asks it, and at once. Slots that
            // change are no failure, and whoever moves them waits for the relay.
            if !stale {
                self.fresh.forget();
                self.committed.notify_one();
            }
        }
    }

    /// Waits before another attempt. `true`: the shutdown came.
    async fn pause(&self, backoff: &mut Backoff, shutdown: &mut Shutdown) -> bool {
        tokio::select! {
            biased;
            () = shutdown.wait() => true,
            () = self.clock.sleep(backoff.wait()) => false,
        }
    }

    /// From what is known of the slots to the first failure.
    async fn turn(
        &mut self,
        shutdown: &mut Shutdown,
        backoff: &mut Backoff,
        mut known: Known,
    ) -> Result<std::convert::Infallible, Failure> {
        let how = self.service.gathering();
        let mut gathered: Option<Gathered<S::Plan>> = None;
        let mut ahead = None;
        loop {
            let stopping = shutdown.has_come();
            if let Some(due) = gathered.take_if(|waiting| stopping || self.clock.now() >= waiting.due()) {
                ahead = self.write_gathered(&mut known, due, ahead.take()).await?;
            }
            if stopping {
                return Err(Failure::Shutdown);
            }
            let read = match ahead.take() {
                Some(read) => read,
                None => match self.next(shutdown, &mut known, gathered.as_ref().map(Gathered::due)).await? {
                    Some(read) => read,
                    None => continue,
                },
            };
            match read.ok_or(Failure::End(LoopEnd::LogEnded))? {
                Read::Batch(prepared) => {
                    ahead = self.take(&mut known, &how, &mut gathered, prepared).await?;
                    backoff.reset();
                }
                Read::Assigned { mut halted, strays, notices } => {
                    halted.extend(known.refused.clone());
                    self.health.halt_only(halted);
                    self.health.note(notices);
                    self.health.ready(LOOP);
                    if !strays.is_empty() {
                        self.shard.adopt(&strays).await?;
                        return Err(Failure::Stale);
                    }
                }
                Read::Halted { slot, reason } => self.health.halt(slot, reason),
                Read::Trouble(reason) => return Err(Failure::Passing("kafka", format!("Kafka: {reason}"))),
            }
        }
    }

    /// What comes next, if it comes before the shard is to be looked at or what was gathered is due.
    async fn next(
        &mut self,
        shutdown: &mut Shutdown,
        known: &mut Known,
        due: Option<Instant>,
    ) -> Result<Option<Option<Read<S::Plan>>>, Failure> {
        // Where batches come and are gathered, a successor would else be noticed only when they are written.
        if self.clock.now().duration_since(known.seen) >= LOOK {
            self.look(known).await?;
        }
        let wait = due.map_or(LOOK, |due| due.duration_since(self.clock.now()).min(LOOK));
        tokio::select! {
            biased;
            () = shutdown.wait() => Ok(None),
            read = self.log.next(true) => {
                known.idle = 0;
                Ok(Some(read))
            }
            () = self.clock.sleep(wait) => {
                known.idle += 1;
                if known.idle >= SURE && due.is_none() {
                    self.metrics.behind().written(None);
                }
                Ok(None)
            }
        }
    }

    /// What a batch has of this worker's slots: others may have gone since it was read.
    fn ours(&self, known: &Known, prepared: Prepared<S::Plan>) -> Prepared<S::Plan> {
        let is_ours = |slot: &u32| known.positions.contains_key(slot);
        if prepared.batch.begins.keys().all(is_ours) {
            return prepared;
        }
        let mut batch = prepared.batch;
        batch.retain(|slot| is_ours(&slot));
        prepare(&*self.service, self.keyspace, batch)
    }

    /// Takes a batch, to be written now or gathered. Gives what was read meanwhile, if anything was.
    async fn take(
        &mut self,
        known: &mut Known,
        how: &Option<Gathering<S::Plan>>,
        gathered: &mut Option<Gathered<S::Plan>>,
        prepared: Prepared<S::Plan>,
    ) -> Result<Option<Option<Read<S::Plan>>>, Failure> {
        let prepared = self.ours(known, prepared);
        if prepared.batch.is_empty() {
            return Ok(None);
        }
        let stands = |slot: &u32| {
            let after = gathered.as_ref().and_then(|gathered| gathered.position(*slot));
            after.or_else(|| known.positions.get(slot).copied())
        };
        if prepared.batch.begins.iter().any(|(slot, from)| stands(slot) != Some(*from)) {
            return Err(Failure::Stale);
        }
        self.metrics.behind().waits(prepared.batch.oldest());
        let Some(how) = how.as_ref().filter(|_| self.singly.is_none()) else {
            let Prepared { batch, work } = prepared;
            let turn = Turn { work, size: batch.size(0..batch.len()), batch: Some(batch) };
            return self.settle(known, turn, None).await;
        };
        let due = || Gathered::new(self.service.fold(Vec::new()), self.clock.now() + how.interval);
        let waiting = gathered.get_or_insert_with(due);
        waiting.take_in(prepared, how);
        match gathered.take_if(|waiting| waiting.is_full(how)) {
            Some(full) => self.write_gathered(known, full, None).await,
            None => Ok(None),
        }
    }

    /// Writes what was gathered. If that fails, it is read again and written batch by batch: Postgres may refuse something of it, or
    /// all of it may be too much for one statement's time.
    async fn write_gathered(
        &mut self,
        known: &mut Known,
        gathered: Gathered<S::Plan>,
        ahead: Option<Option<Read<S::Plan>>>,
    ) -> Result<Option<Option<Read<S::Plan>>>, Failure> {
        let ends = gathered.ends();
        let (work, size) = gathered.into_work();
        let settled = self.settle(known, Turn { work, size, batch: None }, ahead).await;
        if matches!(settled, Err(Failure::Refused(_) | Failure::Passing(..))) {
            self.singly = Some(ends);
        }
        settled.map_err(|failure| match failure {
            Failure::Refused(rejection) => {
                tracing::warn!(reason = rejection.reason, "Postgres refuses something of what was gathered");
                Failure::Stale
            }
            failure => failure,
        })
    }

    /// Reads the slots and has them read.
    async fn take_up(&mut self, taking_up: TakingUp) -> Result<Known, Failure> {
        let mut slots = self.shard.slots().await?.ok_or(Failure::End(LoopEnd::Fenced))?;
        let refused = refused(&self.owners, slots.standings.iter().map(|(slot, at)| (*slot, at.epoch)));
        slots.standings.retain(|slot, _| !refused.contains_key(slot));
        let positions: Positions = slots.standings.iter().map(|(slot, at)| (*slot, at.next_offset)).collect();
        let epochs = slots.standings.iter().map(|(slot, at)| (*slot, at.epoch)).collect();
        tracing::info!(version = slots.version, slots = ?positions, "slots taken up");
        self.metrics.keep_slots(|slot| positions.contains_key(&slot));
        for (slot, offset) in &positions {
            self.metrics.applied_to(*slot, *offset);
        }
        match taking_up {
            TakingUp::Anew => self.log.assign(slots.standings),
            TakingUp::Changes => self.log.change(slots.standings),
        }
        Ok(Known { version: slots.version, positions, epochs, refused, seen: self.clock.now(), idle: 0 })
    }

    /// Looks for a successor and for a change of the slots.
    async fn look(&mut self, known: &mut Known) -> Result<(), Failure> {
        let epochs = known.epochs.iter().map(|(slot, epoch)| (*slot, *epoch));
        if !refused(&self.owners, epochs).is_empty() {
            return Err(Failure::Stale);
        }
        match self.shard.slots_version().await? {
            Some(now) if now == known.version => {
                known.seen = self.clock.now();
                Ok(())
            }
            Some(_) => Err(Failure::Changed),
            None => Err(Failure::End(LoopEnd::Fenced)),
        }
    }

    /// Writes what one transaction holds. Gives what was read meanwhile, if anything was.
    async fn settle(
        &mut self,
        known: &mut Known,
        turn: Turn<S::Plan>,
        mut ahead: Option<Option<Read<S::Plan>>>,
    ) -> Result<Option<Option<Read<S::Plan>>>, Failure> {
        let began = Instant::now();
        let written = {
            let Self { shard, log, fresh, .. } = self;
            let mut writing = std::pin::pin!(write(shard, known.version, &turn.work, fresh));
            loop {
                tokio::select! {
                    biased;
                    written = &mut writing => break written,
                    read = log.next(false), if ahead.is_none() => ahead = Some(read),
                }
            }
        };
        match (written, turn.batch) {
            (Ok(written), batch) => {
                // What was gathered is as large as that has made it.
                if batch.is_some() {
                    self.log.took(turn.size.records, written.took);
                }
                self.count(known, written, turn.size, began, turn.work);
            }
            (Err(Failure::Refused(rejection)), Some(batch)) => self.search(known, &batch, rejection).await?,
            (Err(Failure::Changed), Some(batch)) => {
                let batch = Read::Batch(Prepared { batch, work: turn.work });
                self.log.take_back([batch].into_iter().chain(ahead.flatten()).collect());
                return Err(Failure::Changed);
            }
            (Err(failure), _) => return Err(failure),
        }
        let waiting = ahead.as_ref().and_then(|read| match read {
            Some(Read::Batch(next)) => Some(next.batch.oldest()),
            _ => None,
        });
        self.metrics.behind().written(waiting);
        self.log.show_progress(&known.positions);
        known.seen = self.clock.now();
        if self.singly.as_ref().is_some_and(|ends| ends.iter().all(|(slot, end)| known.is_past(*slot, *end))) {
            self.singly = None;
        }
        Ok(ahead)
    }

    /// Applies a batch that Postgres refuses as a whole: in halves, until the records that it refuses are alone. Each piece
    /// is a transaction of its own, so that a long search gets further however often it is interrupted.
    async fn search(&mut self, known: &mut Known, batch: &Batch, rejection: Rejection) -> Result<(), Failure> {
        let mut pieces: Vec<(Range<usize>, Option<Rejection>)> = Vec::new();
        split(0..batch.len(), rejection, &mut pieces);
        while let Some((piece, refused)) = pieces.pop() {
            let began = Instant::now();
            let work = match &refused {
                None => fold(&*self.service, self.keyspace, &known.positions, batch.records(piece.clone())),
                Some(why) => bury(&*self.service, &known.positions, batch.records(piece.clone()), why),
            };
            match write(&mut self.shard, known.version, &work, &self.fresh).await {
                Ok(written) => self.count(known, written, batch.size(piece), began, work),
                Err(Failure::Refused(rejection)) if refused.is_none() => split(piece, rejection, &mut pieces),
                // Some of the pieces are written.
                Err(Failure::Changed) => return Err(Failure::Stale),
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    /// Takes note of what is committed.
    fn count(&self, known: &mut Known, written: Written, size: Size, began: Instant, work: Work<S::Plan>) {
        self.metrics.batch(written.number, size.records, began.elapsed());
        self.fresh.offer(written.number, size, written.outcomes);
        self.committed.notify_one();
        self.count_dead(&work.dead);
        for Advance { slot, to, .. } in work.advances {
            self.metrics.applied_to(slot, to);
            known.positions.insert(slot, to);
        }
    }

    fn count_dead(&self, dead: &[DeadLetter]) {
        for letter in dead {
            self.metrics.dead_letter(letter.rejection.kind);
        }
        if let Some(first) = dead.first() {
            let (slot, offset, reason) = (first.slot, first.offset, &first.rejection.reason);
            tracing::warn!(count = dead.len(), slot, offset, reason, "dead letters; the first is shown");
        }
    }
}

/// Which of these slots, each with its epoch, another shard has by now: this one was taken back to a time before they moved, and
/// what it would write of them is not the truth.
fn refused(owners: &SlotMap, slots: impl Iterator<Item = (u32, i64)>) -> BTreeMap<u32, String> {
    let newer = slots.filter_map(|(slot, epoch)| Some((slot, owners.after(slot, epoch)?)));
    newer
        .map(|(slot, hint)| {
            let reason = format!(
                "slot {slot} has moved to partition {}, and this shard knows nothing of it: its database was taken back to an \
                 earlier state. It is not worked on here; \"kubectl shardlane verify\" shows what lies where",
                hint.partition
            );
            (slot, reason)
        })
        .collect()
}

/// What is to be tried after a piece was refused: its halves, or the record that is refused as a dead letter.
fn split(piece: Range<usize>, rejection: Rejection, pieces: &mut Vec<(Range<usize>, Option<Rejection>)>) {
    if piece.len() == 1 {
        pieces.push((piece, Some(rejection)));
        return;
    }
    let middle = piece.start + piece.len() / 2;
    pieces.push((middle..piece.end, None));
    pieces.push((piece.start..middle, None));
}

/// The transaction.
async fn write<S: Service, H: Shard<S>>(
    shard: &mut H,
    version: i64,
    work: &Work<S::Plan>,
    fresh: &Fresh,
) -> Result<Written, Failure> {
    let begins = Instant::now();
    let fence = shard.begin(&work.advances).await?.ok_or(Failure::End(LoopEnd::Fenced))?;
    let works = Instant::now();
    if fence.slots_version != version || !fence.advanced {
        shard.roll_back().await?;
        return Err(if fence.slots_version == version { Failure::Stale } else { Failure::Changed });
    }
    fresh.begun(fence.batch);
    let mut outcomes = vec![shard.apply(fence.batch, &work.plan).await?];
    if !work.dead.is_empty() {
        outcomes.push(shard.bury(fence.batch, &work.dead).await?);
    }
    // As late as can be: what is published while a batch is written is known with it, and not with the next one.
    let mark = fresh.to_raise();
    let commits = Instant::now();
    shard.commit(mark).await?;
    if let Some(mark) = mark {
        fresh.raised(mark);
    }
    let took = Took { fixed: works - begins + commits.elapsed(), work: commits - works };
    Ok(Written { number: fence.batch, outcomes, took })
}
