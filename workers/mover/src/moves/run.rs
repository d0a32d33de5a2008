//! A whole run: from whatever the shards hold to slots that lie as they are wanted, and nothing left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use shardlane_runtime::config::ranges;
use shardlane_runtime::edges::Clock;
use shardlane_runtime::process::{Backoff, Shutdown};

use super::edges::{Attempt, Group, SlotRow, StepError, World, slots_of};
use super::group::{GroupError, Mover};
use super::plan::plan;
use super::progress::{Phase, Progress};
use super::recover::{Disorder, Found, found};

/// Most records a second of slots that move together: a mover has to run after what they write, while the worker that writes it
/// needs the same processors, and what comes in its last run is what they stand still for.
const LIVELY: u64 = 4_000;

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// How many partitions are to own slots.
    pub partitions: u32,
    /// How many shards there are.
    pub shards: u32,
    /// How many slots there are.
    pub slots: u32,
    /// How many groups move at the same time.
    pub at_once: usize,
    /// How long what has moved is left where it lay.
    pub clean_after: Duration,
    /// How long the fence of a group may last before it is undone.
    pub fence: Duration,
}

/// Why a run ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The shards are not as they can be.
    #[error(transparent)]
    Disorder(#[from] Disorder),
    /// A shard or the broker did not answer, or not well.
    #[error("{0}")]
    Passing(String),
    /// It was to stop.
    #[error("stopped before it was done; what was begun is undone, and the next run goes on")]
    Stopped,
}

/// A run over its edges.
pub struct Run<'a, W, C, I> {
    /// The shards.
    pub world: &'a W,
    /// Time.
    pub clock: &'a C,
    /// Makes the ids of attempts, none of which comes twice.
    pub new_id: I,
    /// What is wanted.
    pub wanted: Wanted,
    /// Comes when it is to stop.
    pub stop: Shutdown,
    /// Where it says how far it is.
    pub progress: Arc<Progress>,
}

