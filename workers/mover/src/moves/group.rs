//! The move of one group, step by step, and what is done about a step that fails.
//!
//! Before the slots are handed over, whatever happens ends in the same place: the source works on them again, the target forgets
//! them, and another attempt begins from nothing. After that, the same steps are repeated until they are done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shardlane_runtime::config::ranges;
use shardlane_runtime::edges::Clock;
use shardlane_runtime::hint::Hint;
use shardlane_runtime::process::{Backoff, Shutdown};
use shardlane_runtime::standing::Standings;

use super::edges::{Attempt, Copied, Fence, Lines, Pass, StepError, World};
use super::pace::Haste;
use super::progress::{Progress, Step};

/// Rows that are few: a pass that brings no more and takes about as long as the one before is as short as they get.
const FEW: u64 = 2_000;
/// And so is one that is this short.
const SHORT: Duration = Duration::from_millis(100);
/// Most passes before the fence: a source that is written as fast as it is copied does not get nearer.
const PASSES: u32 = 8;
/// How often it looks how far the source's relay is, before the fence and under it.
const LOOK: Duration = Duration::from_millis(100);
const GLANCE: Duration = Duration::from_millis(5);
/// So often it looks before it says what it waits for.
const LOOKS: u32 = 50;
/// Batches that a relay may be behind when the fence is set. Large ones come twenty to fifty milliseconds apart.
const NEAR: i64 = 8;

/// Why a group did not move.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// A step could not be done.
    #[error(transparent)]
    Step(#[from] StepError),
    /// What lies in the target is not what lies in the source.
    #[error(
        "what was copied of the slots {slots} from partition {from} to {to} is not what the source has: {what}. The group was \
         undone, nothing is lost, and it is tried again"
    )]
    Differs {
        /// Of whom.
        from: u32,
        /// To whom.
        to: u32,
        /// Which slots.
        slots: String,
        /// What differs.
        what: String,
    },
    /// Another server answers for a shard than when the copy began.
    #[error("a shard has failed over while it was copied")]
    FailedOver,
    /// The fence would last too long.
    #[error(
        "the last rows and outcomes did not come over within {0:?} of the fence. The group was undone, nothing is lost, and it is \
         tried again; a larger spec.resharding.fenceSeconds gives it longer"
    )]
    TooLong(Duration),
    /// It is to stop.
    #[error("stopped")]
    Stopped,
}

impl GroupError {
    /// A word for metrics and conditions.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Step(StepError::Superseded(_)) => "superseded",
            Self::Step(StepError::Passing(_)) => "unavailable",
            Self::Differs { .. } => "differs",
            Self::FailedOver => "failed-over",
            Self::TooLong(_) => "fence-too-long",
            Self::Stopped => "stopped",
        }
    }
}

/// How passes come near to what is written while they go on.
#[derive(Debug)]
struct Approach {
    haste: Haste,
    passes: u32,
    /// How long the one before took, if it did nothing but work.
    longer: Option<Duration>,
}

impl Default for Approach {
    fn default() -> Self {
        Self { haste: Haste::Polite, passes: 0, longer: None }
    }
}

impl Approach {
    /// Whether a pass that took so long and was so much work, after one that was so much, is the last before the fence. What comes
    /// while a pass goes on is what the next one has to bring.
    fn is_near(&mut self, before: u64, work: u64, took: Duration) -> bool {
        self.passes += 1;
        // One that took much longer was held up, and more is left than there need be.
        let is_as_long = |longer| longer * 3 / 4 < took && took <= longer * 2;
        let as_short = work <= FEW && self.longer.is_some_and(is_as_long);
        if took <= SHORT || as_short || self.passes >= PASSES {
            return true;
        }
        self.longer = (self.haste == Haste::Hurried).then_some(took);
        // It would never end by giving way to what it runs after.
        if work > before * 3 / 4 || work <= FEW || self.passes + 2 >= PASSES {
            self.haste = Haste::Hurried;
        }
        false
    }
}

