//! The barest counters: increments added up in memory, and nothing else.

use std::collections::HashMap;

use anyhow::{Context, Result};
use shardlane_counter::service::INCREMENTS;
use shardlane_counter::wire::IncrementRecord;
use shardlane_runtime::record::Record;
use uuid::Uuid;

use crate::bare::looped::{Encoder, Ends};

/// Adds up.
pub async fn run(ends: Ends) -> Result<()> {
    ends.join(Counters::default(), async |()| Ok(())).await
}

#[derive(Default)]
struct Counters(HashMap<Uuid, i64>);

impl Encoder for Counters {
    const REQUESTS: &'static str = INCREMENTS;
    type Encoded = ();

    fn take(&mut self, record: &Record<'_>) -> Result<()> {
        let increment: IncrementRecord<'_> = serde_json::from_slice(record.value.context("no value")?)?;
        *self.0.entry(increment.key).or_default() += increment.value;
        Ok(())
    }

    fn encode(&mut self, _: i64) -> Result<()> {
        Ok(())
    }
}
