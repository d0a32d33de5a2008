//! A load generator: connections that are kept, each with one request under way, on a thread of their own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use axum::body::Bytes;
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use shardlane_runtime::gateway::RESPOND_ASYNC;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::fill::{Asked, Series};
use crate::kind::Kind;
use crate::report::milliseconds;

/// How many connections are made at a time: a listener keeps a thousand or so waiting.
const CONNECTING: usize = 100;

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
    /// How long each connection lets pass from one request to the next at least.
    pub pace: Duration,
}

/// Readers of one path who all come at once.
#[derive(Clone, Debug)]
pub struct Rush {
    /// `host:port` of the gateway.
    pub host: String,
    /// What they read.
    pub path: String,
    /// How many readers there are.
    pub readers: usize,
    /// Over how many connections they come. Those of one connection come one after the other.
    pub connections: usize,
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
        match self.statuses.keys().find(|status| !(200..300).contains(*status)) {
            Some(_) => bail!("not every request was taken; answers by status: {:?}", self.statuses),
            None => Ok(()),
        }
    }
}

/// Sends requests until the time is over.
pub async fn run(load: Load) -> Result<Loaded> {
    apart(|| all_connections(load)).await
}

/// Lets readers come, and gives what came of all of them.
pub async fn rush(rush: Rush) -> Result<Loaded> {
    apart(|| all_readers(rush)).await
}

/// On a thread of its own, so that it is not kept waiting by whatever else this program does.
async fn apart<F: Future<Output = Result<Loaded>>>(work: impl FnOnce() -> F + Send + 'static) -> Result<Loaded> {
    tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(work())
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
            loaded.times.push(milliseconds(Instant::duration_since(&ended, began)));
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
    let mut connection = Connection::open(&load.host).await?;
    while Instant::now() < load.to {
        let answer = connection.ask(request(&load, requests.ask()?)?).await?;
        // Whoever counts is there until all connections are done.
        let _ = answers.send(answer);
        if !load.pace.is_zero() {
            tokio::time::sleep_until((answer.1 + load.pace).into()).await;
        }
    }
    Ok(())
}

/// Connects first, so that all ask at once.
async fn all_readers(rush: Rush) -> Result<Loaded> {
    let connecting = stream::iter(0..rush.connections).map(|_| Connection::open(&rush.host));
    let connections: Vec<_> = connecting.buffer_unordered(CONNECTING).try_collect().await?;
    let reading = connections.into_iter().enumerate().map(async |(number, mut connection)| {
        let mut answers = Vec::new();
        for _ in (number..rush.readers).step_by(rush.connections) {
            answers.push(connection.ask(read(&rush.host, &rush.path)?).await?);
        }
        anyhow::Ok(answers)
    });
    let mut loaded = Loaded::default();
    for (status, began, ended) in try_join_all(reading).await?.into_iter().flatten() {
        loaded.times.push(milliseconds(ended.duration_since(began)));
        *loaded.statuses.entry(status).or_default() += 1;
    }
    Ok(loaded)
}

/// A connection that is kept.
struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driving: JoinHandle<hyper::Result<()>>,
}

impl Connection {
    async fn open(host: &str) -> Result<Self> {
        let stream = TcpStream::connect(host).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, driving: tokio::spawn(connection) })
    }

    /// Asks, and reads the whole answer.
    async fn ask(&mut self, request: Request<Full<Bytes>>) -> Result<Answer> {
        let began = Instant::now();
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await.context("the gateway closed a connection")?;
        let status = response.status().as_u16();
        response.into_body().collect().await?;
        Ok((status, began, Instant::now()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driving.abort();
    }
}

/// A request for what is there.
fn read(host: &str, path: &str) -> Result<Request<Full<Bytes>>> {
    Ok(Request::get(path).header(header::HOST, host).body(Full::default())?)
}

fn request(load: &Load, asked: Asked) -> Result<Request<Full<Bytes>>> {
    if load.kind == Kind::Blog {
        return read(&load.host, &format!("{}/{}", load.kind.path(), String::from_utf8(asked.key)?));
    }
    let mut request = Request::post(load.kind.path())
        .header(header::HOST, &load.host)
        .header(header::CONTENT_TYPE, "application/json");
    if load.acknowledge {
        request = request.header("prefer", RESPOND_ASYNC);
    }
    Ok(request.body(Full::new(asked.value.into()))?)
}
