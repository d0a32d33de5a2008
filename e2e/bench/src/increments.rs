//! Adding up a backlog of increments, beside a loop that adds up in memory and writes nothing.

use anyhow::Result;

use crate::backlog::{Backlog, Commits, Drained};
use crate::bare::Loop;
use crate::fill::{Increments, fill};
use crate::kind::{COUNTERS, Kind};
use crate::report::{Row, Samples, Target, grouped};
use crate::stage::{Given, Stage};

/// Counters of which few are raised often and most seldom.
const MANY: u32 = 1_000_000;
/// After how many increments the bare loop says how far it is.
const TOLD: Loop = Loop { batch: 10_000, sorted: false };

/// All runs, as rows of the report.
pub async fn measure(stage: &Stage) -> Result<[Row; 2]> {
    let title = format!("Increments, {} counters", grouped(COUNTERS.into()));
    let alike = row(stage, "increments", &title, Increments::uniform(4, COUNTERS)).await?;
    let title = format!("Increments, {} by Zipf", grouped(MANY.into()));
    let unlike = row(stage, "increments-zipf", &title, Increments::zipf(4, MANY)?).await?;
    Ok([alike, unlike])
}

async fn row(stage: &Stage, name: &str, title: &str, series: Increments) -> Result<Row> {
    let (kind, records) = (Kind::Counter, stage.options.increments);
    stage.progress.doing("filling a topic");
    let source = stage.service(kind, &format!("{name}-source"), Given::default()).await?;
    fill(&source, kind, series, records).await?;
    let backlog = Backlog { stage, kind, source: &source, database: None, records, name, bare: &["bare-increments"] };
    let sides = backlog.compare(title, TOLD, stage.options.runs()).await?;
    let beside = "loop that adds up in memory and writes nothing".to_owned();
    let mut row = sides.row(title.to_owned(), beside, Some(Target::Ratio(0.7)));
    row.notes.extend(flushes(&sides.ours, records));
    row.notes.push(
        "both sides read with the same settings, which bound what is fetched ahead; bare waits for Kafka too"
            .to_owned(),
    );
    Ok(row)
}

/// What the flushes cost, by medians.
#[allow(clippy::cast_precision_loss)]
fn flushes(ours: &[Drained], records: u64) -> Option<String> {
    let commits: Vec<Commits> = ours.iter().filter_map(|drained| drained.commits).collect();
    let of = |value: fn(&Commits) -> f64| Samples(commits.iter().map(value).collect()).median();
    let (count, seconds) = (of(|commits| commits.count), of(|commits| commits.seconds));
    (!commits.is_empty()).then(|| {
        format!(
            "the worker writes a backlog in {count:.0} flushes of {} increments and {:.0} ms on average: {:.3} s for a \
             million increments",
            grouped(records as f64 / count),
            seconds / count * 1e3,
            seconds / records as f64 * 1e6
        )
    })
}
