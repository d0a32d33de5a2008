//! What counters are, and how far that may be behind.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use shardlane_runtime::gateway::Problem;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::gateway;
use crate::reads::{COUNTERS, LARGEST, MAX_COUNTERS, Values, ms};
use crate::wire::canonical;

/// A counter.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Counter {
    key: Uuid,
    /// 0 if it was never raised.
    value: i64,
    /// What was confirmed so many milliseconds before the answer, and earlier, is in it.
    staleness_ms: u64,
}

/// A counter among others.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct KeyAndValue {
    key: Uuid,
    value: i64,
}

/// Several counters.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Counters {
    /// In the order asked for, or the largest first.
    counters: Vec<KeyAndValue>,
    /// What was confirmed so many milliseconds before the answer, and earlier, is in all of them.
    staleness_ms: u64,
}

#[derive(Deserialize)]
pub(super) struct CountersQuery {
    keys: Option<String>,
    top: Option<usize>,
}

type Ours = State<Arc<gateway::Counters>>;

/// What a counter is.
#[utoipa::path(get, path = "/counters/{key}", params(("key" = Uuid, Path)), responses(
    (status = 200, body = Counter),
    (status = 400, description = "The key is no UUID."),
    (status = 503, description = "The partition of this counter does not answer now."),
))]
pub(super) async fn counter(
    State(counters): Ours,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<Counter>, Problem> {
    let Path(key) = path?;
    let key = parsed(&key)?;
    let began = Instant::now();
    let Values { values, staleness_ms } = counters.values(&[key]).await?;
    let value = values.get(&key).copied().unwrap_or(0);
    Ok(Json(Counter { key, value, staleness_ms: staleness_ms + ms(began.elapsed()) }))
}

/// What several counters are: those with these keys, or the largest.
#[utoipa::path(get, path = "/counters", params(
    ("keys" = Option<String>, Query, description = "UUIDs, separated by commas; at most 1000."),
    ("top" = Option<usize>, Query, description = "So many of the largest, at most 1000; as of a second ago."),
), responses(
    (status = 200, body = Counters),
    (status = 400, description = "Neither keys nor top, or both, or too many."),
    (status = 503, description = "Not all partitions answer now."),
))]
pub(super) async fn counters(
    State(counters): Ours,
    query: Result<Query<CountersQuery>, QueryRejection>,
) -> Result<Json<Counters>, Problem> {
    let began = Instant::now();
    let Query(CountersQuery { keys, top }) = query?;
    let (counters, staleness_ms) = match (keys, top) {
        (Some(keys), None) => counters.several(&keys).await?,
        (None, Some(top)) => counters.largest(top).await?,
        _ => return Err(Problem::bad_request("say either ?keys=UUID,UUID,... or ?top=NUMBER")),
    };
    Ok(Json(Counters { counters, staleness_ms: staleness_ms + ms(began.elapsed()) }))
}

fn parsed(key: &str) -> Result<Uuid, Problem> {
    Uuid::try_parse(key).map_err(|error| Problem::bad_request(format!("a counter's key is a UUID: {error}")))
}

fn too_many(asked: usize) -> Result<(), Problem> {
    if asked <= MAX_COUNTERS {
        return Ok(());
    }
    Err(Problem::bad_request(format!("at most {MAX_COUNTERS} counters at once; these are {asked}")))
}

impl gateway::Counters {
    async fn several(&self, keys: &str) -> Result<(Vec<KeyAndValue>, u64), Problem> {
        let keys = keys.split(',').map(|key| parsed(key.trim())).collect::<Result<Vec<_>, _>>()?;
        too_many(keys.len())?;
        let Values { values, staleness_ms } = self.values(&keys).await?;
        let value = |key| KeyAndValue { key, value: values.get(&key).copied().unwrap_or(0) };
        Ok((keys.into_iter().map(value).collect(), staleness_ms))
    }

    async fn largest(&self, top: usize) -> Result<(Vec<KeyAndValue>, u64), Problem> {
        too_many(top)?;
        let parts = self.gateway.reads.all::<Values>(LARGEST, &[("top", &top.to_string())]).await?;
        let all = together(parts.into_iter().map(|part| part.answer));
        let mut largest: Vec<_> = all.values.into_iter().map(|(key, value)| KeyAndValue { key, value }).collect();
        largest.sort_unstable_by_key(|each| (std::cmp::Reverse(each.value), each.key));
        largest.truncate(top);
        Ok((largest, all.staleness_ms))
    }

    /// Asks the workers of all keys at once.
    async fn values(&self, keys: &[Uuid]) -> Result<Values, Problem> {
        let mut slots: BTreeMap<u32, String> = BTreeMap::new();
        let mut buffer = [0; uuid::fmt::Hyphenated::LENGTH];
        for key in keys {
            let key = canonical(*key, &mut buffer);
            let asked = slots.entry(self.gateway.keyspace.slot_of(key.as_bytes())).or_default();
            if !asked.is_empty() {
                asked.push(',');
            }
            asked.push_str(key);
        }
        let asked = slots.iter().map(async |(slot, keys)| {
            let number = slot.to_string();
            self.gateway.reads.get::<Values>(*slot, COUNTERS, &[("slot", &number), ("keys", keys)]).await
        });
        Ok(together(try_join_all(asked).await?))
    }
}

/// As stale as the stalest.
fn together(all: impl IntoIterator<Item = Values>) -> Values {
    let (mut values, mut staleness_ms) = (HashMap::new(), 0);
    for part in all {
        values.extend(part.values);
        staleness_ms = staleness_ms.max(part.staleness_ms);
    }
    Values { values, staleness_ms }
}
