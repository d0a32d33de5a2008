//! Filling the cache anew from the topic of published posts, from its start to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shardlane_runtime::config::ServiceConfig;
use shardlane_runtime::gateway::{Follower, Start, tail};
use shardlane_runtime::health::Health;
use shardlane_runtime::metrics::Metrics;
use shardlane_runtime::process::{Backoff, Shutdown};
use shardlane_runtime::stateless::StatelessError;
use tokio::sync::mpsc;

use crate::cache::Cache;
use crate::manager::{Filled, Filler};
use crate::service::PUBLISHED_POSTS;
use crate::wire::Published;

/// Posts that wait between the topic and Redis; each may have a hundred kilobytes.
const WAITING: usize = 256;
/// How long at most it is not noticed that the topic is at its end.
const LOOK: Duration = Duration::from_millis(50);
/// What is ready once all of the topic is read.
const PART: &str = "rebuild";

/// What became of the posts of the topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Records that were read.
    pub records: usize,
    /// What became of them.
    pub filled: Filled,
    /// Records that are no posts.
    pub unreadable: usize,
}

impl std::fmt::Display for Rebuilt {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { records, filled: Filled { put, older, no_room }, unreadable } = self;
        write!(formatter, "{records} records read: {put} posts put into the cache, {older} older than what is known")?;
        if *no_room > 0 {
            write!(formatter, ", {no_room} for which Redis had no room")?;
        }
        if *unreadable > 0 {
            write!(formatter, ", {unreadable} that are no posts")?;
        }
        Ok(())
    }
}

/// Reads what the topic holds now and puts it into the cache, unless something newer is there. Waits for Kafka and for Redis as long
/// as it takes; a shutdown ends it where it is.
pub async fn rebuild(config: &ServiceConfig, cache: Cache, shutdown: Shutdown) -> Result<Rebuilt, StatelessError> {
    let health = Health::starting(Arc::new(Metrics::new()?), &[PART]);
    let (sender, mut posts) = mpsc::channel(WAITING);
    let unreadable = Arc::new(AtomicUsize::new(0));
    let noted = Arc::clone(&unreadable);
    let follower = Follower { kafka: &config.kafka, name: &config.name, part: PART, health: &health };
    tail(follower, config.topic(PUBLISHED_POSTS)?, Start::Beginning, move |record| match Published::parse(record) {
        // Nobody listens any more when the end was reached.
        Ok(post) => drop(sender.blocking_send(post)),
        Err(rejection) => {
            noted.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(slot = record.slot, offset = record.offset, reason = rejection.reason, "no post");
        }
    })?;
    let (filler, mut rebuilt) = (Filler::new(Arc::new(cache)), Rebuilt::default());
    while !shutdown.has_come() {
        // In this order: what was read before the end was seen is in the channel.
        let all_read = health.reason().is_none();
        let waiting = posts.len();
        let mut batch = Vec::with_capacity(WAITING);
        if waiting > 0 {
            posts.recv_many(&mut batch, waiting).await;
            rebuilt.records += batch.len();
            put(&filler, batch, &mut rebuilt, &shutdown).await;
        } else if !all_read {
            tokio::time::sleep(LOOK).await;
        }
        if all_read {
            break;
        }
    }
    rebuilt.unreadable = unreadable.load(Ordering::Relaxed);
    rebuilt.records += rebuilt.unreadable;
    Ok(rebuilt)
}

/// Puts posts, again and again until it works.
async fn put(filler: &Filler, batch: Vec<Published>, rebuilt: &mut Rebuilt, shutdown: &Shutdown) {
    let mut backoff = Backoff::default();
    while !shutdown.has_come() {
        match filler.fill(batch.clone()).await {
            Ok(Filled { put, older, no_room }) => {
                rebuilt.filled.put += put;
                rebuilt.filled.older += older;
                rebuilt.filled.no_room += no_room;
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "the cache takes nothing now; trying again");
                tokio::time::sleep(backoff.wait()).await;
            }
        }
    }
}
