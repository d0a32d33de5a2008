//! The cache manager: brings every post that is published into the cache, so that its first reader finds it there, and so that an edit or a
//! deletion is seen without anybody having to wait for an entry to end.

use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt, stream};
use prometheus::Registry;
use shardlane_runtime::record::Record;
use shardlane_runtime::service::{Accepted, Message, Rejection};
use shardlane_runtime::stateless::Step;

use crate::cache::{Cache, CacheError, Highest, Put};
use crate::metrics::BlogMetrics;
use crate::service::PUBLISHED_POSTS;
use crate::wire::Published;

/// Entries on their way to Redis at once.
const AT_ONCE: usize = 16;
/// Slugs whose versions are remembered.
const REMEMBERED: usize = 100_000;

/// Puts posts into the cache.
pub struct Filler {
    cache: Arc<Cache>,
    highest: Mutex<Highest>,
}

/// What became of some posts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Those that are in the cache now.
    pub put: usize,
    /// Those that were older than what is known already.
    pub older: usize,
    /// Those for which there was no room.
    pub no_room: usize,
}

impl Filler {
    /// Into this cache.
    pub fn new(cache: Arc<Cache>) -> Self {
        Self { cache, highest: Mutex::new(Highest::of(REMEMBERED)) }
    }

    /// Puts posts, in the order in which they were published.
    pub async fn fill(&self, posts: Vec<Published>) -> Result<Filled, CacheError> {
        let all = posts.len();
        let posts = self.newest(posts);
        let mut filled = Filled { older: all - posts.len(), ..Filled::default() };
        let puts = stream::iter(posts).map(|post| {
            let cache = Arc::clone(&self.cache);
            async move {
                let slug = post.slug.clone();
                cache.put(&slug, &Some(post)).await
            }
        });
        // They are all of different slugs, so their order does not matter.
        for put in puts.buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await? {
            match put {
                Put::Done => filled.put += 1,
                Put::Older => filled.older += 1,
                Put::NoRoom => filled.no_room += 1,
            }
        }
        Ok(filled)
    }

    /// Those of the posts that are not older than what was seen before, the last one of each slug.
    fn newest(&self, posts: Vec<Published>) -> Vec<Published> {
        let mut highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        for post in &posts {
            highest.is(&post.slug, post.version);
        }
        let mut seen = std::collections::HashSet::new();
        let mut newest: Vec<Published> = posts
            .into_iter()
            .rev()
            .filter(|post| highest.is(&post.slug, post.version) && seen.insert(post.slug.clone()))
            .collect();
        newest.reverse();
        newest
    }
}

/// The loop's step.
pub struct CacheManager {
    filler: Filler,
    metrics: BlogMetrics,
}

impl CacheManager {
    /// Fills this cache, whose metrics these are.
    pub fn new(cache: Cache, metrics: BlogMetrics) -> Self {
        Self { filler: Filler::new(Arc::new(cache)), metrics }
    }
}

impl Step for CacheManager {
    type Item = Published;
    const INPUT: &'static str = PUBLISHED_POSTS;

    fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        self.metrics.register_cache(registry)
    }

    fn parse(&self, record: &Record<'_>) -> Result<Published, Rejection> {
        Published::parse(record)
    }

    async fn feed(&self, items: Vec<Accepted<Published>>) -> Result<Vec<Message>, String> {
        let filled = self.filler.fill(items.into_iter().map(|item| item.request).collect()).await;
        let Filled { no_room, .. } = filled.map_err(|error| error.to_string())?;
        if no_room > 0 {
            tracing::warn!(posts = no_room, "Redis has no room; these are read from their shards");
        }
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::RedisAddress;

    #[tokio::test]
    async fn of_each_slug_the_highest_version_is_put_and_no_older_one_later() {
        let cache = Cache::for_fillers(&RedisAddress::at("redis://127.0.0.1:1"), BlogMetrics::new().unwrap()).unwrap();
        let filler = Filler::new(Arc::new(cache));
        let deleted = |slug: &str, version| Published { slug: slug.to_owned(), version, post: None, deleted: true };
        let newest = filler.newest(vec![deleted("a", 2), deleted("b", 1), deleted("a", 3), deleted("a", 1)]);
        assert_eq!(newest, [deleted("b", 1), deleted("a", 3)]);
        assert_eq!(filler.newest(vec![deleted("a", 2)]), []);
        // Those that could not be put come again.
        assert_eq!(filler.newest(vec![deleted("a", 3)]), [deleted("a", 3)]);
    }
}
