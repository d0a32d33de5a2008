//! Counters as a service of the runtime.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use serde::{Deserialize, Serialize};
use shardlane_runtime::behind::Behind;
use shardlane_runtime::config::{ConfigError, ServiceConfig};
use shardlane_runtime::gather::Gathering;
use shardlane_runtime::record::Record;
use shardlane_runtime::service::{Accepted, BatchRange, Message, Rejection, Schema, Service, Tables};
use sqlx::{PgConnection, PgPool};

use crate::fold::{CounterPlan, fold};
use crate::wire::{Increment, parse};
use crate::{reads, tables};

/// Role of the topic of increments.
pub const INCREMENTS: &str = "increments";

/// What the custom resource says of counters alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CounterSettings {
    /// How long an increment waits in memory until it is written, in milliseconds.
    pub flush_interval_ms: u64,
    /// How many counters may wait in memory; then they are written earlier.
    pub max_pending_keys: usize,
    /// How long an `Idempotency-Key` is known, in hours.
    pub idempotency_window_hours: u32,
}

impl Default for CounterSettings {
    fn default() -> Self {
        Self { flush_interval_ms: 1_000, max_pending_keys: 100_000, idempotency_window_hours: 24 }
    }
}

/// Counters, each in the slot of its key.
#[derive(Debug)]
pub struct CounterService {
    settings: CounterSettings,
}

impl CounterService {
    /// The service that is configured.
    pub fn of(config: &ServiceConfig) -> Result<Self, ConfigError> {
        config.settings().map(|settings| Self { settings })
    }

    /// How long an `Idempotency-Key` is known, in milliseconds.
    fn window(&self) -> i64 {
        i64::from(self.settings.idempotency_window_hours) * 3_600_000
    }
}

/// What the mover needs to know of the shards.
pub fn schema() -> Schema {
    Schema::of::<CounterService>(tables::DDL, &tables::TABLES)
}

impl Service for CounterService {
    type Request = Increment;
    type Plan = CounterPlan;
    const INPUT: &'static str = INCREMENTS;

    fn parse(&self, record: &Record<'_>) -> Result<Increment, Rejection> {
        parse(record)
    }

    fn fold(&self, increments: Vec<Accepted<Increment>>) -> CounterPlan {
        fold(increments)
    }

    fn gathering(&self) -> Option<Gathering<CounterPlan>> {
        Some(Gathering {
            interval: Duration::from_millis(self.settings.flush_interval_ms),
            most: self.settings.max_pending_keys,
            size: CounterPlan::size,
            add: CounterPlan::add,
        })
    }
}

impl Tables for CounterService {
    /// Nobody is told of an increment but by the counter's value.
    type Outcomes = ();
    const PRUNED: &'static [&'static str] = &["used"];

    async fn apply(&self, tx: &mut PgConnection, batch: i64, plan: &Arc<CounterPlan>) -> sqlx::Result<()> {
        tables::apply(tx, batch, plan, self.window()).await
    }

    async fn outcomes(&self, _: &mut PgConnection, _: BatchRange) -> sqlx::Result<()> {
        Ok(())
    }

    fn messages((): ()) -> sqlx::Result<Vec<Message>> {
        Ok(Vec::new())
    }

    fn reads(&self, shard: PgPool, behind: Arc<Behind>) -> Router {
        reads::routes(shard, behind)
    }
}
