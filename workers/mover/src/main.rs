//! `mover`: prepares a service and moves its slots between shards.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use shardlane_mover::init::{InitError, InitOptions, init};
use shardlane_mover::moves::progress::Progress;
use shardlane_mover::reshard::{ReshardError, ReshardOptions, reshard};
use shardlane_mover::retire::retire;
use shardlane_mover::topics::TopicError;
use shardlane_mover::verify::verify;
use shardlane_runtime::config::{CONFIG_PATH, ConfigError, PLACED_FILE, ServiceConfig};
use shardlane_runtime::health::Health;
use shardlane_runtime::metrics::Metrics;
use shardlane_runtime::process::{self, Shutdown};
use shardlane_runtime::service::Schema;

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
        place: Place,
        /// Identity of the first placement.
        #[arg(long)]
        plan_id: String,
        /// Number of shards.
        #[arg(long)]
        partitions: u32,
    },
    /// Moves slots until the first partitions own them in even shares, whatever was begun before.
    Reshard {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        moves: Moves,
    },
    /// Says whether each slot has one owner and each row lies where its slot says: JSON, and 3 if not.
    Verify {
        #[command(flatten)]
        place: Place,
        /// Number of shards.
        #[arg(long)]
        shard_count: u32,
    },
    /// Deletes the topics of a service that is gone.
    Retire {
        /// The service's configuration, as the operator writes it.
        #[arg(long, default_value = CONFIG_PATH)]
        config: PathBuf,
    },
}

/// Where a service is.
#[derive(Args)]
struct Place {
    /// The service's configuration, as the operator writes it.
    #[arg(long, default_value = CONFIG_PATH)]
    config: PathBuf,
    /// The service's tables, as its `schema --format json` prints them.
    #[arg(long)]
    schema: PathBuf,
    /// Folder with a folder for each shard, each with the file `uri`.
    #[arg(long)]
    shards: PathBuf,
    /// Port at which it says how it fares; nowhere if absent.
    #[arg(long)]
    status_port: Option<u16>,
}

#[derive(Args)]
struct Moves {
    /// How many partitions are to own slots.
    #[arg(long)]
    partitions: u32,
    /// Number of shards, at least as many.
    #[arg(long)]
    shard_count: u32,
    /// How many groups of slots move at the same time.
    #[arg(long, default_value_t = 1)]
    groups_at_once: usize,
    /// Most rows copied in a second; as many as go if absent.
    #[arg(long)]
    rows_per_second: Option<u32>,
    /// Seconds for which slots may stand still before that is undone.
    #[arg(long, default_value_t = 5)]
    fence_seconds: u64,
    /// Seconds for which what has moved is left where it lay.
    #[arg(long, default_value_t = 30)]
    clean_after_seconds: u64,
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
    Reshard(#[from] ReshardError),
    #[error("not all is well; see the report")]
    NotWell,
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
    match run(cli.command).await {
        Err(Failure::NotWell) => ExitCode::from(3),
        done => process::finish(done),
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    let mut stop = Shutdown::on_signal()?;
    let (stopping, moves) = (stop.clone(), matches!(command, Command::Reshard { .. }));
    let work = async {
        match command {
            Command::Init { place, plan_id, partitions } => Box::pin(prepare(place, plan_id, partitions)).await,
            // It hears of the signal itself: what it has begun is undone first.
            Command::Reshard { place, moves } => Box::pin(move_slots(place, moves, stopping)).await,
            Command::Verify { place, shard_count } => look(place, shard_count).await,
            Command::Retire { config } => Ok(retire(&ServiceConfig::load(&config)?).await?),
        }
    };
    tokio::select! {
        done = work => done,
        // A Job that is stopped has not succeeded.
        () = stop.wait(), if !moves => Err(Failure::Stopped),
    }
}

async fn prepare(place: Place, plan_id: String, partitions: u32) -> Result<(), Failure> {
    let placed = place.config.with_file_name(PLACED_FILE).exists();
    let (config, schema) = place.read()?;
    let options = InitOptions { config, schema, plan_id, partitions, shards: place.shards.clone(), placed };
    let health = Health::starting(Arc::new(Metrics::new()?), &[]);
    let work = init(&options, |reason| health.waiting_for("init", reason));
    told(&place, &health, Box::pin(async { Ok(work.await?) })).await
}

async fn move_slots(place: Place, moves: Moves, stop: Shutdown) -> Result<(), Failure> {
    let (config, schema) = place.read()?;
    let options = ReshardOptions {
        config,
        schema,
        shards: place.shards.clone(),
        shard_count: moves.shard_count,
        partitions: moves.partitions,
        groups_at_once: moves.groups_at_once,
        rows_per_second: moves.rows_per_second,
        fence: Duration::from_secs(moves.fence_seconds),
        clean_after: Duration::from_secs(moves.clean_after_seconds),
    };
    let metrics = Arc::new(Metrics::new()?);
    let health = Health::starting(Arc::clone(&metrics), &[]);
    let progress = Arc::new(Progress::new(health.clone(), metrics.registry())?);
    told(&place, &health, Box::pin(async { Ok(reshard(&options, stop, progress).await?) })).await
}

async fn look(place: Place, shard_count: u32) -> Result<(), Failure> {
    let (config, schema) = place.read()?;
    let report = verify(&config, &schema, &place.shards, shard_count).await?;
    println!("{}", serde_json::to_string(&report)?);
    if report.ok { Ok(()) } else { Err(Failure::NotWell) }
}

/// Does some work, and says meanwhile how it fares.
async fn told(place: &Place, health: &Health, work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let Some(port) = place.status_port else { return work.await };
    // It ends with the work.
    let (_running, shutdown) = Shutdown::by_hand();
    tokio::select! {
        served = process::serve(port, health.routes(), shutdown) => Ok(served?),
        done = work => done,
    }
}

impl Place {
    fn read(&self) -> Result<(ServiceConfig, Schema), Failure> {
        let config = ServiceConfig::load(&self.config)?;
        let text = std::fs::read_to_string(&self.schema)
            .map_err(|source| Failure::Schema { path: self.schema.clone(), source })?;
        Ok((config, serde_json::from_str(&text)?))
    }
}
