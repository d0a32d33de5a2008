//! A shard's books: each slot's totals, and its part of the last audits.

use std::collections::BTreeMap;

use shardlane_runtime::gateway::Part;
use shardlane_runtime::owned_slots;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, PgPool, Postgres, Row};

use crate::audit::{CutTotals, Off, SlotBooks, SlotCut};
use crate::ledger::{Books, Cut, Decision, Totals};
use crate::stored::parsed;

/// How many audits a slot remembers.
pub const REMEMBERED: i64 = 32;

/// Totals from five columns of a row.
pub(crate) fn totals(row: &PgRow, at: usize) -> sqlx::Result<Totals> {
    Ok(Totals {
        deposited: parsed(row.get(at))?,
        sent: parsed(row.get(at + 1))?,
        received: parsed(row.get(at + 2))?,
        sent_digest: parsed(row.get(at + 3))?,
        received_digest: parsed(row.get(at + 4))?,
    })
}

/// The books of some slots.
pub async fn read(tx: &mut PgConnection, slots: &[u32]) -> sqlx::Result<BTreeMap<u32, Books>> {
    let rows = sqlx::query(
        "SELECT s.slot, COALESCE(b.epoch, 0), t.currency, t.deposited::text, t.sent::text, t.received::text,
                t.sent_digest::text, t.received_digest::text, COALESCE(b.entries, 0)
         FROM UNNEST($1::int[]) AS s(slot) LEFT JOIN book b ON b.slot = s.slot LEFT JOIN totals t ON t.slot = s.slot",
    )
    .bind(slots.iter().map(|slot| slot.cast_signed()).collect::<Vec<_>>())
    .fetch_all(tx)
    .await?;
    let mut books: BTreeMap<u32, Books> = BTreeMap::new();
    for row in &rows {
        let books = books.entry(row.get::<i32, _>(0).unsigned_abs()).or_default();
        (books.epoch, books.entries) = (row.get(1), row.get(8));
        if let Some(currency) = row.get::<Option<&str>, _>(2) {
            books.totals.insert(parsed(currency)?, totals(row, 3)?);
        }
    }
    Ok(books)
}

/// Writes what a batch has changed of them.
pub async fn write(tx: &mut PgConnection, batch: i64, decision: &Decision) -> sqlx::Result<()> {
    write_books(tx, batch, decision).await?;
    write_totals(tx, batch, decision).await?;
    if !decision.cuts.is_empty() {
        write_cuts(tx, batch, decision).await?;
    }
    if !decision.late.is_empty() {
        write_late(tx, batch, decision).await?;
    }
    Ok(())
}

/// Rows of totals, in columns; numbers as text, for they may be larger than 64 bits.
#[derive(Default)]
struct Rows {
    slots: Vec<i32>,
    currencies: Vec<String>,
    numbers: [Vec<String>; 5],
}

impl Rows {
    fn push(&mut self, slot: u32, currency: &str, totals: &Totals) {
        let Totals { deposited, sent, received, sent_digest, received_digest } = totals;
        self.slots.push(slot.cast_signed());
        self.currencies.push(currency.to_owned());
        for (column, number) in self.numbers.iter_mut().zip([deposited, sent, received, sent_digest, received_digest]) {
            column.push(number.to_string());
        }
    }

    /// Binds them as the parameters 2 to 8; the batch is the first.
    fn bind<'q>(&'q self, statement: &'static str, batch: i64) -> Query<'q, Postgres, PgArguments> {
        let query = sqlx::query(statement).bind(batch).bind(&self.slots).bind(&self.currencies);
        self.numbers.iter().fold(query, Query::bind)
    }
}

