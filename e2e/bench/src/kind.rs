//! The kinds of service that are measured, and in what they differ.

use anyhow::Result;
use axum::http::StatusCode;
use serde_json::{Value, json};
use shardlane_blog::service as blog;
use shardlane_blog::wire::PostRecord;
use shardlane_counter::service as counter;
use shardlane_counter::wire::{IncrementRecord, canonical};
use shardlane_e2e::plain::{PlainService, Process};
use shardlane_e2e::setting;
use shardlane_runtime::config::roles;
use shardlane_signup::service as signup;
use shardlane_signup::wire::SignupRequest;
use shardlane_wallet::service as wallet;
use shardlane_wallet::wire::TransferRequest;

use crate::bank::ACCOUNTS;
use crate::fill::{Asked, Increments, Requests, Series, Slugs, Transfers};
use crate::stage::PARTITION;

/// The variable in which a blog finds its cache.
pub const REDIS_URI: &str = "SHARDLANE_REDIS_URI";
/// How many counters there are where nothing else is said.
pub const COUNTERS: u32 = 10_000;
/// How many posts are read.
pub const POSTS: u32 = 300;

/// A kind of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Sign-ups.
    Signup,
    /// Transfers.
    Wallet,
    /// Increments.
    Counter,
    /// Posts, which are read.
    Blog,
}

/// Processes, and what they are called.
pub type Team = Vec<(&'static str, Process)>;

impl Kind {
    /// Its program. Arguments call it the same.
    pub fn program(self) -> &'static str {
        match self {
            Self::Signup => "signup",
            Self::Wallet => "wallet",
            Self::Counter => "counter",
            Self::Blog => "blog",
        }
    }

    /// Role of the topic in which lies what users ask for.
    pub fn requests(self) -> &'static str {
        match self {
            Self::Signup => signup::REQUEST,
            Self::Wallet => wallet::REQUEST,
            Self::Counter => counter::INCREMENTS,
            Self::Blog => blog::NEW_POSTS,
        }
    }

    /// Roles of all its topics.
    pub fn roles(self) -> Vec<String> {
        let (published, consumed) = match self {
            Self::Signup => (Some(signup::RESPONSE), vec![signup::REQUEST]),
            Self::Wallet => (None, vec![wallet::REQUEST, wallet::PAYMENT]),
            Self::Counter => (None, vec![counter::INCREMENTS]),
            Self::Blog => (None, vec![blog::NEW_POSTS, blog::PUBLISHED_POSTS]),
        };
        let dead: Vec<_> = consumed.iter().map(|role| roles::dead_letter(role)).collect();
        let named = consumed.into_iter().chain(published).chain([roles::SLOTS]).map(str::to_owned);
        named.chain(dead).collect()
    }

    /// Whether the topic with this role keeps the last record of each key only.
    pub fn is_compacted(self, role: &str) -> bool {
        role == roles::SLOTS || (self == Self::Blog && role == blog::PUBLISHED_POSTS)
    }

    /// What its custom resource would say of this kind alone.
    pub fn settings(self) -> Result<Value> {
        Ok(match self {
            Self::Signup => serde_json::to_value(signup::SignupSettings::default())?,
            Self::Wallet => json!({
                "accounts": { "currency": "EUR", "defaultLimit": "0.00", "openOnFirstCredit": true },
                "audit": { "intervalSeconds": 10 },
            }),
            Self::Counter => serde_json::to_value(counter::CounterSettings::default())?,
            Self::Blog => serde_json::to_value(blog::BlogSettings::default())?,
        })
    }

    /// What its gateway and its stateless loops are told besides.
    pub fn variables(self) -> Result<Vec<(&'static str, String)>> {
        Ok(match self {
            Self::Blog => vec![(REDIS_URI, setting("SHARDLANE_TEST_REDIS")?)],
            _ => Vec::new(),
        })
    }

    /// How many records a worker applies for each request: a transfer takes from one account and gives to another.
    pub fn steps(self) -> u32 {
        if self == Self::Wallet { 2 } else { 1 }
    }

    /// Whether its worker gathers for a while before it commits. A backlog then ends with a wait that is no work.
    pub fn gathers(self) -> bool {
        self == Self::Counter
    }

    /// Starts whoever does the work, the worker first.
    pub async fn start(self, service: &PlainService) -> Result<Team> {
        let mut team = vec![("worker", service.worker(PARTITION).await?)];
        let others = match self {
            Self::Wallet => Some("paymentd"),
            Self::Blog => Some("cache-manager"),
            Self::Signup | Self::Counter => None,
        };
        if let Some(command) = others {
            team.push((command, service.stateless_with(command, &format!("{command}-0"), &self.variables()?).await?));
        }
        Ok(team)
    }

    /// Where users ask.
    pub fn path(self) -> &'static str {
        match self {
            Self::Signup => "/api/v1/signups",
            Self::Wallet => "/api/v1/transfers",
            Self::Counter => "/increment",
            Self::Blog => "/post",
        }
    }

    /// The barest front that does the work of its gateway, as arguments of this program.
    pub fn bare_front(self, service: &PlainService) -> Vec<String> {
        if self == Self::Blog {
            return vec!["bare-posts".to_owned()];
        }
        let config = format!("--config={}", service.config_file().display());
        vec!["bare-gateway".to_owned(), format!("--kind={}", self.program()), config]
    }

    /// What its gateway answers once Kafka has a request.
    pub fn taken(self) -> StatusCode {
        match self {
            Self::Signup => StatusCode::ACCEPTED,
            Self::Wallet | Self::Blog => StatusCode::CREATED,
            Self::Counter => StatusCode::OK,
        }
    }

    /// Requests as users ask, of their own for each seed.
    pub fn series(self, seed: u64) -> Box<dyn Series> {
        match self {
            Self::Signup => Box::new(Requests::new(seed, 0.)),
            Self::Wallet => Box::new(Transfers::new(seed, ACCOUNTS)),
            Self::Counter => Box::new(Increments::uniform(seed, COUNTERS)),
            Self::Blog => Box::new(Slugs::new(seed, POSTS)),
        }
    }

    /// Understands a request as users send it, and writes it as it lies in the topic.
    pub fn understand(self, body: &[u8]) -> serde_json::Result<Asked> {
        match self {
            Self::Signup => {
                let request: SignupRequest<'_> = serde_json::from_slice(body)?;
                Ok(Asked { key: request.username.as_bytes().to_vec(), value: serde_json::to_vec(&request)? })
            }
            Self::Wallet => {
                let request: TransferRequest<'_> = serde_json::from_slice(body)?;
                Ok(Asked { key: request.request_id.as_bytes().to_vec(), value: serde_json::to_vec(&request)? })
            }
            Self::Counter => {
                let request: IncrementRecord<'_> = serde_json::from_slice(body)?;
                let mut buffer = [0; uuid::fmt::Hyphenated::LENGTH];
                let key = canonical(request.key, &mut buffer).as_bytes().to_vec();
                Ok(Asked { key, value: serde_json::to_vec(&request)? })
            }
            Self::Blog => {
                let request: PostRecord<'_> = serde_json::from_slice(body)?;
                Ok(Asked { key: request.slug.as_bytes().to_vec(), value: serde_json::to_vec(&request)? })
            }
        }
    }
}
