//! The model's service: a register for each key, with everything that can go wrong in a service. Whether a request wins
//! depends on what came before, so an order that changes, a double or a loss shows in the values.

use std::collections::BTreeMap;
use std::time::Duration;

use shardlane_runtime::gather::Gathering;
use shardlane_runtime::record::Record;
use shardlane_runtime::service::{Accepted, Rejection, Service};

/// Content that the service cannot understand.
pub const POISON: i64 = 7;
/// Content that passes all rules and that the database refuses.
pub const REFUSED: i64 = 13;
/// Every so many contents one deletes its key.
const DELETES: i64 = 7;
/// Content whose outcome is larger than its topic takes.
pub const HUGE: i64 = 11;

#[derive(Debug, Default)]
pub struct Model {
    /// Whether batches are gathered.
    pub gathers: bool,
}

impl Model {
    /// Topic of dead letters.
    pub const INPUT_DLQ: &'static str = "dlq";
}

/// "key request content" as words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub key: String,
    pub id: String,
    pub content: i64,
}

impl Service for Model {
    type Request = Request;
    type Plan = Vec<Accepted<Request>>;
    const INPUT: &'static str = "request";

    fn parse(&self, record: &Record<'_>) -> Result<Request, Rejection> {
        parse(record.value.unwrap_or_default())
    }

    fn fold(&self, requests: Vec<Accepted<Request>>) -> Self::Plan {
        requests
    }

    fn gathering(&self) -> Option<Gathering<Self::Plan>> {
        self.gathers.then_some(Gathering {
            interval: Duration::from_millis(60),
            most: 12,
            size: Vec::len,
            add: |all, more| all.extend_from_slice(&more),
        })
    }
}

pub fn parse(value: &[u8]) -> Result<Request, Rejection> {
    let text = std::str::from_utf8(value).unwrap();
    let mut words = text.split(' ');
    let mut word = || words.next().unwrap().to_owned();
    let request = Request { key: word(), id: word(), content: word().parse().unwrap() };
    if request.content == POISON { Err(Rejection::new("poison", "poison")) } else { Ok(request) }
}

/// A key's register. Of one that is deleted a tombstone stays, with its version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Register {
    pub version: i64,
    pub value: i64,
    pub gone: bool,
}

impl Register {
    /// What a request makes of it; `None` if it loses.
    pub fn after(&self, content: i64) -> Option<Self> {
        let wins = (self.value + content) % 3 != 0;
        let gone = content > HUGE.max(REFUSED) && content % DELETES == 0;
        let value = if gone { 0 } else { (self.value * 31 + content) % 10_007 };
        wins.then(|| Self { version: self.version + 1, value, gone })
    }

    /// As it is published.
    pub fn text(&self) -> String {
        let gone = if self.gone { " gone" } else { "" };
        format!("{} {}{gone}", self.version, self.value)
    }
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    pub content: i64,
    /// The register that the request made; `None` if it lost.
    pub made: Option<Register>,
}

impl Answer {
    pub fn text(&self, id: &str) -> String {
        let made = self.made.as_ref().map_or_else(|| "lost".to_owned(), Register::text);
        let filler = if self.content == HUGE { "x".repeat(2_000) } else { String::new() };
        format!("{id} {made} {filler}")
    }
}

/// By slot and key.
pub type Registers = BTreeMap<(u32, String), Register>;
/// By slot, key and request.
pub type Answers = BTreeMap<(u32, String, String), Answer>;
