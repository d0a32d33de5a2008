//! Clients that ask without a break, and mind every answer.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::until;

/// How long one request is retried before the test gives up on the service.
const PATIENCE: Duration = Duration::from_secs(120);
/// How many refusals are told.
const TOLD: usize = 10;

/// What clients do, each after the other.
pub trait Customer: Send + Sync + 'static {
    /// One request or a few, of the client of this number for the time of this number.
    fn visit(&self, client: usize, time: usize) -> impl Future<Output = Result<()>> + Send;
}

/// Clients at work.
pub struct Steady<C> {
    shared: Arc<Shared<C>>,
    clients: Vec<JoinHandle<Result<()>>>,
    began: Instant,
}

struct Shared<C> {
    customer: C,
    thinking: Duration,
    visits: AtomicUsize,
    stop: AtomicBool,
}

impl<C: Customer> Steady<C> {
    /// Sets clients to work, each of which thinks for this long between two visits.
    pub fn begin(customer: C, clients: usize, thinking: Duration) -> Self {
        let visits = AtomicUsize::new(0);
        let shared = Arc::new(Shared { customer, thinking, visits, stop: AtomicBool::new(false) });
        let clients = (0..clients).map(|client| tokio::spawn(work(Arc::clone(&shared), client))).collect();
        Self { shared, clients, began: Instant::now() }
    }

    /// Whom they are clients of.
    pub fn customer(&self) -> &C {
        &self.shared.customer
    }

    /// Visits so far.
    pub fn visits(&self) -> usize {
        self.shared.visits.load(Ordering::Relaxed)
    }

    /// Waits until there were this many more visits.
    pub async fn more(&self, visits: usize) -> Result<()> {
        let enough = self.visits() + visits;
        until(PATIENCE, async || {
            // Whoever ends it learns why.
            let ended = self.clients.iter().any(JoinHandle::is_finished);
            ensure!(ended || self.visits() >= enough, "{} of {enough} visits", self.visits());
            Ok(())
        })
        .await
    }

    /// Lets every client finish what it does. Gives how many visits a second there were.
    pub async fn end(&mut self) -> Result<f64> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.await.context("a client ended")??;
        }
        #[allow(clippy::cast_precision_loss)]
        Ok(self.visits() as f64 / self.began.elapsed().as_secs_f64())
    }
}

impl<C> Drop for Steady<C> {
    fn drop(&mut self) {
        self.clients.iter().for_each(JoinHandle::abort);
    }
}

async fn work<C: Customer>(shared: Arc<Shared<C>>, client: usize) -> Result<()> {
    for time in 0.. {
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        let visit = shared.customer.visit(client, time).await;
        visit.with_context(|| format!("client {client}, visit {time}"))?;
        shared.visits.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(shared.thinking).await;
    }
    Ok(())
}

/// Answers that nobody should have got.
#[derive(Clone, Debug, Default)]
pub struct Refusals(Arc<Mutex<Vec<String>>>);

/// An answer: its status and what it says.
pub type Answer = (u16, Value);

impl Refusals {
    fn all(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes one.
    pub fn note(&self, refusal: String) {
        println!("refused: {refusal}");
        self.all().push(refusal);
    }

    /// Fails if there was one.
    pub fn none(&self) -> Result<()> {
        let all = self.all();
        ensure!(all.is_empty(), "{} answers are wrong: {:#?}", all.len(), &all[..all.len().min(TOLD)]);
        Ok(())
    }

    /// Asks until one of these statuses is the answer. Another one is noted, but for other successes, which may come in between;
    /// so is an answer that does not come. A connection that breaks is not the gateway's doing, but that of the way to it.
    pub async fn insist<F: Future<Output = Result<Answer>>>(
        &self,
        what: &str,
        done: &[u16],
        mut ask: impl FnMut() -> F,
    ) -> Result<Answer> {
        let end = Instant::now() + PATIENCE;
        loop {
            let last = match ask().await {
                Ok(answer) if done.contains(&answer.0) => return Ok(answer),
                Ok(answer) if (200..300).contains(&answer.0) => format!("{answer:?}"),
                Ok((status, told)) => {
                    self.note(format!("{what}: {status}: {told}"));
                    format!("{status}: {told}")
                }
                Err(error) => {
                    let of_http = error.downcast_ref::<reqwest::Error>();
                    if of_http.is_none_or(|error| error.is_timeout() || error.is_decode()) {
                        self.note(format!("{what}: {error:#}"));
                    }
                    format!("{error:#}")
                }
            };
            if Instant::now() >= end {
                bail!("{what}: waited in vain: {last}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
