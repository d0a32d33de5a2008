//! Movers of a service of plain processes: real ones, and those that signal themselves at a named step.

use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::process::Command;

use crate::plain::{PlainService, Process, administer, program};
use crate::{free_ports, same};

/// How long a move may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a mover is to do.
#[derive(Clone, Copy, Debug)]
pub struct Moves {
    /// How many partitions are to own slots.
    pub partitions: u32,
    /// How many groups move at the same time.
    pub groups_at_once: usize,
    /// Seconds for which slots may stand still.
    pub fence_seconds: u64,
    /// Seconds for which what has moved is left where it lay.
    pub clean_after_seconds: u64,
}

impl Moves {
    /// To this number of partitions, group by group, cleaned at once.
    pub fn to(partitions: u32) -> Self {
        Self { partitions, groups_at_once: 1, fence_seconds: 5, clean_after_seconds: 0 }
    }
}

/// Steps of a move as they are named in points, in the order in which a move comes to them. A mover that takes up what another one
/// has left also comes to `undo`, `give_up`, `purge`, `forget` and `handed_over`. What `catch_up` and `relayed` are before the
/// fence, `last_delta` and `last_relayed` are under it.
pub const STEPS: [&str; 13] = [
    "leave",
    "expect",
    "copy",
    "compare",
    "catch_up",
    "relayed",
    "fence",
    "last_relayed",
    "last_delta",
    "hand_over",
    "publish",
    "activate",
    "clean",
];

/// A place at which a mover can be made to signal itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// `before` or `after`; of a copy also `during`.
    pub when: &'static str,
    /// The step.
    pub step: &'static str,
    /// Which time it comes there, beginning at 1.
    pub pass: u32,
}

impl Point {
    /// The first time that it comes to a step.
    pub const fn before(step: &'static str) -> Self {
        Self { when: "before", step, pass: 1 }
    }

    /// The first time that it has done a step.
    pub const fn after(step: &'static str) -> Self {
        Self { when: "after", step, pass: 1 }
    }

    /// The first time that rows are on their way.
    pub const fn during_copy() -> Self {
        Self { when: "during", step: "copy", pass: 1 }
    }

    /// Another time.
    pub const fn pass(self, pass: u32) -> Self {
        Self { pass, ..self }
    }

    /// Before and after each step of a move from its beginning to its end, and in the middle of the copy.
    pub fn all() -> Vec<Self> {
        let mut all: Vec<_> = STEPS.into_iter().flat_map(|step| [Self::before(step), Self::after(step)]).collect();
        let copied = all.iter().position(|point| *point == Self::after("copy")).unwrap_or_default();
        all.insert(copied, Self::during_copy());
        all
    }
}

impl std::fmt::Display for Point {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}:{}", self.when, self.step, self.pass)
    }
}

impl PlainService {
    /// Arguments of `mover reshard`, and the port at which it tells how it fares.
    fn reshard_arguments(&self, moves: &Moves) -> Result<(Vec<String>, u16)> {
        let port = free_ports()?;
        let mut arguments = self.place("reshard");
        arguments.extend([
            format!("--partitions={}", moves.partitions),
            format!("--shard-count={}", self.shard_count()),
            format!("--groups-at-once={}", moves.groups_at_once),
            format!("--fence-seconds={}", moves.fence_seconds),
            format!("--clean-after-seconds={}", moves.clean_after_seconds),
            format!("--status-port={port}"),
        ]);
        Ok((arguments, port))
    }

    /// Starts a mover.
    pub fn mover(&self, moves: &Moves) -> Result<Process> {
        let (arguments, port) = self.reshard_arguments(moves)?;
        let mut mover = Command::new(program("mover")?);
        mover.args(arguments);
        self.spawn(mover, "mover", (port, port), &[])
    }

    /// Starts a mover that sends itself a signal at each of these points. `program` is the `dying-mover` of this package.
    pub fn dying_mover(&self, program: &str, signal: &str, points: &[Point], moves: &Moves) -> Result<Process> {
        let (arguments, port) = self.reshard_arguments(moves)?;
        let mut mover = Command::new(program);
        let points: Vec<_> = points.iter().map(Point::to_string).collect();
        mover.args([signal, &points.join(",")]).args(arguments);
        self.spawn(mover, "dying-mover", (port, port), &[])
    }

    /// Moves slots until they lie as wanted, and checks that all is well.
    pub async fn reshard(&self, moves: &Moves) -> Result<Value> {
        let mut mover = self.mover(moves)?;
        let code =
            mover.end(PATIENCE).await.with_context(|| format!("its log: {}", mover.log().unwrap_or_default()))?;
        same("exit code of the mover", code, Some(0)).with_context(|| mover.log().unwrap_or_default())?;
        self.is_well().await
    }

    /// Runs `mover verify`. Gives its exit code and its report.
    pub async fn verify(&self) -> Result<(Option<i32>, Value)> {
        let mut verify = Command::new(program("mover")?);
        verify.args(self.place("verify")).arg(format!("--shard-count={}", self.shard_count()));
        let Output { status, stdout, stderr } = verify.stdin(Stdio::null()).output().await?;
        let report = serde_json::from_slice(&stdout).with_context(|| String::from_utf8_lossy(&stderr).into_owned())?;
        Ok((status.code(), report))
    }

    /// Fails unless `mover verify` finds all well and nothing moving. Gives its report.
    pub async fn is_well(&self) -> Result<Value> {
        let (code, report) = self.verify().await?;
        same(&format!("exit code of verify, which says {report}"), code, Some(0))?;
        same("slots that are moving", &report["moving"], &Value::Array(Vec::new()))?;
        Ok(report)
    }

    /// Ends the session that keeps other movers waiting, as a server does that has lost its client.
    pub async fn let_another_mover_in(&self) -> Result<()> {
        let alone = "SELECT pg_terminate_backend(pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
             WHERE locktype = 'advisory' AND objid = 7362515 AND granted";
        administer(format!("{alone} AND datname = '{}'", self.database(0))).await
    }
}

impl Process {
    /// Waits until it has ended, and does something each time a signal has stopped it, which lets it go on. Gives its exit code.
    pub async fn at_each_stop(&mut self, mut act: impl AsyncFnMut(&Self) -> Result<()>) -> Result<Option<i32>> {
        loop {
            match self.stopped_or_ended(PATIENCE).await? {
                Some(code) => return Ok((code >= 0).then_some(code)),
                None => act(self).await?,
            }
        }
    }

    /// Fails unless a mover has met all these points.
    pub fn has_met(&self, points: &[Point]) -> Result<()> {
        let log = self.log()?;
        let missed: Vec<_> =
            points.iter().map(Point::to_string).filter(|point| !log.contains(&format!("meets {point}"))).collect();
        if missed.is_empty() { Ok(()) } else { bail!("the mover never came to {missed:?}; its log: {log}") }
    }
}
