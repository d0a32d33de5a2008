//! The partition loop: reads a worker's slots and applies them to its shard batch by batch.
//!
//! Any failure ends in the same place: the slots are read again, and reading goes on from where the shard says that they
//! stand. So nothing needs to be known of how far a failed batch got.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::edges::{Clock, Log, Outcomes, Read, Shard, ShardError, TakeOver};
use crate::fresh::{Fresh, Size};
use crate::health::Health;
use crate::intake::{Advance, DeadLetter, Keyspace, Positions};
use crate::metrics::Metrics;
use crate::prepare::{Prepared, Work, bury, fold};
use crate::process::{Backoff, Shutdown};
use crate::record::Batch;
use crate::service::{Rejection, Service};

/// How often an idle worker looks for a successor, and for slots that came or went.
const LOOK: Duration = Duration::from_millis(100);
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
}

/// A transaction that was committed.
struct Written {
    number: i64,
    outcomes: Vec<Outcomes>,
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

/// What a turn knows of the worker's slots.
struct Known {
    version: i64,
    positions: Positions,
}

impl<S: Service, H: Shard<S>, L: Log<S>, C: Clock> PartitionLoop<S, H, L, C> {
    /// Becomes the shard's owner; waits for a shard that is not there or not prepared. `false`: the shutdown came first.
    pub async fn take_over(&mut self, shutdown: &mut Shutdown) -> Result<bool, LoopEnd> {
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
        let mut stale_before = false;
        loop {
            let Err(failure) = self.turn(shutdown, &mut backoff).await;
            let stale = matches!(failure, Failure::Stale);
            match failure {
                Failure::End(end) => return Err(end),
                Failure::Shutdown => return Ok(()),
                // Once is what a change of the slots looks like; again and again would be a loop without a breath.
                Failure::Stale if !stale_before => {}
                Failure::Stale => {
                    self.health.waiting_for(LOOP, "the shard's slots do not stand where the log was read")
                }
                Failure::Passing(part, reason) => {
                    self.metrics.failure(part);
                    self.health.waiting_for(LOOP, reason);
                }
                // Each single record that is refused was buried; this one is refused as a dead letter too.
                Failure::Refused(rejection) => self.health.waiting_for(LOOP, rejection.reason),
            }
            if (!stale || stale_before) && self.pause(&mut backoff, shutdown).await {
                return Ok(());
            }
            stale_before = stale;
            // The shard that is met again may have been taken back.
            self.fresh.forget();
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

    /// From reading the slots to the first failure.
    async fn turn(
        &mut self,
        shutdown: &mut Shutdown,
        backoff: &mut Backoff,
    ) -> Result<std::convert::Infallible, Failure> {
        let mut known = self.take_up().await?;
        let mut ahead = None;
        loop {
            if shutdown.has_come() {
                return Err(Failure::Shutdown);
            }
            let read = match ahead.take() {
                Some(read) => read,
                None => tokio::select! {
                    biased;
                    () = shutdown.wait() => return Err(Failure::Shutdown),
                    read = self.log.next(true) => read,
                    () = self.clock.sleep(LOOK) => {
                        self.look(known.version).await?;
                        continue;
                    }
                },
            };
            match read.ok_or(Failure::End(LoopEnd::LogEnded))? {
                Read::Batch(prepared) => {
                    ahead = self.settle(&mut known, prepared).await?;
                    backoff.reset();
                    self.log.show_progress(&known.positions);
                }
                Read::Assigned { halted, strays, notices } => {
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

    /// Reads the slots and assigns them.
    async fn take_up(&mut self) -> Result<Known, Failure> {
        let slots = self.shard.slots().await?.ok_or(Failure::End(LoopEnd::Fenced))?;
        let positions: Positions = slots.standings.iter().map(|(slot, at)| (*slot, at.next_offset)).collect();
        tracing::info!(version = slots.version, slots = ?positions, "slots taken up");
        self.metrics.keep_slots(|slot| positions.contains_key(&slot));
        for (slot, offset) in &positions {
            self.metrics.applied_to(*slot, *offset);
        }
        self.log.assign(slots.standings);
        Ok(Known { version: slots.version, positions })
    }

    /// What an idle worker does: looks for a successor and for a change of its slots.
    async fn look(&mut self, version: i64) -> Result<(), Failure> {
        match self.shard.slots_version().await? {
            Some(now) if now == version => Ok(()),
            Some(_) => Err(Failure::Stale),
            None => Err(Failure::End(LoopEnd::Fenced)),
        }
    }

    /// Applies a batch. Gives what was read meanwhile, if anything was.
    async fn settle(
        &mut self,
        known: &mut Known,
        prepared: Prepared<S::Plan>,
    ) -> Result<Option<Option<Read<S::Plan>>>, Failure> {
        let Prepared { batch, work } = prepared;
        if batch.begins.iter().any(|(slot, from)| known.positions.get(slot) != Some(from)) {
            return Err(Failure::Stale);
        }
        let began = Instant::now();
        let mut ahead = None;
        let written = {
            let Self { shard, log, fresh, .. } = self;
            let mut writing = std::pin::pin!(write(shard, known.version, &work, fresh));
            loop {
                tokio::select! {
                    biased;
                    written = &mut writing => break written,
                    read = log.next(false), if ahead.is_none() => ahead = Some(read),
                }
            }
        };
        match written {
            Ok(written) => self.count(known, written, batch.size(0..batch.len()), began, work),
            Err(Failure::Refused(rejection)) => self.search(known, &batch, rejection).await?,
            Err(failure) => return Err(failure),
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
    let mark = fresh.to_raise();
    let fence = shard.begin(mark, &work.advances).await?.ok_or(Failure::End(LoopEnd::Fenced))?;
    if fence.slots_version != version || !fence.advanced {
        shard.roll_back().await?;
        return Err(Failure::Stale);
    }
    let mut outcomes = vec![shard.apply(fence.batch, &work.plan).await?];
    if !work.dead.is_empty() {
        outcomes.push(shard.bury(fence.batch, &work.dead).await?);
    }
    shard.commit().await?;
    if let Some(mark) = mark {
        fresh.raised(mark);
    }
    Ok(Written { number: fence.batch, outcomes })
}
