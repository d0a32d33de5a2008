//! `mover`: prepares a service and moves its slots between shards.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use shardlane_mover::init::{InitError, InitOptions, init};
use shardlane_runtime::config::{CONFIG_PATH, ConfigError, PLACED_FILE, ServiceConfig};
use shardlane_runtime::process;

#[derive(Parser)]
#[command(version, about = "Prepares a service and moves its slots between shards")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes topics, tables and the first slot table, or leaves them as they are.
    Init {
        /// The service's configuration, as the operator writes it.
        #[arg(long, default_value = CONFIG_PATH)]
        config: PathBuf,
        /// The service's tables, as its `schema --format json` prints them.
        #[arg(long)]
        schema: PathBuf,
        /// Identity of the first placement.
        #[arg(long)]
        plan_id: String,
        /// Number of shards.
        #[arg(long)]
        partitions: u32,
        /// Folder with a folder for each shard, each with the file `uri`.
        #[arg(long)]
        shards: PathBuf,
    },
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot read the service's tables from {path}: {source}", path = path.display())]
    Schema { path: PathBuf, source: std::io::Error },
    #[error("cannot understand the service's tables: {0}; are the images of one version?")]
    Malformed(#[from] serde_json::Error),
    #[error(transparent)]
    Init(#[from] InitError),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    process::init_logs();
    process::finish(run(cli.command).await)
}

async fn run(command: Command) -> Result<(), Failure> {
    let Command::Init { config, schema, plan_id, partitions, shards } = command;
    let placed = config.with_file_name(PLACED_FILE).exists();
    let config = ServiceConfig::load(&config)?;
    let text = std::fs::read_to_string(&schema).map_err(|source| Failure::Schema { path: schema, source })?;
    let schema = serde_json::from_str(&text)?;
    Ok(init(&InitOptions { config, schema, plan_id, partitions, shards, placed }).await?)
}