/// Whether a relay has little left to publish, or has by now published what there was when it was `seen` last: many small batches may
/// be on their way at any time, each of them for a moment.
fn is_soon_relayed(relayed: i64, batch: i64, seen: Option<i64>) -> bool {
    batch - relayed <= NEAR || seen.is_some_and(|seen| relayed >= seen)
}

/// What moves one group.
pub struct Mover<'a, W, C> {
    /// The shards.
    pub world: &'a W,
    /// Time.
    pub clock: &'a C,
    /// How long a fence may last before the source undoes it.
    pub fence: Duration,
    /// Comes when it is to stop.
    pub stop: Shutdown,
    /// Where it says how far it is.
    pub progress: Arc<Progress>,
}

impl<W: World, C: Clock> Mover<'_, W, C> {
    /// Moves a group, or undoes what was begun of it.
    pub async fn move_group(&self, attempt: &Attempt) -> Result<(), GroupError> {
        match self.before(attempt).await {
            Ok(standings) => {
                self.forward(attempt, &standings).await?;
                self.progress.done(attempt);
                Ok(())
            }
            Err(error) => {
                self.progress.undone(attempt, &error);
                self.go_back(attempt).await?;
                Err(error)
            }
        }
    }

    /// Everything until the slots are handed over.
    async fn before(&self, attempt: &Attempt) -> Result<Standings, GroupError> {
        let copied = self.prepare(attempt).await?;
        let near = self.approach(attempt, &copied).await?;
        self.step(attempt, Step::Fenced);
        let began = self.clock.now();
        let fence = self.world.fence(attempt, self.fence).await?;
        self.last_delta(attempt, &near, &fence, began).await?;
        self.hand_over(attempt).await?;
        Ok(fence.standings)
    }

    /// Everything is copied once.
    async fn prepare(&self, attempt: &Attempt) -> Result<Copied, GroupError> {
        self.step(attempt, Step::Leaving);
        let epochs = self.world.leave(attempt).await?;
        if self.world.expect(attempt, &epochs).await? {
            while self.world.purge(attempt).await? {
                self.look_for_stop()?;
            }
        }
        self.step(attempt, Step::Copying);
        let copied = |rows| self.progress.copied(attempt, rows);
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stop.wait() => Err(GroupError::Stopped),
            copied = self.world.copy(attempt, &copied) => Ok(copied?),
        }
    }

    /// All that was copied is compared; then what was written meanwhile is copied, until that is little.
    async fn approach(&self, attempt: &Attempt, copied: &Copied) -> Result<Pass, GroupError> {
        self.step(attempt, Step::CatchingUp);
        tracing::debug!(attempt = attempt.id, rows = copied.pass.rows, "copied");
        if let Some(what) = self.world.compare(attempt, copied).await? {
            return Err(differs(attempt, what));
        }
        tracing::debug!(attempt = attempt.id, "compared");
        let mut approach = Approach::default();
        let mut last = self.pass(attempt, &copied.pass, approach.haste).await?;
        loop {
            let (began, before) = (self.clock.now(), last.work);
            last = self.pass(attempt, &last, approach.haste).await?;
            if approach.is_near(before, last.work, self.clock.now().duration_since(began)) {
                break;
            }
        }
        let (mut seen, mut looks) = (None, 0);
        loop {
            self.look_for_stop()?;
            let (relayed, batch) = self.world.relayed(attempt).await?;
            if is_soon_relayed(relayed, batch, seen) {
                return Ok(last);
            }
            (seen, looks) = (Some(batch), looks + 1);
            if looks > LOOKS {
                let behind = batch - relayed;
                self.progress.waits(attempt, &format!("the old worker has {behind} batches yet to publish"));
            }
            self.clock.sleep(LOOK).await;
            last = self.pass(attempt, &last, Haste::Hurried).await?;
        }
    }

    /// One pass after another.
    async fn pass(&self, attempt: &Attempt, last: &Pass, haste: Haste) -> Result<Pass, GroupError> {
        self.look_for_stop()?;
        self.caught_up(attempt, last.batch, &last.lines, haste).await
    }

    async fn caught_up(&self, attempt: &Attempt, after: i64, lines: &Lines, haste: Haste) -> Result<Pass, GroupError> {
        let began = self.clock.now();
        let pass = self.world.catch_up(attempt, after, haste).await?;
        let ms = self.clock.now().duration_since(began).as_millis();
        tracing::debug!(attempt = attempt.id, ?haste, rows = pass.rows, %ms, "caught up");
        self.progress.copied(attempt, pass.rows);
        if let Some(what) = pass.differs {
            return Err(differs(attempt, what));
        }
        if pass.lines != *lines {
            return Err(GroupError::FailedOver);
        }
        Ok(pass)
    }

    /// Under the fence: the last rows, while the source's relay publishes what it still has.
    async fn last_delta(
        &self,
        attempt: &Attempt,
        near: &Pass,
        fence: &Fence,
        began: Instant,
    ) -> Result<(), GroupError> {
        self.step(attempt, Step::LastDelta);
        // The rest is for undoing it, before somebody else does.
        let patience = self.fence * 4 / 5;
        let in_time = || match self.clock.now().duration_since(began) < patience {
            true => Ok(()),
            false => Err(GroupError::TooLong(patience)),
        };
        let relayed = async {
            while self.world.relayed(attempt).await?.0 < fence.batch {
                in_time()?;
                self.clock.sleep(GLANCE).await;
            }
            Ok::<_, GroupError>(())
        };
        let copied = self.caught_up(attempt, near.batch, &near.lines, Haste::Last);
        let (relayed, copied) = futures::future::join(relayed, copied).await;
        relayed?;
        copied?;
        in_time()
    }

    /// The commit point. Whether it was reached is found out, however long the source does not answer.
    async fn hand_over(&self, attempt: &Attempt) -> Result<(), GroupError> {
        let handed = self.until_done(attempt, async || self.world.hand_over(attempt).await).await;
        // Perhaps an earlier try has done it, whose answer was lost.
        let before = async || self.world.handed_over(attempt).await.map(drop);
        if handed.is_err() && self.until_done(attempt, before).await.is_err() {
            return handed;
        }
        self.step(attempt, Step::Moved);
        Ok(())
    }

    /// From the commit point on.
    pub async fn forward(&self, attempt: &Attempt, standings: &Standings) -> Result<(), GroupError> {
        let partition = attempt.group.to;
        let epochs = standings.iter().map(|(slot, standing)| (*slot, standing.epoch));
        let hints: Vec<_> = epochs.map(|(slot, epoch)| Hint { slot, partition, epoch }).collect();
        self.until_done(attempt, async || self.world.publish(&hints).await).await?;
        self.step(attempt, Step::Published);
        self.until_done(attempt, async || self.world.activate(attempt, standings).await).await?;
        self.step(attempt, Step::Active);
        Ok(())
    }

    /// Goes through with what another mover has handed over.
    pub async fn go_through(&self, attempt: &Attempt) -> Result<(), GroupError> {
        self.progress.taken_up(attempt);
        let standings = self.world.handed_over(attempt).await?;
        self.forward(attempt, &standings).await?;
        self.progress.done(attempt);
        Ok(())
    }

    /// The source works on the slots again, and the target forgets them.
    async fn go_back(&self, attempt: &Attempt) -> Result<(), GroupError> {
        // Whoever has taken over undoes it in his own way.
        let undone = self.undo(attempt).await;
        self.progress.goes_on(attempt);
        let forgotten = self.forget(attempt).await;
        match undone.and(forgotten) {
            Err(GroupError::Step(StepError::Superseded(why))) => {
                tracing::info!(attempt = attempt.id, why, "nothing is left to be undone");
                Ok(())
            }
            done => done,
        }
    }

    /// The target forgets slots that do not come.
    pub async fn forget(&self, attempt: &Attempt) -> Result<(), GroupError> {
        let given_up = attempt.given_up();
        if let Some(given_up) = &given_up {
            // A mover that stalled may else copy more behind the last look.
            match self.until_done(attempt, async || self.world.give_up(attempt, &given_up.id).await).await {
                // Perhaps an earlier try has done it, whose answer was lost.
                Ok(()) | Err(GroupError::Step(StepError::Superseded(_))) => {}
                failed => return failed,
            }
        }
        let attempt = given_up.as_ref().unwrap_or(attempt);
        self.until_done(attempt, async || {
            while self.world.purge(attempt).await? {}
            self.world.forget(attempt).await
        })
        .await
    }

    /// The source works on the slots again.
    pub async fn undo(&self, attempt: &Attempt) -> Result<(), GroupError> {
        self.until_done(attempt, async || self.world.undo(attempt).await).await
    }

    /// Tries a step again for as long as the world may get better.
    async fn until_done(
        &self,
        attempt: &Attempt,
        step: impl AsyncFn() -> Result<(), StepError>,
    ) -> Result<(), GroupError> {
        let mut backoff = Backoff::default();
        loop {
            match step().await {
                Err(StepError::Passing(reason)) => {
                    self.progress.waits(attempt, &reason);
                    self.clock.sleep(backoff.wait()).await;
                }
                done => return Ok(done?),
            }
        }
    }

    fn look_for_stop(&self) -> Result<(), GroupError> {
        if self.stop.has_come() { Err(GroupError::Stopped) } else { Ok(()) }
    }

    fn step(&self, attempt: &Attempt, step: Step) {
        self.progress.step(attempt, step);
    }
}

