//! What the tests on real servers and real clusters share.

pub mod cluster;
pub mod forward;
pub mod plain;
pub mod signups;
pub mod topic;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Waits for a condition, asking twenty times a second; fails with the last reason.
pub async fn until<T, F: Future<Output = Result<T>>>(patience: Duration, mut ask: impl FnMut() -> F) -> Result<T> {
    let end = Instant::now() + patience;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() >= end => return Err(error.context("waited in vain")),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// An environment variable that `make test` sets.
pub fn setting(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set: run this test through `make test`"))
}

/// A port of the loopback that is free now.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Fails with what was expected and found.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<()> {
    if found != expected {
        bail!("{what}: found {found:?}, expected {expected:?}");
    }
    Ok(())
}