async fn write_books(tx: &mut PgConnection, batch: i64, decision: &Decision) -> sqlx::Result<()> {
    let books = &decision.books;
    if books.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO book (slot, batch, epoch, entries)
         SELECT slot, $1, epoch, entries FROM UNNEST($2::int[], $3::bigint[], $4::bigint[]) AS b(slot, epoch, entries)
         ON CONFLICT (slot) DO UPDATE SET batch = EXCLUDED.batch, epoch = EXCLUDED.epoch, entries = EXCLUDED.entries",
    )
    .bind(batch)
    .bind(books.keys().map(|slot| slot.cast_signed()).collect::<Vec<_>>())
    .bind(books.values().map(|books| books.epoch).collect::<Vec<_>>())
    .bind(books.values().map(|books| books.entries).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

async fn write_totals(tx: &mut PgConnection, batch: i64, decision: &Decision) -> sqlx::Result<()> {
    let mut rows = Rows::default();
    for (slot, books) in &decision.books {
        for (currency, totals) in &books.totals {
            rows.push(*slot, currency.as_str(), totals);
        }
    }
    if rows.slots.is_empty() {
        return Ok(());
    }
    let statement =
        "INSERT INTO totals (slot, batch, currency, deposited, sent, received, sent_digest, received_digest)
         SELECT slot, $1, currency, deposited, sent, received, sent_digest, received_digest
         FROM UNNEST($2::int[], $3::text[], $4::numeric[], $5::numeric[], $6::numeric[], $7::numeric[], $8::numeric[])
              AS t(slot, currency, deposited, sent, received, sent_digest, received_digest)
         ON CONFLICT (slot, currency) DO UPDATE SET batch = EXCLUDED.batch, deposited = EXCLUDED.deposited,
             sent = EXCLUDED.sent, received = EXCLUDED.received, sent_digest = EXCLUDED.sent_digest,
             received_digest = EXCLUDED.received_digest";
    rows.bind(statement, batch).execute(tx).await?;
    Ok(())
}

/// The row that says that the slot has taken part comes with those of its currencies.
async fn write_cuts(tx: &mut PgConnection, batch: i64, decision: &Decision) -> sqlx::Result<()> {
    let (mut rows, mut epochs, mut timestamps) = (Rows::default(), Vec::new(), Vec::new());
    for Cut { slot, epoch, timestamp, totals } in &decision.cuts {
        rows.push(*slot, "", &Totals::default());
        for (currency, totals) in totals {
            rows.push(*slot, currency.as_str(), totals);
        }
        epochs.resize(rows.slots.len(), *epoch);
        timestamps.resize(rows.slots.len(), *timestamp);
    }
    let places: Vec<i32> = epochs.iter().map(|epoch| place(*epoch)).collect();
    // Of two audits in one place, the later one stays.
    let statement = "INSERT INTO cut (slot, batch, place, currency, epoch, recorded_at, deposited, sent, received, sent_digest,
                          received_digest, late, late_digest)
         SELECT DISTINCT ON (slot, place, currency) slot, $1, place, currency, epoch, recorded_at, deposited, sent, received,
                sent_digest, received_digest, 0, 0
         FROM UNNEST($2::int[], $3::text[], $4::numeric[], $5::numeric[], $6::numeric[], $7::numeric[], $8::numeric[],
                     $9::int[], $10::bigint[], $11::bigint[])
              AS c(slot, currency, deposited, sent, received, sent_digest, received_digest, place, epoch, recorded_at)
         ORDER BY slot, place, currency, epoch DESC
         ON CONFLICT (slot, place, currency) DO UPDATE SET batch = EXCLUDED.batch, epoch = EXCLUDED.epoch,
             recorded_at = EXCLUDED.recorded_at, deposited = EXCLUDED.deposited, sent = EXCLUDED.sent,
             received = EXCLUDED.received, sent_digest = EXCLUDED.sent_digest,
             received_digest = EXCLUDED.received_digest, late = 0, late_digest = 0";
    rows.bind(statement, batch).bind(places).bind(epochs).bind(timestamps).execute(tx).await?;
    Ok(())
}

