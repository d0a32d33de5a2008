//! How busy the workers are whose shards a mover works on, so that it gives way to them.
//!
//! A copy that takes what the processors have left is welcome; one that takes more has a worker fall behind, and what it is behind
//! must be worked off while users wait. So it is watched for how long what lies in the log waits for the shard, and what lies in
//! the shard for the relay. First nothing else is done, so that it is known what is usual; while it is more than that afterwards,
//! the mover rests until it is not, or, in work of which there is more with each second, until nobody is held up. It has patience
//! for that, which is used up by it and comes back while nobody waits: a service that is moved because it cannot keep up would else
//! never be moved.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// How long it is watched at first what is usual.
const LEARN: Duration = Duration::from_millis(500);
/// A wait is long that is longer than any that was usual, and than this.
const SHORT: Duration = Duration::from_millis(30);
/// For how long nothing comes where nobody is.
const EMPTY: Duration = Duration::from_millis(500);
/// Who waits for longer than this, and than usual, has been held up.
const LONG: Duration = Duration::from_millis(200);
/// How long it can rest, beside resting for as long as it works, while somebody waits for longer than usual. What held him up, a
/// checkpoint or a vacuum, is over by then, and what he is behind is worked off; who still waits will not be rid of it by more rest.
/// For who is held up, as long again.
const PATIENCE: Duration = Duration::from_secs(10);
/// And neither of the two for longer than this at once.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// What there is to do for a shard's worker and its relay, and how much of it is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The slots that are worked on.
    pub slots: BTreeSet<u32>,
    /// Where their logs end, all together.
    pub ends: i64,
    /// Where they stand in the shard, all together.
    pub stand: i64,
    /// The last batch.
    pub batch: i64,
    /// The last one that is published.
    pub relayed: i64,
}

/// How long something waits to be done.
#[derive(Debug)]
struct Wait {
    /// How much there was, and when that was last so; the first of it is done.
    seen: VecDeque<(Instant, i64)>,
    /// How much is never done: not every place in a log is a record's. Or was not done when this began.
    least: i64,
}

impl Default for Wait {
    fn default() -> Self {
        Self { seen: VecDeque::new(), least: i64::MAX }
    }
}

impl Wait {
    /// Takes in how much there is and how much of it is done. Gives for how long something has waited.
    fn note(&mut self, now: Instant, there: i64, done: i64) -> Duration {
        self.least = self.least.min(there - done);
        let done = done + self.least;
        if there <= done {
            self.seen.clear();
        }
        match self.seen.back_mut() {
            Some((last, most)) if *most == there => *last = now,
            _ => self.seen.push_back((now, there)),
        }
        while self.seen.get(1).is_some_and(|(_, there)| *there <= done) {
            self.seen.pop_front();
        }
        self.seen.front().map_or(Duration::ZERO, |(since, _)| now - *since)
    }
}

/// What was seen of one shard.
#[derive(Debug, Default)]
struct Seen {
    slots: BTreeSet<u32>,
    reading: Wait,
    relaying: Wait,
    /// How long the longer of the two is by now.
    wait: Duration,
    /// Where the log ended, and when something came last.
    ends: i64,
    came: Option<Instant>,
}

#[derive(Debug)]
struct State {
    began: Option<Instant>,
    usual: Duration,
    /// For how long it can still rest while somebody waits.
    patience: Duration,
    /// And while somebody is held up. On a busy machine somebody always waits, which leaves none of the other for that.
    for_held_up: Duration,
    shards: HashMap<u32, Seen>,
}

impl Default for State {
    fn default() -> Self {
        Self { began: None, usual: Duration::ZERO, patience: PATIENCE, for_held_up: PATIENCE, shards: HashMap::new() }
    }
}

