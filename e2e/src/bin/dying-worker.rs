//! A sign-up worker that signals itself at a named point: the real loop over the real edges, one of which first breaks off.
//!
//! `dying-worker POINT SIGNAL PASS`, with the worker's usual environment; PASS says which time the point is reached.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use shardlane_e2e::dying;
use shardlane_e2e::plain::{HTTP_PORT, METRICS_PORT, Point};
use shardlane_runtime::config::ServiceConfig;
use shardlane_runtime::database::ShardAddress;
use shardlane_runtime::edges::{Fence, Outcomes, Outlet, Shard, ShardError, Slots, TakeOver};
use shardlane_runtime::intake::{Advance, DeadLetter};
use shardlane_runtime::process::{Shutdown, finish, init_logs};
use shardlane_runtime::producer::Outgoing;
use shardlane_runtime::service::Service;
use shardlane_runtime::worker::{Edges, WorkerOptions, run_wrapped};
use shardlane_signup::service::SignupService;

/// When to signal.
struct Fate {
    at: Point,
    signal: String,
    passes: AtomicU32,
}

impl Fate {
    /// Signals this process if this is the point and the pass. A process that goes on afterwards was continued.
    fn meet(&self, point: Point) {
        if self.at == point && self.passes.fetch_sub(1, Ordering::Relaxed) == 1 {
            dying::signal_self(&self.signal);
        }
    }
}

struct Dying<E> {
    edge: E,
    fate: Arc<Fate>,
}

impl<S: Service, E: Shard<S>> Shard<S> for Dying<E> {
    async fn take_over(&mut self) -> Result<TakeOver, ShardError> {
        self.edge.take_over().await
    }

    async fn slots(&mut self) -> Result<Option<Slots>, ShardError> {
        self.edge.slots().await
    }

    async fn slots_version(&mut self) -> Result<Option<i64>, ShardError> {
        self.edge.slots_version().await
    }

    async fn adopt(&mut self, strays: &[(u32, i64)]) -> Result<(), ShardError> {
        self.edge.adopt(strays).await
    }

    async fn begin(&mut self, advances: &[Advance]) -> Result<Option<Fence>, ShardError> {
        self.edge.begin(advances).await
    }

    async fn apply(&mut self, batch: i64, plan: &Arc<S::Plan>) -> Result<Outcomes, ShardError> {
        self.edge.apply(batch, plan).await
    }

    async fn bury(&mut self, batch: i64, dead: &[DeadLetter]) -> Result<Outcomes, ShardError> {
        self.edge.bury(batch, dead).await
    }

    async fn commit(&mut self, mark: Option<i64>) -> Result<(), ShardError> {
        self.fate.meet(Point::BeforeCommit);
        let committed = self.edge.commit(mark).await;
        self.fate.meet(Point::AfterCommit);
        committed
    }

    async fn roll_back(&mut self) -> Result<(), ShardError> {
        self.edge.roll_back().await
    }
}

impl<E: Outlet> Outlet for Dying<E> {
    async fn deliver_all(&self, records: &[Outgoing]) -> Result<Vec<usize>, String> {
        if self.fate.at == Point::MidRelay {
            self.edge.deliver_all(&records[..records.len() / 2]).await?;
            self.fate.meet(Point::MidRelay);
        }
        let delivered = self.edge.deliver_all(records).await;
        self.fate.meet(Point::BeforeMark);
        delivered
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    init_logs();
    dying::ended(Box::pin(start()).await)
}

async fn start() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [point, signal, pass] = words.as_slice() else { bail!("usage: dying-worker POINT SIGNAL PASS") };
    let fate = Arc::new(Fate { at: point.parse()?, signal: signal.clone(), passes: pass.parse::<u32>()?.into() });
    let variable = |name: &str| std::env::var(name).with_context(|| name.to_owned());
    let config = ServiceConfig::load(variable("SHARDLANE_CONFIG")?.as_ref())?;
    let service = SignupService::new(config.settings()?, &config.id);
    let options = WorkerOptions {
        config,
        partition: variable("SHARDLANE_PARTITION")?.parse()?,
        shard: ShardAddress::parse(&variable("SHARDLANE_POSTGRES_URI")?)?,
        http_port: variable(HTTP_PORT)?.parse()?,
        metrics_port: variable(METRICS_PORT)?.parse()?,
    };
    let wrap = |edges: shardlane_runtime::worker::RealEdges<SignupService>| Edges {
        shard: Dying { edge: edges.shard, fate: Arc::clone(&fate) },
        outlet: Dying { edge: edges.outlet, fate },
        log: edges.log,
        outbox: edges.outbox,
    };
    Ok(finish(Box::pin(run_wrapped(service, options, Shutdown::on_signal()?, wrap)).await))
}
