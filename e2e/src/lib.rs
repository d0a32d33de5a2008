//! What the tests on real servers and real clusters share.

#[cfg(feature = "operator")]
pub mod browser;
#[cfg(feature = "operator")]
pub mod cluster;
#[cfg(feature = "operator")]
pub mod control_plane;
#[cfg(feature = "operator")]
pub mod crashes;
pub mod direct;
pub mod dying;
#[cfg(feature = "operator")]
pub mod faults;
#[cfg(feature = "operator")]
pub mod forward;
pub mod increments;
pub mod load;
pub mod movers;
pub mod plain;
pub mod postgres;
pub mod posts;
#[cfg(feature = "operator")]
pub mod reshard;
pub mod signups;
#[cfg(feature = "operator")]
mod spec;
#[cfg(feature = "operator")]
pub mod stand_in;
#[cfg(feature = "operator")]
pub mod told;
pub mod topic;
pub mod transfers;

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};
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

/// An environment variable that the scripts set.
pub fn setting(name: &str) -> Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set: run this through `make test` or `make bench`"))
}

/// Sends a process a signal, unless it has ended.
pub async fn signal(pid: Option<u32>, name: &str) -> Result<()> {
    let pid = pid.context("it has ended")?.to_string();
    let sent = tokio::process::Command::new("kill").args([&format!("-{name}"), &pid]).status().await?;
    if sent.success() { Ok(()) } else { bail!("cannot signal {pid}") }
}

/// The first of ten free ports of the loopback, a multiple of ten, given to nobody else of this process.
///
/// They lie below those that the system gives to outgoing connections (from 32768 on Linux): one of these may be taken
/// by any connection between being found free and being listened on.
pub fn free_ports() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const TENS: u16 = 2_000;
    // Another run on this machine most likely begins elsewhere.
    let offset = u16::try_from(std::process::id() % u32::from(TENS))?;
    for _ in 0..TENS {
        let first = 10_000 + (offset + NEXT.fetch_add(1, Ordering::Relaxed)) % TENS * 10;
        if (first..first + 10).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return Ok(first);
        }
    }
    bail!("no ten ports in a row are free between 10000 and 30000")
}

/// The value of a metric in the text that Prometheus reads, with its labels if it has any.
pub fn metric_of(text: &str, name: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no metric {name}"))?.parse()?)
}

/// Fails with what was expected and found.
pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<()> {
    if found != expected {
        bail!("{what}: found {found:?}, expected {expected:?}");
    }
    Ok(())
}
