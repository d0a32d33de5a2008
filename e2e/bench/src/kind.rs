//! The kinds of service that are measured, and in what they differ.

use anyhow::Result;
use axum::http::StatusCode;
use serde_json::{Value, json};
use shardlane_e2e::plain::{PlainService, Process};
use shardlane_runtime::config::roles;
use shardlane_signup::service as signup;
use shardlane_signup::wire::SignupRequest;
use shardlane_wallet::service as wallet;
use shardlane_wallet::wire::TransferRequest;

use crate::bank::ACCOUNTS;
use crate::fill::{Asked, Requests, Series, Transfers};
use crate::stage::PARTITION;

/// A kind of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Sign-ups.
    Signup,
    /// Transfers.
    Wallet,
}

/// Processes, and what they are called.
pub type Team = Vec<(&'static str, Process)>;

impl Kind {
    /// Its program. Arguments call it the same.
    pub fn program(self) -> &'static str {
        match self {
            Self::Signup => "signup",
            Self::Wallet => "wallet",
        }
    }

    /// Role of the topic in which lies what users ask for.
    pub fn requests(self) -> &'static str {
        match self {
            Self::Signup => signup::REQUEST,
            Self::Wallet => wallet::REQUEST,
        }
    }

    /// Roles of all its topics.
    pub fn roles(self) -> Vec<String> {
        let (second, consumed) = match self {
            Self::Signup => (signup::RESPONSE, vec![signup::REQUEST]),
            Self::Wallet => (wallet::PAYMENT, vec![wallet::REQUEST, wallet::PAYMENT]),
        };
        let mut roles = vec![self.requests().to_owned(), second.to_owned(), roles::SLOTS.to_owned()];
        roles.extend(consumed.into_iter().map(roles::dead_letter));
        roles
    }

    /// What its custom resource would say of this kind alone.
    pub fn settings(self) -> Result<Value> {
        Ok(match self {
            Self::Signup => serde_json::to_value(signup::SignupSettings::default())?,
            Self::Wallet => json!({
                "accounts": { "currency": "EUR", "defaultLimit": "0.00", "openOnFirstCredit": true },
                "audit": { "intervalSeconds": 10 },
            }),
        })
    }

    /// How many records a worker applies for each request: a transfer takes from one account and gives to another.
    pub fn steps(self) -> u32 {
        match self {
            Self::Signup => 1,
            Self::Wallet => 2,
        }
    }

    /// Starts whoever does the work, the worker first.
    pub async fn start(self, service: &PlainService) -> Result<Team> {
        let mut team = vec![("worker", service.worker(PARTITION).await?)];
        if self == Self::Wallet {
            team.push(("paymentd", service.stateless("paymentd", "paymentd-0").await?));
        }
        Ok(team)
    }

    /// Where users ask.
    pub fn path(self) -> &'static str {
        match self {
            Self::Signup => "/api/v1/signups",
            Self::Wallet => "/api/v1/transfers",
        }
    }

    /// What its gateway answers once Kafka has a request.
    pub fn taken(self) -> StatusCode {
        match self {
            Self::Signup => StatusCode::ACCEPTED,
            Self::Wallet => StatusCode::CREATED,
        }
    }

    /// Requests as users ask, of their own for each seed.
    pub fn series(self, seed: u64) -> Box<dyn Series> {
        match self {
            Self::Signup => Box::new(Requests::new(seed, 0.)),
            Self::Wallet => Box::new(Transfers::new(seed, ACCOUNTS)),
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
        }
    }
}