/// A message is late for each audit that its receiver has taken part in since the one in which it was sent.
async fn write_late(tx: &mut PgConnection, batch: i64, decision: &Decision) -> sqlx::Result<()> {
    let late = &decision.late;
    sqlx::query(
        "INSERT INTO cut (slot, batch, place, currency, epoch, recorded_at, deposited, sent, received, sent_digest,
                          received_digest, late, late_digest)
         SELECT c.slot, $1, c.place, l.currency, c.epoch, c.recorded_at, 0, 0, 0, 0, 0, sum(l.amount), sum(l.digest)
         FROM UNNEST($2::int[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[], $7::bigint[])
              AS l(slot, sent_in, received_in, currency, amount, digest)
         JOIN cut c ON c.slot = l.slot AND c.currency = '' AND c.epoch > l.sent_in AND c.epoch <= l.received_in
         GROUP BY c.slot, c.place, l.currency, c.epoch, c.recorded_at
         ON CONFLICT (slot, place, currency) DO UPDATE SET batch = EXCLUDED.batch, late = cut.late + EXCLUDED.late,
             late_digest = cut.late_digest + EXCLUDED.late_digest",
    )
    .bind(batch)
    .bind(late.iter().map(|late| late.slot.cast_signed()).collect::<Vec<_>>())
    .bind(late.iter().map(|late| late.sent_in).collect::<Vec<_>>())
    .bind(late.iter().map(|late| late.received_in).collect::<Vec<_>>())
    .bind(late.iter().map(|late| late.currency.as_str()).collect::<Vec<_>>())
    .bind(late.iter().map(|late| late.amount).collect::<Vec<_>>())
    .bind(late.iter().map(|late| late.digest).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

/// Where an audit is remembered.
fn place(epoch: i64) -> i32 {
    i32::try_from(epoch.rem_euclid(REMEMBERED)).unwrap_or(0)
}

/// The books of all slots that the shard owns, of one snapshot.
pub async fn tell(shard: &PgPool, balances: bool) -> sqlx::Result<Part<Vec<SlotBooks>>> {
    let mut snapshot = shard.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
    let rows = sqlx::query(concat!(
        "SELECT s.slot, COALESCE(b.epoch, 0) FROM (",
        owned_slots!(),
        ") s LEFT JOIN book b ON b.slot = s.slot"
    ))
    .fetch_all(&mut *snapshot)
    .await?;
    let mut books: BTreeMap<u32, SlotBooks> = BTreeMap::new();
    for row in &rows {
        let slot = row.get::<i32, _>(0).unsigned_abs();
        let fresh = SlotBooks { slot, epoch: row.get(1), cuts: Vec::new(), off: Vec::new() };
        books.insert(slot, fresh);
    }
    let rows = sqlx::query(
        "SELECT slot, currency, deposited::text, sent::text, received::text, sent_digest::text, received_digest::text,
                epoch, recorded_at, late::text, late_digest::text
         FROM cut ORDER BY slot, epoch, currency",
    )
    .fetch_all(&mut *snapshot)
    .await?;
    for row in &rows {
        if let Some(books) = books.get_mut(&row.get::<i32, _>(0).unsigned_abs()) {
            tell_cut(books, row)?;
        }
    }
    if balances {
        for (slot, off) in unbalanced(&mut snapshot).await? {
            if let Some(books) = books.get_mut(&slot) {
                books.off.push(off);
            }
        }
    }
    snapshot.rollback().await?;
    Ok(Part { slots: books.keys().copied().collect(), answer: books.into_values().collect() })
}

/// Rows of an audit follow that which says that the slot has taken part.
fn tell_cut(books: &mut SlotBooks, row: &PgRow) -> sqlx::Result<()> {
    let (currency, epoch) = (row.get::<&str, _>(1), row.get(7));
    if currency.is_empty() {
        books.cuts.push(SlotCut { epoch, recorded_at: row.get(8), totals: BTreeMap::new() });
    } else if let Some(cut) = books.cuts.last_mut().filter(|cut| cut.epoch == epoch) {
        let totals =
            CutTotals { totals: totals(row, 2)?, late: parsed(row.get(9))?, late_digest: parsed(row.get(10))? };
        cut.totals.insert(parsed(currency)?, totals);
    }
    Ok(())
}

/// Where accounts do not hold what has gone through their slot.
async fn unbalanced(snapshot: &mut PgConnection) -> sqlx::Result<Vec<(u32, Off)>> {
    let rows = sqlx::query(
        "SELECT slot, currency, COALESCE(held, 0)::text, COALESCE(booked, 0)::text
         FROM (SELECT slot, currency, sum(balance) AS held FROM account GROUP BY slot, currency) a
         FULL JOIN (SELECT slot, currency, deposited + received - sent AS booked FROM totals) t USING (slot, currency)
         WHERE COALESCE(held, 0) <> COALESCE(booked, 0)",
    )
    .fetch_all(snapshot)
    .await?;
    let off = |row: &PgRow| {
        let off = Off { currency: parsed(row.get(1))?, held: parsed(row.get(2))?, booked: parsed(row.get(3))? };
        Ok((row.get::<i32, _>(0).unsigned_abs(), off))
    };
    rows.iter().map(off).collect()
}
