//! Working off a backlog: one worker beside the bare loop, from the first record that is committed to the last.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::future::select_all;
use shardlane_e2e::plain::{PlainService, Process};
use shardlane_signup::service::RESPONSE;
use sqlx::Connection as _;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::bank;
use crate::bare::Loop;
use crate::kind::Kind;
use crate::report::{Row, Samples, Side, Target, Unit};
use crate::stage::{Given, PARTITION, Stage};
use crate::usage::{Snapshot, Usage, peak_memory};
use crate::watch::{Look, OFTEN, Watch};

/// Longest that it may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often it is looked for the first record.
const FIRST: Duration = Duration::from_millis(5);

/// A backlog that is worked off again and again.
pub struct Backlog<'a> {
    /// The servers.
    pub stage: &'a Stage,
    /// What kind of service works it off.
    pub kind: Kind,
    /// The service in whose topic it lies.
    pub source: &'a PlainService,
    /// What the database of each run begins as a copy of, if it is not empty.
    pub database: Option<&'a str>,
    /// Its length.
    pub records: u64,
    /// What the services that work it off are called.
    pub name: &'a str,
    /// The bare loop, as arguments of this program.
    pub bare: &'a [&'a str],
}

/// How a run went.
pub struct Drained {
    /// Requests a second until all were committed.
    pub committed: f64,
    /// Requests a second until everything that comes of them was published.
    pub published: Option<f64>,
    /// Who used the processors.
    pub usage: Usage,
    /// What the backends waited for.
    pub waits: Vec<String>,
    /// The most memory that a worker had, in MiB.
    pub memory: Option<f64>,
    /// What the worker's transactions cost.
    pub commits: Option<Commits>,
}

/// The transactions of a worker.
#[derive(Clone, Copy, Debug)]
pub struct Commits {
    /// How many there were.
    pub count: f64,
    /// How long they took together, in seconds: from the first statement of each to its commit.
    pub seconds: f64,
}

impl Commits {
    async fn of(worker: &Process) -> Result<Self> {
        let metric = async |part: &str| worker.metric(&format!("shardlane_commit_seconds_{part}")).await;
        Ok(Self { count: metric("count").await?, seconds: metric("sum").await? })
    }
}

/// How all runs went.
pub struct Sides {
    /// Ours.
    pub ours: Vec<Drained>,
    bare: Vec<Drained>,
}

