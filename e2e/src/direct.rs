//! Requests put straight into the log: no client asks again, so an answer that was lost stays lost and is noticed.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shardlane_runtime::intake::Keyspace;
use shardlane_runtime::producer::{Outgoing, Producer};

use crate::plain::PlainService;
use crate::signups::{Outcomes, Told};
use crate::{same, setting, topic};

/// A steady load: so many requests, and the time between two lots of them.
const LOT: usize = 5;
const BREATH: Duration = Duration::from_millis(20);

/// Requests `r0`, `r1` and so on, for names in turn: the first for each name is the one with the lowest number.
pub struct Direct<'a> {
    service: &'a PlainService,
    producer: Producer,
    asked: Asked,
    sent: usize,
}

/// Which names are asked for: some in turn, so many times each, and then others.
#[derive(Clone, Copy)]
struct Asked {
    names: usize,
    times: usize,
}

impl Asked {
    fn name(self, n: usize) -> String {
        let others = n / self.names.saturating_mul(self.times);
        format!("name-{}", others * self.names + n % self.names)
    }

    fn wins(self, n: usize) -> bool {
        (n / self.names).is_multiple_of(self.times)
    }
}

impl<'a> Direct<'a> {
    /// Nothing is sent yet.
    pub fn new(service: &'a PlainService, names: usize) -> Result<Self> {
        Self::changing(service, names, usize::MAX)
    }

    /// Asks for each name so many times and then for others, so that there is always something to be won.
    pub fn changing(service: &'a PlainService, names: usize, times: usize) -> Result<Self> {
        let producer = topic::producer(&setting("SHARDLANE_TEST_KAFKA")?)?;
        Ok(Self { service, producer, asked: Asked { names, times }, sent: 0 })
    }

    /// Puts more requests into the log.
    pub async fn send(&mut self, requests: usize) -> Result<()> {
        self.put(self.sent..self.sent + requests).await?;
        self.sent += requests;
        Ok(())
    }

    /// Puts all requests into the log once more.
    pub async fn send_again(&self) -> Result<()> {
        self.put(0..self.sent).await
    }

    async fn put(&self, requests: Range<usize>) -> Result<()> {
        let config = &self.service.config;
        let keyspace = Keyspace::of(config);
        let topic = self.service.topic("request")?;
        let record = |n: usize| {
            let name = self.asked.name(n);
            Outgoing {
                topic: topic.into(),
                slot: keyspace.slot_of(name.as_bytes()),
                value: Some(format!(r#"{{"request_id":"r{n}","username":"{name}"}}"#).into_bytes()),
                key: Some(name.into_bytes()),
                headers: Vec::new(),
            }
        };
        let records: Vec<_> = requests.map(record).collect();
        Ok(self.producer.publish_all(&records).await?)
    }

    /// Puts requests into the log without a break for as long as something goes on.
    pub async fn meanwhile<T>(&mut self, something: impl Future<Output = Result<T>>) -> Result<T> {
        let over = Cell::new(false);
        let load = async {
            while !over.get() {
                self.send(LOT).await?;
                tokio::time::sleep(BREATH).await;
            }
            Ok(())
        };
        let something = async {
            let done = something.await;
            over.set(true);
            done
        };
        let (sent, done) = futures::future::join(load, something).await;
        sent.and(done)
    }

    /// What each request must be told.
    pub fn outcomes(&self) -> Outcomes {
        let told = |n: usize| Told { username: self.asked.name(n), success: self.asked.wins(n) };
        (0..self.sent).map(|n| (format!("r{n}"), told(n))).collect()
    }

    /// Waits until every request is answered, and checks that all answers to each are the right one, and that the first ones
    /// came in the order of each name's requests.
    pub async fn check(&self, patience: Duration) -> Result<()> {
        let (requests, mut answers, mut read) = (self.sent, BTreeSet::new(), 0);
        let enough = move |seen: &[topic::Seen]| {
            answers.extend(seen[read..].iter().map(|record| record.value.clone()));
            read = seen.len();
            answers.len() >= requests
        };
        let kafka = setting("SHARDLANE_TEST_KAFKA")?;
        let seen = topic::read_until(&kafka, self.service.topic("response")?, patience, enough).await?;
        let (mut told, mut last) = (BTreeMap::new(), BTreeMap::new());
        for record in &seen {
            let response = record.json()?;
            let id = response["request_id"].as_str().context("no request_id")?.to_owned();
            let success = response["success"].as_bool().context("no success")?;
            let n: usize = id.strip_prefix('r').context("id")?.parse()?;
            if let Some(before) = told.insert(n, success) {
                same(&format!("answers to {id}"), success, before)?;
            } else {
                let before = last.insert(self.asked.name(n), n).map(|before| before + self.asked.names);
                let first = self.asked.wins(n);
                ensure!(
                    before.is_none_or(|due| due == n) && before.is_none() == first,
                    "{id} was answered out of turn"
                );
            }
        }
        same("answered requests", told.len(), requests)?;
        for (n, success) in told {
            same(&format!("success of r{n}"), success, self.asked.wins(n))?;
        }
        Ok(())
    }
}
