//! A mover that signals itself at named points: the real moves over the real shards, before and after each step of which it looks
//! whether it is time.
//!
//! `dying-mover SIGNAL POINT,POINT reshard ARGUMENTS`, with the mover's own arguments. A point is `before-copy:1`: when, which step,
//! and which time it comes there.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use shardlane_e2e::dying;
use shardlane_mover::moves::edges::{Attempt, Copied, Fence, Group, Pass, SlotRow, StepError, World};
use shardlane_mover::moves::pace::Haste;
use shardlane_mover::moves::progress::Progress;
use shardlane_mover::reshard::{ReshardOptions, reshard_wrapped};
use shardlane_runtime::config::ServiceConfig;
use shardlane_runtime::health::Health;
use shardlane_runtime::hint::Hint;
use shardlane_runtime::metrics::Metrics;
use shardlane_runtime::process::{self, Shutdown, finish, init_logs};
use shardlane_runtime::standing::Standings;

/// When to signal.
struct Fate {
    signal: String,
    points: Vec<String>,
    passes: Mutex<HashMap<String, u32>>,
}

impl Fate {
    /// Signals this process if this is a point and its pass. A process that goes on afterwards was continued.
    fn meet(&self, when: &str, step: &str) {
        let mut passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
        let pass = passes.entry(format!("{when}-{step}")).or_default();
        *pass += 1;
        let point = format!("{when}-{step}:{pass}");
        if self.points.contains(&point) {
            eprintln!("meets {point}");
            dying::signal_self(&self.signal);
        }
    }

    /// A step, between its two points. What was not done has no second one.
    async fn around<T>(
        &self,
        step: &str,
        done: impl Future<Output = Result<T, StepError>> + Send,
    ) -> Result<T, StepError> {
        self.meet("before", step);
        let done = done.await?;
        self.meet("after", step);
        Ok(done)
    }
}

struct Dying<W> {
    world: W,
    fate: Fate,
    /// Whether slots stand still: one group moves at a time where somebody asks.
    fenced: AtomicBool,
}

impl<W> Dying<W> {
    /// What a step is called.
    fn named(&self, before: &'static str, under: &'static str) -> &'static str {
        if self.fenced.load(Ordering::Relaxed) { under } else { before }
    }
}

impl<W: World> World for Dying<W> {
    async fn rows(&self, partition: u32) -> Result<Vec<SlotRow>, StepError> {
        self.world.rows(partition).await
    }

    async fn traffic(&self, group: &Group) -> Result<u64, StepError> {
        self.world.traffic(group).await
    }

    async fn leave(&self, attempt: &Attempt) -> Result<Vec<i64>, StepError> {
        self.fenced.store(false, Ordering::Relaxed);
        self.fate.around("leave", self.world.leave(attempt)).await
    }

    async fn expect(&self, attempt: &Attempt, epochs: &[i64]) -> Result<bool, StepError> {
        self.fate.around("expect", self.world.expect(attempt, epochs)).await
    }

    async fn purge(&self, attempt: &Attempt) -> Result<bool, StepError> {
        self.fate.around("purge", self.world.purge(attempt)).await
    }

    async fn copy(&self, attempt: &Attempt, copied: &(dyn Fn(u64) + Sync)) -> Result<Copied, StepError> {
        let on_their_way = |rows| {
            copied(rows);
            self.fate.meet("during", "copy");
        };
        self.fate.around("copy", self.world.copy(attempt, &on_their_way)).await
    }

    async fn compare(&self, attempt: &Attempt, copied: &Copied) -> Result<Option<String>, StepError> {
        self.fate.around("compare", self.world.compare(attempt, copied)).await
    }

    async fn catch_up(&self, attempt: &Attempt, after: i64, haste: Haste) -> Result<Pass, StepError> {
        self.fate.around(self.named("catch_up", "last_delta"), self.world.catch_up(attempt, after, haste)).await
    }

    async fn relayed(&self, attempt: &Attempt) -> Result<(i64, i64), StepError> {
        self.fate.around(self.named("relayed", "last_relayed"), self.world.relayed(attempt)).await
    }

    async fn fence(&self, attempt: &Attempt, limit: Duration) -> Result<Fence, StepError> {
        let fence = self.fate.around("fence", self.world.fence(attempt, limit)).await?;
        self.fenced.store(true, Ordering::Relaxed);
        Ok(fence)
    }

    async fn hand_over(&self, attempt: &Attempt) -> Result<(), StepError> {
        self.fate.around("hand_over", self.world.hand_over(attempt)).await
    }

    async fn handed_over(&self, attempt: &Attempt) -> Result<Standings, StepError> {
        self.fate.around("handed_over", self.world.handed_over(attempt)).await
    }

    async fn publish(&self, hints: &[Hint]) -> Result<(), StepError> {
        self.fate.around("publish", self.world.publish(hints)).await
    }

    async fn activate(&self, attempt: &Attempt, standings: &Standings) -> Result<(), StepError> {
        self.fate.around("activate", self.world.activate(attempt, standings)).await
    }

    async fn undo(&self, attempt: &Attempt) -> Result<(), StepError> {
        self.fate.around("undo", self.world.undo(attempt)).await
    }

    async fn give_up(&self, attempt: &Attempt, id: &str) -> Result<(), StepError> {
        self.fate.around("give_up", self.world.give_up(attempt, id)).await
    }

    async fn forget(&self, attempt: &Attempt) -> Result<(), StepError> {
        self.fate.around("forget", self.world.forget(attempt)).await
    }

    async fn clean(&self, attempts: &[Attempt]) -> Result<bool, StepError> {
        self.fate.around("clean", self.world.clean(attempts)).await
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    init_logs();
    dying::ended(Box::pin(start()).await)
}

async fn start() -> Result<ExitCode> {
    let mut words = std::env::args().skip(1);
    let (signal, points) =
        words.next().zip(words.next()).context("usage: dying-mover SIGNAL POINT,POINT reshard ...")?;
    let points = points.split(',').map(str::to_owned).collect();
    let arguments: HashMap<String, String> = words
        .filter_map(|word| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect();
    let argument = |name: &str| arguments.get(name).with_context(|| name.to_owned());
    let options = ReshardOptions {
        config: ServiceConfig::load(argument("--config")?.as_ref())?,
        schema: serde_json::from_str(&std::fs::read_to_string(argument("--schema")?)?)?,
        shards: argument("--shards")?.into(),
        shard_count: argument("--shard-count")?.parse()?,
        partitions: argument("--partitions")?.parse()?,
        groups_at_once: argument("--groups-at-once")?.parse()?,
        rows_per_second: None,
        fence: Duration::from_secs(argument("--fence-seconds")?.parse()?),
        clean_after: Duration::from_secs(argument("--clean-after-seconds")?.parse()?),
    };
    let (metrics, shutdown) = (Arc::new(Metrics::new()?), Shutdown::on_signal()?);
    let health = Health::starting(Arc::clone(&metrics), &[]);
    let progress = Arc::new(Progress::new(health.clone(), metrics.registry())?);
    let fate = Fate { signal, points, passes: Mutex::default() };
    let (_running, serving) = Shutdown::by_hand();
    let fenced = AtomicBool::new(false);
    tokio::select! {
        served = process::serve(argument("--status-port")?.parse()?, health.routes(), serving) => Ok(finish(served)),
        moved = reshard_wrapped(&options, shutdown, progress, |world| Dying { world, fate, fenced }) => Ok(finish(moved)),
    }
}
