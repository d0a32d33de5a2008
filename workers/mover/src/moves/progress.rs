//! How far a mover is: for `/status`, for metrics and for the log.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{Histogram, IntCounter, IntCounterVec, Registry};
use serde_json::{Value, json};
use shardlane_runtime::config::ranges;
use shardlane_runtime::health::Health;
use shardlane_runtime::metrics::{counter, counters, histogram};

use super::edges::Attempt;
use super::group::GroupError;

/// The member of `/status`.
const MEMBER: &str = "reshard";
/// The part of its health that this is.
pub const MOVES: &str = "moves";
/// Over how long rows per second are told.
const RECENT: Duration = Duration::from_secs(5);

/// What the whole run is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Reads what is there.
    #[default]
    Planning,
    /// Moves groups.
    Moving,
    /// Deletes what has moved where it lay before.
    Cleaning,
}

/// What is being done about a group; what a step gives is there when the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Both sides are told.
    Leaving,
    /// All rows are copied.
    Copying,
    /// What was written meanwhile is copied.
    CatchingUp,
    /// The slots are to stand still.
    Fenced,
    /// They do, and the last rows are copied.
    LastDelta,
    /// They are handed over.
    Moved,
    /// Everybody is told.
    Published,
    /// Their new shard works on them.
    Active,
}

impl Step {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Leaving => "leaving",
            Self::Copying => "copying",
            Self::CatchingUp => "catching-up",
            Self::Fenced => "fenced",
            Self::LastDelta => "last-delta",
            Self::Moved => "moved",
            Self::Published => "published",
            Self::Active => "active",
        }
    }
}

/// A group that is on its way.
#[derive(Clone, Debug)]
struct OnItsWay {
    attempt: Attempt,
    step: Step,
    rows: u64,
    /// Since it stands still: when each step began.
    steps: Vec<(Step, Instant)>,
}