impl<W: World, C: Clock, I: Fn() -> String> Run<'_, W, C, I> {
    /// Goes on until everything lies as it is wanted, and is cleaned.
    pub async fn run(&self) -> Result<(), RunError> {
        let mut backoff = Backoff::default();
        let mut cleans = false;
        loop {
            if self.stop.has_come() {
                return Err(RunError::Stopped);
            }
            let turned = self.turn(&mut cleans).await;
            match turned {
                Ok(true) => return Ok(()),
                Ok(false) => backoff.reset(),
                Err(RunError::Passing(reason)) => {
                    tracing::warn!(reason, "not yet; trying again");
                    self.progress.waits_for(reason);
                    self.pause(backoff.wait()).await;
                }
                // Somebody has to mend it, and then it goes on by itself.
                Err(RunError::Disorder(disorder)) => {
                    self.progress.waits_for(disorder.to_string());
                    self.pause(backoff.wait()).await;
                }
                Err(RunError::Stopped) => return Err(RunError::Stopped),
            }
        }
    }

    /// Does what comes next. `true`: nothing does.
    async fn turn(&self, cleans: &mut bool) -> Result<bool, RunError> {
        let found = self.look().await?;
        if self.take_up(&found).await? {
            return Ok(false);
        }
        let groups = plan(&found.owners, self.wanted.partitions);
        if !groups.is_empty() {
            *cleans = false;
            self.move_all(groups).await?;
            return Ok(false);
        }
        if found.clean.is_empty() {
            // A mover that woke late may have told something older last.
            self.world.publish(&found.hints).await.map_err(passing)?;
            return Ok(true);
        }
        self.progress.begin(Phase::Cleaning, self.wanted.partitions, 0);
        // After the wait, everything is looked at anew.
        if !std::mem::replace(cleans, true) && !self.wanted.clean_after.is_zero() {
            self.pause(self.wanted.clean_after).await;
            return Ok(false);
        }
        self.clean(&found).await?;
        Ok(false)
    }

    /// What all shards hold. They are asked one after another, so that what one has said may be over when the next is asked, and a
    /// slot that was on its way then has arrived since: only what they say twice is believed.
    async fn look(&self) -> Result<Found, RunError> {
        let mut rows = self.rows().await?;
        loop {
            let again = self.rows().await?;
            if again == rows {
                return Ok(found(&rows, self.wanted.slots)?);
            }
            rows = again;
        }
    }

    async fn rows(&self) -> Result<Vec<SlotRow>, RunError> {
        let mut rows = Vec::new();
        for partition in 0..self.wanted.shards {
            rows.extend(self.world.rows(partition).await.map_err(passing)?);
        }
        Ok(rows)
    }

    /// Ends what another mover has begun. `false`: there was nothing.
    async fn take_up(&self, found: &Found) -> Result<bool, RunError> {
        let mover = self.mover();
        for attempt in &found.forward {
            over(mover.go_through(attempt).await)?;
        }
        for attempt in &found.undo {
            tracing::info!(slots = ranges(&attempt.group.slots), "undoing what another mover has begun");
            over(mover.undo(attempt).await)?;
        }
        // What is undone in the source can no longer come.
        if found.undo.is_empty() {
            for attempt in &found.forget {
                over(mover.forget(attempt).await)?;
            }
        }
        Ok(!(found.forward.is_empty() && found.undo.is_empty() && found.forget.is_empty()))
    }

    /// Moves groups, some at the same time, none of which share a shard if that can be.
    async fn move_all(&self, groups: Vec<Group>) -> Result<(), RunError> {
        let slots = groups.iter().map(|group| group.slots.len()).sum();
        self.progress.begin(Phase::Moving, self.wanted.partitions, slots);
        let mover = self.mover();
        let mut waiting = groups;
        let mut moving = FuturesUnordered::new();
        let mut busy: Vec<Group> = Vec::new();
        let mut failed = None;
        loop {
            while failed.is_none() && !self.stop.has_come() && moving.len() < self.wanted.at_once {
                let Some(group) = next(&mut waiting, &busy) else { break };
                busy.push(group.clone());
                let mover = &mover;
                moving.push(async move { (self.move_in_parts(mover, &group).await, group) });
            }
            let Some((moved, done)) = moving.next().await else { break };
            busy.retain(|group| *group != done);
            if let Err(error) = moved {
                failed = Some(error);
            }
        }
        match failed {
            None => Ok(()),
            Some(GroupError::Stopped) => Err(RunError::Stopped),
            // Others may have moved; what is left is planned anew.
            Some(error) => Err(RunError::Passing(error.to_string())),
        }
    }

    /// Moves a group, at once if what comes to it is little.
    async fn move_in_parts(&self, mover: &Mover<'_, W, C>, group: &Group) -> Result<(), GroupError> {
        let mut rest = group.clone();
        while !rest.slots.is_empty() {
            if self.stop.has_come() {
                return Err(GroupError::Stopped);
            }
            let most = together(rest.slots.len(), self.world.traffic(&rest).await?);
            let later = rest.slots.split_off(most);
            let part = Group { slots: std::mem::replace(&mut rest.slots, later), ..rest };
            mover.move_group(&Attempt { id: (self.new_id)(), group: part }).await?;
        }
        Ok(())
    }

    /// Deletes what has moved where it lay before: all of a shard together, for it lies in the same pages.
    async fn clean(&self, found: &Found) -> Result<(), RunError> {
        let mut by_shard = BTreeMap::<u32, Vec<Attempt>>::new();
        for attempt in &found.clean {
            by_shard.entry(attempt.group.from).or_default().push(attempt.clone());
        }
        for attempts in by_shard.values() {
            loop {
                if self.stop.has_come() {
                    return Err(RunError::Stopped);
                }
                match self.world.clean(attempts).await {
                    Ok(true) => {}
                    Ok(false) => {
                        self.progress.cleaned(slots_of(attempts).len());
                        break;
                    }
                    Err(StepError::Superseded(_)) => break,
                    Err(error) => return Err(passing(error)),
                }
            }
        }
        Ok(())
    }

    fn mover(&self) -> Mover<'_, W, C> {
        Mover {
            world: self.world,
            clock: self.clock,
            fence: self.wanted.fence,
            stop: self.stop.clone(),
            progress: Arc::clone(&self.progress),
        }
    }

    async fn pause(&self, wait: Duration) {
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stop.wait() => {}
            () = self.clock.sleep(wait) => {}
        }
    }
}

/// How many of these slots move together.
fn together(slots: usize, records_per_second: u64) -> usize {
    let all = u64::try_from(slots).unwrap_or(u64::MAX);
    let most = all.saturating_mul(LIVELY) / records_per_second.max(LIVELY);
    usize::try_from(most).map_or(slots, |most| most.clamp(1, slots.max(1)))
}

/// The first group that shares no shard with those on their way; if none is like that, the first.
fn next(waiting: &mut Vec<Group>, busy: &[Group]) -> Option<Group> {
    let shards: BTreeSet<u32> = busy.iter().flat_map(Group::shards).collect();
    let free = |group: &Group| !shards.contains(&group.from) && !shards.contains(&group.to);
    let at = waiting.iter().position(free).unwrap_or(0);
    (at < waiting.len()).then(|| waiting.remove(at))
}

fn passing(error: StepError) -> RunError {
    RunError::Passing(error.to_string())
}

/// A step that is over because somebody else has done it is done: everything is looked at again.
fn over(done: Result<(), GroupError>) -> Result<(), RunError> {
    match done {
        Ok(()) | Err(GroupError::Step(StepError::Superseded(_))) => Ok(()),
        Err(GroupError::Stopped) => Err(RunError::Stopped),
        Err(error) => Err(RunError::Passing(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_move_together_the_more_comes_to_them() {
        let of_eight = |records| together(8, records);
        assert_eq!([0, 4_000, 4_001, 8_000, 16_000, 1_000_000].map(of_eight), [8, 8, 7, 4, 2, 1]);
        assert_eq!((together(1, 1_000_000), together(3, 6_000)), (1, 2));
    }
}
