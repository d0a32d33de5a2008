//! Accounts: opened, changed, closed, filled from outside, and read.

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

use crate::gateway::{Wallet, accepted, checked_account, refused};
use crate::money::{self, Currency, Minor};
use crate::reads::{ACCOUNT, AccountState, DoneState, ENTRIES, EntryState, MAX_ENTRIES, What};
use crate::reason::Reason;
use crate::wire::{Change, Direction, PaymentRecord};

/// Entries in an answer, unless the user says how many.
const ENTRIES_SHOWN: i64 = 50;

/// An account to be opened.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewAccount {
    /// The same for every retry; one is made if it is absent.
    request_id: Option<String>,
    /// Its id.
    account: String,
    /// Its currency; the service's own if absent.
    #[schema(value_type = Option<String>)]
    currency: Option<Currency>,
    /// The lowest balance that it may have, zero or less; the service's own if absent.
    limit: Option<String>,
}

/// A deposit.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewDeposit {
    /// The same for every retry; one is made if it is absent.
    request_id: Option<String>,
    /// The account, which is opened if there is none.
    account: String,
    /// How much: digits with at most two decimal places, in quotes.
    amount: String,
    /// The currency; the account's own if absent.
    #[schema(value_type = Option<String>)]
    currency: Option<Currency>,
}

/// A limit.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewLimit {
    /// The same for every retry; one is made if it is absent.
    request_id: Option<String>,
    /// The lowest balance that the account may have.
    limit: String,
}

/// An account.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Account {
    account: String,
    #[schema(value_type = String)]
    currency: Currency,
    balance: String,
    /// The lowest balance that it may have.
    limit: String,
    closed: bool,
}

/// Opens an account, or one that was closed once more.
#[utoipa::path(post, path = "/api/v1/accounts", request_body = NewAccount, responses(
    (status = 201, body = Account),
    (status = 202, description = "It is safe and will be done; ask again with the same request_id."),
    (status = 409, description = "It exists already, or could not be opened again like this."),
))]
pub(super) async fn open(
    Shared(wallet): Shared<Arc<Wallet>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let NewAccount { request_id: given, account, currency, limit } = json_body(body)?;
    let id = request_id(given)?;
    checked_account(&account)?;
    let limit = limit.map(|limit| checked_limit(&limit)).transpose()?;
    let record = PaymentRecord {
        currency,
        limit: limit.map(|limit| Minor(limit).to_string().into()),
        ..PaymentRecord::new(Direction::Open, &account, &id)
    };
    let wanted = Change::Open { currency, limit };
    wallet.changed(&record, &wanted, StatusCode::CREATED).await
}

/// Changes an account's limit.
#[utoipa::path(put, path = "/api/v1/accounts/{account}/limit", request_body = NewLimit, params(("account" = String, Path)),
responses(
    (status = 200, body = Account),
    (status = 202, description = "It is safe and will be done; ask again with the same request_id."),
    (status = 404, description = "There is no such account."),
    (status = 409, description = "The balance is below it, or the account is closed."),
))]
pub(super) async fn limit(
    Shared(wallet): Shared<Arc<Wallet>>,
    path: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let account = path?.0;
    let NewLimit { request_id: given, limit } = json_body(body)?;
    let id = request_id(given)?;
    checked_account(&account)?;
    let limit = checked_limit(&limit)?;
    let record = PaymentRecord {
        limit: Some(Minor(limit).to_string().into()),
        ..PaymentRecord::new(Direction::Limit, &account, &id)
    };
    wallet.changed(&record, &Change::Limit { limit }, StatusCode::OK).await
}

#[derive(Debug, Deserialize)]
pub(super) struct CloseQuery {
    request_id: Option<String>,
}

/// Closes an account that holds nothing. It can be opened again.
#[utoipa::path(delete, path = "/api/v1/accounts/{account}", params(
    ("account" = String, Path), ("request_id" = Option<String>, Query, description = "The same for every retry."),
), responses(
    (status = 200, body = Account),
    (status = 202, description = "It is safe and will be done; ask again with the same request_id."),
    (status = 404, description = "There is no such account."),
    (status = 409, description = "It holds something, or is closed already."),
))]
pub(super) async fn close(
    Shared(wallet): Shared<Arc<Wallet>>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<CloseQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let account = path?.0;
    let id = request_id(query?.0.request_id)?;
    checked_account(&account)?;
    wallet.changed(&PaymentRecord::new(Direction::Close, &account, &id), &Change::Close, StatusCode::OK).await
}

/// Brings money from outside to an account.
#[utoipa::path(post, path = "/api/v1/deposits", request_body = NewDeposit, responses(
    (status = 201, body = Account),
    (status = 202, description = "It is safe and will be done; ask again with the same request_id."),
    (status = 400, description = "No deposit, and why."),
    (status = 409, description = "The account is closed, has another currency, or cannot hold as much."),
))]
pub(super) async fn deposit(
    Shared(wallet): Shared<Arc<Wallet>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let NewDeposit { request_id: given, account, amount, currency } = json_body(body)?;
    let id = request_id(given)?;
    checked_account(&account)?;
    let minor = money::amount(&amount).map_err(|error| Problem::bad_request(error.to_string()))?;
    let record = PaymentRecord {
        amount: Some(Minor(minor).to_string().into()),
        currency,
        ..PaymentRecord::new(Direction::Deposit, &account, &id)
    };
    let mine = |done: &DoneState| match done.what {
        What::Deposit { amount, currency: in_currency } => {
            Some(amount == minor && currency.is_none_or(|currency| currency == in_currency))
        }
        What::Change(_) => None,
    };
    let outcome = wallet.carry_out(&record, mine).await?;
    wallet.told(&record, outcome, StatusCode::CREATED).await
}

