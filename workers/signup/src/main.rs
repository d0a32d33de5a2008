//! `signup`: worker, gateway and schema of a SignupShard.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use shardlane_runtime::config::{CONFIG_PATH, ConfigError, ServiceConfig};
use shardlane_runtime::database::{BadAddress, ShardAddress};
use shardlane_runtime::gateway::{DoorOptions, GatewayError};
use shardlane_runtime::process::{self, HTTP_PORT, METRICS_PORT, Shutdown};
use shardlane_runtime::resume::{ResumeError, resume};
use shardlane_runtime::service::Service;
use shardlane_runtime::worker::{self, WorkerError, WorkerOptions};
use shardlane_signup::gateway::{self, Ports};
use shardlane_signup::service::{SignupService, schema};

#[derive(Parser)]
#[command(version, about = "Usernames, unique across shards")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Applies the requests of one partition's slots to its shard.
    Worker {
        #[command(flatten)]
        common: Common,
        /// Number of the partition.
        #[arg(long, env = "SHARDLANE_PARTITION")]
        partition: u32,
        /// The shard: postgresql://user:password@host:5432/database.
        #[arg(long, env = "SHARDLANE_POSTGRES_URI", hide_env_values = true)]
        postgres_uri: String,
    },
    /// Serves users over HTTP.
    Gateway {
        #[command(flatten)]
        common: Common,
        /// Requests a second that are let in; more get 429.
        #[arg(long, env = "SHARDLANE_RATE_LIMIT")]
        rate_limit: Option<NonZeroU32>,
        /// Token that every request must bear.
        #[arg(long, env = "SHARDLANE_TOKEN", hide_env_values = true)]
        token: Option<String>,
    },
    /// Goes on with a slot that has halted because its log is not the one that its shard knows.
    Resume {
        /// The service's configuration, as the operator writes it.
        #[arg(long, env = "SHARDLANE_CONFIG", default_value = CONFIG_PATH)]
        config: PathBuf,
        /// The slot's shard: postgresql://user:password@host:5432/database.
        #[arg(long, env = "SHARDLANE_POSTGRES_URI", hide_env_values = true)]
        postgres_uri: String,
        /// The slot.
        #[arg(long)]
        slot: u32,
        /// The offset to go on from; where the log starts now if absent.
        #[arg(long)]
        offset: Option<i64>,
    },
    /// Prints what a shard's tables are.
    Schema {
        /// SQL for people, JSON for the mover.
        #[arg(long, value_enum, default_value = "sql")]
        format: Format,
        /// A file instead of standard output.
        #[arg(long)]
        output: Option<PathBuf>,
    },
}

#[derive(Args)]
struct Common {
    /// The service's configuration, as the operator writes it.
    #[arg(long, env = "SHARDLANE_CONFIG", default_value = CONFIG_PATH)]
    config: PathBuf,
    /// Port for users, or for gateways at a worker.
    #[arg(long, default_value_t = HTTP_PORT)]
    http_port: u16,
    /// Port for probes and metrics.
    #[arg(long, default_value_t = METRICS_PORT)]
    metrics_port: u16,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Sql,
    Json,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Address(#[from] BadAddress),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    #[error(transparent)]
    Resume(#[from] ResumeError),
    #[error("cannot write: {0}")]
    Write(#[from] std::io::Error),
    #[error("cannot write: {0}")]
    Json(#[from] serde_json::Error),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    process::init_logs();
    process::finish(run(cli.command).await)
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Worker { common, partition, postgres_uri } => {
            let config = ServiceConfig::load(&common.config)?;
            let service = SignupService::new(config.settings()?, &config.id);
            let options = WorkerOptions {
                config,
                partition,
                shard: ShardAddress::parse(&postgres_uri)?,
                http_port: common.http_port,
                metrics_port: common.metrics_port,
            };
            Ok(worker::run(service, options, Shutdown::on_signal()?).await?)
        }
        Command::Gateway { common, rate_limit, token } => {
            let config = ServiceConfig::load(&common.config)?;
            let door = DoorOptions { rate: rate_limit, token, patience: Duration::from_secs(30) };
            let ports = Ports { http: common.http_port, metrics: common.metrics_port };
            Ok(gateway::run(config, door, ports, Shutdown::on_signal()?).await?)
        }
        Command::Resume { config, postgres_uri, slot, offset } => {
            let shard = ShardAddress::parse(&postgres_uri)?;
            let from = resume(&ServiceConfig::load(&config)?, SignupService::INPUT, &shard, slot, offset).await?;
            println!("slot {slot} goes on from offset {from}");
            Ok(())
        }
        Command::Schema { format, output } => {
            let text = match format {
                Format::Sql => schema().ddl,
                Format::Json => serde_json::to_string_pretty(&schema())?,
            };
            match output {
                Some(file) => std::fs::write(file, text)?,
                None => println!("{text}"),
            }
            Ok(())
        }
    }
}
