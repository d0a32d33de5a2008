//! The wallet as a service of the runtime: what `accountantd` does with the payments of its slots.

use std::sync::Arc;

use axum::Router;
use serde::{Deserialize, Serialize};
use shardlane_runtime::behind::Behind;
use shardlane_runtime::config::{ConfigError, ServiceConfig};
use shardlane_runtime::record::Record;
use shardlane_runtime::service::{Accepted, BatchRange, Message, Rejection, Schema, Service, Tables};
use shardlane_runtime::trust::Trust;
use sqlx::{PgConnection, PgPool};

use crate::fold::{WalletPlan, fold};
use crate::ledger::Rules;
use crate::messages::{self, Sent};
use crate::money::{self, Currency};
use crate::wire::{Instruction, parse_payment};
use crate::{reads, tables};

/// Role of the topic of transfers, as users ask for them.
pub const REQUEST: &str = "transfer_request";
/// Role of the topic of payments, which reach an account's slot.
pub const PAYMENT: &str = "payment";

/// What the custom resource says of wallets alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WalletSettings {
    /// Of accounts.
    pub accounts: AccountSettings,
    /// Of audits.
    pub audit: AuditSettings,
}

/// What the custom resource says of accounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccountSettings {
    /// The currency of an account whose opener names none.
    pub currency: Currency,
    /// The lowest balance of a new account, e.g. `0.00`.
    pub default_limit: Limit,
    /// Whether a first credit opens an account.
    pub open_on_first_credit: bool,
}

/// A limit, as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Limit(pub i64);

impl TryFrom<String> for Limit {
    type Error = money::BadAmount;

    fn try_from(text: String) -> Result<Self, money::BadAmount> {
        money::limit(&text).map(Self)
    }
}

impl From<Limit> for String {
    fn from(limit: Limit) -> Self {
        money::Minor(limit.0).to_string()
    }
}

/// What the custom resource says of audits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuditSettings {
    /// Seconds from the end of one audit to the beginning of the next.
    pub interval_seconds: u32,
}

/// Accounts, each in the slot of its id.
#[derive(Debug)]
pub struct WalletService {
    rules: Rules,
    trust: Trust,
}

impl WalletService {
    /// The service that is configured.
    pub fn of(config: &ServiceConfig) -> Result<Self, ConfigError> {
        let AccountSettings { currency, default_limit, open_on_first_credit } =
            config.settings::<WalletSettings>()?.accounts;
        Ok(Self::new(Rules { currency, default_limit: default_limit.0, open_on_first_credit }))
    }

    /// The service with these rules.
    pub fn new(rules: Rules) -> Self {
        Self { rules, trust: Trust::default() }
    }
}

/// What the mover needs to know of the shards.
pub fn schema() -> Schema {
    Schema::of::<WalletService>(tables::DDL, &tables::TABLES)
}

impl Service for WalletService {
    type Request = Instruction;
    type Plan = WalletPlan;
    const INPUT: &'static str = PAYMENT;

    fn parse(&self, record: &Record<'_>) -> Result<Instruction, Rejection> {
        parse_payment(record)
    }

    fn fold(&self, instructions: Vec<Accepted<Instruction>>) -> WalletPlan {
        fold(instructions)
    }
}

impl Tables for WalletService {
    type Outcomes = Sent;
    // A payment's identity is kept for ever: it must never be made twice.
    const PRUNED: &'static [&'static str] = &[];

    async fn apply(&self, tx: &mut PgConnection, batch: i64, plan: &Arc<WalletPlan>) -> sqlx::Result<Sent> {
        let decision = tables::apply(tx, batch, plan, &self.rules, &self.trust).await?;
        Ok(Sent::Now(Arc::clone(plan), decision.entries))
    }

    async fn outcomes(&self, shard: &mut PgConnection, range: BatchRange) -> sqlx::Result<Sent> {
        messages::read(shard, range).await.map(Sent::Before)
    }

    fn messages(sent: Sent) -> sqlx::Result<Vec<Message>> {
        messages::put_into_words(sent)
    }

    fn reads(&self, shard: PgPool, _: Arc<Behind>) -> Router {
        reads::routes(shard)
    }
}
