//! What gateways ask a shard: each answer is of one snapshot with whether the shard owns the slot.

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use shardlane_runtime::gateway::{Answer, Part, shard_error};
use shardlane_runtime::{owned, owned_slots};
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};

use crate::audit;
use crate::money::Currency;
use crate::reason::Reason;
use crate::stored::{parsed, read_change};
use crate::wire::Change;

/// Path of accounts on a worker.
pub const ACCOUNT: &str = "/internal/account";
/// Path of an account's entries on a worker.
pub const ENTRIES: &str = "/internal/entries";
/// Path of what became of a payment, where its sender is.
pub const SENT: &str = "/internal/sent";
/// Path of what became of a payment, where its receiver is.
pub const RECEIVED: &str = "/internal/received";
/// Path of all senders of a request.
pub const SENDERS: &str = "/internal/senders";
/// Path of deposits and changes.
pub const DONE: &str = "/internal/done";
/// Path of the shard's books.
pub const BOOKS: &str = "/internal/books";

/// Most entries in one answer.
pub const MAX_ENTRIES: i64 = 500;

/// An account as a worker tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountState {
    /// Its currency.
    pub currency: Currency,
    /// Minor units.
    pub balance: i64,
    /// Minor units.
    pub limit: i64,
    /// Whether it is closed.
    pub closed: bool,
}

/// An entry as a worker tells of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryState {
    /// Its number in the slot; rises with each entry of an account.
    pub number: i64,
    /// Milliseconds since 1970.
    pub recorded_at: i64,
    /// `outgoing`, `incoming`, `returned` or `deposit`.
    pub leg: String,
    /// Who pays.
    pub sender: String,
    /// Who is paid.
    pub receiver: String,
    /// The request.
    pub request_id: String,
    /// Minor units.
    pub amount: i64,
    /// What the account held afterwards, in minor units.
    pub balance: i64,
    /// Why it came back.
    pub reason: Option<Reason>,
}

/// What became of a transfer, where its sender is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentState {
    /// Who is paid.
    pub receiver: String,
    /// Minor units.
    pub amount: i64,
    /// The currency.
    pub currency: Currency,
    /// Why it was not made, or came back.
    pub reason: Option<Reason>,
    /// Whether the sender was debited and has not got it back.
    pub under_way: bool,
    /// How often the id was used for something else.
    pub conflicts: i64,
    /// The number of the debit.
    pub number: i64,
}

/// What became of a deposit or of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoneState {
    /// What was asked for under this id first.
    pub what: What,
    /// Why it was not done.
    pub refused: Option<Reason>,
}

/// What can be asked for under an id, besides transfers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// A change.
    Change(Change),
    /// A deposit.
    Deposit {
        /// Minor units.
        amount: i64,
        /// The currency.
        currency: Currency,
    },
}

#[derive(Deserialize)]
struct AccountQuery {
    slot: u32,
    account: String,
}

#[derive(Deserialize)]
struct EntriesQuery {
    slot: u32,
    account: String,
    before: Option<i64>,
    limit: i64,
}

#[derive(Deserialize)]
struct RequestQuery {
    slot: u32,
    account: String,
    request_id: String,
}

#[derive(Deserialize)]
struct ReceivedQuery {
    slot: u32,
    debit_slot: u32,
    debit_number: i64,
}

#[derive(Deserialize)]
struct SendersQuery {
    request_id: String,
}

#[derive(Deserialize)]
struct BooksQuery {
    #[serde(default)]
    balances: bool,
}

type Failed = (StatusCode, String);
type Told<T> = Result<Json<Answer<T>>, Failed>;

/// The routes of a worker.
pub fn routes(shard: PgPool) -> Router {
    Router::new()
        .route(ACCOUNT, get(account))
        .route(ENTRIES, get(entries))
        .route(SENT, get(sent))
        .route(RECEIVED, get(received))
        .route(SENDERS, get(senders))
        .route(DONE, get(done))
        .route(BOOKS, get(books))
        .with_state(shard)
}