/// An account as it is now.
#[utoipa::path(get, path = "/api/v1/accounts/{account}", params(("account" = String, Path)), responses(
    (status = 200, body = Account), (status = 404, description = "There is no such account, or not yet."),
))]
pub(super) async fn account(
    Shared(wallet): Shared<Arc<Wallet>>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<Account>, Problem> {
    let account = path?.0;
    checked_account(&account)?;
    let found = wallet.account(&account).await?;
    found.map(Json).ok_or_else(|| Problem::not_found(format!("there is no account {account:?}, or not yet")))
}

#[derive(Debug, Deserialize)]
pub(super) struct EntriesQuery {
    before: Option<i64>,
    limit: Option<i64>,
}

/// Entries of an account, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Entries {
    entries: Vec<Entry>,
    /// What to give as `before` for those before them; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<i64>,
}

/// Money that entered or left an account. It never changes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Entry {
    /// Rises with each entry of an account.
    number: i64,
    /// Milliseconds since 1970.
    recorded_at: i64,
    /// `outgoing`, `incoming`, `returned` or `deposit`.
    direction: String,
    /// The other account; `@deposits` for money from outside.
    counterparty: String,
    request_id: String,
    /// Less than zero if it left the account.
    amount: String,
    /// What the account held afterwards.
    balance: String,
    /// Why it came back.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
}

/// What has entered and left an account, the newest first.
#[utoipa::path(get, path = "/api/v1/accounts/{account}/entries", params(
    ("account" = String, Path),
    ("before" = Option<i64>, Query, description = "Only those before this number."),
    ("limit" = Option<i64>, Query, description = "How many, at most 500; 50 if absent."),
), responses((status = 200, body = Entries)))]
pub(super) async fn entries(
    Shared(wallet): Shared<Arc<Wallet>>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<EntriesQuery>, QueryRejection>,
) -> Result<Json<Entries>, Problem> {
    let (account, EntriesQuery { before, limit }) = (path?.0, query?.0);
    checked_account(&account)?;
    let limit = limit.unwrap_or(ENTRIES_SHOWN);
    if !(1..=MAX_ENTRIES).contains(&limit) {
        return Err(Problem::bad_request(format!("limit is 1 to {MAX_ENTRIES}; this is {limit}")));
    }
    let (limit_text, before_text) = (limit.to_string(), before.map(|before| before.to_string()));
    let before = before_text.as_deref().map(|before| ("before", before));
    let query: Vec<_> = [("account", &*account), ("limit", &*limit_text)].into_iter().chain(before).collect();
    let found: Vec<EntryState> = wallet.read(&account, ENTRIES, &query).await?;
    let full = i64::try_from(found.len()).unwrap_or(i64::MAX) == limit;
    let next = found.last().filter(|_| full).map(|entry| entry.number);
    let entries = found.into_iter().map(|entry| shown(&account, entry)).collect();
    Ok(Json(Entries { entries, next }))
}

fn shown(account: &str, entry: EntryState) -> Entry {
    let EntryState { number, recorded_at, leg, sender, receiver, request_id, amount, balance, reason } = entry;
    let amount = if leg == "outgoing" { -amount } else { amount };
    let other = if sender == account { receiver } else { sender };
    Entry {
        number,
        recorded_at,
        counterparty: if leg == "deposit" { "@deposits".to_owned() } else { other },
        direction: leg,
        request_id,
        amount: Minor(amount).to_string(),
        balance: Minor(balance).to_string(),
        reason,
    }
}

fn checked_limit(limit: &str) -> Result<i64, Problem> {
    money::limit(limit).map_err(|error| Problem::bad_request(format!("limit: {error}")))
}

impl Wallet {
    async fn account(&self, account: &str) -> Result<Option<Account>, Problem> {
        let found: Option<AccountState> = self.read(account, ACCOUNT, &[("account", account)]).await?;
        Ok(found.map(|AccountState { currency, balance, limit, closed }| Account {
            account: account.to_owned(),
            currency,
            balance: Minor(balance).to_string(),
            limit: Minor(limit).to_string(),
            closed,
        }))
    }

    async fn changed(
        &self,
        record: &PaymentRecord<'_>,
        wanted: &Change,
        done: StatusCode,
    ) -> Result<Response, Problem> {
        let mine = |done: &DoneState| match &done.what {
            What::Change(change) => Some(change == wanted),
            What::Deposit { .. } => None,
        };
        let outcome = self.carry_out(record, mine).await?;
        self.told(record, outcome, done).await
    }

    /// Tells what became of an instruction.
    async fn told(
        &self,
        record: &PaymentRecord<'_>,
        outcome: Option<Option<Reason>>,
        done: StatusCode,
    ) -> Result<Response, Problem> {
        let location = format!("/api/v1/accounts/{}", encoded(&record.account));
        match outcome {
            None => Ok(accepted(location, &record.request_id)),
            Some(Some(reason)) => Err(refused(reason).with("request_id", &*record.request_id)),
            Some(None) => match self.account(&record.account).await? {
                Some(account) => Ok((done, [(header::LOCATION, location)], Json(account)).into_response()),
                None => Ok(accepted(location, &record.request_id)),
            },
        }
    }
}
