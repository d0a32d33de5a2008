//! What every process does alike: logs, signals, and the way it ends.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// Port on which probes, metrics and status are served.
pub const METRICS_PORT: u16 = 9090;
/// Port on which a gateway serves its users, and a worker its gateways.
pub const HTTP_PORT: u16 = 8080;

/// Where a process is found.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// For users, or for gateways at a worker.
    pub http: u16,
    /// For probes and metrics.
    pub metrics: u16,
}

/// Starts logging: lines for a person at a terminal, JSON elsewhere. `RUST_LOG` filters as usual.
pub fn init_logs() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() { logs.init() } else { logs.json().flatten_event(true).init() }
}

/// A signal to stop, seen by everything that holds a receiver.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Comes with SIGTERM or SIGINT.
    pub fn on_signal() -> std::io::Result<Self> {
        let (sender, shutdown) = Self::by_hand();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::spawn(async move {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            tracing::info!("stopping");
            let _ = sender.send(true);
            // Keeps the channel open for as long as anybody looks at it.
            sender.closed().await;
        });
        Ok(shutdown)
    }

    /// Comes when the sender says so, or is dropped.
    pub fn by_hand() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Whether it has come.
    pub fn has_come(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Waits for it.
    pub async fn wait(&mut self) {
        let _ = self.0.wait_for(|stop| *stop).await;
    }
}

/// Serves routes until the shutdown, and lets requests in hand finish.
pub async fn serve(port: u16, routes: Router, mut shutdown: Shutdown) -> std::io::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port)))
        .await
        .map_err(|error| std::io::Error::new(error.kind(), format!("cannot listen on port {port}: {error}")))?;
    // Who asks is known to those that limit clients.
    let routes = routes.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, routes).with_graceful_shutdown(async move { shutdown.wait().await }).await
}

/// The time now, in milliseconds since 1970, as records have it.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Ends a process with a message that a person can act on.
pub fn finish<E: std::error::Error>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and what caused it, on one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

/// Waits that grow: 100 ms, doubled up to 5 s, less a random part so that many do not come back at once.
#[derive(Debug, Default)]
pub struct Backoff(u32);

impl Backoff {
    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        let longest = Duration::from_millis(100 << self.0.min(6)).min(Duration::from_secs(5));
        self.0 += 1;
        longest.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// Something went well.
    pub fn reset(&mut self) {
        self.0 = 0;
    }
}
