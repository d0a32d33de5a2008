//! Whether a process does its work, and if not, why: for probes, for people, and for the log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use crate::metrics::Metrics;

/// How often it is seen whether a part is ready that somebody waits for.
const GLANCE: Duration = Duration::from_millis(5);

/// Readiness with its reasons, shared by everything in a process.
#[derive(Clone, Debug)]
pub struct Health {
    waiting: Arc<Mutex<BTreeMap<&'static str, String>>>,
    aside: Arc<Mutex<Aside>>,
    metrics: Arc<Metrics>,
}

/// What is wrong and stops only a part of the work, so that the process is ready all the same.
#[derive(Debug, Default)]
struct Aside {
    /// Slots that are not worked on, and why.
    halted: BTreeMap<u32, String>,
    /// What a person should know.
    notices: Vec<String>,
    /// What this kind of process says besides.
    besides: BTreeMap<&'static str, serde_json::Value>,
}

impl Health {
    /// Not ready before each of these parts has said that it is.
    pub fn starting(metrics: Arc<Metrics>, parts: &[&'static str]) -> Self {
        let waiting = parts.iter().map(|part| (*part, "starting".to_owned())).collect();
        Self { waiting: Arc::new(Mutex::new(waiting)), aside: Arc::default(), metrics }
    }

    /// A part does its work.
    pub fn ready(&self, part: &'static str) {
        let Ok(mut waiting) = self.waiting.lock() else { return };
        if waiting.remove(part).is_some() && waiting.is_empty() {
            tracing::info!("ready");
            self.metrics.set_ready(true);
        }
    }

    /// A part waits for something; the reason is logged when it changes.
    pub fn waiting_for(&self, part: &'static str, reason: impl Into<String>) {
        let reason = reason.into();
        let Ok(mut waiting) = self.waiting.lock() else { return };
        if waiting.get(part) != Some(&reason) {
            tracing::warn!(part, reason, "not ready");
            self.metrics.set_ready(false);
            waiting.insert(part, reason);
        }
    }

    /// These slots are halted, and no others.
    pub fn halt_only(&self, halted: BTreeMap<u32, String>) {
        let Ok(mut aside) = self.aside.lock() else { return };
        for (slot, reason) in halted.iter().filter(|(slot, reason)| aside.halted.get(slot) != Some(reason)) {
            tracing::error!(slot, reason, "slot halted");
        }
        aside.halted = halted;
        self.metrics.halted(aside.halted.len());
    }

    /// This slot is halted too.
    pub fn halt(&self, slot: u32, reason: String) {
        let Ok(mut aside) = self.aside.lock() else { return };
        tracing::error!(slot, reason, "slot halted");
        aside.halted.insert(slot, reason);
        self.metrics.halted(aside.halted.len());
    }

    /// The halted slots, and why.
    pub fn halted(&self) -> BTreeMap<u32, String> {
        self.aside.lock().map(|aside| aside.halted.clone()).unwrap_or_default()
    }

    /// What a person should know now, instead of what was told before.
    pub fn note(&self, notices: Vec<String>) {
        let Ok(mut aside) = self.aside.lock() else { return };
        for notice in notices.iter().filter(|notice| !aside.notices.contains(notice)) {
            tracing::warn!("{notice}");
        }
        aside.notices = notices;
    }

    /// What the process waits for; `None` if it is ready.
    pub fn reason(&self) -> Option<String> {
        let Ok(waiting) = self.waiting.lock() else { return Some("a part of the process has failed".to_owned()) };
        let reasons: Vec<_> = waiting.iter().map(|(part, reason)| format!("{part}: {reason}")).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// Waits until a part does its work, or is none of the process.
    pub async fn part_is_ready(&self, part: &'static str) {
        while self.waiting.lock().is_ok_and(|waiting| waiting.contains_key(part)) {
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// What `/status` says besides, under a name of its own.
    pub fn tell(&self, name: &'static str, what: serde_json::Value) {
        if let Ok(mut aside) = self.aside.lock() {
            aside.besides.insert(name, what);
        }
    }

    /// Waits until the process is ready; `false` if it takes longer than this.
    pub async fn wait_until_ready(&self, patience: Duration) -> bool {
        let ready = async {
            while self.reason().is_some() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(patience, ready).await.is_ok()
    }

    /// `/healthz`, `/readyz` and `/metrics`.
    pub fn probes(&self) -> Router {
        Router::new()
            .route("/healthz", get(async || "ok"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self.clone())
    }

    /// The probes and `/status`, which tells more than everybody need know.
    pub fn routes(&self) -> Router {
        self.probes().merge(Router::new().route("/status", get(status)).with_state(self.clone()))
    }
}

async fn readyz(State(health): State<Health>) -> impl IntoResponse {
    match health.reason() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], health.metrics.render())
}

async fn status(State(health): State<Health>) -> impl IntoResponse {
    let slots: Vec<_> = health
        .metrics
        .progress()
        .into_iter()
        .map(|(slot, p)| json!({ "slot": slot, "nextOffset": p.next_offset, "logEnd": p.log_end, "lag": p.lag() }))
        .collect();
    let waiting_for = health.reason();
    let of = |aside: &Aside| (aside.halted.clone(), aside.notices.clone(), aside.besides.clone());
    let (halted, notices, besides) = health.aside.lock().map(|aside| of(&aside)).unwrap_or_default();
    let halted: Vec<_> = halted.iter().map(|(slot, reason)| json!({ "slot": slot, "reason": reason })).collect();
    let mut status = json!({
        "ready": waiting_for.is_none(),
        "waitingFor": waiting_for,
        "halted": halted,
        "notices": notices,
        "slots": slots,
    });
    for (name, what) in besides {
        status[name] = what;
    }
    Json(status)
}
