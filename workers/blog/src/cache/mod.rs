//! Posts in Redis. Nothing depends on it but speed: what is not there, or not well, is read from a shard.

mod address;
mod breaker;
pub mod entry;
mod highest;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::RngExt;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{ErrorKind, RedisError, RedisResult, Script, ServerErrorKind};

pub use address::{BadRedis, RedisAddress};
pub use entry::State;
pub use highest::Highest;

use crate::cache::breaker::Breaker;
use crate::cache::entry::{Entry, decode, encode, key};
use crate::metrics::{BlogMetrics, LookUp, PutIn};

/// How long a reader waits for Redis before the shard is read.
const READERS_PATIENCE: Duration = Duration::from_millis(80);
/// How long those wait whom nobody waits for.
const FILLERS_PATIENCE: Duration = Duration::from_secs(1);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(1);
/// Entries are kept for this part more or less, so that those made together do not end together.
const JITTER: f64 = 0.1;

/// Why something is not in the cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It has not answered, and is asked again soon.
    #[error("Redis has not answered and is left alone for a moment")]
    Resting,
    /// It takes too long.
    #[error("Redis did not answer within {} ms", .0.as_millis())]
    Slow(Duration),
    /// It has said so.
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
    /// The entry could not be written.
    #[error("a post could not be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// What became of an entry that was brought to the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is there.
    Done,
    /// A newer one is.
    Older,
    /// There is no room for it. Nothing is there.
    NoRoom,
}

/// The cache.
pub struct Cache {
    client: redis::Client,
    connection: Mutex<ConnectionManager>,
    patience: Duration,
    breaker: Option<Breaker>,
    script: Script,
    metrics: BlogMetrics,
}

impl Cache {
    /// The cache at an address, for those for whom somebody waits: they ask for a moment only, and not at all while Redis does not answer.
    /// Nothing is asked yet, and Redis need not be there.
    pub fn for_readers(address: &RedisAddress, metrics: BlogMetrics) -> Result<Self, BadRedis> {
        Self::open(address, READERS_PATIENCE, Some(Breaker::default()), metrics)
    }

    /// The cache at an address, for those for whom nobody waits: they ask until they have an answer.
    pub fn for_fillers(address: &RedisAddress, metrics: BlogMetrics) -> Result<Self, BadRedis> {
        Self::open(address, FILLERS_PATIENCE, None, metrics)
    }

    fn open(
        address: &RedisAddress,
        patience: Duration,
        breaker: Option<Breaker>,
        metrics: BlogMetrics,
    ) -> Result<Self, BadRedis> {
        let client = address.client()?;
        let connection = Mutex::new(connect(&client, patience)?);
        let script = Script::new(include_str!("put.lua"));
        Ok(Self { client, connection, patience, breaker, script, metrics })
    }

    /// What is known of a slug. `None`: nothing that can be believed, or Redis does not answer.
    pub async fn get(&self, slug: &str) -> Option<State> {
        type Fields = (Option<Vec<u8>>, Option<Vec<u8>>);
        let ask = async |mut connection: ConnectionManager| -> RedisResult<Fields> {
            redis::cmd("HMGET").arg(key(slug)).arg(&["version", "entry"]).query_async(&mut connection).await
        };
        let (found, came) = match self.ask(ask).await {
            Ok((Some(version), Some(entry))) => match read(slug, &version, &entry) {
                Some(state) => (Some(state), LookUp::Hit),
                None => (None, LookUp::Spoiled),
            },
            Ok((None, None)) => (None, LookUp::Miss),
            Ok(_) => (None, LookUp::Spoiled),
            // Something is there, and it is no hash.
            Err(CacheError::Redis(error)) if error.code() == Some("WRONGTYPE") => (None, LookUp::Spoiled),
            Err(CacheError::Resting) => (None, LookUp::Skipped),
            Err(error) => {
                tracing::debug!(%error, "the cache was not read");
                (None, LookUp::Error)
            }
        };
        self.metrics.looked_up(came);
        found
    }

    /// Puts what is known of a slug, unless something newer is there.
    pub async fn put(&self, slug: &str, state: &State) -> Result<Put, CacheError> {
        let entry = encode(slug, state)?;
        let put = match self.run_script(&entry).await {
            Err(CacheError::Redis(error)) if is_full(&error) => {
                // What is there may be older, and would be believed.
                self.drop_entry(&entry.key).await.map(|()| Put::NoRoom)
            }
            put => put,
        };
        self.metrics.put(match &put {
            Ok(Put::Done) => PutIn::Put,
            Ok(Put::Older) => PutIn::Older,
            Ok(Put::NoRoom) => PutIn::NoRoom,
            Err(CacheError::Resting) => PutIn::Skipped,
            Err(_) => PutIn::Error,
        });
        put
    }

