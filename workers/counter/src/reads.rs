//! What gateways ask a shard: each answer is of one snapshot with whether the shard owns the slot, and says how far it may be
//! behind Kafka.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use shardlane_runtime::behind::Behind;
use shardlane_runtime::gateway::{Answer, Part, shard_error};
use shardlane_runtime::{owned, owned_slots};
use sqlx::{PgPool, Row};
use tokio::sync::Mutex;
use uuid::Uuid;

/// Path of counters of one slot on a worker.
pub const COUNTERS: &str = "/internal/counters";
/// Path of a shard's largest counters.
pub const LARGEST: &str = "/internal/largest";
/// Most counters in one answer.
pub const MAX_COUNTERS: usize = 1_000;
/// How long the largest counters are told again: finding them means looking at all.
const SAME_LARGEST: Duration = Duration::from_secs(1);

/// What a shard says of counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Values {
    /// The counters that were ever raised, of those asked for.
    pub values: HashMap<Uuid, i64>,
    /// How far they may be behind Kafka, in milliseconds.
    pub staleness_ms: u64,
}

#[derive(Deserialize)]
struct CountersQuery {
    slot: u32,
    /// Separated by commas.
    keys: String,
}

#[derive(Deserialize)]
struct LargestQuery {
    top: usize,
}

struct Counters {
    shard: PgPool,
    behind: Arc<Behind>,
    largest: Mutex<Option<Largest>>,
}

/// The largest counters of a shard, as they were.
struct Largest {
    seen: Instant,
    top: usize,
    part: Part<Vec<(Uuid, i64)>>,
    staleness: Duration,
}

type Failed = (StatusCode, String);

/// The routes of a worker.
pub fn routes(shard: PgPool, behind: Arc<Behind>) -> Router {
    let counters = Arc::new(Counters { shard, behind, largest: Mutex::default() });
    Router::new().route(COUNTERS, get(values)).route(LARGEST, get(largest)).with_state(counters)
}

/// In whole milliseconds, rounded up: what is told is never older than it says.
pub fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX)
}

async fn values(
    State(counters): State<Arc<Counters>>,
    Query(CountersQuery { slot, keys }): Query<CountersQuery>,
) -> Result<Json<Answer<Values>>, Failed> {
    let bad = |error: uuid::Error| (StatusCode::BAD_REQUEST, format!("keys are UUIDs: {error}\n"));
    let keys: Vec<Uuid> = keys.split(',').map(Uuid::try_parse).collect::<Result<_, _>>().map_err(bad)?;
    // What is in the snapshot was written before it was taken, so this is how old it was at most.
    let (began, staleness) = (Instant::now(), counters.behind.age());
    let statement = owned!(
        "x.keys, x.values",
        "SELECT ARRAY_AGG(c.key) AS keys, ARRAY_AGG(c.value) AS values FROM counter c WHERE c.key = ANY($2)"
    );
    let asked = sqlx::query(statement).bind(slot.cast_signed()).bind(keys);
    let row = asked.fetch_optional(&counters.shard).await.map_err(shard_error)?;
    Answer::of(row, |row| {
        let keys = row.get::<Option<Vec<Uuid>>, _>(0).unwrap_or_default();
        let values = row.get::<Option<Vec<i64>>, _>(1).unwrap_or_default();
        let values = keys.into_iter().zip(values).collect();
        Ok(Values { values, staleness_ms: ms(staleness + began.elapsed()) })
    })
    .map(Json)
    .map_err(shard_error)
}

async fn largest(
    State(counters): State<Arc<Counters>>,
    Query(LargestQuery { top }): Query<LargestQuery>,
) -> Result<Json<Part<Values>>, Failed> {
    let top = top.min(MAX_COUNTERS);
    // One looks, and everybody else waits for what it sees.
    let mut known = counters.largest.lock().await;
    let fits = |known: &Largest| known.top >= top && known.seen.elapsed() < SAME_LARGEST;
    let largest = match known.take().filter(fits) {
        Some(largest) => largest,
        None => look(&counters, top).await.map_err(shard_error)?,
    };
    let answer = Values {
        values: largest.part.answer.iter().take(top).copied().collect(),
        staleness_ms: ms(largest.staleness + largest.seen.elapsed()),
    };
    let slots = known.insert(largest).part.slots.clone();
    Ok(Json(Part { slots, answer }))
}

async fn look(counters: &Counters, top: usize) -> sqlx::Result<Largest> {
    let (seen, staleness) = (Instant::now(), counters.behind.age());
    let row = sqlx::query(concat!(
        "WITH s AS (",
        owned_slots!(),
        "), l AS (SELECT key, value FROM counter WHERE slot IN (SELECT slot FROM s) ORDER BY value DESC, key LIMIT $1)
         SELECT ARRAY(SELECT slot FROM s), ARRAY(SELECT key FROM l ORDER BY value DESC, key),
                ARRAY(SELECT value FROM l ORDER BY value DESC, key)"
    ))
    .bind(i64::try_from(top).unwrap_or(i64::MAX))
    .fetch_one(&counters.shard)
    .await?;
    let (slots, keys, values): (Vec<i32>, Vec<Uuid>, Vec<i64>) = (row.get(0), row.get(1), row.get(2));
    let slots = slots.into_iter().map(i32::unsigned_abs).collect();
    let part = Part { slots, answer: keys.into_iter().zip(values).collect() };
    Ok(Largest { seen, top, part, staleness })
}