impl State {
    fn note(&mut self, now: Instant, partition: u32, sample: Sample) {
        let seen = self.shards.entry(partition).or_default();
        if seen.slots != sample.slots {
            *seen = Seen { slots: sample.slots, ends: sample.ends, came: seen.came, ..Seen::default() };
        }
        if std::mem::replace(&mut seen.ends, sample.ends) < sample.ends {
            seen.came = Some(now);
        }
        let reading = seen.reading.note(now, sample.ends, sample.stand);
        seen.wait = reading.max(seen.relaying.note(now, sample.batch, sample.relayed));
        if now - *self.began.get_or_insert(now) < LEARN {
            self.usual = self.usual.max(seen.wait);
        }
    }

    /// Whether somebody waits for longer than usual. What is not known yet is taken for that, unless nothing waits at all.
    fn is_waited_for(&self, now: Instant) -> bool {
        let known = self.began.is_some_and(|began| now - began >= LEARN);
        let most = if known { SHORT.max(self.usual) } else { Duration::ZERO };
        self.began.is_none() || self.wait() > most
    }

    /// How long somebody waits.
    fn wait(&self) -> Duration {
        self.shards.values().map(|seen| seen.wait).max().unwrap_or_default()
    }

    fn is_held_up(&self) -> bool {
        self.wait() > LONG.max(self.usual)
    }

    fn way(&self, now: Instant) -> Way {
        if self.is_waited_for(now) {
            return match (self.is_held_up() && !self.for_held_up.is_zero(), self.patience) {
                (true, _) => Way::HeldUp,
                (false, Duration::ZERO) => Way::Clear,
                (false, _) => Way::Busy,
            };
        }
        let (began, mut seen) = (self.began.unwrap_or(now), self.shards.values());
        if now - began >= EMPTY && seen.all(|seen| now - seen.came.unwrap_or(began) >= EMPTY) {
            Way::Empty
        } else {
            Way::Clear
        }
    }

    /// For how long it can rest at once until the way is better than this.
    fn patience(&self, way: Way) -> Duration {
        let patience = if way == Way::HeldUp { self.for_held_up } else { self.patience };
        patience.min(LONGEST_REST)
    }

    /// After having worked for so long, it has rested for so long while the way was this. While nobody waits, or is held up, as much
    /// patience for that comes back as it works.
    fn rested(&mut self, now: Instant, worked: Duration, (way, waited): (Way, Duration)) {
        self.patience = self.patience.saturating_sub(waited);
        if way == Way::HeldUp {
            self.for_held_up = self.for_held_up.saturating_sub(waited);
        }
        if !self.is_waited_for(now) {
            self.patience = (self.patience + worked).min(PATIENCE);
        }
        if !self.is_held_up() {
            self.for_held_up = (self.for_held_up + worked).min(PATIENCE);
        }
    }
}

/// What is known of all shards that are watched.
#[derive(Debug)]
pub struct Traffic {
    state: Mutex<State>,
    way: watch::Sender<Way>,
}

/// Whether somebody is to be given way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Something has waited for so long that somebody was held up.
    HeldUp,
    /// Something waits for longer than it did.
    Busy,
    /// Nothing does, or something has for so long that this is how it is.
    Clear,
    /// Nothing has come for a while.
    Empty,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { state: Mutex::default(), way: watch::Sender::new(Way::Busy) }
    }
}

impl Traffic {
    /// Takes in what was seen of a shard.
    pub fn note(&self, partition: u32, sample: Sample) {
        self.change(|state, now| state.note(now, partition, sample));
    }

    /// Nobody watches these shards for now. What was seen is kept: the next piece of work may begin at once.
    pub fn leave(&self, partitions: &[u32]) {
        let waits = |state: &mut State, _| {
            let left = state.shards.iter_mut().filter(|(partition, _)| partitions.contains(partition));
            left.for_each(|(_, seen)| seen.wait = Duration::ZERO);
        };
        self.change(waits);
    }

    fn change(&self, change: impl FnOnce(&mut State, Instant)) {
        let mut state = self.state();
        let now = Instant::now();
        change(&mut state, now);
        self.way.send_replace(state.way(now));
    }