    async fn run_script(&self, entry: &Entry) -> Result<Put, CacheError> {
        let kept = entry.kept.mul_f64(rand::rng().random_range(1.0 - JITTER..=1.0 + JITTER));
        let mut invocation = self.script.key(&entry.key);
        invocation.arg(entry.version).arg(&entry.entry).arg(u64::try_from(kept.as_millis()).unwrap_or(u64::MAX));
        let ask = async |mut connection: ConnectionManager| invocation.invoke_async::<i64>(&mut connection).await;
        Ok(if self.ask(ask).await? == 1 { Put::Done } else { Put::Older })
    }

    async fn drop_entry(&self, key: &str) -> Result<(), CacheError> {
        let ask = async |mut connection: ConnectionManager| -> RedisResult<()> {
            redis::cmd("DEL").arg(key).query_async(&mut connection).await
        };
        self.ask(ask).await
    }

    /// Asks Redis, if it has answered lately, and not for long.
    async fn ask<T>(&self, ask: impl AsyncFnOnce(ConnectionManager) -> RedisResult<T>) -> Result<T, CacheError> {
        if self.breaker.as_ref().is_some_and(|breaker| !breaker.lets_through(Instant::now())) {
            return Err(CacheError::Resting);
        }
        let connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let asked = match tokio::time::timeout(self.patience, ask(connection)).await {
            Ok(answer) => answer.map_err(CacheError::from),
            Err(_) => Err(CacheError::Slow(self.patience)),
        };
        match asked.as_ref().err().filter(|error| is_away(error)) {
            Some(error) => self.is_away(error),
            None => self.breaker.iter().for_each(Breaker::answered),
        }
        asked
    }

    fn is_away(&self, error: &CacheError) {
        if self.breaker.as_ref().is_some_and(|breaker| breaker.failed(Instant::now())) {
            tracing::warn!(%error, "Redis is left alone; posts are read from their shards");
        }
        // A connection that is lost is made anew by the library; one that was refused, for a password or because Redis is just
        // starting, stays refused.
        if let CacheError::Redis(error) = error
            && !error.is_io_error()
            && let Ok(fresh) = connect(&self.client, self.patience)
        {
            *self.connection.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
    }
}

fn connect(client: &redis::Client, patience: Duration) -> RedisResult<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(Some(patience))
        // Whoever asks next tries again, so nothing need be tried meanwhile.
        .set_number_of_retries(0);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

fn read(slug: &str, version: &[u8], entry: &[u8]) -> Option<State> {
    decode(slug, std::str::from_utf8(version).ok()?, std::str::from_utf8(entry).ok()?)
}

/// Whether an error means that it would say the same of anything else. What it says of one command is an answer.
fn is_away(error: &CacheError) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown};
    match error {
        CacheError::Resting | CacheError::Json(_) => false,
        CacheError::Slow(_) => true,
        CacheError::Redis(error) => match error.kind() {
            ErrorKind::Server(kind) => matches!(kind, BusyLoading | ClusterDown | MasterDown),
            ErrorKind::Extension => false,
            _ => true,
        },
    }
}

/// Whether there is no room.
fn is_full(error: &RedisError) -> bool {
    error.code() == Some("OOM")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bad_address_is_told_without_its_password() {
        let open = |uri: &str| match Cache::for_readers(&RedisAddress::at(uri), BlogMetrics::new().unwrap()) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        assert!(open("").contains("SHARDLANE_REDIS_URI"));
        for bad in ["http://:hunter2@redis", "redis://:hunter2@", "rediss://:hunter2@host:port"] {
            let told = open(bad);
            assert!(told.contains("redis://host:6379") && !told.contains("hunter2"), "{told}");
        }
        assert_eq!(open("redis://:hunter2@redis:6379/1\n"), "");
        assert_eq!(open("rediss://user:hunter2@redis"), "");
    }

    #[tokio::test]
    async fn what_answers_like_no_redis_is_an_error_and_nothing_else() {
        for scheme in ["redis", "rediss"] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let uri = format!("{scheme}://127.0.0.1:{}", listener.local_addr().unwrap().port());
            let other = tokio::spawn(async move {
                while let Ok((mut connection, _)) = listener.accept().await {
                    let _ =
                        tokio::io::AsyncWriteExt::write_all(&mut connection, b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                }
            });
            let metrics = BlogMetrics::new().unwrap();
            let cache = Cache::for_fillers(&RedisAddress::at(&uri), metrics.clone()).unwrap();
            assert_eq!(cache.get("a").await, None);
            assert!(cache.put("a", &None).await.is_err(), "{scheme}");
            other.abort();
        }
    }
}