fn differs(attempt: &Attempt, what: String) -> GroupError {
    let group = &attempt.group;
    GroupError::Differs { from: group.from, to: group.to, slots: ranges(&group.slots), what }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After which of these passes, each of so much work and so many milliseconds, the fence comes, and how hasty it was.
    fn near(passes: &[(u64, u64)]) -> Option<(usize, Haste)> {
        let (mut approach, mut before) = (Approach::default(), 1_000_000);
        passes.iter().enumerate().find_map(|(number, &(work, ms))| {
            let haste = approach.haste;
            approach
                .is_near(std::mem::replace(&mut before, work), work, Duration::from_millis(ms))
                .then_some((number, haste))
        })
    }

    #[test]
    fn passes_go_on_until_one_is_short() {
        assert_eq!(near(&[(50, 20)]), Some((0, Haste::Polite)));
        assert_eq!(near(&[(70_000, 3_000), (20_000, 800), (5_000, 200), (1_500, 40)]), Some((3, Haste::Polite)));
        assert_eq!(near(&[(70_000, 3_000), (80_000, 2_000), (30_000, 400), (4_000, 90)]), Some((3, Haste::Hurried)));
        let no_shorter = [(70_000, 3_000), (1_900, 300), (1_800, 290), (1_850, 280)];
        assert_eq!(near(&no_shorter), Some((3, Haste::Hurried)));
        assert_eq!(near(&[(90_000, 5_000); 20]), Some((7, Haste::Hurried)), "never shorter");
        let slowly = [500, 370, 270, 200, 150, 110].map(|work| (work * 1_000, work * 10));
        assert_eq!(
            near(&[&slowly[..], &[(80_000, 99)]].concat()),
            Some((6, Haste::Hurried)),
            "the last ones give no way"
        );
    }

    #[test]
    fn a_relay_is_waited_for_by_time_where_batches_are_many() {
        assert!(is_soon_relayed(92, 100, None));
        assert!(!is_soon_relayed(91, 100, None), "nothing is known of how fast it is");
        assert!(!is_soon_relayed(99, 150, Some(100)), "it is long behind");
        assert!(is_soon_relayed(100, 150, Some(100)), "it is not");
    }

    #[test]
    fn a_pass_that_was_long_because_it_gave_way_is_not_the_last() {
        assert_eq!(near(&[(1_900, 900), (1_500, 1_200)]), None);
        let held_up = [(1_900, 300), (1_800, 200), (1_300, 2_000)];
        assert_eq!(near(&held_up), None, "nor one that was held up");
        assert_eq!(near(&[(9_000, 900), (1_500, 1_200), (15_000, 300), (3_000, 60)]), Some((3, Haste::Hurried)));
    }
}
