//! One operator at work, however many run: the one that holds the Lease.

use kube::Client;
use kube_lease_manager::{DurationSeconds, LeaseManagerBuilder, LeaseManagerError};
use tokio::signal::unix::{SignalKind, signal};

/// How long a Lease is good for after it was last renewed: so long may it take until another operator takes over from one that
/// was lost. One that ends well gives it back.
const DURATION: DurationSeconds = 15;
/// How long before that it is renewed.
const GRACE: DurationSeconds = 8;

/// The Lease.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Its namespace: the operator's own.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who wants it.
    pub holder: String,
}

/// How leading ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The work is done.
    Done,
    /// Somebody else has the Lease, or it could not be renewed in time.
    Lost,
}

/// Why nobody can lead.
#[derive(Debug, thiserror::Error)]
pub enum LeadError {
    /// The Lease cannot be had.
    #[error("cannot take part in choosing a leader: {0}")]
    Lease(#[from] LeaseManagerError),
    /// Signals cannot be seen.
    #[error("cannot see signals: {0}")]
    Signals(#[from] std::io::Error),
}

/// Waits for the Lease, then works until the work ends or the Lease is lost.
pub async fn lead(client: &Client, lease: &Lease, work: impl AsyncFnOnce()) -> Result<Ended, LeadError> {
    let manager = LeaseManagerBuilder::new(client.clone(), &lease.name)
        .with_namespace(&lease.namespace)
        .with_identity(&lease.holder)
        .with_field_manager(format!("shardlane-{}", lease.holder))
        .with_duration(DURATION)
        .with_grace(GRACE)
        .build()
        .await?;
    let (mut leads, task) = manager.watch().await;
    tracing::info!(lease = lease.name, holder = lease.holder, "waiting for the Lease");
    // Whoever works sees signals itself, and takes its time over them.
    let begins = tokio::select! {
        stop = signalled() => stop.map(|()| false)?,
        led = leads.wait_for(|leads| *leads) => led.is_ok(),
    };
    let mut ended = Ended::Done;
    if begins {
        tracing::info!("leading");
        tokio::select! {
            () = work() => {}
            _ = leads.wait_for(|leads| !leads) => ended = Ended::Lost,
        }
    }
    // Gives the Lease back, so that the next one need not wait for its end.
    drop(leads);
    if let Ok(Err(error)) = task.await {
        tracing::warn!(%error, "the Lease was not given back");
    }
    Ok(ended)
}

async fn signalled() -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    Ok(())
}
