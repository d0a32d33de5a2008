//! Half of the slots of a service move to a second shard while half of the most that it can do is asked of it, a quarter or a tenth.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use shardlane_e2e::plain::Process;
use shardlane_runtime::process::now_ms;
use sqlx::PgConnection;
use tokio::time::{Instant, sleep, timeout};

use crate::Measure;
use crate::bank;
use crate::fill::Series;
use crate::kind::Kind;
use crate::report::{Row, Samples, Side, Target, Unit, grouped, milliseconds, percentile};
use crate::reshard::most::{self, Most};
use crate::reshard::offer::{MOST, Offer};
use crate::reshard::pair::{FLUSH_MS, Pair, SECOND};
use crate::reshard::still::Watch;
use crate::reshard::times::{Trip, trips};
use crate::stage::Stage;
use crate::usage::{Snapshot, Usage};

/// Longest that a move, or what is asked, may take: half of what a fast machine can do leaves millions of rows, which are deleted at
/// leisure.
const PATIENCE: Duration = Duration::from_secs(1_800);
/// How often a mover, and what is asked, is looked at.
const OFTEN: Duration = Duration::from_millis(100);

/// How a run went.
struct Run {
    /// The longest that a slot stood still before the move, and during it.
    still: [Duration; 2],
    /// The longest that the mover held slots up, as it says.
    said: Duration,
    /// Rows that moved.
    rows: u64,
    moving: Duration,
    offered: f64,
    usage: Usage,
    /// Sign-ups: what became of requests in slots that stay and in those that move.
    latency: Option<Latency>,
}

/// Milliseconds from request to response.
struct Latency {
    /// 99 of 100 in slots that do not move, before the move.
    before: f64,
    /// The same during the move.
    during: f64,
    /// The same after the move, when two workers share the processors.
    after: f64,
    /// The longest in slots that move.
    longest: f64,
}

impl Latency {
    fn told(&self) -> String {
        let Self { before, during, after, longest } = self;
        format!(
            ", others' p99 {during:.0} ms ({before:.0} before, {after:.0} after), the longest of those that moved {longest:.0} ms"
        )
    }
}

/// All runs, as rows of the report.
pub async fn measure(stage: &Stage) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (kind, title) in [(Kind::Signup, "sign-ups"), (Kind::Wallet, "transfers"), (Kind::Counter, "increments")] {
        if kind != Kind::Signup && !stage.options.wants(Measure::ReshardPause) {
            continue;
        }
        rows.extend(of_kind(stage, kind, title).await?);
    }
    Ok(rows)
}

/// How much of the most that it can do is asked of a service.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    Half,
    Quarter,
    Tenth,
}

impl Share {
    fn of(self, most: f64) -> f64 {
        match self {
            Self::Half => most / 2.,
            Self::Quarter => most / 4.,
            Self::Tenth => most / 10.,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Half => "half",
            Self::Quarter => "a quarter",
            Self::Tenth => "a tenth",
        }
    }

    /// What its runs are numbered from.
    fn from(self) -> usize {
        match self {
            Self::Half => 0,
            Self::Quarter => 500,
            Self::Tenth => 1_000,
        }
    }
}

/// What is done to half of the slots.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// They move.
    Move,
    /// Nothing, for as long: what all others feel of vacuums, checkpoints and whatever else comes with the load.
    Nothing(Duration),
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::Move => "move",
            Self::Nothing(_) => "nothing, for as long,",
        }
    }
}

async fn of_kind(stage: &Stage, kind: Kind, title: &str) -> Result<Vec<Row>> {
    let bank = format!("reshard-{}-bank", kind.program());
    let database = (kind == Kind::Wallet).then_some(&*bank);
    let most = most::measure(stage, kind, database).await?;
    let mut rows = Vec::new();
    for share in [Share::Half, Share::Quarter, Share::Tenth] {
        let others = kind == Kind::Signup && stage.options.wants(Measure::ReshardOthers);
        let pause = share == Share::Half && stage.options.wants(Measure::ReshardPause);
        if !others && !pause {
            continue;
        }
        let rate = share.of(most.at_all()).min(MOST);
        let (all, calm) = runs(stage, kind, database, (title, share, rate), others).await?;
        let notes = notes(kind, most, (share, rate), &all);
        rows.extend(pause.then(|| pause_row(title, &all, &notes)));
        rows.extend(others_row(share, (&all, &calm), &notes));
    }
    if let Some(database) = database {
        bank::dissolve(database).await?;
    }
    Ok(rows)
}

