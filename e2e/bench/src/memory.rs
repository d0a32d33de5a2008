//! The most memory that a worker has while it drains a long backlog.

use anyhow::{Context, Result};

use crate::backlog::Backlog;
use crate::report::{Row, Samples, Side, Target, Unit};

/// One long drain; its memory as a row of the report.
pub async fn measure(backlog: &Backlog<'_>) -> Result<Row> {
    let drained = backlog.ours("memory-ours").await?;
    let title = format!("Worker's memory over {} records", backlog.records);
    let memory = drained.memory.context("the worker's memory is not known")?;
    backlog.stage.progress.done(&format!("{title}: {memory:.1} MiB at most, at {:.0}/s", drained.committed));
    Ok(Row {
        name: title,
        unit: Unit::Mebibytes,
        ours: Side {
            samples: Samples(vec![memory]),
            usage: Some(drained.usage),
            rate: drained.published,
            waits: drained.waits,
        },
        bare: None,
        beside: String::new(),
        target: Some(Target::AtMost(64.)),
        notes: vec!["the most that was resident (VmHWM)".to_owned()],
    })
}
