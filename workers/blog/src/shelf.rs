//! Reading posts: from the cache, or else from their shards, few at a time.
//!
//! Whoever asks for a slug while another does joins that one's flight, which looks into the cache first. So a post that a
//! thousand people open at once is read once, whether Redis is there or not.

use std::sync::Arc;
use std::time::Duration;

use shardlane_runtime::gateway::{Gateway, Problem};
use tokio::sync::Semaphore;

use crate::cache::{Cache, State};
use crate::flights::{Flights, Landing};
use crate::metrics::BlogMetrics;
use crate::reads::{NEWEST, POST, Summary};

/// Most reads of shards at once.
const FLIGHTS: usize = 64;
/// How long a read waits for its turn before its readers are told to come again.
const TURN: Duration = Duration::from_secs(1);

/// How long what a shard has said is told again, without asking anybody. So a post that all want costs one read a second, at a gateway
/// that has more to do than it can and where Redis is away.
const HELD: Duration = Duration::from_secs(1);

/// What readers are told.
type Told<T> = Result<Arc<T>, Problem>;

/// Where posts are read.
pub struct Shelf {
    gateway: Arc<Gateway>,
    cache: Cache,
    posts: Arc<Flights<Told<State>>>,
    lists: Arc<Flights<Told<List>>>,
    turns: Semaphore,
    metrics: BlogMetrics,
}

/// From where a list goes on, newest first: only posts that come after this one in that order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct After {
    /// When it was published, in milliseconds since 1970.
    pub published_at: i64,
    /// Its slug.
    pub slug: String,
}

impl After {
    /// Before all posts.
    pub fn nothing() -> Self {
        Self { published_at: i64::MAX, slug: String::new() }
    }

    /// Reads what [`Display`](std::fmt::Display) has written.
    pub fn parse(text: &str) -> Option<Self> {
        let (published_at, slug) = text.split_once('_')?;
        Some(Self { published_at: published_at.parse().ok()?, slug: slug.to_owned() })
    }

    fn of(post: &Summary) -> Self {
        Self { published_at: post.published_at, slug: post.slug.clone() }
    }
}

impl std::fmt::Display for After {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}_{}", self.published_at, self.slug)
    }
}

/// Some posts, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// The posts.
    pub posts: Vec<Summary>,
    /// From where the next list goes on; absent at the end.
    pub next: Option<After>,
}

impl List {
    /// The first so many of what the shards have told, each of its own.
    fn of(parts: impl Iterator<Item = Vec<Summary>>, limit: usize) -> Self {
        let mut posts: Vec<Summary> = parts.flatten().collect();
        posts.sort_unstable_by(|one, other| (other.published_at, &other.slug).cmp(&(one.published_at, &one.slug)));
        // Each shard was asked for one more, to know whether there are more.
        let more = posts.len() > limit;
        posts.truncate(limit);
        let next = posts.last().filter(|_| more).map(After::of);
        Self { posts, next }
    }
}

impl Shelf {
    /// Reads through this gateway and this cache.
    pub fn new(gateway: Arc<Gateway>, cache: Cache, metrics: BlogMetrics) -> Self {
        let (posts, lists, turns) = (Arc::default(), Arc::default(), Semaphore::new(FLIGHTS));
        Self { gateway, cache, posts, lists, turns, metrics }
    }

    /// What is known of a slug.
    pub async fn read(self: &Arc<Self>, slug: &str) -> Told<State> {
        let (shelf, key) = (Arc::clone(self), slug.to_owned());
        let fly = |landing: Landing<Told<State>>| async move { shelf.find(&key, landing).await };
        self.landed(self.posts.join(slug, fly).await)
    }

    /// Posts, newest first.
    pub async fn list(self: &Arc<Self>, after: &After, limit: usize) -> Told<List> {
        let (shelf, from) = (Arc::clone(self), after.clone());
        let fly = move |landing: Landing<Told<List>>| async move {
            landing.tell(shelf.ask_all(&from, limit).await.map(Arc::new));
        };
        self.landed(self.lists.join(&format!("{limit} {after}"), fly).await)
    }

    fn landed<T>(&self, (joined, told): (bool, Option<Told<T>>)) -> Told<T> {
        if joined {
            self.metrics.joined();
        }
        told.unwrap_or_else(|| Err(Problem::unavailable("this could not be found out; try again soon")))
    }

    /// Reads a post from its shard, and has the cache know it: for whoever has just changed it.
    pub async fn refresh(&self, slug: &str) -> Result<State, Problem> {
        let state = self.ask(slug).await?;
        self.fill(slug, &state).await;
        // The last: who asks in between is told what is in the cache, which may be older for as long.
        self.posts.forget(slug);
        Ok(state)
    }

    async fn find(&self, slug: &str, landing: Landing<Told<State>>) {
        if let Some(state) = self.cache.get(slug).await {
            return landing.tell(Ok(Arc::new(state)));
        }
        match self.ask(slug).await {
            Ok(state) => {
                let state = Arc::new(state);
                landing.tell(Ok(Arc::clone(&state)));
                // Nobody waits for it, but who comes meanwhile is told the same and reads nothing.
                self.fill(slug, &state).await;
                tokio::time::sleep(HELD).await;
            }
            Err(problem) => landing.tell(Err(problem)),
        }
    }

    async fn fill(&self, slug: &str, state: &State) {
        // It is counted, and the next reader reads the shard.
        if let Err(error) = self.cache.put(slug, state).await {
            tracing::debug!(%error, "a post was not put into the cache");
        }
    }

    async fn ask(&self, slug: &str) -> Result<State, Problem> {
        let _turn = self.turn().await?;
        self.metrics.shard_read();
        self.gateway.read(slug.as_bytes(), POST, &[("slug", slug)]).await
    }

    async fn ask_all(&self, after: &After, limit: usize) -> Result<List, Problem> {
        let _turn = self.turn().await?;
        let (published_at, wanted) = (after.published_at.to_string(), (limit + 1).to_string());
        let query = [("published_at", &*published_at), ("slug", &*after.slug), ("limit", &*wanted)];
        let parts = self.gateway.reads.all::<Vec<Summary>>(NEWEST, &query).await?;
        Ok(List::of(parts.into_iter().map(|part| part.answer), limit))
    }

    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Problem> {
        match tokio::time::timeout(TURN, self.turns.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => {
                self.metrics.refused();
                Err(Problem::unavailable("too many posts are being read from their shards; try again in a moment"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(published_at: i64, slug: &str) -> Summary {
        let (title, excerpt) = (String::new(), String::new());
        Summary { slug: slug.to_owned(), version: 1, title, excerpt, published_at, edited_at: None }
    }

    #[test]
    fn lists_of_shards_become_one_in_order_and_say_where_to_go_on() {
        let parts = [vec![summary(9, "a"), summary(3, "b")], vec![summary(9, "b"), summary(2, "c")]];
        let slugs = |list: &List| list.posts.iter().map(|post| post.slug.clone()).collect::<Vec<_>>();
        let list = List::of(parts.clone().into_iter(), 3);
        assert_eq!(slugs(&list), ["b", "a", "b"]);
        let next = list.next.unwrap();
        assert_eq!(After::parse(&next.to_string()), Some(After { published_at: 3, slug: "b".to_owned() }));
        assert_eq!(List::of(parts.into_iter(), 4).next, None);
        assert_eq!(After::parse("x_a"), None);
    }
}
