//! The relay: publishes what is committed and not yet published, in order, then notes how far it got.
//!
//! It may publish twice, after a crash between the two, and never leaves anything out: the mark rises only after
//! the broker has acknowledged everything below it. The next batch carries the mark into the shard; when none comes, the relay
//! does.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use crate::edges::{Clock, Outbox, OutboxError, Outlet, Window};
use crate::fresh::{Fresh, Mark};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::process::{Backoff, Shutdown};
use crate::producer::Outgoing;

/// How long an idle relay waits; a commit wakes it at once.
const IDLE: Duration = Duration::from_secs(1);
/// How long no batch is committed that would carry the mark into the shard, before the relay does it by itself.
const QUIET: Duration = Duration::from_millis(100);
/// The part of a worker's health that this is.
pub const RELAY: &str = "relay";

/// Publishes the outcomes of one shard.
pub struct Relay<O, T, C> {
    /// The shard.
    pub outbox: O,
    /// The broker.
    pub outlet: T,
    /// Where digests of what is too large go.
    pub dead_letters: Arc<str>,
    /// Time.
    pub clock: C,
    /// Where it says how it fares.
    pub health: Health,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// The loop has committed something.
    pub committed: Arc<Notify>,
    /// What it was, as far as it is still in memory, and the mark.
    pub fresh: Arc<Fresh>,
}

impl<O: Outbox, T: Outlet, C: Clock> Relay<O, T, C> {
    /// Publishes until told to stop, then until nothing is left; comes back from failures by itself. Ends early when
    /// another worker has taken over.
    pub async fn run(&mut self, stop: &mut Shutdown) {
        let mut backoff = Backoff::default();
        // Nothing was committed for a while; and there was more than the last window held.
        let (mut quiet, mut more) = (false, false);
        let mut ready = None;
        loop {
            // Of a worker that stops, the loop may not have heard what became of the last batch.
            let stopping = stop.has_come();
            let asks = more || quiet && (stopping || self.fresh.to_raise().is_none());
            match self.round(quiet, asks, &mut ready).await {
                Ok(left) => {
                    more = left;
                    self.health.ready(RELAY);
                    backoff.reset();
                    if !more && quiet && stopping && self.fresh.to_raise().is_none() {
                        return;
                    }
                    quiet = !more && self.wait(stop).await;
                }
                // The loop notices too, and says so.
                Err(OutboxError::Fenced) => return,
                Err(OutboxError::Passing(reason)) => {
                    // The shard says again how far it is.
                    self.fresh.forget();
                    quiet = false;
                    self.metrics.failure("relay");
                    self.health.waiting_for(RELAY, reason);
                    self.clock.sleep(backoff.wait()).await;
                }
            }
        }
    }

    /// Waits for the next commit. `true`: there was none.
    async fn wait(&mut self, stop: &mut Shutdown) -> bool {
        let patience = if self.fresh.to_raise().is_some() { QUIET } else { IDLE };
        tokio::select! {
            biased;
            () = self.committed.notified() => false,
            () = stop.wait() => true,
            () = self.clock.sleep(patience) => true,
        }
    }

    /// Publishes one window, and has the next one `ready` if it comes meanwhile; `asks` the shard if none is known. `false`: nothing
    /// more is known of.
    async fn round(&mut self, quiet: bool, asks: bool, ready: &mut Option<Window>) -> Result<bool, OutboxError> {
        let mark = self.fresh.mark();
        let window = match self.at_hand(mark, asks, ready.take()) {
            Some(window) => window,
            None => self.outbox.window(mark.at, &self.fresh).await?,
        };
        if window.to <= window.after {
            self.fresh.published(mark, window.after);
            if quiet && let Some(mark) = self.fresh.to_raise() {
                // The batch that is being written carries it into the shard, or there is time again.
                if self.outbox.raise_mark(mark).await? {
                    self.fresh.raised(mark);
                }
            }
            return Ok(false);
        }
        let digests = self.publish(&window, ready).await.map_err(OutboxError::Passing)?;
        self.metrics.unpublishable(digests);
        self.fresh.published(mark, window.to);
        self.metrics.relayed(window.records.len(), window.to);
        Ok(window.more || self.fresh.has_after(window.to))
    }

