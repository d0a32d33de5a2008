//! `shardlane-operator`: runs the operator, or writes its CRDs.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
// A thousand services in memory are many small pieces, which come and go.
use kube::Client;
use shardlane_allocator as _;
use shardlane_operator::api::blog_pipeline::BlogPipeline;
use shardlane_operator::api::counter_pool::CounterPool;
use shardlane_operator::api::signup_shard::SignupShard;
use shardlane_operator::api::wallet_partition::WalletPartition;
use shardlane_operator::api::{crds, reference};
use shardlane_operator::controller::{self, Context};
use shardlane_operator::images::Images;
use shardlane_operator::leader::{self, Lease};
use shardlane_operator::telemetry::Telemetry;
use shardlane_operator::watched::Scope;
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(version, about = "The Shardlane operator")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watches the custom resources and makes them so.
    Run {
        #[command(flatten)]
        images: Images,
        #[command(flatten)]
        place: Place,
    },
    /// Writes the CRDs into a folder, and their reference into a file.
    Crds {
        /// The folder.
        folder: PathBuf,
        /// The file.
        reference: Option<PathBuf>,
    },
}

#[derive(clap::Args)]
struct Place {
    /// Namespaces to look after, separated by commas; all if there are none.
    #[arg(long, env = "SHARDLANE_NAMESPACES", value_delimiter = ',')]
    namespaces: Vec<String>,
    /// The namespace of the Lease: the operator's own.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    lease_namespace: String,
    /// The Lease of which one operator at a time has hold.
    #[arg(long, env = "SHARDLANE_LEASE", default_value = "shardlane")]
    lease: String,
    /// Who has hold of it.
    #[arg(long, env = "POD_NAME", default_value = "operator")]
    holder: String,
    /// Port of probes and metrics.
    #[arg(long, env = "SHARDLANE_METRICS_PORT", default_value_t = 9090)]
    metrics_port: u16,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("cannot reach the API server: {0}")]
    Client(#[from] kube::Error),
    #[error("cannot serve probes or write files: {0}")]
    Io(#[from] std::io::Error),
    #[error("cannot make an HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    #[error("cannot make metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error(transparent)]
    Leader(#[from] leader::LeadError),
    #[error("another operator leads now")]
    Lost,
    #[error("cannot write the CRDs: {0}")]
    Yaml(#[from] serde_yaml::Error),
    #[error("cannot read the CRDs: {0}")]
    Json(#[from] serde_json::Error),
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter).with_writer(std::io::stderr).init();
    let result = match command {
        Command::Run { images, place } => run(images, place).await,
        Command::Crds { folder, reference: file } => write_crds(&folder, file.as_deref()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(images: Images, place: Place) -> Result<(), Failure> {
    let client = Client::try_default().await?;
    let version = client.apiserver_version().await?;
    tracing::info!(kubernetes = version.git_version, "watching");
    let telemetry = Telemetry::new()?;
    let context = Arc::new(Context::new(client.clone(), images, telemetry.clone())?);
    let Place { namespaces, lease_namespace, lease, holder, metrics_port } = place;
    let scope = Scope::of(namespaces);
    let lease = Lease { namespace: lease_namespace, name: lease, holder };
    let work = async || {
        let _watches = context.watch(&scope);
        tokio::join!(
            controller::run::<SignupShard>(Arc::clone(&context), &scope),
            controller::run::<WalletPartition>(Arc::clone(&context), &scope),
            controller::run::<CounterPool>(Arc::clone(&context), &scope),
            controller::run::<BlogPipeline>(Arc::clone(&context), &scope),
        );
    };
    tokio::select! {
        served = telemetry.serve(metrics_port) => Ok(served?),
        ended = leader::lead(&client, &lease, work) => match ended? {
            // What it knew may be old when it leads again: it begins anew.
            leader::Ended::Lost => Err(Failure::Lost),
            leader::Ended::Done => Ok(()),
        },
    }
}

fn write_crds(folder: &Path, file: Option<&Path>) -> Result<(), Failure> {
    std::fs::create_dir_all(folder)?;
    for (name, crd) in crds() {
        let text =
            format!("# Generated by `make crds` from operator/src/api; do not edit.\n{}", serde_yaml::to_string(&crd)?);
        std::fs::write(folder.join(name), text)?;
    }
    if let Some(file) = file {
        let crds: Vec<_> = crds().into_iter().map(|(_, crd)| crd).collect();
        std::fs::write(file, reference::page(&crds)?)?;
    }
    Ok(())
}