impl OnItsWay {
    /// For how long it stood still in each step, and altogether; `None` if it never did.
    fn stood(&self, now: Instant) -> Option<(String, Duration)> {
        let (_, first) = self.steps.first()?;
        let ends = self.steps.iter().skip(1).map(|(_, end)| *end).chain([now]);
        let told = self.steps.iter().zip(ends);
        let told = told.map(|((step, begin), end)| format!("{} {}", step.name(), (end - *begin).as_millis()));
        Some((told.collect::<Vec<_>>().join(", "), now - *first))
    }
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    partitions: u32,
    to_move: usize,
    moved: usize,
    cleaned: usize,
    rows: u64,
    recent: Vec<(Instant, u64)>,
    groups: BTreeMap<String, OnItsWay>,
    longest_pause: Duration,
    problem: Option<(&'static str, String)>,
}

/// How far a mover is.
#[derive(Debug)]
pub struct Progress {
    health: Health,
    state: Mutex<State>,
    slots: IntCounter,
    rows: IntCounter,
    pauses: Histogram,
    undone: IntCounterVec,
}

impl Progress {
    /// Nothing is done yet.
    pub fn new(health: Health, registry: &Registry) -> prometheus::Result<Self> {
        let help = "Seconds for which a group of slots stood still.";
        Ok(Self {
            health,
            state: Mutex::default(),
            slots: counter(registry, "mover_slots_moved_total", "Slots that were moved.")?,
            rows: counter(registry, "mover_rows_total", "Rows that were copied.")?,
            pauses: histogram(registry, "mover_pause_seconds", help, &[0.05, 0.1, 0.2, 0.5, 1., 2., 5., 10., 60.])?,
            undone: counters(registry, "mover_undone_total", "Groups that were given up and undone.", "reason")?,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is to be done from now on.
    pub fn begin(&self, phase: Phase, partitions: u32, to_move: usize) {
        let mut state = self.state();
        (state.phase, state.partitions, state.to_move) = (phase, partitions, to_move);
        self.health.ready(MOVES);
        self.tell(&mut state);
    }

    /// A group is at a step.
    pub fn step(&self, attempt: &Attempt, step: Step) {
        let mut state = self.state();
        let group = state.groups.entry(attempt.id.clone()).or_insert_with(|| OnItsWay {
            attempt: attempt.clone(),
            step,
            rows: 0,
            steps: Vec::new(),
        });
        group.step = step;
        if step == Step::LastDelta || !group.steps.is_empty() {
            group.steps.push((step, Instant::now()));
        }
        self.health.ready(MOVES);
        self.tell(&mut state);
    }

    /// Rows of a group were copied.
    pub fn copied(&self, attempt: &Attempt, rows: u64) {
        self.rows.inc_by(rows);
        let mut state = self.state();
        state.rows += rows;
        let now = Instant::now();
        state.recent.push((now, rows));
        state.recent.retain(|(then, _)| now.duration_since(*then) <= RECENT);
        if let Some(group) = state.groups.get_mut(&attempt.id) {
            group.rows += rows;
        }
        self.tell(&mut state);
    }

    /// A group that another mover has handed over is gone through with.
    pub fn taken_up(&self, attempt: &Attempt) {
        self.step(attempt, Step::Moved);
        let mut state = self.state();
        state.to_move += attempt.group.slots.len();
    }

    /// A group has moved.
    pub fn done(&self, attempt: &Attempt) {
        let mut state = self.state();
        let stood = self.stood(&mut state, attempt);
        let slots = attempt.group.slots.len();
        state.moved += slots;
        state.to_move = state.to_move.saturating_sub(slots);
        state.problem = None;
        self.slots.inc_by(slots as u64);
        let (from, to) = (attempt.group.from, attempt.group.to);
        let (steps_ms, pause_ms) = stood.map(|(steps, pause)| (steps, pause.as_millis())).unzip();
        tracing::info!(slots = ranges(&attempt.group.slots), from, to, pause_ms, steps_ms, "slots have moved");
        self.tell(&mut state);
    }

    /// A group is given up.
    pub fn undone(&self, attempt: &Attempt, error: &GroupError) {
        self.undone.with_label_values(&[error.reason()]).inc();
        let (from, to) = (attempt.group.from, attempt.group.to);
        tracing::warn!(slots = ranges(&attempt.group.slots), from, to, %error, "a group is given up and undone");
        let mut state = self.state();
        if matches!(error, GroupError::Differs { .. } | GroupError::TooLong(_)) {
            state.problem = Some(("MoveUndone", error.to_string()));
        }
        self.tell(&mut state);
    }

    /// Its slots are worked on where they were before. They stood still until now if they were fenced.
    pub fn goes_on(&self, attempt: &Attempt) {
        let mut state = self.state();
        self.stood(&mut state, attempt);
        self.tell(&mut state);
    }

    /// Counts for how long a group stood still that does so no more: in each step, and altogether.
    fn stood(&self, state: &mut State, attempt: &Attempt) -> Option<(String, Duration)> {
        let stood = state.groups.remove(&attempt.id)?.stood(Instant::now())?;
        self.pauses.observe(stood.1.as_secs_f64());
        state.longest_pause = state.longest_pause.max(stood.1);
        Some(stood)
    }

    /// What was moved is gone where it lay before.
    pub fn cleaned(&self, slots: usize) {
        let mut state = self.state();
        state.cleaned += slots;
        self.tell(&mut state);
    }

    /// A step waits for something that passes.
    pub fn waits(&self, attempt: &Attempt, reason: &str) {
        let group = &attempt.group;
        let slots = ranges(&group.slots);
        let reason = format!("slots {slots} from partition {} to {}: {reason}", group.from, group.to);
        self.health.waiting_for(MOVES, reason);
    }

    /// The whole run waits for something that passes.
    pub fn waits_for(&self, reason: String) {
        self.health.waiting_for(MOVES, reason);
    }

    fn tell(&self, state: &mut State) {
        self.health.tell(MEMBER, state.value());
    }
}

impl State {
    fn value(&self) -> Value {
        let told = |group: &OnItsWay| {
            let (moves, step, rows) = (&group.attempt.group, group.step.name(), group.rows);
            json!({ "from": moves.from, "to": moves.to, "slots": ranges(&moves.slots), "step": step, "rows": rows })
        };
        let groups: Vec<_> = self.groups.values().map(told).collect();
        let since = self.recent.first().map(|(then, _)| then.elapsed().as_secs_f64().max(1.));
        let recent: u64 = self.recent.iter().map(|(_, rows)| rows).sum();
        let phase = match self.phase {
            Phase::Planning => "planning",
            Phase::Moving => "moving",
            Phase::Cleaning => "cleaning",
        };
        json!({
            "phase": phase,
            "partitions": self.partitions,
            "slotsTotal": self.moved + self.to_move,
            "slotsMoved": self.moved,
            "slotsCleaned": self.cleaned,
            "rows": self.rows,
            "rowsPerSecond": since.map_or(0, |since| (recent as f64 / since) as u64),
            "groups": groups,
            "longestPauseMs": u64::try_from(self.longest_pause.as_millis()).unwrap_or(u64::MAX),
            "problem": self.problem.as_ref().map(|(reason, message)| json!({ "reason": reason, "message": message })),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shardlane_runtime::metrics::Metrics;

    use super::*;
    use crate::moves::edges::Group;

    fn attempt(id: &str) -> Attempt {
        Attempt { id: id.to_owned(), group: Group { from: 0, to: 1, slots: vec![1] } }
    }

    #[test]
    fn slots_that_stood_still_in_vain_count_until_they_go_on() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let progress = Progress::new(Health::starting(Arc::clone(&metrics), &[]), metrics.registry()).unwrap();
        let (fenced, copied) = (attempt("fenced"), attempt("copied"));
        progress.step(&copied, Step::Copying);
        progress.undone(&copied, &GroupError::Stopped);
        progress.goes_on(&copied);
        assert_eq!((progress.pauses.get_sample_count(), progress.state().groups.len()), (0, 0));

        progress.step(&fenced, Step::LastDelta);
        let undone = Instant::now();
        progress.undone(&fenced, &GroupError::TooLong(Duration::from_secs(4)));
        assert_eq!((progress.pauses.get_sample_count(), progress.state().groups.len()), (0, 1));
        while undone.elapsed().is_zero() {}
        let least = undone.elapsed();
        progress.goes_on(&fenced);
        assert_eq!((progress.pauses.get_sample_count(), progress.state().groups.len()), (1, 0));
        let state = progress.state();
        assert!(state.longest_pause >= least, "{:?}", state.longest_pause);
        assert_eq!(state.problem.as_ref().map(|(reason, _)| *reason), Some("MoveUndone"));
    }
}
