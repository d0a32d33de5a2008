//! `blog`: worker, gateway, cache manager and schema of a BlogPipeline.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use shardlane_blog::cache::{BadRedis, Cache, RedisAddress};
use shardlane_blog::manager::CacheManager;
use shardlane_blog::metrics::BlogMetrics;
use shardlane_blog::service::{BlogService, schema};
use shardlane_blog::{gateway, rebuild};
use shardlane_runtime::cli::{Common, Failure, ProcessArgs};
use shardlane_runtime::process::{self, Shutdown};
use shardlane_runtime::stateless::{self, StatelessError};

#[derive(Parser)]
#[command(version, about = "Posts, published through their shards and read from a cache")]
struct Cli {
    #[command(flatten)]
    redis: RedisAddress,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Common(Common),
    /// Brings every post that is published into the cache.
    CacheManager(CacheManagerArgs),
    /// Fills the cache anew with what is published, and ends.
    Rebuild(ProcessArgs),
}

#[derive(Args)]
struct CacheManagerArgs {
    #[command(flatten)]
    process: ProcessArgs,
    /// Its name among those that share the work; the same after a restart.
    #[arg(long, env = "SHARDLANE_INSTANCE")]
    instance: String,
}

/// Why the program ends by itself.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Failure(#[from] Failure),
    #[error(transparent)]
    Redis(#[from] BadRedis),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Cli { redis, command } = Cli::parse();
    process::init_logs();
    process::finish(run(command, redis).await)
}

async fn run(command: Command, redis: RedisAddress) -> Result<(), Ended> {
    let metrics = BlogMetrics::new().map_err(|error| Failure::from(StatelessError::from(error)))?;
    let cache = || Cache::for_fillers(&redis, metrics.clone());
    match command {
        Command::Common(command) => {
            let gateway = |options, shutdown| gateway::run(options, &redis, shutdown);
            Ok(command.run(BlogService::of, gateway, &schema()).await?)
        }
        Command::CacheManager(CacheManagerArgs { process, instance }) => {
            let (config, port) = (Arc::new(process.load().map_err(Failure::from)?), process.ports().metrics);
            let (manager, shutdown) = (CacheManager::new(cache()?, metrics.clone()), stop()?);
            Ok(stateless::serve(manager, config, &instance, port, shutdown).await.map_err(Failure::from)?)
        }
        Command::Rebuild(process) => {
            let config = process.load().map_err(Failure::from)?;
            let done = rebuild::rebuild(&config, cache()?, stop()?).await.map_err(Failure::from)?;
            println!("{done}");
            Ok(())
        }
    }
}

fn stop() -> Result<Shutdown, Failure> {
    Ok(Shutdown::on_signal()?)
}
