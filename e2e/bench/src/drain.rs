//! Draining a backlog: one worker beside the bare loop, from the first record that is committed to the last.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use shardlane_e2e::plain::PlainService;
use shardlane_signup::service::{REQUEST, RESPONSE};
use sqlx::Connection as _;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::bare::Loop;
use crate::report::{Row, Samples, Side, Target, Unit};
use crate::stage::{PARTITION, Stage};
use crate::usage::{Snapshot, Usage, peak_memory};
use crate::watch::{Look, OFTEN, Watch};

/// Longest that a drain may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often it is looked for the first record.
const FIRST: Duration = Duration::from_millis(5);

/// A backlog that is drained again and again.
pub struct Backlog<'a> {
    /// The servers.
    pub stage: &'a Stage,
    /// The service in whose topic it lies.
    pub source: &'a PlainService,
    /// Its length.
    pub records: u64,
    /// What the services that drain it are called.
    pub name: &'a str,
}

/// How a drain went.
pub struct Drained {
    /// Records a second until all were committed.
    pub committed: f64,
    /// Records a second until all responses were published.
    pub published: Option<f64>,
    /// Who used the processors.
    pub usage: Usage,
    /// What the backends waited for.
    pub waits: Vec<String>,
    /// The most memory that a worker had, in MiB.
    pub memory: Option<f64>,
}