/// One row, or none if the slot is another shard's.
fn answer<T>(row: Option<PgRow>, read: impl FnOnce(&PgRow) -> sqlx::Result<T>) -> Told<T> {
    Answer::of(row, read).map(Json).map_err(shard_error)
}

async fn account(State(shard): State<PgPool>, Query(query): Query<AccountQuery>) -> Told<Option<AccountState>> {
    let statement = owned!(
        "x.currency, x.balance, x.lowest, x.closed",
        "SELECT currency, balance, lowest, closed FROM account WHERE id = $2"
    );
    let asked = sqlx::query(statement).bind(query.slot.cast_signed()).bind(&query.account);
    let row = asked.fetch_optional(&shard).await.map_err(shard_error)?;
    answer(row, |row| {
        let Some(currency) = row.get::<Option<&str>, _>(0) else { return Ok(None) };
        let (balance, limit, closed) = (row.get(1), row.get(2), row.get(3));
        Ok(Some(AccountState { currency: parsed(currency)?, balance, limit, closed }))
    })
}

/// Along the account's chain, newest first.
const CHAIN: &str = concat!(
    "WITH RECURSIVE chain AS (
        SELECT e.*, 1 AS length FROM entry e
        WHERE e.slot = $1 AND e.number = (
            SELECT CASE WHEN $3::bigint IS NULL THEN a.last_entry
                        ELSE (SELECT b.previous FROM entry b WHERE b.slot = $1 AND b.number = $3
                              AND $2 = CASE b.leg WHEN 'incoming' THEN b.receiver ELSE b.sender END) END
            FROM account a WHERE a.id = $2)
        UNION ALL
        SELECT e.*, c.length + 1 FROM chain c JOIN entry e ON e.slot = $1 AND e.number = c.previous WHERE c.length < $4
    )
    SELECT x.number, x.recorded_at, x.leg, x.sender, x.receiver, x.request_id, x.amount, x.balance, x.reason
    FROM (",
    owned_slots!(),
    ") s LEFT JOIN chain x ON true WHERE s.slot = $1
    ORDER BY x.number DESC"
);

async fn entries(State(shard): State<PgPool>, Query(query): Query<EntriesQuery>) -> Told<Vec<EntryState>> {
    let rows = sqlx::query(CHAIN)
        .bind(query.slot.cast_signed())
        .bind(&query.account)
        .bind(query.before)
        .bind(query.limit.clamp(1, MAX_ENTRIES))
        .fetch_all(&shard)
        .await
        .map_err(shard_error)?;
    if rows.is_empty() {
        return Ok(Json(Answer::Elsewhere));
    }
    let entry = |row: &PgRow| -> Option<sqlx::Result<EntryState>> {
        let number = row.get::<Option<i64>, _>(0)?;
        let reason = row.get::<Option<&str>, _>(8).map(parsed).transpose();
        Some(reason.map(|reason| EntryState {
            number,
            recorded_at: row.get(1),
            leg: row.get(2),
            sender: row.get(3),
            receiver: row.get(4),
            request_id: row.get(5),
            amount: row.get(6),
            balance: row.get(7),
            reason,
        }))
    };
    let entries: sqlx::Result<Vec<_>> = rows.iter().filter_map(entry).collect();
    entries.map(|entries| Json(Answer::Owned(entries))).map_err(shard_error)
}

