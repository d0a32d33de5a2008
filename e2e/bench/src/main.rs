//! `shardlane-bench`: how fast workers and gateways are, beside the barest programs that do the same work.
//!
//! Runs inside `e2e/with-servers`; `e2e/bench/run` does that. It starts the real programs, and itself once more as
//! each bare one, so that both sides are processes of their own.

mod backlog;
mod bank;
mod bare;
mod drain;
mod fill;
mod gateway;
mod increments;
mod kind;
mod latency;
mod load;
mod machine;
mod memory;
mod plot;
mod posts;
mod progress;
mod report;
mod reshard;
mod stage;
mod staleness;
mod suite;
mod transfers;
mod usage;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use shardlane_runtime::process::Shutdown;

#[derive(Parser)]
#[command(version, about = "How fast workers and gateways are, beside the barest programs that do the same work")]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    bare: Option<bare::Bare>,
    #[command(flatten)]
    options: Options,
}

/// What is measured, and how thoroughly.
#[derive(clap::Args, Clone, Debug)]
struct Options {
    /// Runs of each side, taking turns.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// One short run of each side: shows that it works; its figures are worth little.
    #[arg(long)]
    quick: bool,
    /// Only these measures.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Measure>,
    /// Records that one run drains.
    #[arg(long, default_value_t = 400_000)]
    records: u64,
    /// Records that are drained while the memory is watched.
    #[arg(long, default_value_t = 1_000_000)]
    memory_records: u64,
    /// Transfers that one run settles.
    #[arg(long, default_value_t = 200_000)]
    transfers: u64,
    /// Increments that one run adds up.
    #[arg(long, default_value_t = 12_000_000)]
    increments: u64,
    /// Rows that one run moves.
    #[arg(long, default_value_t = 1_000_000)]
    moved_rows: u32,
    /// Slots of the one worker.
    #[arg(long, default_value_t = 8)]
    slots: u32,
    /// Connections of the load generator.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Where the report goes.
    #[arg(long, default_value = "target/bench")]
    output: PathBuf,
}

/// A measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// A backlog of requests for distinct names.
    Drain,
    /// The same, with every fifth name asked for before.
    Repeats,
    /// Memory of a worker that drains a long backlog.
    Memory,
    /// Time to the response of a worker that has nothing else to do.
    Latency,
    /// Requests that a gateway acknowledges.
    Gateway,
    /// A backlog of transfers.
    Transfers,
    /// The same with few and many accounts, and after few and many payments.
    TransferSizes,
    /// Transfers that a gateway acknowledges.
    TransferGateway,
    /// A backlog of increments, of counters that are raised alike and of some that are raised more often.
    Increments,
    /// Increments that a gateway acknowledges.
    IncrementGateway,
    /// Time until a counter shows what was acknowledged.
    Staleness,
    /// Posts that a gateway reads from the cache.
    Posts,
    /// One post that is in no cache, wanted by many at once.
    Stampede,
    /// How long slots stand still that move to another shard, under half of the most load.
    ReshardPause,
    /// What a move does to slots that do not move.
    ReshardOthers,
    /// Rows that move.
    ReshardRows,
}

impl Options {
    fn runs(&self) -> usize {
        if self.quick { 1 } else { self.runs.max(1) }
    }

    fn wants(&self, measure: Measure) -> bool {
        self.only.is_empty() || self.only.contains(&measure)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.bare {
        Some(bare) => bare.run().await,
        None => until_stopped(cli.options).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Ends early when told to, and with it everything that was started.
async fn until_stopped(options: Options) -> Result<()> {
    let mut shutdown = Shutdown::on_signal()?;
    tokio::select! {
        done = suite::run(options) => done,
        () = shutdown.wait() => bail!("stopped"),
    }
}