    /// Before a copy: waits until it is known what is usual.
    pub async fn learn(&self) {
        let began = self.state().began;
        sleep(LEARN.saturating_sub(began.map_or(Duration::ZERO, |began| began.elapsed()))).await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After having worked for so long, rests for as long, so that what was held up can be made up for; if somebody waits for longer than
    /// usual, until he does not, as long as there is patience. Gives how the way was before.
    pub async fn give_way(&self, worked: Duration) -> Way {
        self.rest(worked, worked, Way::Busy).await
    }

    /// The same for work of which there is more with each second: rests for less, and waits only for who was held up.
    pub async fn give_some_way(&self, worked: Duration) -> Way {
        self.rest(worked, worked / 2, Way::HeldUp).await
    }

    /// After having worked for so long, rests for so long, if somebody works there, and until the way is better than this.
    async fn rest(&self, worked: Duration, long: Duration, than: Way) -> Way {
        let found = *self.way.borrow();
        if found != Way::Empty {
            sleep(long.min(LONGEST_REST)).await;
        }
        let (began, way) = (Instant::now(), *self.way.borrow());
        let patience = self.state().patience(way);
        // That it takes too long is no error, and whom it waits for outlives it.
        let _ = timeout(patience, self.way.subscribe().wait_for(|way| *way > than)).await;
        self.change(|state, now| state.rested(now, worked, (way, now - began)));
        found
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn sample(ends: i64, stand: i64) -> Sample {
        Sample { slots: [1, 2].into(), ends, stand, batch: 0, relayed: 0 }
    }

    /// It is known that nothing waits as a rule.
    async fn learned() -> Traffic {
        let traffic = Traffic::default();
        traffic.note(0, sample(7, 7));
        traffic.learn().await;
        traffic
    }

    #[test]
    fn what_waits_is_as_old_as_the_oldest_of_it() {
        let (mut wait, began) = (Wait::default(), Instant::now());
        let mut note = |at: u32, there, done| wait.note(began + at * MS, there, done).as_millis();
        assert_eq!(note(0, 100, 100), 0);
        assert_eq!(note(40, 110, 100), 40, "it came at some time since");
        assert_eq!(note(80, 120, 110), 40);
        assert_eq!(note(120, 130, 110), 80);
        assert_eq!(note(160, 130, 130), 0);
        assert_eq!(note(900, 131, 130), 740);
        assert_eq!(note(5_000, 131, 131), 0);
        assert_eq!(note(6_000, 131, 131), 0, "nothing has come for long, and nothing waits");
        assert_eq!(note(6_040, 132, 131), 40);
    }

    #[test]
    fn what_is_never_done_is_not_waited_for() {
        let (mut wait, began) = (Wait::default(), Instant::now());
        let mut note = |at: u32, there, done| wait.note(began + at * MS, there, done).as_millis();
        assert_eq!(note(0, 1_000_000, 100), 0, "a backlog of old, or marks of transactions");
        assert_eq!(note(40, 1_000_000, 100), 0);
        assert_eq!(note(80, 1_000_010, 110), 0, "it gets no longer");
        assert_eq!(note(120, 1_000_020, 110), 40);
        assert_eq!(note(160, 1_000_020, 999_000), 0);
    }

    #[test]
    fn a_worker_that_falls_behind_is_given_way_until_it_has_caught_up() {
        let (mut state, began) = (State::default(), Instant::now());
        assert_eq!(state.way(began), Way::Busy, "nothing is known");
        // It writes four times a second.
        let mut tick = |at: u32, stand| {
            state.note(began + at * MS, 0, sample(i64::from(at), stand));
            state.way(began + at * MS) > Way::Busy
        };
        assert!(tick(0, 0), "nothing waits");
        assert!(!tick(50, 0));
        for at in (100..2_000).step_by(50) {
            assert_eq!(tick(at, i64::from(at / 250 * 250)), at >= 500 || at.is_multiple_of(250), "{at}");
        }
        assert!(tick(1_950, 1_750), "as it is with it");
        assert!(!tick(2_050, 1_750), "it should have written by now");
        assert!(!tick(2_250, 2_000));
        assert!(tick(2_300, 2_250));
    }

    #[test]
    fn who_waits_for_long_does_so_anyway() {
        let (mut state, began) = (State::default(), Instant::now());
        let mut at = |ms: u32, stand, worked: u32, waited: u32| {
            state.note(began + ms * MS, 0, sample(i64::from(ms), stand));
            state.rested(began + ms * MS, worked * MS, (Way::Busy, waited * MS));
            state.way(began + ms * MS)
        };
        for ms in (0..=1_000).step_by(20) {
            at(ms, i64::from(ms), 0, 0);
        }
        assert_eq!(at(1_020, 1_000, 0, 0), Way::Clear);
        assert_eq!([1_000, 8_000, 900].map(|waited| at(1_100, 1_000, 20, waited)), [Way::Busy; 3]);
        assert_eq!(at(1_100, 1_000, 20, 100), Way::Clear, "the last of ten seconds");
        assert_eq!(at(6_200, 6_200, 20, 0), Way::Clear, "it has caught up");
        assert_eq!(
            [10, 10].map(|waited| at(6_400, 6_200, 20, waited)),
            [Way::Busy, Way::Clear],
            "so much had come back"
        );
    }

    #[test]
    fn a_relay_that_falls_behind_is_given_way_too() {
        let (mut state, began) = (State::default(), Instant::now());
        let mut tick = |at: u32, relayed| {
            let sample = Sample { batch: i64::from(at), relayed, ..sample(0, 0) };
            state.note(began + at * MS, 0, sample);
            state.way(began + at * MS) > Way::Busy
        };
        for at in (0..1_200).step_by(20) {
            tick(at, i64::from(at));
        }
        assert!(tick(1_210, 1_200));
        assert!(!tick(1_260, 1_200));
    }

    #[test]
    fn slots_that_have_come_are_no_backlog() {
        let (mut state, began) = (State::default(), Instant::now());
        state.note(began, 0, sample(0, 0));
        state.note(began + 600 * MS, 0, sample(0, 0));
        let come = Sample { slots: [1, 2, 3].into(), ..sample(5_000, 4_000) };
        state.note(began + 1_200 * MS, 0, come.clone());
        state.note(began + 1_240 * MS, 0, come);
        assert_eq!(state.way(began + 1_240 * MS), Way::Empty);
    }

    #[tokio::test]
    async fn who_is_waited_for_is_given_more_way_than_who_works() {
        let (traffic, worked) = (Traffic::default(), 20 * MS);
        let rested = async |traffic: &Traffic| {
            let began = Instant::now();
            (traffic.give_way(worked).await.max(Way::Busy), began.elapsed() >= LONGEST_REST)
        };
        assert_eq!(rested(&traffic).await, (Way::Busy, true), "nothing is known yet");
        traffic.note(0, sample(7, 7));
        assert_eq!(rested(&traffic).await, (Way::Clear, false));
        traffic.note(0, sample(8, 7));
        assert_eq!(rested(&traffic).await, (Way::Busy, true));
        traffic.leave(&[0]);
        assert_eq!(rested(&traffic).await, (Way::Empty, false), "nobody looks at it");
        traffic.note(0, sample(9, 7));
        assert_eq!(rested(&traffic).await, (Way::Busy, true), "what waited then still waits");
        traffic.note(0, sample(10, 7));
        let done = async { traffic.note(0, sample(10, 10)) };
        assert_eq!(tokio::join!(rested(&traffic), done).0, (Way::Busy, false), "and no longer than it waits");
    }

    #[test]
    fn who_waits_for_long_has_been_held_up() {
        let (mut state, began) = (State::default(), Instant::now());
        let mut way = |ms: u32, stand| {
            state.note(began + ms * MS, 0, sample(i64::from(ms), stand));
            state.way(began + ms * MS)
        };
        assert_eq!([0, 600].map(|ms| way(ms, i64::from(ms))), [Way::Clear; 2]);
        assert_eq!([640, 800, 810].map(|ms| way(ms, 600)), [Way::Busy, Way::Busy, Way::HeldUp]);
        assert_eq!(way(820, 810), Way::Clear);
    }

    #[test]
    fn who_is_held_up_is_given_way_though_somebody_always_waits() {
        let (mut state, began) = (State::default(), Instant::now());
        let mut at = |ms: u32, late: u32, worked: u32, waited: (Way, u32)| {
            state.note(began + ms * MS, 0, sample(i64::from(ms), i64::from(ms - late)));
            state.rested(began + ms * MS, worked * MS, (waited.0, waited.1 * MS));
            state.way(began + ms * MS)
        };
        for ms in (0..=1_000).step_by(20) {
            at(ms, 0, 0, (Way::Clear, 0));
        }
        for ms in (1_020..1_400).step_by(20) {
            at(ms, 100.min(ms - 1_000), 0, (Way::Busy, 600));
        }
        assert_eq!(at(1_400, 100, 20, (Way::Busy, 0)), Way::Clear, "somebody waits, but it has waited for long enough");
        assert_eq!(at(1_600, 300, 20, (Way::Clear, 0)), Way::HeldUp, "that is another thing");
        assert_eq!(at(1_620, 320, 20, (Way::HeldUp, 9_980)), Way::HeldUp);
        assert_eq!(at(1_640, 340, 20, (Way::HeldUp, 20)), Way::Clear, "this too is how it is");
        assert_eq!(at(1_660, 20, 20, (Way::Clear, 0)), Way::Clear);
        assert_eq!(at(1_960, 320, 0, (Way::Clear, 0)), Way::HeldUp, "for as long as it worked meanwhile");
        assert_eq!(at(1_980, 340, 20, (Way::HeldUp, 20)), Way::Clear);
    }

    #[tokio::test]
    async fn who_is_held_up_is_waited_for_when_nobody_else_is_any_more() {
        let traffic = learned().await;
        traffic.note(0, sample(7, 7));
        traffic.state().patience = Duration::ZERO;
        for (waits, way) in [(SHORT, Way::Clear), (LONG, Way::HeldUp)] {
            traffic.note(0, sample(8, 7));
            sleep(waits + MS).await;
            traffic.note(0, sample(9, 7));
            let began = Instant::now();
            assert!(traffic.give_way(MS).await >= way);
            assert_eq!(began.elapsed() >= LONGEST_REST, way == Way::HeldUp);
            traffic.note(0, sample(9, 9));
        }
    }

    #[tokio::test]
    async fn work_that_grows_waits_only_for_who_was_held_up() {
        let traffic = learned().await;
        for (at, waits) in [(7, SHORT), (8, LONG)] {
            traffic.note(0, sample(at, at));
            sleep(waits + MS).await;
            traffic.note(0, sample(at + 1, at));
            let began = Instant::now();
            let found = traffic.give_some_way(20 * MS).await;
            assert!(found <= if waits < LONG { Way::Busy } else { Way::HeldUp }, "{found:?}");
            assert_eq!(began.elapsed() >= LONGEST_REST, found == Way::HeldUp);
            assert!(began.elapsed() >= 10 * MS, "half of its work it rests");
        }
    }

    #[tokio::test]
    async fn nobody_rests_where_nobody_works() {
        let traffic = learned().await;
        traffic.note(0, sample(7, 7));
        assert_eq!(traffic.give_way(Duration::from_secs(3_600)).now_or_never(), Some(Way::Empty));
    }

    #[tokio::test]
    async fn where_somebody_works_it_rests_and_not_for_ever() {
        let traffic = Traffic::default();
        traffic.note(0, sample(7, 7));
        let rested = async |worked| {
            let began = Instant::now();
            traffic.give_way(worked).await;
            began.elapsed()
        };
        assert!(rested(20 * MS).await >= 20 * MS);
        assert!(tokio::time::timeout(Duration::from_secs(10), rested(Duration::from_secs(60))).await.is_ok());
    }
}