/// Processes and what they are called.
type Parts<'a> = &'a [(&'static str, u32)];

/// A moment of a run.
struct Moment {
    at: Instant,
    /// How many requests were done by then.
    done: f64,
    snapshot: Snapshot,
}

impl Moment {
    /// Requests a second since another moment.
    fn rate(&self, start: &Self) -> f64 {
        (self.done - start.done) / self.at.duration_since(start.at).as_secs_f64()
    }
}

/// What was seen of a run: requests a second until all were committed, and until all was published.
struct Followed {
    committed: f64,
    published: f64,
    usage: Usage,
}

impl Followed {
    fn between(start: &Moment, end: &Moment, committed: Option<f64>) -> Self {
        let published = end.rate(start);
        Self { committed: committed.unwrap_or(published), published, usage: end.snapshot.since(&start.snapshot) }
    }
}

impl Backlog<'_> {
    /// So many runs of both sides, taking turns.
    pub async fn compare(&self, title: &str, how: Loop, runs: usize) -> Result<Sides> {
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
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
        Ok(Sides { ours, bare })
    }

    fn tell(&self, text: &str) {
        self.stage.progress.done(text);
    }

    /// Works it off by our own programs.
    pub async fn ours(&self, name: &str) -> Result<Drained> {
        self.stage.progress.doing(name);
        let (service, mut watch) = self.prepare(name).await?;
        let mut team = self.kind.start(&service).await?;
        let parts = team.iter().map(|(part, process)| Ok((*part, process.pid()?))).collect::<Result<Vec<_>>>()?;
        let records = i64::try_from(self.records)?;
        let ends = select_all(team.iter_mut().map(|(_, process)| Box::pin(process.end(PATIENCE))));
        let Followed { committed, published, usage } = tokio::select! {
            followed = self.follow(&mut watch, &parts, records) => followed?,
            (ended, at, _) = ends => {
                let (part, folder) = (parts[at].0, self.stage.folder().join(name));
                bail!("{name} is not drained ({part}: {ended:?}); its logs are in {}", folder.display());
            }
        };
        // The worker is the first.
        let (memory, commits) = (Some(peak_memory(parts[0].1)?), Some(Commits::of(&team[0].1).await?));
        for (_, process) in &mut team {
            process.kill().await?;
        }
        if self.kind == Kind::Signup {
            let responses = self.stage.records_in(service.topic(RESPONSE)?).await?;
            ensure!(responses == records, "{name}: {records} requests, and {responses} responses");
        }
        if self.kind == Kind::Counter {
            let held = "SELECT sum(value)::bigint FROM counter";
            let held: i64 = sqlx::query_scalar(held).fetch_one(&mut service.shard(PARTITION).await?).await?;
            ensure!(held == records, "{name}: {records} increments by one, and the counters hold {held}");
        }
        self.finish(&service).await?;
        Ok(Drained { committed, published: Some(published), usage, waits: told(&watch), memory, commits })
    }

    /// From the first record that is committed, when the clock starts, to when all are, and all are answered.
    async fn follow(&self, watch: &mut Watch, parts: Parts<'_>, records: i64) -> Result<Followed> {
        let (steps, all) = (self.kind.steps(), records * i64::from(self.kind.steps()));
        let (start, first) = loop {
            let look = watch.look().await?;
            if look.applied > 0 {
                watch.begin();
                break (self.moment(&look, steps, parts)?, look.applied);
            }
            tokio::time::sleep(FIRST).await;
        };
        if self.kind.gathers() {
            return self.follow_flushes(watch, parts, (start, first), all).await;
        }
        let mut committed = None;
        loop {
            let look = watch.look().await?;
            if look.applied == all {
                let now = self.moment(&look, steps, parts)?;
                committed.get_or_insert_with(|| now.rate(&start));
                if look.published {
                    return Ok(Followed::between(&start, &now, committed));
                }
            }
            tokio::time::sleep(OFTEN).await;
        }
    }

    /// From the first flush to the last but one: the last one waits for more, and none comes.
    async fn follow_flushes(
        &self,
        watch: &mut Watch,
        parts: Parts<'_>,
        (start, mut seen): (Moment, i64),
        all: i64,
    ) -> Result<Followed> {
        let mut last = None;
        loop {
            let look = watch.look().await?;
            if look.applied == all {
                let last =
                    last.context("the backlog is two flushes: too short to be measured; take more --increments")?;
                return Ok(Followed::between(&start, &last, None));
            }
            if look.applied > seen {
                seen = look.applied;
                last = Some(self.moment(&look, 1, parts)?);
            }
            tokio::time::sleep(OFTEN).await;
        }
    }

    /// What was seen, in which each request counts so often.
    #[allow(clippy::cast_precision_loss)]
    fn moment(&self, look: &Look, steps: u32, parts: Parts<'_>) -> Result<Moment> {
        let done = look.applied as f64 / f64::from(steps);
        Ok(Moment { at: look.at, done, snapshot: self.stage.servers.snapshot(parts)? })
    }

    /// Works it off by the bare loop.
    pub async fn bare(&self, name: &str, how: Loop) -> Result<Drained> {
        self.stage.progress.doing(name);
        let (service, mut watch) = self.prepare(name).await?;
        let (mut bare, mut lines) = self.start_bare(&service, how)?;
        let pid = bare.id().context("the bare loop has ended")?;
        let parts = [("bare loop", pid)];
        let records = i64::try_from(self.records)?;
        let (start, end) = timeout(PATIENCE, self.listen(&mut watch, &parts, &mut lines, records))
            .await
            .with_context(|| format!("{name} is not drained"))??;
        let ended = bare.wait().await?;
        ensure!(ended.success(), "{name}: the bare loop failed: {ended}");
        self.finish(&service).await?;
        let (committed, usage) = (end.rate(&start), end.snapshot.since(&start.snapshot));
        Ok(Drained { committed, published: None, usage, waits: told(&watch), memory: None, commits: None })
    }

    /// The same of the bare loop, which says itself how far it is.
    async fn listen(
        &self,
        watch: &mut Watch,
        parts: Parts<'_>,
        lines: &mut Lines<BufReader<ChildStdout>>,
        records: i64,
    ) -> Result<(Moment, Moment)> {
        let mut start = None;
        let mut ticks = tokio::time::interval(OFTEN);
        loop {
            tokio::select! {
                line = lines.next_line() => {
                    let applied: i64 = line?.context("the bare loop has ended early")?.parse()?;
                    let look = Look { at: Instant::now(), applied, published: false };
                    if applied == records {
                        let start = start.context("the backlog is one batch: too short to be measured")?;
                        return Ok((start, self.moment(&look, 1, parts)?));
                    }
                    if start.is_none() {
                        watch.begin();
                        start = Some(self.moment(&look, 1, parts)?);
                    }
                }
                _ = ticks.tick() => { watch.look().await?; }
            }
        }
    }

    async fn prepare(&self, name: &str) -> Result<(PlainService, Watch)> {
        let given = Given { requests: Some(self.source.topic(self.kind.requests())?), database: self.database };
        let service = self.stage.service(self.kind, name, given).await?;
        self.stage.settle().await?;
        let mut connection = service.shard(PARTITION).await?;
        connection.ping().await?;
        Ok((service, Watch::new(connection)))
    }

    fn start_bare(&self, service: &PlainService, how: Loop) -> Result<(Child, Lines<BufReader<ChildStdout>>)> {
        let mut bare = Command::new(std::env::current_exe()?)
            .args(self.bare)
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

    /// Looks whether the work was done, and throws the database and topics away.
    async fn finish(&self, service: &PlainService) -> Result<()> {
        if self.kind == Kind::Wallet {
            bank::check(service.shard(PARTITION).await?, self.records).await?;
        }
        service.throw_away().await
    }

    /// The fastest way of the bare loop on this machine among batches of these sizes; tells how fast each was.
    pub async fn fastest(&self, sizes: &[usize]) -> Result<Loop> {
        if self.stage.options.quick {
            return Ok(Loop { batch: 4_000, sorted: false });
        }
        let mut best: Option<(f64, Loop)> = None;
        // Twice, as one try may have bad luck.
        for (pass, batch) in (1..=2).flat_map(|pass| sizes.iter().map(move |batch| (pass, *batch))) {
            for sorted in [false, true] {
                let how = Loop { batch, sorted };
                let name = format!("{}-try-{batch}-{sorted}-{pass}", self.name);
                let rate = self.bare(&name, how).await?.committed;
                self.tell(&format!("bare loop, {how}: {rate:.0}/s"));
                if best.is_none_or(|(fastest, _)| rate > fastest) {
                    best = Some((rate, how));
                }
            }
        }
        Ok(best.context("no way was tried")?.1)
    }
}

fn told(watch: &Watch) -> Vec<String> {
    watch.waits().iter().map(ToString::to_string).collect()
}

impl Sides {
    /// A row of the report, with the rate of ours until all was committed.
    pub fn row(&self, name: String, beside: String, target: Option<Target>) -> Row {
        Row {
            name,
            unit: Unit::PerSecond,
            ours: side(&self.ours),
            bare: Some(side(&self.bare)),
            beside,
            target,
            notes: Vec::new(),
        }
    }
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
