//! The measures, one after the other, and the report of them.

use anyhow::Result;

use crate::machine::Machine;
use crate::report::Report;
use crate::stage::Stage;
use crate::{Measure, Options, drain, gateway, increments, latency, posts, reshard, staleness, transfers};

/// Runs what was chosen.
pub async fn run(options: Options) -> Result<()> {
    let machine = Machine::look().await?;
    let stage = Stage::new(options)?;
    std::fs::create_dir_all(&stage.options.output)?;
    let mut rows = Vec::new();
    if stage.options.wants(Measure::Drain) {
        rows.extend(drain::measure(&stage, "drain", "Drain", 0.).await?);
    }
    if stage.options.wants(Measure::Repeats) {
        rows.extend(drain::measure(&stage, "repeats", "Drain, a fifth repeats", 0.2).await?);
    }
    if stage.options.wants(Measure::Memory) {
        rows.push(drain::long(&stage).await?);
    }
    if stage.options.wants(Measure::Latency) {
        rows.extend(latency::measure(&stage).await?);
    }
    if stage.options.wants(Measure::Gateway) {
        rows.extend(gateway::signups(&stage).await?);
    }
    if stage.options.wants(Measure::Transfers) || stage.options.wants(Measure::TransferSizes) {
        rows.extend(transfers::measure(&stage).await?);
    }
    if stage.options.wants(Measure::TransferGateway) {
        rows.push(gateway::transfers(&stage).await?);
    }
    if stage.options.wants(Measure::Increments) {
        rows.extend(increments::measure(&stage).await?);
    }
    if stage.options.wants(Measure::IncrementGateway) {
        rows.push(gateway::increments(&stage).await?);
    }
    if stage.options.wants(Measure::Staleness) {
        rows.extend(staleness::measure(&stage).await?);
    }
    if stage.options.wants(Measure::Posts) {
        rows.push(posts::cached(&stage).await?);
    }
    if stage.options.wants(Measure::Stampede) {
        rows.extend(posts::stampede(&stage).await?);
    }
    if stage.options.wants(Measure::ReshardPause) || stage.options.wants(Measure::ReshardOthers) {
        rows.extend(reshard::pauses(&stage).await?);
    }
    if stage.options.wants(Measure::ReshardRows) {
        rows.push(reshard::rows(&stage).await?);
    }
    let report = Report { machine, runs: stage.options.runs(), rows };
    report.write(&stage.options.output)?;
    println!("\n{}", report.text());
    println!("The report, with what bounds each figure: {}", stage.options.output.join("report.md").display());
    Ok(())
}
