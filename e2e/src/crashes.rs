//! A way to the API server on which an operator is killed: at its nth write, before that is made or before it hears of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use anyhow::Result;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use kube::Client;
use kube::client::Body as KubeBody;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinHandle;

/// When the operator is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The write is asked for and not made.
    Before,
    /// The write is made, and the operator does not hear of it.
    After,
}

struct Shared {
    client: Client,
    writes: AtomicU64,
    at: u64,
    when: When,
    pid: AtomicU32,
}

/// The way.
pub struct Crashes {
    /// Where it begins.
    pub url: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Crashes {
    /// Kills at the write with this number, beginning at 1. `client` is who the operator is there.
    pub async fn at(client: Client, at: u64, when: When) -> Result<Self> {
        let shared = Arc::new(Shared { client, writes: AtomicU64::new(0), at, when, pid: AtomicU32::new(0) });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let routes = Router::new().fallback(pass).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, routes).await;
        });
        Ok(Self { url, shared, task })
    }

    /// Whom to kill.
    pub fn victim(&self, pid: u32) {
        self.shared.pid.store(pid, Ordering::SeqCst);
    }

    /// Whether it has come to that.
    pub fn has_killed(&self) -> bool {
        self.shared.writes.load(Ordering::SeqCst) >= self.shared.at
    }
}

impl Drop for Crashes {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, StatusCode> {
    let lease = request.uri().path().contains("/leases");
    let writes = !lease && !matches!(*request.method(), Method::GET | Method::HEAD);
    let number = if writes { shared.writes.fetch_add(1, Ordering::SeqCst) + 1 } else { 0 };
    if number > shared.at || (number == shared.at && shared.when == When::Before) {
        kill(&shared).await;
        return Err(StatusCode::BAD_GATEWAY);
    }
    let (mut parts, body) = request.into_parts();
    // It is said anew by who the client is, and where.
    parts.headers.remove(header::HOST);
    parts.headers.remove(header::AUTHORIZATION);
    let body = axum::body::to_bytes(body, usize::MAX).await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    let request = axum::http::Request::from_parts(parts, KubeBody::from(body.to_vec()));
    let answer = shared.client.send(request).await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    if number == shared.at && writes {
        kill(&shared).await;
        return Err(StatusCode::BAD_GATEWAY);
    }
    Ok(answer.map(Body::new))
}

async fn kill(shared: &Shared) {
    let pid = shared.pid.load(Ordering::SeqCst).to_string();
    let _ = Command::new("kill").args(["-KILL", &pid]).status().await;
}