async fn sent(State(shard): State<PgPool>, Query(query): Query<RequestQuery>) -> Told<Option<SentState>> {
    let statement = owned!(
        "x.receiver, x.amount, x.currency, x.reason, x.under_way, x.conflicts, x.number",
        "SELECT o.receiver, o.amount, o.currency, o.number, COALESCE(o.reason, r.reason) AS reason,
                o.balance IS NOT NULL AND r.balance IS NULL AS under_way,
                (SELECT count(*) FROM conflict c
                 WHERE c.request_id = $3 AND c.account = $2 AND c.what = 'outgoing') AS conflicts
         FROM entry o LEFT JOIN entry r ON r.debit_slot = o.slot AND r.debit_number = o.number AND r.leg = 'returned'
         WHERE o.request_id = $3 AND o.sender = $2 AND o.leg = 'outgoing' AND o.debit_number IS NULL"
    );
    let asked = sqlx::query(statement).bind(query.slot.cast_signed()).bind(&query.account).bind(&query.request_id);
    let row = asked.fetch_optional(&shard).await.map_err(shard_error)?;
    answer(row, |row| {
        let Some(receiver) = row.get(0) else { return Ok(None) };
        let (amount, currency) = (row.get(1), parsed(row.get(2))?);
        let reason = row.get::<Option<&str>, _>(3).map(parsed).transpose()?;
        let (under_way, conflicts, number) = (row.get(4), row.get(5), row.get(6));
        Ok(Some(SentState { receiver, amount, currency, reason, under_way, conflicts, number }))
    })
}

/// Whether the receiver was credited; `None` while the money has not come.
async fn received(State(shard): State<PgPool>, Query(query): Query<ReceivedQuery>) -> Told<Option<bool>> {
    let statement = owned!(
        "x.credited",
        "SELECT balance IS NOT NULL AS credited FROM entry
         WHERE debit_slot = $2 AND debit_number = $3 AND leg = 'incoming'"
    );
    let asked = sqlx::query(statement).bind(query.slot.cast_signed()).bind(query.debit_slot.cast_signed());
    let row = asked.bind(query.debit_number).fetch_optional(&shard).await.map_err(shard_error)?;
    answer(row, |row| Ok(row.get(0)))
}

async fn senders(
    State(shard): State<PgPool>,
    Query(query): Query<SendersQuery>,
) -> Result<Json<Part<Vec<String>>>, Failed> {
    let row = sqlx::query(concat!(
        "WITH s AS (",
        owned_slots!(),
        ") SELECT ARRAY(SELECT slot FROM s),
                      ARRAY(SELECT sender FROM entry WHERE request_id = $1 AND leg = 'outgoing' AND debit_number IS NULL
                            AND slot IN (SELECT slot FROM s) LIMIT 10)"
    ))
    .bind(&query.request_id)
    .fetch_one(&shard)
    .await
    .map_err(shard_error)?;
    let slots: Vec<i32> = row.get(0);
    Ok(Json(Part { slots: slots.into_iter().map(i32::unsigned_abs).collect(), answer: row.get(1) }))
}

async fn done(State(shard): State<PgPool>, Query(query): Query<RequestQuery>) -> Told<Vec<DoneState>> {
    let statement = owned!(
        "x.change, x.change_refused, x.amount, x.deposit_refused, x.currency",
        "SELECT c.change, c.refused AS change_refused, d.amount, d.currency,
                CASE WHEN d.balance IS NULL THEN d.reason END AS deposit_refused
         FROM (SELECT 1) AS one
         LEFT JOIN change c ON c.account = $2 AND c.request_id = $3
         LEFT JOIN entry d ON d.request_id = $3 AND d.sender = $2 AND d.leg = 'deposit' AND d.debit_number IS NULL"
    );
    let asked = sqlx::query(statement).bind(query.slot.cast_signed()).bind(&query.account).bind(&query.request_id);
    let row = asked.fetch_optional(&shard).await.map_err(shard_error)?;
    answer(row, |row| {
        let refused = |at: usize| row.get::<Option<&str>, _>(at).map(parsed::<Reason>).transpose();
        let mut done = Vec::new();
        if let Some(change) = row.get::<Option<&str>, _>(0) {
            done.push(DoneState { what: What::Change(read_change(change)?), refused: refused(1)? });
        }
        if let Some(amount) = row.get(2) {
            let what = What::Deposit { amount, currency: parsed(row.get(4))? };
            done.push(DoneState { what, refused: refused(3)? });
        }
        Ok(done)
    })
}

async fn books(
    State(shard): State<PgPool>,
    Query(query): Query<BooksQuery>,
) -> Result<Json<Part<Vec<audit::SlotBooks>>>, Failed> {
    crate::books::tell(&shard, query.balances).await.map(Json).map_err(shard_error)
}