/// Moves, and if it is asked what others feel, after each the same without one.
async fn runs(
    stage: &Stage,
    kind: Kind,
    database: Option<&str>,
    (title, share, rate): (&str, Share, f64),
    others: bool,
) -> Result<(Vec<Run>, Vec<Run>)> {
    let (mut all, mut calm, runs) = (Vec::new(), Vec::new(), stage.options.runs());
    for number in 1..=runs {
        let at = share.from() + number;
        let tell = |work: Work, run: &Run| {
            stage.progress.done(&format!(
                "{} under {} of the most {title} {number}/{runs}: a slot stood still for {:.0} ms at most ({:.0} ms before), {} rows in {:.1} s{}",
                work.name(),
                share.name(),
                milliseconds(run.still[1]),
                milliseconds(run.still[0]),
                grouped(run.rows as f64),
                run.moving.as_secs_f64(),
                run.latency.as_ref().map_or_else(String::new, Latency::told)
            ));
        };
        let moved = run(stage, kind, database, (at, rate), Work::Move).await?;
        tell(Work::Move, &moved);
        if others {
            let nothing = Work::Nothing(moved.moving);
            let run = run(stage, kind, database, (at + 2_000, rate), nothing).await?;
            tell(nothing, &run);
            calm.push(run);
        }
        all.push(moved);
    }
    Ok((all, calm))
}

async fn run(
    stage: &Stage,
    kind: Kind,
    database: Option<&str>,
    (number, rate): (usize, f64),
    work: Work,
) -> Result<Run> {
    let name = format!("reshard-{}-{number}", kind.program());
    stage.progress.doing(&name);
    let pair = Pair::make(stage, kind, &name, database).await?;
    let mut team = pair.team(kind).await?;
    stage.settle().await?;
    let series: Box<dyn Series> = kind.series(6_000 + number as u64);
    let (began, offer) = (Instant::now(), Offer::begin(&pair.service, kind, series, rate)?);
    // Every thirty seconds the system writes out what is thirty seconds old, and whoever commits waits for it, with a move or without.
    let [warm, before, after] = if stage.options.quick { [2, 4, 2] } else { [4, 30, 5] }.map(Duration::from_secs);
    sleep(warm).await;
    let watch = Watch::begin(pair.shards().await?);
    let calm = now_ms();
    sleep(before).await;
    let still_before = watch.take()?;
    let parts = team.iter().map(|(part, process)| Ok((*part, process.pid()?))).collect::<Result<Vec<_>>>()?;
    let (start, begin) = (now_ms(), Instant::now());
    let told = match work {
        Work::Move => moves(stage, &pair, parts).await,
        Work::Nothing(time) => nothing(stage, &pair, parts, time).await,
    };
    let told = told.with_context(|| format!("{name}: the {} failed", work.name()))?;
    let (end, moving) = (now_ms(), begin.elapsed());
    sleep(after).await;
    let stop = now_ms();
    let still = [still_before, watch.take()?];
    drop(watch);
    #[allow(clippy::cast_precision_loss)]
    let offered = offer.requests() as f64 / began.elapsed().as_secs_f64();
    let requests = offer.end().await?;
    let mut shards = pair.shards().await?;
    done(&mut shards, kind, requests).await.with_context(|| format!("{name}, {requests} requests"))?;
    let latency = match kind {
        Kind::Signup => Some(latency(&trips(&pair.service).await?, &told.slots, [calm, start, end, stop])),
        _ => None,
    };
    for (_, process) in &mut team {
        process.kill().await?;
    }
    drop(shards);
    pair.throw_away().await?;
    Ok(Run { still, said: told.pause, rows: told.rows, moving, offered, usage: told.usage, latency })
}

