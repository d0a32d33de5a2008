//! Trying again for as long as that may help.

use shardlane_runtime::process::{Backoff, with_causes};

/// An error that may pass.
pub trait Passing: std::error::Error {
    /// Whether it is worth trying again without anybody doing anything.
    fn passes(&self) -> bool;
}

/// Tries until it is done, or fails for a reason that does not pass by itself; `waits` is told of those that may.
pub async fn patiently<E: Passing>(attempt: impl AsyncFn() -> Result<(), E>, waits: impl Fn(String)) -> Result<(), E> {
    let mut backoff = Backoff::default();
    loop {
        match attempt().await {
            Err(error) if error.passes() => {
                let reason = with_causes(&error);
                tracing::warn!(reason, "not yet; trying again");
                waits(reason);
                tokio::time::sleep(backoff.wait()).await;
            }
            result => return result,
        }
    }
}
