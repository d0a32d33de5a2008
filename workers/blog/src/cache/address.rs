//! Where Redis is. The address may hold a password, so it is never told.

use std::time::Duration;

use redis::io::tcp::{TcpSettings, socket2};
use redis::{Client, IntoConnectionInfo, RedisError, TlsCertificates};

/// After how long a connection is given up whose other end says nothing at all.
const SILENCE: Duration = Duration::from_secs(5);

/// Where Redis is, and how it is known there.
#[derive(clap::Args, Clone, Default)]
pub struct RedisAddress {
    /// The cache, for those who use it: redis://host:6379 or rediss://user:password@host:6379.
    #[arg(long, global = true, env = "SHARDLANE_REDIS_URI", hide_env_values = true)]
    redis_uri: Option<String>,
    /// Certificates, as PEM, by which that of a rediss:// address must be signed; the public authorities' if absent.
    #[arg(long, global = true, env = "SHARDLANE_REDIS_CA", hide_env_values = true)]
    redis_ca: Option<String>,
}

/// Why an address of Redis cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadRedis {
    /// There is none.
    #[error(
        "say where Redis is: --redis-uri or SHARDLANE_REDIS_URI, redis://host:6379 or rediss://user:password@host:6379"
    )]
    Missing,
    /// It is none.
    #[error("the address of Redis is not one like redis://host:6379 or rediss://user:password@host:6379: {0}")]
    Malformed(&'static str),
    /// A client could not be made.
    #[error("cannot make a Redis client: {0}")]
    Client(#[from] RedisError),
}

impl RedisAddress {
    /// This address, trusting the public authorities.
    pub fn at(uri: &str) -> Self {
        Self { redis_uri: Some(uri.to_owned()), redis_ca: None }
    }

    /// A client of what is there. Nothing is asked yet.
    pub(super) fn client(&self) -> Result<Client, BadRedis> {
        let uri = self.redis_uri.as_deref().map(str::trim).filter(|uri| !uri.is_empty()).ok_or(BadRedis::Missing)?;
        if !uri.starts_with("redis://") && !uri.starts_with("rediss://") {
            return Err(BadRedis::Malformed("it begins with neither redis:// nor rediss://"));
        }
        let keepalive = socket2::TcpKeepalive::new().with_time(SILENCE).with_interval(SILENCE);
        let tcp = TcpSettings::default().set_nodelay(true).set_user_timeout(SILENCE).set_keepalive(keepalive);
        let info = uri.into_connection_info().map_err(|_| BadRedis::Malformed("it is no URI"))?.set_tcp_settings(tcp);
        let authority = self.redis_ca.as_deref().map(str::trim).filter(|pem| !pem.is_empty());
        Ok(match authority.filter(|_| uri.starts_with("rediss://")) {
            Some(pem) => {
                let root_cert = Some(pem.as_bytes().to_vec());
                Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })?
            }
            None => Client::open(info)?,
        })
    }
}
