//! Transfers: taken, and what became of them.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State as Shared};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use shardlane_runtime::gateway::{Problem, encoded, json_body, request_id};
use utoipa::ToSchema;

use crate::gateway::{Wallet, checked_account};
use crate::money::{Currency, Minor};
use crate::reads::{RECEIVED, SENDERS, SENT, SentState};
use crate::reason::Reason;
use crate::service::REQUEST;
use crate::wire::{TransferRequest, check_request};

/// A transfer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTransfer {
    /// The same for every retry; one is made if it is absent.
    request_id: Option<String>,
    /// The account that pays.
    from: String,
    /// How much: digits with at most two decimal places, in quotes.
    amount: String,
    /// The account that is paid.
    to: String,
    /// The currency; that of the paying account if absent.
    #[schema(value_type = Option<String>)]
    currency: Option<Currency>,
}

/// A transfer that was taken.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Echo {
    request_id: String,
    from: String,
    /// With two decimal places.
    amount: String,
    to: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    currency: Option<Currency>,
}

/// Takes a transfer: it is safe in Kafka when this answers, and will be settled or rejected.
#[utoipa::path(post, path = "/api/v1/transfers", request_body = NewTransfer, responses(
    (status = 201, body = Echo, description = "It is safe; what becomes of it will be at the Location."),
    (status = 400, description = "No transfer, and why."),
    (status = 503, description = "Kafka did not confirm it; try again with the same request_id."),
))]
pub(super) async fn transfer(
    Shared(wallet): Shared<Arc<Wallet>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let NewTransfer { request_id: given, from, amount, to, currency } = json_body(body)?;
    let id = request_id(given)?;
    let mut request = TransferRequest {
        request_id: (&*id).into(),
        from: (&*from).into(),
        amount: (&*amount).into(),
        to: (&*to).into(),
        currency,
    };
    let minor = check_request(&request).map_err(|(_, reason)| Problem::bad_request(reason))?;
    let amount = Minor(minor).to_string();
    request.amount = (&*amount).into();
    let value = serde_json::to_vec(&request).map_err(|error| Problem::internal(&error))?;
    wallet.gateway.submit(REQUEST, id.as_bytes(), value).await.map_err(|problem| {
        problem.with("request_id", &*id).with("from", &*from).with("amount", &*amount).with("to", &*to)
    })?;
    let location = format!("/api/v1/transfers/{}?from={}", encoded(&id), encoded(&from));
    let echo = Echo { request_id: id, from, amount, to, currency };
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(echo)).into_response())
}

/// Where a transfer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// The sender was debited, and the money is on its way there or back.
    Pending,
    /// The receiver was credited.
    Settled,
    /// The sender has what it had.
    Rejected,
}

/// A transfer and what became of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Transfer {
    request_id: String,
    from: String,
    amount: String,
    #[schema(value_type = String)]
    currency: Currency,
    to: String,
    state: State,
    /// Why it was rejected, for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    /// Why it was rejected, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'static str>,
    /// How often the sender used the id for another transfer, which was not made.
    #[serde(skip_serializing_if = "is_zero")]
    conflicts: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[derive(Debug, Deserialize)]
pub(super) struct StateQuery {
    from: Option<String>,
}

/// What became of a transfer.
#[utoipa::path(get, path = "/api/v1/transfers/{request_id}", params(
    ("request_id" = String, Path),
    ("from" = Option<String>, Query, description = "The account that pays; without it, all partitions are asked."),
), responses(
    (status = 200, body = Transfer),
    (status = 404, description = "Nothing is known of it, or not yet."),
    (status = 409, description = "Several senders have used this id; say which with `from`."),
))]
pub(super) async fn state(
    Shared(wallet): Shared<Arc<Wallet>>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<StateQuery>, QueryRejection>,
) -> Result<Json<Transfer>, Problem> {
    let id = request_id(Some(path?.0))?;
    let unknown = || Problem::not_found(format!("nothing is known of the transfer {id:?}, or not yet"));
    let from = match query?.0.from {
        Some(from) => from,
        None => wallet.sender(&id).await?.ok_or_else(unknown)?,
    };
    checked_account(&from)?;
    let sent: Option<SentState> = wallet.read(&from, SENT, &[("account", &from), ("request_id", &id)]).await?;
    let SentState { receiver: to, amount, currency, reason, under_way, conflicts, number } =
        sent.ok_or_else(unknown)?;
    let state = if under_way {
        let slot = wallet.gateway.keyspace.slot_of(from.as_bytes());
        let (slot, number) = (slot.to_string(), number.to_string());
        let query = [("debit_slot", &*slot), ("debit_number", &*number)];
        // One that the receiver has sent back is pending until it is there.
        let credited: Option<bool> = wallet.read(&to, RECEIVED, &query).await?;
        if credited == Some(true) { State::Settled } else { State::Pending }
    } else {
        State::Rejected
    };
    let reason = reason.filter(|_| state == State::Rejected);
    let (amount, detail) = (Minor(amount).to_string(), reason.map(Reason::text));
    Ok(Json(Transfer { request_id: id, from, amount, currency, to, state, reason, detail, conflicts }))
}

impl Wallet {
    /// Who has used an id.
    async fn sender(&self, id: &str) -> Result<Option<String>, Problem> {
        let parts = self.gateway.reads.all::<Vec<String>>(SENDERS, &[("request_id", id)]).await?;
        let mut senders: Vec<String> = parts.into_iter().flat_map(|part| part.answer).collect();
        if senders.len() > 1 {
            senders.sort_unstable();
            let detail = "several senders have used this id; say which one is meant with ?from=";
            return Err(Problem::new(StatusCode::CONFLICT, detail).with("from", senders));
        }
        Ok(senders.pop())
    }
}
