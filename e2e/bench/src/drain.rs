//! Draining a backlog of sign-ups, beside a loop of one insert a batch.

use anyhow::Result;

use crate::backlog::Backlog;
use crate::fill::{Requests, fill};
use crate::kind::Kind;
use crate::memory;
use crate::report::{Row, Samples, Target};
use crate::stage::{Given, Stage};

/// All runs, as rows of the report. A share of the requests is for names that others have.
pub async fn measure(stage: &Stage, name: &str, title: &str, repeats: f64) -> Result<Vec<Row>> {
    let records = stage.options.records;
    stage.progress.doing("filling a topic");
    let source = stage.service(Kind::Signup, &format!("{name}-source"), Given::default()).await?;
    fill(&source, Kind::Signup, Requests::new(1, repeats), records).await?;
    let bare: &[&str] = if repeats > 0. { &["bare-drain", "--repeats"] } else { &["bare-drain"] };
    let backlog = Backlog { stage, kind: Kind::Signup, source: &source, database: None, records, name, bare };
    let how = backlog.fastest(&[1_000, 4_000, 10_000]).await?;
    let sides = backlog.compare(title, how, stage.options.runs()).await?;
    let row = |what: &str, target| sides.row(format!("{title}, {what}"), format!("loop of one insert, {how}"), target);
    let mut answered = row("answered", Some(Target::Ratio(0.7)));
    answered.ours.samples = Samples(sides.ours.iter().filter_map(|drained| drained.published).collect());
    Ok(vec![row("committed", None), answered])
}

/// One long drain; the worker's memory as a row of the report.
pub async fn long(stage: &Stage) -> Result<Row> {
    let records = stage.options.memory_records;
    stage.progress.doing("filling a topic");
    let source = stage.service(Kind::Signup, "memory-source", Given::default()).await?;
    fill(&source, Kind::Signup, Requests::new(2, 0.), records).await?;
    let backlog =
        Backlog { stage, kind: Kind::Signup, source: &source, database: None, records, name: "memory", bare: &[] };
    memory::measure(&backlog).await
}
