//! `counter`: worker, gateway and schema of a CounterPool.

use std::process::ExitCode;

use clap::Parser;
use shardlane_counter::gateway;
use shardlane_counter::service::{CounterService, schema};
use shardlane_runtime::cli::Common;
use shardlane_runtime::process;

#[derive(Parser)]
#[command(version, about = "Fast counters, batched into Postgres")]
struct Cli {
    #[command(subcommand)]
    command: Common,
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    process::init_logs();
    process::finish(command.run(CounterService::of, gateway::run, &schema()).await)
}
