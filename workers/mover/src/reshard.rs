//! `reshard`: has the slots lie as they are wanted, with the real shards, Kafka and time.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shardlane_runtime::config::ServiceConfig;
use shardlane_runtime::edges::RealClock;
use shardlane_runtime::process::{Backoff, Shutdown};
use shardlane_runtime::service::Schema;

use crate::moves::edges::World;
use crate::moves::postgres::{PgWorld, WorldError};
use crate::moves::progress::Progress;
use crate::moves::run::{Run, RunError, Wanted};

/// What `reshard` is told.
#[derive(Clone, Debug)]
pub struct ReshardOptions {
    /// The service.
    pub config: ServiceConfig,
    /// Its tables.
    pub schema: Schema,
    /// Folder with a folder for each shard.
    pub shards: PathBuf,
    /// How many shards there are.
    pub shard_count: u32,
    /// How many partitions are to own slots.
    pub partitions: u32,
    /// How many groups move at the same time.
    pub groups_at_once: usize,
    /// Most rows copied in a second, all groups together; as many as go if absent.
    pub rows_per_second: Option<u32>,
    /// How long a group of slots may stand still before that is undone.
    pub fence: Duration,
    /// How long what has moved is left where it lay.
    pub clean_after: Duration,
}

/// Why a run ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum ReshardError {
    /// The shards and Kafka cannot be reached as they are configured.
    #[error(transparent)]
    World(#[from] WorldError),
    /// It cannot go on, or was to stop.
    #[error(transparent)]
    Run(#[from] RunError),
    /// There are fewer shards than partitions.
    #[error("--partitions={0} need as many shards, and there are --shard-count={1}")]
    TooFewShards(u32, u32),
}

/// Goes on until the slots lie as they are wanted; tries again for ever what may pass by itself.
pub async fn reshard(options: &ReshardOptions, stop: Shutdown, progress: Arc<Progress>) -> Result<(), ReshardError> {
    reshard_wrapped(options, stop, progress, |world| world).await
}

/// The same over wrapped edges, to see it through something that breaks them.
pub async fn reshard_wrapped<W: World>(
    options: &ReshardOptions,
    mut stop: Shutdown,
    progress: Arc<Progress>,
    wrap: impl FnOnce(PgWorld) -> W,
) -> Result<(), ReshardError> {
    let ReshardOptions { config, schema, shards, shard_count, partitions, fence, .. } = options;
    if partitions > shard_count || *partitions == 0 {
        return Err(ReshardError::TooFewShards(*partitions, *shard_count));
    }
    let world = PgWorld::new(config, schema, shards.clone(), options.rows_per_second)?;
    let mut backoff = Backoff::default();
    // Given back at the end, or when the connection is lost, which the attempts' ids are there for.
    let _alone = loop {
        let asked = tokio::select! {
            biased;
            () = stop.wait() => return Err(RunError::Stopped.into()),
            asked = world.alone() => asked,
        };
        match asked {
            Ok(alone) => break alone,
            Err(error) => {
                progress.waits_for(error.to_string());
                tokio::time::sleep(backoff.wait()).await;
            }
        }
    };
    let wanted = Wanted {
        partitions: *partitions,
        shards: *shard_count,
        slots: config.max_partitions,
        at_once: options.groups_at_once.max(1),
        clean_after: options.clean_after,
        fence: *fence,
    };
    let world = wrap(world);
    let new_id = || uuid::Uuid::new_v4().to_string();
    let run = Run { world: &world, clock: &RealClock, new_id, wanted, stop, progress };
    Ok(run.run().await?)
}
