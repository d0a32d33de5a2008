//! Sign-up as a service of the runtime.

use std::sync::Arc;

use axum::Router;
use serde::{Deserialize, Serialize};
use shardlane_runtime::behind::Behind;
use shardlane_runtime::config::{ConfigError, ServiceConfig};
use shardlane_runtime::ksuid;
use shardlane_runtime::record::Record;
use shardlane_runtime::service::{Accepted, BatchRange, Message, Rejection, Schema, Service, Tables};
use shardlane_runtime::trust::Trust;
use sqlx::{PgConnection, PgPool};

use crate::fold::{Claim, SignupPlan, Verdict, fold};
use crate::username::UsernameRules;
use crate::wire::{Signup, SignupResponse, parse};
use crate::{reads, tables};

/// Role of the topic of requests.
pub const REQUEST: &str = "request";
/// Role of the topic of outcomes.
pub const RESPONSE: &str = "response";

/// What the custom resource says of sign-up alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct SignupSettings {
    /// Which names there are.
    pub usernames: UsernameRules,
}

/// Usernames, unique across shards: a name's slot decides who has it.
#[derive(Debug)]
pub struct SignupService {
    rules: UsernameRules,
    space: u32,
    trust: Trust,
}

impl SignupService {
    /// The service that is configured.
    pub fn of(config: &ServiceConfig) -> Result<Self, ConfigError> {
        Ok(Self::new(config.settings()?, &config.id))
    }

    /// The service with this id.
    pub fn new(settings: SignupSettings, service_id: &str) -> Self {
        Self { rules: settings.usernames, space: ksuid::space_of(service_id), trust: Trust::default() }
    }
}

/// What the mover needs to know of the shards.
pub fn schema() -> Schema {
    Schema::of::<SignupService>(tables::DDL, &tables::TABLES)
}

/// What became of some requests.
#[derive(Debug)]
pub enum Told {
    /// A batch that was just written.
    Now(Verdict),
    /// Rows of the shard.
    Before(Vec<SignupResponse<'static>>),
}

impl Service for SignupService {
    type Request = Signup;
    type Plan = SignupPlan;
    const INPUT: &'static str = REQUEST;

    fn parse(&self, record: &Record<'_>) -> Result<Signup, Rejection> {
        parse(&self.rules, record)
    }

    fn fold(&self, requests: Vec<Accepted<Signup>>) -> SignupPlan {
        fold(self.space, requests)
    }
}

impl Tables for SignupService {
    type Outcomes = Told;
    const PRUNED: &'static [&'static str] = &["refusal"];

    async fn apply(&self, tx: &mut PgConnection, batch: i64, plan: &Arc<SignupPlan>) -> sqlx::Result<Told> {
        tables::apply(tx, batch, plan, &self.trust).await.map(Told::Now)
    }

    async fn outcomes(&self, shard: &mut PgConnection, range: BatchRange) -> sqlx::Result<Told> {
        tables::outcomes(shard, range).await.map(Told::Before)
    }

    fn messages(told: Told) -> sqlx::Result<Vec<Message>> {
        match told {
            Told::Now(verdict) => {
                let told = |(claim, success): (&Claim, bool)| message(&claim.request_id, &claim.username, success);
                verdict.in_order().into_iter().map(told).collect()
            }
            Told::Before(rows) => rows.iter().map(|row| message(&row.request_id, &row.username, row.success)).collect(),
        }
    }

    fn reads(&self, shard: PgPool, _: Arc<Behind>) -> Router {
        reads::routes(shard)
    }
}

fn message(request_id: &str, username: &str, success: bool) -> sqlx::Result<Message> {
    let response = SignupResponse { request_id: request_id.into(), username: username.into(), success };
    let value = serde_json::to_vec(&response).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    Ok(Message { role: RESPONSE, key: username.as_bytes().to_vec(), value })
}
