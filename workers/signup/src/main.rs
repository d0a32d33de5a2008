//! `signup`: worker, gateway and schema of a SignupShard.

use std::process::ExitCode;

use clap::Parser;
use shardlane_runtime::cli::Common;
use shardlane_runtime::process;
use shardlane_signup::gateway;
use shardlane_signup::service::{SignupService, schema};

#[derive(Parser)]
#[command(version, about = "Usernames, unique across shards")]
struct Cli {
    #[command(subcommand)]
    command: Common,
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    process::init_logs();
    process::finish(command.run(SignupService::of, gateway::run, &schema()).await)
}
