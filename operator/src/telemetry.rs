//! What the operator tells probes and Prometheus.

use std::net::SocketAddr;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use prometheus::{Encoder, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};
use tokio::net::TcpListener;

use crate::api::status::{ReshardPhase, ServiceStatus};
use crate::watched::ServiceKey;

/// What says which service it is.
const SERVICE: [&str; 3] = ["kind", "namespace", "name"];

fn labels(service: &ServiceKey) -> [&str; 3] {
    [&service.kind, &service.namespace, &service.name]
}

/// Counts of the operator's work.
#[derive(Clone, Debug)]
pub struct Telemetry {
    registry: Registry,
    turns: IntCounterVec,
    partitions: IntGaugeVec,
    ready: IntGaugeVec,
    resharding: IntGaugeVec,
}

impl Telemetry {
    /// Nothing counted yet.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let options = Opts::new("shardlane_operator_reconciles_total", "Turns of the controllers, by how they ended.");
        let turns = IntCounterVec::new(options, &["kind", "result"])?;
        registry.register(Box::new(turns.clone()))?;
        let gauges = |name: &str, help: &str| {
            let gauges = IntGaugeVec::new(Opts::new(format!("shardlane_service_{name}"), help), &SERVICE)?;
            registry.register(Box::new(gauges.clone()))?;
            Ok::<_, prometheus::Error>(gauges)
        };
        let partitions = gauges("partitions", "Partitions that a service should have; in a move, those with slots.")?;
        let ready = gauges("partitions_ready", "Partitions of a service whose worker is ready.")?;
        let help = "Whether slots of a service have yet to be moved: 1, or 0 if none have, or it is paused.";
        let resharding = gauges("resharding", help)?;
        Ok(Self { registry, turns, partitions, ready, resharding })
    }

    /// Counts a turn.
    pub fn turned(&self, kind: &str, well: bool) {
        self.turns.with_label_values(&[kind, if well { "ok" } else { "error" }]).inc();
    }

    /// How a service fares.
    pub fn fares(&self, service: &ServiceKey, wanted: u32, status: &ServiceStatus) {
        let (partitions, ready) = status.due(wanted);
        self.partitions.with_label_values(&labels(service)).set(partitions.into());
        self.ready.with_label_values(&labels(service)).set(ready.into());
        let moves = status.reshard.as_ref().map(|reshard| reshard.phase);
        let moves = moves.is_some_and(|phase| !matches!(phase, ReshardPhase::Cleaning | ReshardPhase::Paused));
        self.resharding.with_label_values(&labels(service)).set(moves.into());
    }

    /// A service is gone.
    pub fn forget(&self, service: &ServiceKey) {
        // It may never have been told of.
        let _ = self.partitions.remove_label_values(&labels(service));
        let _ = self.ready.remove_label_values(&labels(service));
        let _ = self.resharding.remove_label_values(&labels(service));
    }

    /// Serves probes and metrics at a port for as long as the process lives.
    pub async fn serve(self, port: u16) -> std::io::Result<()> {
        let routes = Router::new().route("/healthz", get(async || "ok")).route("/readyz", get(async || "ok")).route(
            "/metrics",
            get(async move || ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], self.render())),
        );
        let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).await?;
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
