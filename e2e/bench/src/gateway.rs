//! What a gateway takes, beside a handler that does nothing but await the same producer.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use shardlane_e2e::free_ports;
use shardlane_e2e::plain::{PlainService, Process};
use tokio::process::Command;

use crate::kind::Kind;
use crate::load::{self, Load, Loaded};
use crate::posts;
use crate::report::{Row, Samples, Side, Target, Unit, percentile};
use crate::stage::{Given, PARTITION, Stage};
use crate::usage::Usage;

/// The load before the clock runs.
const WARM_UP: Duration = Duration::from_secs(2);

/// So many times the usual connections raise counters. An increment is so little work that with fewer each side waits most of the
/// time for its producer, which sends together what comes within a millisecond; and who is slower then sends more together.
const CROWD: usize = 4;

/// What came of a run.
struct Taken {
    rate: f64,
    usage: Usage,
}

/// A gateway and the barest front that does its work.
pub struct Fronts<'a> {
    stage: &'a Stage,
    kind: Kind,
    /// The service whose gateway it is.
    pub service: PlainService,
    worker: Option<Process>,
    connections: usize,
}

/// What a gateway should reach that is alone: only what it does itself is measured, and no worker takes processors from
/// it.
pub const ALONE: Option<Target> = Some(Target::Ratio(0.7));

/// All runs with sign-ups, as rows of the report.
pub async fn signups(stage: &Stage) -> Result<Vec<Row>> {
    let alone = Fronts::new(stage, Kind::Signup, "gateway").await?;
    let acknowledging = alone.compare("Gateway, acknowledging", true, ALONE).await?;
    let mut served = Fronts::new(stage, Kind::Signup, "gateway-waiting").await?;
    let worker = served.service.worker(PARTITION).await?;
    worker.ready().await?;
    served.worker = Some(worker);
    let waiting = served.compare("Gateway, waiting for the outcome", false, None).await?;
    Ok(vec![acknowledging, waiting])
}

/// All runs with transfers, which a gateway never waits for.
pub async fn transfers(stage: &Stage) -> Result<Row> {
    let alone = Fronts::new(stage, Kind::Wallet, "transfer-gateway").await?;
    alone.compare("Transfers, acknowledging", false, ALONE).await
}

/// All runs with increments, which a gateway never waits for.
pub async fn increments(stage: &Stage) -> Result<Row> {
    let mut alone = Fronts::new(stage, Kind::Counter, "increment-gateway").await?;
    alone.connections *= CROWD;
    let mut row = alone.compare("Increments, acknowledging", false, ALONE).await?;
    row.notes.push(format!("{} connections: with few, both sides mostly wait for Kafka", alone.connections));
    Ok(row)
}

impl<'a> Fronts<'a> {
    /// Of a service of its own.
    pub async fn new(stage: &'a Stage, kind: Kind, name: &str) -> Result<Self> {
        let service = stage.service(kind, name, Given::default()).await?;
        Ok(Self { stage, kind, service, worker: None, connections: stage.options.connections })
    }

    /// Both sides, taking turns.
    pub async fn compare(&self, title: &str, acknowledge: bool, target: Option<Target>) -> Result<Row> {
        let (mut ours, mut bare, mut notes) = (Vec::new(), Vec::new(), Vec::new());
        let runs = self.stage.options.runs();
        for run in 1..=runs {
            let seed = run as u64 * 10 + u64::from(acknowledge);
            let mut gateway = self.service.gateway(&self.kind.variables()?).await?;
            ours.push(self.load(&format!("{title} {run}/{runs}, ours"), &gateway, acknowledge, seed).await?);
            // Of the last run: they differ little.
            notes = self.look(&gateway).await?;
            gateway.kill().await?;
            let mut gateway = self.bare_gateway().await?;
            bare.push(self.load(&format!("{title} {run}/{runs}, bare"), &gateway, acknowledge, seed + 5).await?);
            gateway.kill().await?;
        }
        Ok(Row {
            name: title.to_owned(),
            unit: Unit::PerSecond,
            ours: side(&ours),
            bare: Some(side(&bare)),
            beside: "handler that awaits the same producer".to_owned(),
            target,
            notes,
        })
    }

    async fn records(&self) -> Result<i64> {
        self.stage.records_in(self.service.topic(self.kind.requests())?).await
    }

    /// Fails unless there is a record for each request that was taken, and none for those that only read.
    async fn check(&self, before: i64, loaded: &Loaded) -> Result<()> {
        let (answers, records) = (loaded.statuses.values().sum::<u64>(), self.records().await? - before);
        let expected = if self.kind == Kind::Blog { 0 } else { i64::try_from(answers)? };
        ensure!(records == expected, "{answers} requests were taken, and the topic has {records} records of them");
        Ok(())
    }

    /// Whether our gateway did what is measured, and what is to be known of how.
    async fn look(&self, gateway: &Process) -> Result<Vec<String>> {
        if self.kind == Kind::Blog { posts::all_cached(gateway).await } else { Ok(Vec::new()) }
    }

    async fn bare_gateway(&self) -> Result<Process> {
        let port = free_ports()?;
        let mut bare = Command::new(std::env::current_exe()?);
        bare.args(self.kind.bare_front(&self.service)).arg(format!("--port={port}"));
        let gateway = self.service.spawn(bare, "bare-gateway", (port, port), &self.kind.variables()?)?;
        gateway.ready().await?;
        Ok(gateway)
    }

    async fn load(&self, title: &str, gateway: &Process, acknowledge: bool, seed: u64) -> Result<Taken> {
        self.stage.progress.doing(title);
        self.stage.settle().await?;
        let there = self.records().await?;
        let from = Instant::now() + WARM_UP;
        let to = from + Duration::from_secs(if self.stage.options.quick { 3 } else { 8 });
        let host = host(gateway)?;
        let (kind, connections) = (self.kind, self.connections);
        let load = Load { host, kind, connections, acknowledge, seed, from, to, pace: Duration::ZERO };
        let mut parts = vec![("gateway", gateway.pid()?)];
        if let Some(worker) = &self.worker {
            parts.push(("worker", worker.pid()?));
        }
        let during = async {
            tokio::time::sleep_until(from.into()).await;
            let before = self.stage.servers.snapshot(&parts)?;
            tokio::time::sleep_until(to.into()).await;
            Ok(self.stage.servers.snapshot(&parts)?.since(&before))
        };
        let (loaded, usage) = tokio::try_join!(load::run(load.clone()), during)?;
        loaded.check()?;
        self.check(there, &loaded).await?;
        let rate = loaded.rate(&load);
        let of = |share| percentile(&loaded.times, share);
        self.stage.progress.done(&format!("{title}: {rate:.0}/s, p50/p99 in ms: {:.2}/{:.2}", of(0.5), of(0.99)));
        Ok(Taken { rate, usage })
    }
}

/// `host:port` of a gateway.
pub fn host(gateway: &Process) -> Result<String> {
    Ok(gateway.url.strip_prefix("http://").context("the gateway's URL is not http")?.to_owned())
}

fn side(all: &[Taken]) -> Side {
    let samples = Samples(all.iter().map(|taken| taken.rate).collect());
    Side {
        rate: Some(samples.median()),
        samples,
        usage: Some(Usage::mean(&all.iter().map(|taken| taken.usage.clone()).collect::<Vec<_>>())),
        waits: Vec::new(),
    }
}
