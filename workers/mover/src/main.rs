//! `mover`: prepares a service and moves its slots between shards.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use shardlane_mover::init::{InitError, InitOptions, init};
use shardlane_mover::retire::retire;
use shardlane_mover::topics::TopicError;
use shardlane_runtime::config::{CONFIG_PATH, ConfigError, PLACED_FILE, ServiceConfig};
use shardlane_runtime::health::Health;
use shardlane_runtime::metrics::Metrics;
use shardlane_runtime::process::{self, Shutdown};

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
        #[command(flatten)]
        init: Preparation,
    },
    /// Deletes the topics of a service that is gone.
    Retire {
        /// The service's configuration, as the operator writes it.
        #[arg(long, default_value = CONFIG_PATH)]
        config: PathBuf,
    },
}

#[derive(Args)]
struct Preparation {
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
    /// Port at which it says what it waits for; nowhere if absent.
    #[arg(long)]
    status_port: Option<u16>,
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
    #[error(transparent)]
    Topics(#[from] TopicError),
    #[error("cannot make metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("cannot serve: {0}")]
    Serve(#[from] std::io::Error),
    #[error("stopped before it was done")]
    Stopped,
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    process::init_logs();
    process::finish(run(cli.command).await)
}

async fn run(command: Command) -> Result<(), Failure> {
    let mut stop = Shutdown::on_signal()?;
    let work = async {
        match command {
            Command::Init { init } => prepare(init).await,
            Command::Retire { config } => Ok(retire(&ServiceConfig::load(&config)?).await?),
        }
    };
    tokio::select! {
        done = work => done,
        // A Job that is stopped has not succeeded.
        () = stop.wait() => Err(Failure::Stopped),
    }
}

async fn prepare(options: Preparation) -> Result<(), Failure> {
    let Preparation { config, schema, plan_id, partitions, shards, status_port } = options;
    let placed = config.with_file_name(PLACED_FILE).exists();
    let config = ServiceConfig::load(&config)?;
    let text = std::fs::read_to_string(&schema).map_err(|source| Failure::Schema { path: schema, source })?;
    let schema = serde_json::from_str(&text)?;
    let options = InitOptions { config, schema, plan_id, partitions, shards, placed };
    let health = Health::starting(Arc::new(Metrics::new()?), &[]);
    let work = init(&options, |reason| health.waiting_for("init", reason));
    let Some(port) = status_port else { return Ok(work.await?) };
    // It ends with the work.
    let (_running, shutdown) = Shutdown::by_hand();
    tokio::select! {
        served = process::serve(port, health.routes(), shutdown) => Ok(served?),
        done = work => Ok(done?),
    }
}
