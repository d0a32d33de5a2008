//! A load generator: connections that are kept, each with one request under way, on a thread of their own.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use shardlane_runtime::gateway::RESPOND_ASYNC;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::fill::{Asked, Series};
use crate::kind::Kind;

/// What is sent.
#[derive(Clone, Debug)]
pub struct Load {
    /// `host:port` of the gateway.
    pub host: String,
    /// What kind of gateway it is.
    pub kind: Kind,
    /// Connections.
    pub connections: usize,
    /// Ask to be answered before the outcome is known.
    pub acknowledge: bool,
    /// Requests are of their own for each seed.
    pub seed: u64,
    /// When to begin counting.
    pub from: Instant,
    /// When to stop.
    pub to: Instant,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Milliseconds of each answer that was counted.
    pub times: Vec<f64>,
    /// Answers by status, the warm-up's too.
    pub statuses: BTreeMap<u16, u64>,
}

impl Loaded {
    /// Answers a second.
    #[allow(clippy::cast_precision_loss)]
    pub fn rate(&self, load: &Load) -> f64 {
        self.times.len() as f64 / load.to.duration_since(load.from).as_secs_f64()
    }

    /// Fails unless every request was taken.
    pub fn check(&self) -> Result<()> {
        match self.statuses.keys().find(|status| ![201, 202].contains(*status)) {
            Some(_) => bail!("not every request was taken; answers by status: {:?}", self.statuses),
            None => Ok(()),
        }
    }
}

/// Sends requests until the time is over.
pub async fn run(load: Load) -> Result<Loaded> {
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(all_connections(load))
    })
    .await?
}

async fn all_connections(load: Load) -> Result<Loaded> {
    let (sender, mut answers) = mpsc::unbounded_channel();
    let mut connections = tokio::task::JoinSet::new();
    for number in 0..load.connections {
        let requests = load.kind.series(load.seed * 1_000_000 + number as u64);
        connections.spawn(one_connection(load.clone(), requests, sender.clone()));
    }
    drop(sender);
    let mut loaded = Loaded::default();
    while let Some((status, began, ended)) = answers.recv().await {
        *loaded.statuses.entry(status).or_default() += 1;
        if ended >= load.from && ended < load.to {
            loaded.times.push(Instant::duration_since(&ended, began).as_secs_f64() * 1_000.);
        }
    }
    while let Some(done) = connections.join_next().await {
        done??;
    }
    Ok(loaded)
}

type Answer = (u16, Instant, Instant);

async fn one_connection(
    load: Load,
    mut requests: Box<dyn Series>,
    answers: mpsc::UnboundedSender<Answer>,
) -> Result<()> {
    let stream = TcpStream::connect(&load.host).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driving = tokio::spawn(connection);
    while Instant::now() < load.to {
        let request = request(&load, requests.ask()?)?;
        let began = Instant::now();
        sender.ready().await?;
        let response = sender.send_request(request).await.context("the gateway closed a connection")?;
        let status = response.status().as_u16();
        response.into_body().collect().await?;
        // Whoever counts is there until all connections are done.
        let _ = answers.send((status, began, Instant::now()));
    }
    driving.abort();
    Ok(())
}

fn request(load: &Load, asked: Asked) -> Result<Request<Full<Bytes>>> {
    let mut request = Request::post(load.kind.path())
        .header(header::HOST, &load.host)
        .header(header::CONTENT_TYPE, "application/json");
    if load.acknowledge {
        request = request.header("prefer", RESPOND_ASYNC);
    }
    Ok(request.body(Full::new(asked.value.into()))?)
}