/// Processes and what they are called.
type Parts<'a> = &'a [(&'static str, u32)];

/// From when records are counted.
struct Start {
    look: Look,
    snapshot: Snapshot,
}

impl Start {
    #[allow(clippy::cast_precision_loss)]
    fn rate(&self, records: i64, end: Instant) -> f64 {
        (records - self.look.applied) as f64 / end.duration_since(self.look.at).as_secs_f64()
    }
}

impl Backlog<'_> {
    /// Both sides, taking turns, as rows of the report.
    pub async fn compare(&self, title: &str, how: Loop) -> Result<Vec<Row>> {
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        let runs = self.stage.options.runs();
        for run in 1..=runs {
            let drained = self.ours(&format!("{}-ours-{run}", self.name)).await?;
            let published = drained.published.unwrap_or_default();
            self.tell(&format!(
                "{title} {run}/{runs}, ours: {:.0}/s committed, {published:.0}/s published",
                drained.committed
            ));
            ours.push(drained);
            let drained = self.bare(&format!("{}-bare-{run}", self.name), how).await?;
            self.tell(&format!("{title} {run}/{runs}, bare: {:.0}/s", drained.committed));
            bare.push(drained);
        }
        let beside = format!("loop of one insert a batch of {}{}", how.batch, if how.sorted { ", sorted" } else { "" });
        let row = |what: &str, target, ours_samples| Row {
            name: format!("{title}, {what}"),
            unit: Unit::PerSecond,
            ours: Side { samples: ours_samples, ..side(&ours) },
            bare: Some(side(&bare)),
            beside: beside.clone(),
            target,
            notes: Vec::new(),
        };
        let published = Samples(ours.iter().filter_map(|drained| drained.published).collect());
        Ok(vec![
            row("committed", None, Samples(ours.iter().map(|drained| drained.committed).collect())),
            row("answered", Some(Target::Ratio(0.7)), published),
        ])
    }

    fn tell(&self, text: &str) {
        self.stage.progress.done(text);
    }

    /// Drains it by a worker.
    pub async fn ours(&self, name: &str) -> Result<Drained> {
        self.stage.progress.doing(name);
        let (service, mut watch) = self.prepare(name).await?;
        let mut worker = service.worker(PARTITION).await?;
        let parts = [("worker", worker.pid()?)];
        let records = i64::try_from(self.records)?;
        let (start, committed, published) = tokio::select! {
            followed = self.follow(&mut watch, &parts, records) => followed?,
            ended = worker.end(PATIENCE) => bail!("{name} is not drained ({ended:?}); its log is in {}", self.stage.folder().display()),
        };
        let usage = self.stage.servers.snapshot(&parts)?.since(&start.snapshot);
        let memory = Some(peak_memory(worker.pid()?)?);
        worker.kill().await?;
        let responses = self.stage.records_in(service.topic(RESPONSE)?).await?;
        if responses != records {
            bail!("{name}: {records} requests, and {responses} responses");
        }
        let waits = told(&watch);
        service.drop_shards().await?;
        let published = Some(start.rate(records, published));
        Ok(Drained { committed: start.rate(records, committed), published, usage, waits, memory })
    }

    /// From the first record that is committed, when the clock starts, to when all are, and all are answered.
    async fn follow(&self, watch: &mut Watch, parts: Parts<'_>, records: i64) -> Result<(Start, Instant, Instant)> {
        let start = loop {
            let look = watch.look().await?;
            if look.applied > 0 {
                watch.begin();
                break Start { look, snapshot: self.stage.servers.snapshot(parts)? };
            }
            tokio::time::sleep(FIRST).await;
        };
        let mut committed = None;
        loop {
            let look = watch.look().await?;
            if look.applied == records {
                let committed = *committed.get_or_insert(look.at);
                if look.published {
                    return Ok((start, committed, look.at));
                }
            }
            tokio::time::sleep(OFTEN).await;
        }
    }

    /// Drains it by the bare loop.
    pub async fn bare(&self, name: &str, how: Loop) -> Result<Drained> {
        self.stage.progress.doing(name);
        let (service, mut watch) = self.prepare(name).await?;
        let (mut bare, mut lines) = start_bare(&service, how)?;
        let pid = bare.id().context("the bare loop has ended")?;
        let parts = [("bare loop", pid)];
        let records = i64::try_from(self.records)?;
        let (start, end) = timeout(PATIENCE, self.listen(&mut watch, &parts, &mut lines, records))
            .await
            .with_context(|| format!("{name} is not drained"))??;
        let usage = self.stage.servers.snapshot(&parts)?.since(&start.snapshot);
        let ended = bare.wait().await?;
        if !ended.success() {
            bail!("{name}: the bare loop failed: {ended}");
        }
        let waits = told(&watch);
        service.drop_shards().await?;
        Ok(Drained { committed: start.rate(records, end), published: None, usage, waits, memory: None })
    }

    /// The same of the bare loop, which says itself how far it is.
    async fn listen(
        &self,
        watch: &mut Watch,
        parts: Parts<'_>,
        lines: &mut Lines<BufReader<ChildStdout>>,
        records: i64,
    ) -> Result<(Start, Instant)> {
        let mut start = None;
        let mut ticks = tokio::time::interval(OFTEN);
        loop {
            tokio::select! {
                line = lines.next_line() => {
                    let applied: i64 = line?.context("the bare loop has ended early")?.parse()?;
                    let look = Look { at: Instant::now(), applied, published: false };
                    if applied == records {
                        return Ok((start.context("the backlog is one batch: too short to be measured")?, look.at));
                    }
                    if start.is_none() {
                        watch.begin();
                        start = Some(Start { look, snapshot: self.stage.servers.snapshot(parts)? });
                    }
                }
                _ = ticks.tick() => { watch.look().await?; }
            }
        }
    }

    async fn prepare(&self, name: &str) -> Result<(PlainService, Watch)> {
        let service = self.stage.service(name, Some(self.source.topic(REQUEST)?)).await?;
        self.stage.settle().await?;
        let mut connection = service.shard(PARTITION).await?;
        connection.ping().await?;
        Ok((service, Watch::new(connection)))
    }
}

fn start_bare(service: &PlainService, how: Loop) -> Result<(Child, Lines<BufReader<ChildStdout>>)> {
    let mut bare = Command::new(std::env::current_exe()?)
        .arg("bare-drain")
        .arg(format!("--config={}", service.config_file().display()))
        .args(how.arguments())
        .env("SHARDLANE_POSTGRES_URI", service.uri(PARTITION)?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let lines = BufReader::new(bare.stdout.take().context("no output")?).lines();
    Ok((bare, lines))
}

fn told(watch: &Watch) -> Vec<String> {
    watch.waits().iter().map(ToString::to_string).collect()
}

fn side(all: &[Drained]) -> Side {
    let usage = Usage::mean(&all.iter().map(|drained| drained.usage.clone()).collect::<Vec<_>>());
    // The processors were looked at until all was done.
    let rates = Samples(all.iter().map(|drained| drained.published.unwrap_or(drained.committed)).collect());
    Side {
        samples: Samples(all.iter().map(|drained| drained.committed).collect()),
        rate: Some(rates.median()),
        usage: Some(usage),
        // Of the last run: they differ little.
        waits: all.last().map(|drained| drained.waits.clone()).unwrap_or_default(),
    }
}

/// The fastest way of the bare loop on this machine, and how fast each was.
pub async fn fastest(backlog: &Backlog<'_>, repeats: bool) -> Result<Loop> {
    let mut best: Option<(f64, Loop)> = None;
    let sizes = [1_000, 4_000, 10_000];
    // Twice, as one try may have bad luck.
    for (pass, batch) in (1..=2).flat_map(|pass| sizes.map(|batch| (pass, batch))) {
        for sorted in [false, true] {
            let how = Loop { batch, sorted, repeats };
            let name = format!("{}-try-{batch}-{sorted}-{pass}", backlog.name);
            let rate = backlog.bare(&name, how).await?.committed;
            backlog
                .tell(&format!("bare loop, batches of {batch}{}: {rate:.0}/s", if sorted { ", sorted" } else { "" }));
            if best.is_none_or(|(fastest, _)| rate > fastest) {
                best = Some((rate, how));
            }
        }
    }
    Ok(best.context("no way was tried")?.1)
}
