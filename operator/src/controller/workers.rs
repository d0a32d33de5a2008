//! What workers and movers say of themselves, asked over HTTP: the API server knows only whether they are ready.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::Deserialize;

/// Port of a worker's probes, metrics and status.
const PORT: u16 = 9090;
/// How long a worker may take to answer. One that takes longer is unknown, and asked again in the next turn.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many are asked at once.
const AT_ONCE: usize = 128;
/// No answer is longer: a thousand slots fit in it several times.
const LONGEST: usize = 1 << 20;

/// What a worker says of itself. What it does not say is not so: workers may be older or newer than the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkerStatus {
    /// Whether it does its work.
    pub ready: bool,
    /// If not, what it waits for.
    pub waiting_for: Option<String>,
    /// Slots that it cannot go on with until somebody acts, while it goes on with the others.
    pub halted: Vec<HaltedSlot>,
    /// What a person should know and what stops nothing.
    pub notices: Vec<String>,
    /// Slots that it works on.
    pub slots: Vec<OwnSlot>,
    /// Of a mover, how far it is.
    pub reshard: Option<MoverReport>,
}

/// A slot that a worker works on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct OwnSlot {
    /// Its number.
    pub slot: u32,
}

/// How far a mover is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MoverReport {
    /// `planning`, `moving` or `cleaning`.
    pub phase: String,
    /// Slots that it has moved or has yet to move.
    pub slots_total: u32,
    /// Those of them that it has moved.
    pub slots_moved: u32,
    /// A group of slots that it could not move, and moves again.
    pub problem: Option<MoveProblem>,
}

/// Why a group of slots could not be moved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct MoveProblem {
    /// What was found.
    pub message: String,
}

/// A slot that stands still until somebody acts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct HaltedSlot {
    /// Its number.
    pub slot: u32,
    /// What happened, and what to do.
    pub reason: String,
}

/// Asks workers. Without a proxy: their addresses are the cluster's own.
pub fn client() -> reqwest::Result<reqwest::Client> {
    let redirects = reqwest::redirect::Policy::none();
    reqwest::Client::builder().timeout(PATIENCE).no_proxy().redirect(redirects).build()
}

/// Asks the pods, all at once; the answers by the pod's name. Who does not answer is not among them.
pub async fn ask<'a>(http: &reqwest::Client, pods: impl Iterator<Item = &'a Pod>) -> BTreeMap<String, WorkerStatus> {
    let addresses: Vec<_> = pods.filter_map(|pod| Some((pod.name_any(), address(pod)?))).collect();
    let asked = stream::iter(addresses).map(async |(name, address)| match ask_one(http, address).await {
        Ok(status) => Some((name, status)),
        Err(error) => {
            tracing::debug!(pod = name, %error, "a worker does not say how it is");
            None
        }
    });
    asked.buffer_unordered(AT_ONCE).filter_map(async |answer| answer).collect().await
}

/// Where a pod answers; `None` while it has no address, or no longer.
fn address(pod: &Pod) -> Option<SocketAddr> {
    let status = pod.status.as_ref()?;
    let running = status.phase.as_deref() == Some("Running");
    let ip: IpAddr = status.pod_ip.as_ref().filter(|_| running)?.parse().ok()?;
    Some(SocketAddr::new(ip, PORT))
}

#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error(transparent)]
    Http(#[from] reqwest::Error),
    #[error("its answer is longer than {LONGEST} bytes")]
    Long,
    #[error("its answer is no status: {0}")]
    Json(#[from] serde_json::Error),
}

async fn ask_one(http: &reqwest::Client, address: SocketAddr) -> Result<WorkerStatus, AskError> {
    let mut answer = http.get(format!("http://{address}/status")).send().await?.error_for_status()?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > LONGEST {
            return Err(AskError::Long);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(serde_json::from_slice(&body)?)
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use serde_json::json;

    use super::*;

    fn pod(phase: &str, ip: &str) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "demo-0-0" }, "status": { "phase": phase, "podIP": ip } }))
            .unwrap()
    }

    #[test]
    fn a_pod_is_asked_while_it_runs_and_has_an_address() {
        assert_eq!(address(&pod("Running", "10.1.2.3")).unwrap().to_string(), "10.1.2.3:9090");
        assert_eq!(address(&pod("Running", "fd00::1")).unwrap().to_string(), "[fd00::1]:9090");
        assert_eq!(address(&pod("Succeeded", "10.1.2.3")), None);
        assert_eq!(address(&Pod::default()), None);
    }

    #[test]
    fn older_and_newer_workers_are_understood() {
        let old: WorkerStatus = serde_json::from_str(r#"{"ready":true,"waitingFor":null,"slots":[]}"#).unwrap();
        assert_eq!(old, WorkerStatus { ready: true, ..WorkerStatus::default() });
        let new = json!({
            "ready": false, "waitingFor": "x", "halted": [{ "slot": 3, "reason": "r", "since": 1 }], "notices": ["n"],
            "slots": [{ "slot": 4, "nextOffset": 7, "logEnd": null, "lag": null }], "more": {},
        });
        let expected = WorkerStatus {
            ready: false,
            waiting_for: Some("x".to_owned()),
            halted: vec![HaltedSlot { slot: 3, reason: "r".to_owned() }],
            notices: vec!["n".to_owned()],
            slots: vec![OwnSlot { slot: 4 }],
            reshard: None,
        };
        assert_eq!(serde_json::from_value::<WorkerStatus>(new).unwrap(), expected);
        let mover = json!({ "ready": true, "reshard": {
            "partitions": 3, "phase": "moving", "slotsTotal": 16, "slotsMoved": 5, "slotsCleaned": 0, "rows": 123_456,
            "rowsPerSecond": 52_000, "longestPauseMs": 320,
            "groups": [{ "from": 0, "to": 2, "slots": "5-7", "step": "copying", "rows": 1234 }],
            "problem": { "reason": "MoveUndone", "message": "m" },
        } });
        let found = serde_json::from_value::<WorkerStatus>(mover).unwrap().reshard.unwrap();
        let problem = Some(MoveProblem { message: "m".to_owned() });
        let expected = MoverReport { phase: "moving".to_owned(), slots_total: 16, slots_moved: 5, problem };
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn an_answer_is_taken_and_a_flood_is_not() {
        let flood = || async { format!(r#"{{"ready":true,"notices":["{}"]}}"#, "x".repeat(LONGEST)) };
        for (routes, taken) in [
            (Router::new().route("/status", get(async || r#"{"ready":true}"#)), true),
            (Router::new().route("/status", get(flood)), false),
            (Router::new(), false),
        ] {
            let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move { axum::serve(listener, routes).await });
            assert_eq!(ask_one(&client().unwrap(), address).await.is_ok_and(|status| status.ready), taken);
        }
    }

    #[tokio::test]
    async fn who_does_not_answer_is_unknown() {
        // Of the loopback, where nobody listens.
        let found = ask(&client().unwrap(), [pod("Running", "127.255.255.254")].iter()).await;
        assert_eq!(found, BTreeMap::new());
    }
}