    /// What follows the mark, as far as it is known without the shard. `None`: the shard must say it.
    fn at_hand(&self, mark: Mark, asks: bool, ready: Option<Window>) -> Option<Window> {
        let at = mark.at?;
        // What is being committed comes into memory in a moment. The shard may show it before, but to read it from tables that are
        // written takes a hundred times as long, and all that follows would wait for that.
        let nothing = (!asks && !self.fresh.has_after(at)).then(|| Window { after: at, to: at, ..Window::default() });
        ready.filter(|window| window.after == at).or_else(|| self.fresh.after(at)).or(nothing)
    }

    /// Publishes a window. While the broker has it, the next one is put into words, and handed over only when this one is
    /// acknowledged: else what must be sent again would come after it.
    async fn publish(&mut self, window: &Window, ready: &mut Option<Window>) -> Result<usize, String> {
        let Self { outlet, dead_letters, committed, fresh, .. } = self;
        let mut publishing = std::pin::pin!(publish(outlet, dead_letters, &window.records));
        loop {
            tokio::select! {
                biased;
                done = &mut publishing => return done,
                () = committed.notified(), if ready.is_none() => *ready = fresh.after(window.to),
            }
        }
    }
}

/// Publishes records, and a digest of each that its topic will never take. Gives the number of digests.
pub(crate) async fn publish(
    outlet: &impl Outlet,
    dead_letters: &Arc<str>,
    records: &[Outgoing],
) -> Result<usize, String> {
    let refused = |error| format!("Kafka: {error}");
    let too_large = outlet.deliver_all(records).await.map_err(refused)?;
    if too_large.is_empty() {
        return Ok(0);
    }
    let digests: Vec<_> = too_large.iter().map(|at| digest(dead_letters, &records[*at])).collect();
    match outlet.deliver_all(&digests).await.map_err(refused)?.first() {
        None => Ok(digests.len()),
        Some(at) => Err(format!(
            "the topic {} takes not even {} bytes, the digest of a record that is too large; raise its max.message.bytes",
            digests[*at].topic,
            digests[*at].size()
        )),
    }
}

/// What is published of a record that its topic will never take. The record itself stays in the shard.
fn digest(dead_letters: &Arc<str>, record: &Outgoing) -> Outgoing {
    let value = record.value.as_deref().unwrap_or_default();
    let hash: String = Sha256::digest(value).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut headers: Vec<_> = record.headers.iter().filter(|(name, _)| *name != REASON).cloned().collect();
    let said =
        record.headers.iter().find(|(name, _)| *name == REASON).map(|(_, reason)| format!("; it says: {reason}"));
    let reason = format!(
        "a record of {} bytes is larger than the topic {} takes; it stays in the shard{}",
        record.size(),
        record.topic,
        said.unwrap_or_default()
    );
    headers.push((REASON, reason));
    headers.push(("shardlane.value.bytes", value.len().to_string()));
    headers.push(("shardlane.value.sha256", hash));
    // A key may be what is too large.
    let key = record.key.clone().filter(|key| key.len() <= LONGEST_KEY);
    Outgoing { topic: Arc::clone(dead_letters), slot: record.slot, key, value: None, headers }
}

/// The header that says why a record is a dead letter.
pub const REASON: &str = "shardlane.reason";
/// Longest key that a digest repeats, in bytes.
const LONGEST_KEY: usize = 256;

#[cfg(test)]
mod tests {
    use tokio::sync::watch;
    use tokio::time::timeout;

    use super::*;
    use crate::edges::Outcomes;
    use crate::fresh::Size;

    /// A shard that shows a batch that is not known in memory yet, and how often it was asked.
    struct Tables {
        asked: usize,
        /// Until it shows nothing more.
        batches: i64,
    }

    impl Outbox for Tables {
        async fn window(&mut self, mark: Option<i64>, _: &Fresh) -> Result<Window, OutboxError> {
            self.asked += 1;
            let after = mark.unwrap_or_default();
            let to = self.batches.min(after + 1);
            let records = (after..to).map(|_| record("tables")).collect();
            Ok(Window { records, after, to, more: to < self.batches })
        }

        async fn raise_mark(&mut self, _: i64) -> Result<bool, OutboxError> {
            Ok(true)
        }
    }

    /// What was published, by key.
    #[derive(Default)]
    struct Topic(watch::Sender<Vec<Vec<u8>>>);

