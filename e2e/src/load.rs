//! Clients that sign up without a break, while something happens to the service.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::task::JoinHandle;

use crate::signups::{Outcomes, Told, client, send};
use crate::until;

/// How long a client thinks between two requests: the load is to be steady, not heavy.
const THINKING: Duration = Duration::from_millis(40);

/// Says which group a name is of.
pub type GroupOf = Arc<dyn Fn(&str) -> u32 + Send + Sync>;

/// Clients at work.
pub struct Load {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Result<Vec<Answer>>>>,
}

struct Shared {
    url: String,
    prefix: String,
    group_of: GroupOf,
    answered: AtomicUsize,
    stop: AtomicBool,
}

/// A request and what came of it.
#[derive(Clone, Debug)]
struct Answer {
    id: String,
    told: Told,
    group: u32,
    when: Instant,
}

/// What the clients were told.
pub struct Loaded {
    answers: Vec<Answer>,
    began: Instant,
}

impl Load {
    /// Sets clients to work, some for each group: a client asks for names of its group alone, so that a group that is not
    /// answered leaves the clients of the others free. `prefix` is unique to this load.
    pub fn start(url: &str, prefix: &str, clients: usize, groups: u32, group_of: GroupOf) -> Result<Self> {
        let shared = Arc::new(Shared {
            url: format!("{url}/api/v1/signups"),
            prefix: prefix.to_owned(),
            group_of,
            answered: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let http = client()?;
        let clients = (0..clients).zip((0..groups).cycle());
        let clients =
            clients.map(|(n, group)| tokio::spawn(work(Arc::clone(&shared), http.clone(), n, group))).collect();
        Ok(Self { shared, clients })
    }

    /// Waits until this many more requests are answered.
    pub async fn more(&self, requests: usize, patience: Duration) -> Result<()> {
        let enough = self.shared.answered.load(Ordering::Relaxed) + requests;
        until(patience, async || {
            let answered = self.shared.answered.load(Ordering::Relaxed);
            if answered >= enough { Ok(()) } else { bail!("{answered} of {enough} requests are answered") }
        })
        .await
    }

    /// Lets every client finish its last request.
    pub async fn stop(self, began: Instant) -> Result<Loaded> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut answers = Vec::new();
        for client in self.clients {
            answers.extend(client.await.context("a client ended")??);
        }
        answers.sort_by_key(|answer| answer.when);
        Ok(Loaded { answers, began })
    }
}

async fn work(shared: Arc<Shared>, http: reqwest::Client, client: usize, group: u32) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    let prefix = format!("{}-{client}", shared.prefix);
    let mut names = (0..).map(|n| format!("{prefix}-name-{n}")).filter(|name| (shared.group_of)(name) == group);
    let mut name = String::new();
    while !shared.stop.load(Ordering::Relaxed) {
        let n = answers.len();
        let id = format!("{prefix}-request-{n}");
        // Every fifth asks for the name that the one before it has asked for.
        if n % 5 != 4 {
            name = names.next().context("no more names")?;
        }
        let told = send(&http, &shared.url, &id, &name).await.with_context(|| format!("{id} {name}"))?;
        answers.push(Answer { id, told, group, when: Instant::now() });
        shared.answered.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(THINKING).await;
    }
    Ok(answers)
}

impl Loaded {
    /// What the clients were told, by request id.
    pub fn outcomes(&self) -> Outcomes {
        self.answers.iter().map(|answer| (answer.id.clone(), answer.told.clone())).collect()
    }

    /// Their requests, to be sent again.
    pub fn requests(&self) -> Vec<(String, String)> {
        self.answers.iter().map(|answer| (answer.id.clone(), answer.told.username.clone())).collect()
    }

    /// The longest time since it `began` in which nobody of a group was answered.
    pub fn longest_pause(&self, group: u32) -> Duration {
        let answers = self.answers.iter().filter(|answer| answer.when > self.began && answer.group == group);
        let mut last = self.began;
        let pauses = answers.map(|answer| answer.when - std::mem::replace(&mut last, answer.when));
        pauses.max().unwrap_or_default()
    }
}
