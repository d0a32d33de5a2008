//! How long it takes until a counter shows an increment that was acknowledged, while others are raised all the time; and whether
//! answers say truly how far they may be behind.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use shardlane_e2e::increments::Pool;
use uuid::Uuid;

use crate::gateway::host;
use crate::kind::Kind;
use crate::load::{self, Load};
use crate::report::{Row, Samples, Side, Target, Unit, milliseconds, percentile};
use crate::stage::{Given, PARTITION, Stage};
use crate::usage::Usage;

/// Probes of a run.
const PROBES: usize = 40;
/// The time in which they begin, at any moments: so they fall into flushes early and late.
const SPREAD: Duration = Duration::from_secs(10);
/// The load before the first one, and after the last one has begun.
const AROUND: Duration = Duration::from_secs(2);
/// Connections of the load, each with a request in this time: a thousand a second.
const CONNECTIONS: usize = 20;
const PACE: Duration = Duration::from_millis(20);
/// How often a probe asks.
const OFTEN: Duration = Duration::from_millis(10);
/// Longest that an increment may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// By how much an answer may be further behind than it says, in milliseconds: what Kafka has is read within some.
const SLACK: f64 = 100.;

/// What a probe saw.
struct Probe {
    /// From the acknowledgement until the counter showed it, in milliseconds.
    staleness: f64,
    /// Answers before that.
    answers: usize,
    /// By how much one of them was further behind than it said, at most, in milliseconds.
    short: f64,
}

/// A run.
struct Seen {
    probes: Vec<Probe>,
    /// Increments a second of the load.
    load: f64,
    usage: Usage,
}

/// All runs, as rows of the report.
pub async fn measure(stage: &Stage) -> Result<[Row; 2]> {
    let runs = stage.options.runs();
    let mut all = Vec::new();
    for run in 1..=runs {
        let seen = watch(stage, run).await?;
        let of = |share| percentile(&seen.times(), share);
        stage.progress.done(&format!("staleness {run}/{runs}, p50/longest in ms: {:.0}/{:.0}", of(0.5), of(1.)));
        all.push(seen);
    }
    let usage = Usage::mean(&all.iter().map(|seen| seen.usage.clone()).collect::<Vec<_>>());
    let note = note(&all);
    let row = |name: &str, share, target| {
        let samples = Samples(all.iter().map(|seen| percentile(&seen.times(), share)).collect());
        Row {
            name: name.to_owned(),
            unit: Unit::Milliseconds,
            ours: Side { samples, usage: Some(usage.clone()), rate: None, waits: Vec::new() },
            bare: None,
            beside: String::new(),
            target,
            notes: note.clone(),
        }
    };
    Ok([row("Staleness, p50", 0.5, None), row("Staleness, longest", 1., Some(Target::AtMost(2_000.)))])
}

fn note(all: &[Seen]) -> Vec<String> {
    let load = Samples(all.iter().map(|seen| seen.load).collect()).median();
    let probes = || all.iter().flat_map(|seen| &seen.probes);
    let answers: usize = probes().map(|probe| probe.answers).sum();
    let short = probes().map(|probe| probe.short).fold(0., f64::max);
    let kept = if short <= SLACK { "kept" } else { "NOT KEPT" };
    vec![
        format!("{PROBES} probes a run under {load:.0} increments a second of others; flushes are a second apart"),
        format!(
            "staleness_ms of {answers} answers that did not show a probe yet: further behind than they said by at most \
             {short:.0} ms; at most {SLACK:.0} ms is promised here: {kept}"
        ),
    ]
}

impl Seen {
    fn times(&self) -> Vec<f64> {
        self.probes.iter().map(|probe| probe.staleness).collect()
    }
}

async fn watch(stage: &Stage, run: usize) -> Result<Seen> {
    let title = format!("staleness-{run}");
    stage.progress.doing(&title);
    let service = stage.service(Kind::Counter, &title, Given::default()).await?;
    let mut worker = service.worker(PARTITION).await?;
    worker.ready().await?;
    let mut gateway = service.gateway(&[]).await?;
    stage.settle().await?;
    let from = Instant::now() + AROUND;
    let (to, pool) = (from + SPREAD + AROUND, Pool::at(&gateway.url)?);
    let load = Load {
        host: host(&gateway)?,
        kind: Kind::Counter,
        connections: CONNECTIONS,
        acknowledge: false,
        seed: 3_000 + run as u64,
        from,
        to,
        pace: PACE,
    };
    let parts = [("worker", worker.pid()?), ("gateway", gateway.pid()?)];
    let probing = async {
        tokio::time::sleep_until(from.into()).await;
        let before = stage.servers.snapshot(&parts)?;
        let starts = (0..PROBES).map(|_| SPREAD.mul_f64(rand::random()));
        let probes = try_join_all(starts.map(|after| probe(&pool, from + after))).await?;
        Ok((probes, stage.servers.snapshot(&parts)?.since(&before)))
    };
    let (loaded, (probes, usage)) = tokio::try_join!(load::run(load.clone()), probing)?;
    loaded.check()?;
    gateway.kill().await?;
    worker.kill().await?;
    service.throw_away().await?;
    Ok(Seen { probes, load: loaded.rate(&load), usage })
}

/// Raises a counter of its own, and asks until it shows that.
async fn probe(pool: &Pool, at: Instant) -> Result<Probe> {
    tokio::time::sleep_until(at.into()).await;
    let key = Uuid::new_v4();
    pool.increment(key, 1, None).await?;
    let acknowledged = Instant::now();
    let (mut answers, mut short) = (0, 0_f64);
    while acknowledged.elapsed() < PATIENCE {
        let asked = Instant::now();
        let (status, counter) = pool.get(&format!("counters/{key}")).await?;
        ensure!(status == 200, "{status}: {counter}");
        if counter["value"] == 1 {
            return Ok(Probe { staleness: milliseconds(acknowledged.elapsed()), answers, short });
        }
        // It was answered after it was asked, so it is further behind than this.
        let truth = milliseconds(asked.duration_since(acknowledged));
        let said = counter["staleness_ms"].as_u64().context("no staleness_ms")?;
        short = short.max(truth - milliseconds(Duration::from_millis(said)));
        answers += 1;
        tokio::time::sleep(OFTEN).await;
    }
    anyhow::bail!("an increment that was acknowledged is not shown after {} s", PATIENCE.as_secs())
}
