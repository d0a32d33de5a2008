//! Connections to a shard, with the time-outs that keep a worker that is cut off from holding the fence.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgConnection, PgPool};

/// Longest that one step on a shard may take before the loop starts anew.
pub const STEP: Duration = Duration::from_secs(15);

/// Parameters of a URI that mean something
/// ([the client library's](https://docs.rs/sqlx/latest/sqlx/postgres/struct.PgConnectOptions.html)).
const PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

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
    /// Reads `postgresql://user:password@host:port/database`, with `?sslmode=` and `sslrootcert=` as libpq has them. Of what it does
    /// not know it logs the name.
    pub fn parse(uri: &str) -> Result<Self, BadAddress> {
        let (uri, unknown) = without_unknown(uri.trim());
        if !unknown.is_empty() {
            tracing::warn!(?unknown, "the Postgres URI has parameters that mean nothing here");
        }
        let options = PgConnectOptions::from_str(&uri).map_err(|error| BadAddress(error.to_string()))?;
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

/// A URI without parameters that mean nothing, and their names: the client library would log each with its value, and some that others
/// know are secret, as `sslpassword` is.
fn without_unknown(uri: &str) -> (String, Vec<&str>) {
    let Some((address, query)) = uri.split_once('?') else { return (uri.to_owned(), Vec::new()) };
    let is_known = |pair: &&str| {
        let name = name_of(pair);
        PARAMETERS.contains(&name) || name.starts_with("options[") || name.starts_with("options%5B")
    };
    let (known, unknown): (Vec<_>, Vec<_>) = query.split('&').filter(|pair| !pair.is_empty()).partition(is_known);
    let unknown = unknown.into_iter().map(name_of).collect();
    (if known.is_empty() { address.to_owned() } else { format!("{address}?{}", known.join("&")) }, unknown)
}

fn name_of(parameter: &str) -> &str {
    parameter.split_once('=').map_or(parameter, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_that_means_nothing_is_left_out_and_only_named() {
        let address = "postgresql://demo:hunter2@shard:5432/demo";
        assert_eq!(without_unknown(address), (address.to_owned(), vec![]));
        let known = format!("{address}?sslmode=require&sslrootcert=/ca&options[a]=b&options%5Bc%5D=d");
        assert_eq!(without_unknown(&known), (known.clone(), vec![]));
        let some = format!("{address}?sslpassword=hunter3&sslmode=require&channel_binding&&x=y=z");
        let expected = (format!("{address}?sslmode=require"), vec!["sslpassword", "channel_binding", "x"]);
        assert_eq!(without_unknown(&some), expected);
        assert_eq!(
            without_unknown(&format!("{address}?sslpassword=hunter3")),
            (address.to_owned(), vec!["sslpassword"])
        );
    }
}
