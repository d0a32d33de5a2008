//! Connections to a shard, with the time-outs that keep a worker that is cut off from holding the fence.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgConnection, PgPool};

/// Longest that one step on a shard may take before the loop starts anew.
pub const STEP: Duration = Duration::from_secs(15);

/// How to reach a shard. Its `Debug` shows no password.
#[derive(Clone)]
pub struct ShardAddress(PgConnectOptions);

impl std::fmt::Debug for ShardAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.0.get_host(), self.0.get_port())
    }
}

/// The address of a shard is not one.
#[derive(Debug, thiserror::Error)]
#[error("the Postgres URI is malformed ({0}); it looks like postgresql://user:password@host:5432/database")]
pub struct BadAddress(String);

impl ShardAddress {
    /// Reads `postgresql://user:password@host:port/database`, with `?sslmode=` and `sslrootcert=` as libpq has them.
    pub fn parse(uri: &str) -> Result<Self, BadAddress> {
        let options = PgConnectOptions::from_str(uri.trim()).map_err(|error| BadAddress(error.to_string()))?;
        Ok(Self(
            options
                .application_name("shardlane")
                .options([
                    // The server frees the fence row of a worker that is cut off in the middle of a batch.
                    ("idle_in_transaction_session_timeout", "10s"),
                    ("tcp_user_timeout", "10s"),
                    ("statement_timeout", "12s"),
                    // Short statements: compiling one would take longer than running it.
                    ("jit", "off"),
                ])
                .disable_statement_logging(),
        ))
    }

    /// One connection.
    pub async fn connect(&self) -> sqlx::Result<PgConnection> {
        within(self.0.connect()).await
    }

    /// A few connections for reading, made when they are needed.
    pub fn pool(&self) -> PgPool {
        PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy_with(self.0.clone())
    }
}

/// Bounds a step, because a network that is cut says nothing.
pub async fn within<T, E: From<sqlx::Error>>(step: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    match tokio::time::timeout(STEP, step).await {
        Ok(result) => result,
        Err(_) => {
            let error = std::io::Error::new(std::io::ErrorKind::TimedOut, "Postgres has not answered for 15 seconds");
            Err(sqlx::Error::Io(error).into())
        }
    }
}
