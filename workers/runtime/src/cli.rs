//! The command line that the programs of all services have in common.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use shardlane_config::{CONFIG_PATH, ConfigError, ServiceConfig};

use crate::database::{BadAddress, ShardAddress};
use crate::gateway::{DoorOptions, GatewayError};
use crate::process::{HTTP_PORT, METRICS_PORT, Ports, Shutdown};
use crate::resume::{ResumeError, resume};
use crate::service::{Schema, Tables};
use crate::stateless::StatelessError;
use crate::worker::{self, WorkerError, WorkerOptions};

/// What every program can do besides what is its own.
#[derive(Subcommand)]
pub enum Common {
    /// Applies the requests of one partition's slots to its shard.
    Worker(WorkerArgs),
    /// Serves users over HTTP.
    Gateway(GatewayArgs),
    /// Goes on with a slot that has halted because its log is not the one that its shard knows.
    Resume(ResumeArgs),
    /// Prints what a shard's tables are.
    Schema(SchemaArgs),
}

/// Where a process finds its service, and where it is found.
#[derive(Args)]
pub struct ProcessArgs {
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

impl ProcessArgs {
    /// Reads the configuration.
    pub fn load(&self) -> Result<ServiceConfig, ConfigError> {
        ServiceConfig::load(&self.config)
    }

    /// The ports.
    pub fn ports(&self) -> Ports {
        Ports { http: self.http_port, metrics: self.metrics_port }
    }
}

/// A worker's.
#[derive(Args)]
pub struct WorkerArgs {
    #[command(flatten)]
    process: ProcessArgs,
    /// Number of the partition.
    #[arg(long, env = "SHARDLANE_PARTITION")]
    partition: u32,
    /// The shard: postgresql://user:password@host:5432/database.
    #[arg(long, env = "SHARDLANE_POSTGRES_URI", hide_env_values = true)]
    postgres_uri: String,
}

/// A gateway's.
#[derive(Args)]
pub struct GatewayArgs {
    #[command(flatten)]
    process: ProcessArgs,
    /// Requests a second that are let in; more get 429.
    #[arg(long, env = "SHARDLANE_RATE_LIMIT")]
    rate_limit: Option<NonZeroU32>,
    /// Requests a second that are let in of each client; more get 429.
    #[arg(long, env = "SHARDLANE_CLIENT_RATE_LIMIT")]
    client_rate_limit: Option<NonZeroU32>,
    /// Clients come through a proxy: they are told apart by the last address in X-Forwarded-For.
    #[arg(long, env = "SHARDLANE_BEHIND_PROXY")]
    behind_proxy: bool,
    /// Token that every request must bear.
    #[arg(long, env = "SHARDLANE_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

impl GatewayArgs {
    /// What they come to.
    pub fn options(self) -> Result<GatewayOptions, ConfigError> {
        let Self { process, rate_limit, client_rate_limit, behind_proxy, token } = self;
        let patience = Duration::from_secs(30);
        let door = DoorOptions { rate: rate_limit, client_rate: client_rate_limit, behind_proxy, token, patience };
        Ok(GatewayOptions { config: process.load()?, door, ports: process.ports() })
    }
}

/// What a gateway is started with.
pub struct GatewayOptions {
    /// The service.
    pub config: ServiceConfig,
    /// What its users must keep to.
    pub door: DoorOptions,
    /// Where it is found.
    pub ports: Ports,
}

/// Of going on with a slot.
#[derive(Args)]
pub struct ResumeArgs {
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
}

/// Of printing the tables.
#[derive(Args)]
pub struct SchemaArgs {
    /// SQL for people, JSON for the mover.
    #[arg(long, value_enum, default_value = "sql")]
    format: Format,
    /// A file instead of standard output.
    #[arg(long)]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Sql,
    Json,
}

/// Why a program ends by itself.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Its configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The shard's address is wrong.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// A worker's reason.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// A gateway's reason.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// A stateless loop's reason.
    #[error(transparent)]
    Stateless(#[from] StatelessError),
    /// A slot does not go on.
    #[error(transparent)]
    Resume(#[from] ResumeError),
    /// Something cannot be written.
    #[error("cannot write: {0}")]
    Write(#[from] std::io::Error),
    /// Something is no JSON.
    #[error("cannot write: {0}")]
    Json(#[from] serde_json::Error),
}

impl Common {
    /// Does it, for one kind of service.
    pub async fn run<S: Tables, G>(
        self,
        service: impl FnOnce(&ServiceConfig) -> Result<S, ConfigError>,
        gateway: impl FnOnce(GatewayOptions, Shutdown) -> G,
        schema: &Schema,
    ) -> Result<(), Failure>
    where
        G: Future<Output = Result<(), GatewayError>>,
    {
        match self {
            Self::Worker(WorkerArgs { process, partition, postgres_uri }) => {
                let config = process.load()?;
                let service = service(&config)?;
                let Ports { http: http_port, metrics: metrics_port } = process.ports();
                let shard = ShardAddress::parse(&postgres_uri)?;
                let options = WorkerOptions { config, partition, shard, http_port, metrics_port };
                Ok(Box::pin(worker::run(service, options, Shutdown::on_signal()?)).await?)
            }
            Self::Gateway(args) => Ok(gateway(args.options()?, Shutdown::on_signal()?).await?),
            Self::Resume(ResumeArgs { config, postgres_uri, slot, offset }) => {
                let shard = ShardAddress::parse(&postgres_uri)?;
                let from = resume(&ServiceConfig::load(&config)?, S::INPUT, &shard, slot, offset).await?;
                println!("slot {slot} goes on from offset {from}");
                Ok(())
            }
            Self::Schema(SchemaArgs { format, output }) => {
                let text = match format {
                    Format::Sql => schema.ddl.clone(),
                    Format::Json => serde_json::to_string_pretty(schema)?,
                };
                match output {
                    Some(file) => std::fs::write(file, text)?,
                    None => println!("{text}"),
                }
                Ok(())
            }
        }
    }
}
