//! Counting what comes in and what is refused, wherever it is refused.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use prometheus::{IntCounter, IntCounterVec, Registry};
use shardlane_runtime::metrics::{counter, counters};

/// What came in.
pub struct Tally {
    received: IntCounter,
    rejected: IntCounterVec,
}

impl Tally {
    /// Counts, shown in this registry.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let refused = "Requests for increments that were refused.";
        Ok(Self {
            received: counter(registry, "increments_received_total", "Increments that Kafka has confirmed.")?,
            rejected: counters(registry, "increments_rejected_total", refused, "reason")?,
        })
    }

    /// Kafka has so many more.
    pub fn received(&self, increments: usize) {
        self.received.inc_by(increments as u64);
    }
}

/// Counts what these routes refuse, and what stands before them.
pub fn counted(tally: Arc<Tally>, routes: Router) -> Router {
    routes.layer(from_fn_with_state(tally, count))
}

async fn count(State(tally): State<Arc<Tally>>, request: Request, next: Next) -> Response {
    let asked = request.method() == Method::POST;
    let response = next.run(request).await;
    if asked && let Some(reason) = reason(response.status()) {
        tally.rejected.with_label_values(&[reason]).inc();
    }
    response
}

fn reason(status: StatusCode) -> Option<&'static str> {
    match status {
        status if status.is_success() => None,
        StatusCode::BAD_REQUEST => Some("bad_request"),
        StatusCode::UNAUTHORIZED => Some("unauthorized"),
        StatusCode::PAYLOAD_TOO_LARGE => Some("too_large"),
        StatusCode::TOO_MANY_REQUESTS => Some("too_many"),
        StatusCode::SERVICE_UNAVAILABLE => Some("unavailable"),
        _ => Some("other"),
    }
}