/// What was done to which slots.
struct Told {
    slots: Vec<i32>,
    rows: u64,
    pause: Duration,
    usage: Usage,
}

async fn moves(stage: &Stage, pair: &Pair, mut parts: Vec<(&'static str, u32)>) -> Result<Told> {
    let mut mover = pair.reshard(2, 0)?;
    parts.push(("mover", mover.pid()?));
    let snapshot = stage.servers.snapshot(&parts)?;
    let Last { rows, pause, snapshot: last } = follow(stage, &parts, &mut mover).await?;
    let active = "SELECT slot FROM slot WHERE state = 'active'";
    let slots = sqlx::query_scalar(active).fetch_all(&mut pair.service.shard(SECOND).await?).await?;
    Ok(Told { slots, rows, pause, usage: last.since(&snapshot) })
}

/// The slots are the second half of all, as those that move.
async fn nothing(stage: &Stage, pair: &Pair, parts: Vec<(&'static str, u32)>, time: Duration) -> Result<Told> {
    let all = pair.service.config.max_partitions.cast_signed();
    let snapshot = stage.servers.snapshot(&parts)?;
    sleep(time).await;
    let usage = stage.servers.snapshot(&parts)?.since(&snapshot);
    Ok(Told { slots: (all / 2..all).collect(), rows: 0, pause: Duration::ZERO, usage })
}

/// What a mover said last, and who had used the processors by then: afterwards nobody knows what it has used.
struct Last {
    rows: u64,
    pause: Duration,
    snapshot: Snapshot,
}

/// Waits until the mover has moved and cleaned.
async fn follow(stage: &Stage, parts: &[(&'static str, u32)], mover: &mut Process) -> Result<Last> {
    let mut told = Last { rows: 0, pause: Duration::ZERO, snapshot: stage.servers.snapshot(parts)? };
    let looking = async {
        loop {
            if let Ok(status) = mover.status().await {
                let number = |member: &str| status["reshard"][member].as_u64().unwrap_or_default();
                let (rows, pause) = (number("rows"), Duration::from_millis(number("longestPauseMs")));
                told = Last { rows, pause, snapshot: stage.servers.snapshot(parts)? };
                sleep(OFTEN).await;
            } else if let Ok(code) = mover.end(OFTEN).await {
                ensure!(code == Some(0), "the mover ended with {code:?}: {}", mover.log()?);
                return Ok(told);
            }
        }
    };
    timeout(PATIENCE, looking).await.context("it takes too long")?
}

/// Waits until everything that was asked is done once, in whichever shard.
async fn done(shards: &mut [PgConnection; 2], kind: Kind, requests: u64) -> Result<()> {
    let count = match kind {
        Kind::Signup => "SELECT count(*) FROM account",
        Kind::Wallet => "SELECT count(*) FROM entry WHERE balance IS NOT NULL",
        Kind::Counter => "SELECT COALESCE(sum(value), 0)::bigint FROM counter",
        Kind::Blog => bail!("posts are not written here"),
    };
    let (end, expected) = (Instant::now() + PATIENCE, i64::try_from(requests)? * i64::from(kind.steps()));
    loop {
        let mut found = 0;
        for shard in &mut *shards {
            found += sqlx::query_scalar::<_, i64>(count).fetch_one(shard).await?;
        }
        if found == expected {
            return Ok(());
        }
        ensure!(found < expected && Instant::now() < end, "the shards have {found} of {expected}");
        sleep(5 * OFTEN).await;
    }
}

#[allow(clippy::cast_precision_loss)]
fn latency(trips: &[Trip], moved: &[i32], [calm, start, end, stop]: [i64; 4]) -> Latency {
    let of = |moves: bool, from: i64, to: i64| {
        let of_slots = move |trip: &&Trip| moved.contains(&trip.slot.cast_signed()) == moves;
        let times = trips.iter().filter(of_slots).filter(|trip| (from..to).contains(&trip.asked));
        times.map(|trip| trip.took as f64).collect::<Vec<_>>()
    };
    Latency {
        before: percentile(&of(false, calm, start), 0.99),
        during: percentile(&of(false, start, end), 0.99),
        after: percentile(&of(false, end, stop), 0.99),
        longest: percentile(&of(true, calm, end), 1.),
    }
}

fn side(samples: Vec<f64>, all: &[Run]) -> Side {
    let usage = Usage::mean(&all.iter().map(|run| run.usage.clone()).collect::<Vec<_>>());
    Side { samples: Samples(samples), usage: Some(usage), rate: None, waits: Vec::new() }
}

fn pause_row(title: &str, all: &[Run], notes: &[String]) -> Row {
    Row {
        name: format!("Longest pause in a move, {title}"),
        unit: Unit::Milliseconds,
        ours: side(all.iter().map(|run| milliseconds(run.still[1])).collect(), all),
        bare: None,
        beside: String::new(),
        target: Some(Target::Never(1_000.)),
        notes: notes.to_vec(),
    }
}

fn others_row(share: Share, (all, calm): (&[Run], &[Run]), notes: &[String]) -> Option<Row> {
    let during = |runs: &[Run]| runs.iter().filter_map(|run| Some(run.latency.as_ref()?.during)).collect::<Vec<_>>();
    (!calm.is_empty()).then(|| Row {
        name: format!("Others' responses in a move, p99, under {} of the most", share.name()),
        unit: Unit::Milliseconds,
        ours: side(during(all), all),
        bare: Some(side(during(calm), calm)),
        beside: "the same slots under the same load for as long, while none move".to_owned(),
        target: Some(Target::Times(2.)),
        notes: notes.to_vec(),
    })
}

#[allow(clippy::cast_precision_loss)]
fn notes(kind: Kind, most: Most, (share, rate): (Share, f64), all: &[Run]) -> Vec<String> {
    let median = |value: fn(&Run) -> f64| Samples(all.iter().map(value).collect()).median();
    let less = if rate < share.of(most.at_all()) { "less, for one producer can no more" } else { "no less" };
    let comes_in = most.kept_up.map(|kept_up| format!(", and {} of what comes in meanwhile", grouped(kept_up)));
    let mut notes = vec![
        format!(
            "half of the slots go to a second shard while {} requests a second are offered; one partition works off {} of a backlog{}, \
             and {} of that is meant, {less}: {}",
            grouped(median(|run| run.offered)),
            grouped(most.drained),
            comes_in.unwrap_or_default(),
            share.name(),
            grouped(rate)
        ),
        format!(
            "moved: {} rows in {:.1} s with what is deleted afterwards; by its own account the mover held slots up for {:.0} ms; \
             before the move, the longest time in which nothing of a slot was committed was {:.0} ms",
            grouped(median(|run| run.rows as f64)),
            median(|run| run.moving.as_secs_f64()),
            median(|run| milliseconds(run.said)),
            median(|run| milliseconds(run.still[0]))
        ),
    ];
    if kind == Kind::Counter {
        notes.push(format!(
            "counters are flushed every {FLUSH_MS} ms here, for a pause not to hide behind the usual second"
        ));
    }
    if all.iter().any(|run| run.latency.is_some()) {
        notes.push(format!(
            "the longest from a request to its response in slots that moved: {:.0} ms; 99 of 100 in slots that stayed, in the seconds \
             before the move: {:.0} ms, and after it: {:.0} ms",
            median_of(all, |latency| latency.longest),
            median_of(all, |latency| latency.before),
            median_of(all, |latency| latency.after)
        ));
    }
    notes
}

/// The median of something that is known of the requests of each run.
fn median_of(all: &[Run], of: fn(&Latency) -> f64) -> f64 {
    Samples(all.iter().filter_map(|run| run.latency.as_ref()).map(of).collect()).median()
}
