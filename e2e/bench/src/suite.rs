//! The measures, one after the other, and the report of them.

use anyhow::Result;

use crate::bare::Loop;
use crate::drain::{Backlog, fastest};
use crate::fill::{Requests, fill};
use crate::machine::Machine;
use crate::report::{Report, Row};
use crate::stage::Stage;
use crate::{Measure, Options, gateway, latency, memory};

/// Runs what was chosen.
pub async fn run(options: Options) -> Result<()> {
    let machine = Machine::look().await?;
    let stage = Stage::new(options)?;
    std::fs::create_dir_all(&stage.options.output)?;
    let mut rows = Vec::new();
    if stage.options.wants(Measure::Drain) {
        rows.extend(drain(&stage, "drain", "Drain", 0.).await?);
    }
    if stage.options.wants(Measure::Repeats) {
        rows.extend(drain(&stage, "repeats", "Drain, a fifth repeats", 0.2).await?);
    }
    if stage.options.wants(Measure::Memory) {
        rows.push(long_drain(&stage).await?);
    }
    if stage.options.wants(Measure::Latency) {
        rows.extend(latency::measure(&stage).await?);
    }
    if stage.options.wants(Measure::Gateway) {
        rows.extend(gateway::measure(&stage).await?);
    }
    let report = Report { machine, runs: stage.options.runs(), rows };
    report.write(&stage.options.output)?;
    println!("\n{}", report.text());
    println!("The report, with what bounds each figure: {}", stage.options.output.join("report.md").display());
    Ok(())
}

async fn drain(stage: &Stage, name: &str, title: &str, repeats: f64) -> Result<Vec<Row>> {
    let records = stage.options.records;
    stage.progress.doing("filling a topic");
    let source = stage.service(&format!("{name}-source"), None).await?;
    fill(&source, Requests::new(1, repeats), records).await?;
    let backlog = Backlog { stage, source: &source, records, name };
    let how = if stage.options.quick {
        Loop { batch: 4_000, sorted: false, repeats: repeats > 0. }
    } else {
        fastest(&backlog, repeats > 0.).await?
    };
    backlog.compare(title, how).await
}

async fn long_drain(stage: &Stage) -> Result<Row> {
    let records = stage.options.memory_records;
    stage.progress.doing("filling a topic");
    let source = stage.service("memory-source", None).await?;
    fill(&source, Requests::new(2, 0.), records).await?;
    memory::measure(&Backlog { stage, source: &source, records, name: "memory" }).await
}
