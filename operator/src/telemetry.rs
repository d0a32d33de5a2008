//! What the operator tells probes and Prometheus.

use std::net::SocketAddr;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use prometheus::{Encoder, IntCounterVec, Opts, Registry, TextEncoder};
use tokio::net::TcpListener;

/// Port of probes and metrics.
const PORT: u16 = 9090;

/// Counts of the operator's work.
#[derive(Clone, Debug)]
pub struct Telemetry {
    registry: Registry,
    turns: IntCounterVec,
}

impl Telemetry {
    /// Nothing counted yet.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let options = Opts::new("shardlane_operator_reconciles_total", "Turns of the controllers, by how they ended.");
        let turns = IntCounterVec::new(options, &["kind", "result"])?;
        registry.register(Box::new(turns.clone()))?;
        Ok(Self { registry, turns })
    }

    /// Counts a turn.
    pub fn turned(&self, kind: &str, well: bool) {
        self.turns.with_label_values(&[kind, if well { "ok" } else { "error" }]).inc();
    }

    /// Serves probes and metrics for as long as the process lives.
    pub async fn serve(self) -> std::io::Result<()> {
        let routes = Router::new().route("/healthz", get(async || "ok")).route("/readyz", get(async || "ok")).route(
            "/metrics",
            get(async move || ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], self.render())),
        );
        let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], PORT))).await?;
        axum::serve(listener, routes).await
    }

    fn render(&self) -> String {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("# metrics cannot be shown: {error}\n"),
        }
    }
}
