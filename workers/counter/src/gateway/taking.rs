//! Taking increments: they are in Kafka, on all its replicas, when the answer comes.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use shardlane_runtime::gateway::{Problem, idempotency_key, json_body};
use shardlane_runtime::record::check_id;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::gateway::Counters;
use crate::service::INCREMENTS;
use crate::wire::{IncrementRecord, canonical, check_value};

/// Most increments of one request.
const MOST: usize = 1_000;

/// An increment.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Increment {
    /// The counter.
    key: Uuid,
    /// By how much it rises.
    #[schema(minimum = 1)]
    value: i64,
}

/// Increments.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ManyIncrements {
    /// 1 to 1000 of them.
    increments: Vec<OneOfMany>,
}

/// One of many increments.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OneOfMany {
    /// The counter.
    key: Uuid,
    /// By how much it rises.
    #[schema(minimum = 1)]
    value: i64,
    /// The same for every retry, so that it counts once.
    idempotency_key: Option<String>,
}

/// What was taken.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Taken {
    /// How many increments Kafka has confirmed.
    increments: usize,
}

/// Raises a counter. With an `Idempotency-Key`, a retry counts once.
#[utoipa::path(post, path = "/increment", request_body = Increment, params(
    ("Idempotency-Key" = Option<String>, Header, description = "The same for every retry, so that it counts once."),
), responses(
    (status = 200, body = Taken, description = "Kafka has it; the counter shows it within the flush interval."),
    (status = 400, description = "Not exactly a key and a value of 1 or more."),
    (status = 429, description = "Too many requests; Retry-After says when to try again."),
    (status = 503, description = "Kafka did not confirm it; it may count yet, so try again with the same Idempotency-Key."),
))]
pub(super) async fn increment(
    State(counters): State<Arc<Counters>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Taken>, Problem> {
    let Increment { key, value } = json_body(body)?;
    check_value(value).map_err(Problem::bad_request)?;
    take(&counters, key, value, idempotency_key(&headers)?).await?;
    counters.tally.received(1);
    Ok(Json(Taken { increments: 1 }))
}

/// Raises many counters.
#[utoipa::path(post, path = "/increments", request_body = ManyIncrements, responses(
    (status = 200, body = Taken, description = "Kafka has all of them."),
    (status = 400, description = "One of them is wrong; none was taken."),
    (status = 413, description = "More than 1000 increments."),
    (status = 429, description = "Too many requests; Retry-After says when to try again."),
    (status = 503, description = "Kafka did not confirm all of them; some may count, so try all again with the same idempotency keys."),
))]
pub(super) async fn increments(
    State(counters): State<Arc<Counters>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Taken>, Problem> {
    let ManyIncrements { increments } = json_body(body)?;
    if increments.is_empty() {
        return Err(Problem::bad_request("there is no increment"));
    }
    if increments.len() > MOST {
        let detail = format!("at most {MOST} increments at once; these are {}", increments.len());
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    for (place, each) in increments.iter().enumerate() {
        let id = each.idempotency_key.as_deref().map_or(Ok(()), |id| check_id("idempotency_key", id));
        let checked = check_value(each.value).and(id);
        checked.map_err(|reason| Problem::bad_request(format!("increments[{place}]: {reason}")))?;
    }
    let taken = increments.iter().map(|each| take(&counters, each.key, each.value, each.idempotency_key.as_deref()));
    try_join_all(taken).await?;
    counters.tally.received(increments.len());
    Ok(Json(Taken { increments: increments.len() }))
}

/// Takes an increment that was checked.
async fn take(counters: &Counters, key: Uuid, value: i64, id: Option<&str>) -> Result<(), Problem> {
    let record = IncrementRecord { key, value, idempotency_key: id.map(Into::into) };
    let record = serde_json::to_vec(&record).map_err(|error| Problem::internal(&error))?;
    let mut buffer = [0; uuid::fmt::Hyphenated::LENGTH];
    counters.gateway.submit(INCREMENTS, canonical(key, &mut buffer).as_bytes(), record).await
}