    impl Outlet for Topic {
        async fn deliver_all(&self, records: &[Outgoing]) -> Result<Vec<usize>, String> {
            self.0.send_modify(|keys| keys.extend(records.iter().filter_map(|record| record.key.clone())));
            Ok(Vec::new())
        }
    }

    /// Time that does not pass.
    struct Still;

    impl Clock for Still {
        async fn sleep(&self, _: Duration) {
            std::future::pending().await
        }

        fn now(&self) -> std::time::Instant {
            std::time::Instant::now()
        }
    }

    fn record(key: &str) -> Outgoing {
        Outgoing { topic: "t".into(), slot: 0, key: Some(key.into()), value: None, headers: Vec::new() }
    }

    /// Of a shard with so many batches.
    fn relay(batches: i64) -> Relay<Tables, Topic, Still> {
        let metrics = Arc::new(Metrics::new().unwrap());
        Relay {
            outbox: Tables { asked: 0, batches },
            outlet: Topic::default(),
            dead_letters: "t.dlq".into(),
            clock: Still,
            health: Health::starting(Arc::clone(&metrics), &[RELAY]),
            metrics,
            committed: Arc::default(),
            fresh: Arc::default(),
        }
    }

    #[tokio::test]
    async fn what_was_left_by_another_is_published_without_a_pause() {
        let mut relay = relay(3);
        let mut published = relay.outlet.0.subscribe();
        let (_never, mut stop) = Shutdown::by_hand();
        let all = published.wait_for(|keys| keys.len() == 3);
        tokio::select! {
            () = relay.run(&mut stop) => panic!("it ended"),
            all = timeout(Duration::from_secs(10), all) => drop(all.expect("it waits though there is more").unwrap()),
        }
        assert_eq!(relay.outbox.asked, 3);
    }

    #[tokio::test]
    async fn a_batch_that_comes_into_memory_in_a_moment_is_not_read_from_the_tables() {
        let mut relay = relay(11);
        let fresh = Arc::clone(&relay.fresh);
        let offer = |batch| {
            let outcomes: Outcomes = Box::new(|| Ok(vec![record("memory")]));
            fresh.offer(batch, Size { records: 1, bytes: 1 }, vec![outcomes]);
        };
        fresh.published(fresh.mark(), 7);
        // It was woken for what it has published already; then nothing came for a while, for the next batch takes long.
        for quiet in [false, true] {
            assert_eq!(relay.round(quiet, false, &mut None).await, Ok(false));
        }
        assert_eq!((relay.outbox.asked, fresh.to_raise()), (0, None));
        offer(8);
        assert_eq!(relay.round(false, false, &mut None).await, Ok(false));
        assert_eq!((relay.outbox.asked, fresh.mark().at), (0, Some(8)));
        // What had no room in memory, and what nobody has told of.
        offer(10);
        assert_eq!(relay.round(false, false, &mut None).await, Ok(true));
        assert_eq!(relay.round(false, false, &mut None).await, Ok(false));
        assert_eq!(relay.round(true, true, &mut None).await, Ok(false));
        assert_eq!((relay.outbox.asked, fresh.mark().at), (2, Some(11)));
        assert_eq!(*relay.outlet.0.borrow(), ["memory", "tables", "memory", "tables"].map(Vec::from));
    }

    #[test]
    fn a_digest_keeps_what_is_known_of_a_record_and_is_small() {
        let record = Outgoing {
            topic: "t".into(),
            slot: 3,
            key: Some(vec![b'k'; 1_000_000]),
            value: Some(b"abc".to_vec()),
            headers: vec![(REASON, "not JSON".to_owned()), ("shardlane.offset", "7".to_owned())],
        };
        let digest = digest(&"t.dlq".into(), &record);
        assert!(digest.size() < 1_000 && digest.key.is_none() && &*digest.topic == "t.dlq" && digest.slot == 3);
        let header = |name| digest.headers.iter().find(|(key, _)| *key == name).unwrap().1.clone();
        assert!(header(REASON).contains("larger than the topic t takes") && header(REASON).contains("not JSON"));
        assert_eq!(header("shardlane.offset"), "7");
        assert_eq!(header("shardlane.value.bytes"), "3");
        assert!(header("shardlane.value.sha256").starts_with("ba7816bf"));
    }
}
