//! Rows on their way from one shard to another, in Postgres' own binary form.

use std::ops::Range;
use std::time::Duration;

use futures::{Stream, TryStreamExt as _};
use shardlane_runtime::process::with_causes;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use tokio::time::timeout;

use super::pace::Turns;

/// How many rows are few.
const FEW: u32 = 3_000;
/// Bytes that are a piece of work, however few rows or pages they are.
const LARGE: usize = 4 * 1024 * 1024;
/// What a binary copy begins with, and what it ends with.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
const END: [u8; 2] = [0xff; 2];
/// Rows of some slots, from the beginning of one page to that of another.
const IN_PAGES: &str = "slot = ANY($1) AND ctid >= $2::text::tid AND ctid < $3::text::tid";
/// How long nothing may come before the other side is taken for lost.
const SILENCE: Duration = Duration::from_secs(60);

/// A table whose rows move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name, quoted.
    pub name: String,
    /// Its columns but for `batch`, quoted.
    pub columns: Vec<String>,
    /// Those of its primary key, quoted; none: its rows are only ever added.
    pub key: Vec<String>,
    /// Whether an index leads to rows by their batch.
    pub by_batch: bool,
}

impl Table {
    /// Reads what the catalogue says of a table.
    pub async fn read(shard: &mut PgConnection, name: &str) -> sqlx::Result<Self> {
        let row = sqlx::query(
            "SELECT c.oid::regclass::text,
                    ARRAY(SELECT quote_ident(a.attname) FROM pg_attribute a
                          WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> 'batch'
                          ORDER BY a.attnum),
                    ARRAY(SELECT quote_ident(a.attname) FROM pg_index i
                          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
                          WHERE i.indrelid = c.oid AND i.indisprimary),
                    EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
                            WHERE i.indrelid = c.oid AND a.attname = 'batch')
             FROM pg_class c WHERE c.oid = quote_ident($1)::regclass",
        )
        .bind(name)
        .fetch_one(shard)
        .await?;
        Ok(Self { name: row.get(0), columns: row.get(1), key: row.get(2), by_batch: row.get(3) })
    }

    /// A digest of a row, whichever batch wrote it; `of` is what its columns belong to.
    pub fn digest(&self, of: &str) -> String {
        let columns: Vec<_> = self.columns.iter().map(|column| format!("{of}{column}")).collect();
        format!("hash_record_extended(ROW({}), 0)", columns.join(", "))
    }

    /// Where rows wait before they are merged.
    pub fn stage(&self) -> String {
        format!("pg_temp.\"stage {}\"", self.name.replace('"', ""))
    }

    /// Copies out all rows of these slots from some pages, as already published.
    pub fn copy_out(&self, slots: &[u32], pages: &Range<i64>) -> String {
        let (columns, slots, Range { start, end }) = (self.columns.join(", "), list(slots), pages);
        format!(
            "COPY (SELECT {columns}, 0::bigint FROM {} WHERE slot = ANY('{{{slots}}}') \
             AND ctid >= '({start},0)' AND ctid < '({end},0)') TO STDOUT (FORMAT binary)",
            self.name
        )
    }

    /// Takes them in.
    pub fn copy_in(&self) -> String {
        format!("COPY {} ({}, batch) FROM STDIN (FORMAT binary)", self.name, self.columns.join(", "))
    }

    /// Copies out rows that were written after a batch, each with its digest.
    pub fn delta_out(&self, slots: &[u32], after: i64) -> String {
        let (columns, digest, slots) = (self.columns.join(", "), self.digest(""), list(slots));
        format!(
            "COPY (SELECT {columns}, {digest} FROM {} WHERE slot = ANY('{{{slots}}}') AND batch > {after}) TO STDOUT (FORMAT binary)",
            self.name
        )
    }

    /// The same as one text, if they are few; else only how many there are at least.
    pub fn few_out(&self, slots: &[u32], after: i64) -> String {
        let (columns, digest, slots) = (self.columns.join(", "), self.digest(""), list(slots));
        format!(
            "SELECT count(*), CASE WHEN count(*) <= {FEW} THEN json_agg(few)::text END FROM (
                 SELECT {columns}, {digest} AS shardlane_digest FROM {}
                 WHERE slot = ANY('{{{slots}}}') AND batch > {after} LIMIT {FEW} + 1) few",
            self.name
        )
    }

    /// Takes that text in.
    pub fn few_in(&self) -> String {
        let stage = self.stage();
        format!("INSERT INTO {stage} SELECT * FROM json_populate_recordset(NULL::{stage}, $1::json)")
    }

    /// Makes the place where they wait.
    pub fn make_stage(&self) -> String {
        format!(
            "CREATE TEMP TABLE IF NOT EXISTS {} ON COMMIT DELETE ROWS AS SELECT {}, 0::bigint AS shardlane_digest FROM {} WITH NO DATA",
            self.stage(),
            self.columns.join(", "),
            self.name
        )
    }

    /// Takes them in there.
    pub fn delta_in(&self) -> String {
        format!("COPY {} ({}, shardlane_digest) FROM STDIN (FORMAT binary)", self.stage(), self.columns.join(", "))
    }

    /// Brings them into the table.
    pub fn merge(&self) -> String {
        let columns = self.columns.join(", ");
        let insert = format!("INSERT INTO {} ({columns}, batch) SELECT {columns}, 0 FROM {}", self.name, self.stage());
        if self.key.is_empty() {
            return insert;
        }
        let set = self.columns.iter().filter(|column| !self.key.contains(column));
        let set: Vec<_> =
            set.map(|column| format!("{column} = EXCLUDED.{column}")).chain(["batch = 0".to_owned()]).collect();
        format!("{insert} ON CONFLICT ({}) DO UPDATE SET {}", self.key.join(", "), set.join(", "))
    }

    /// How many of them there are, and how many lie in the table as they were sent.
    pub fn compare_stage(&self) -> Option<String> {
        let same: Vec<_> = self.key.iter().map(|column| format!("t.{column} = s.{column}")).collect();
        (!same.is_empty()).then(|| {
            format!(
                "SELECT (SELECT count(*) FROM {stage}), count(*) FROM {stage} s JOIN {} t ON {} WHERE {} = s.shardlane_digest",
                self.name,
                same.join(" AND "),
                self.digest("t."),
                stage = self.stage(),
            )
        })
    }

    /// How many rows some slots have in some pages, and the sum of their digests.
    pub fn sum(&self) -> String {
        format!("SELECT count(*), COALESCE(sum({}), 0)::text FROM {} WHERE {IN_PAGES}", self.digest(""), self.name)
    }

    /// Deletes the rows that some slots have in some pages.
    pub fn delete(&self) -> String {
        format!("DELETE FROM {} WHERE {IN_PAGES}", self.name)
    }
}

/// Numbers as an array has them.
fn list(slots: &[u32]) -> String {
    slots.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// What was brought of a table.
#[derive(Debug, Default)]
pub struct Brought {
    /// How many rows.
    pub rows: u64,
    /// What of them does not lie in the table as it was sent.
    pub differs: Option<String>,
}

/// Brings rows that were written after a batch into the target's table, in pieces.
///
/// A few go as one text: a copy sends its last rows and its end as two messages, and on a connection that collects small ones
/// (Nagle's algorithm, which the client library leaves on) the second waits 40 milliseconds for the first to be acknowledged.
pub async fn bring_delta(
    (source, target): (&mut PgConnection, &mut PgConnection),
    table: &Table,
    slots: &[u32],
    after: i64,
    turns: &mut Turns<'_>,
) -> sqlx::Result<Brought> {
    let few = sqlx::query_as(AssertSqlSafe(table.few_out(slots, after))).fetch_one(&mut *source);
    let (rows, text): (i64, Option<String>) = patient(few).await?;
    if rows == 0 {
        return Ok(Brought::default());
    }
    patient(sqlx::raw_sql(AssertSqlSafe(table.make_stage())).execute(&mut *target)).await?;
    if let Some(text) = text {
        let taken = sqlx::query(AssertSqlSafe(table.few_in())).bind(text).execute(&mut *target);
        let rows = patient(taken).await?.rows_affected();
        return Ok(Brought { rows, differs: merge(target, table).await? });
    }
    let mut pieces = Pieces::of(source.copy_out_raw(&table.delta_out(slots, after)).await?);
    let (mut brought, mut load, mut more) = (Brought::default(), Load::default(), true);
    while more {
        more = load.fill(&mut pieces, turns, turns.rows_to_merge()).await?;
        if load.rows == 0 {
            break;
        }
        let rows = load.unload(target, &table.delta_in()).await?;
        brought.rows += rows;
        brought.differs = brought.differs.or(merge(target, table).await?);
        sqlx::raw_sql(AssertSqlSafe(format!("TRUNCATE {}", table.stage()))).execute(&mut *target).await?;
        turns.sent(rows).await;
    }
    Ok(brought)
}

/// Brings what waits into the table. Gives what of it does not lie there as it was sent.
async fn merge(shard: &mut PgConnection, table: &Table) -> sqlx::Result<Option<String>> {
    sqlx::raw_sql(AssertSqlSafe(table.merge())).execute(&mut *shard).await?;
    let Some(statement) = table.compare_stage() else { return Ok(None) };
    let (sent, same): (i64, i64) = sqlx::query_as(AssertSqlSafe(statement)).fetch_one(shard).await?;
    Ok((sent != same)
        .then(|| format!("of {sent} rows of {} that were brought, {same} are as they were sent", table.name)))
}

/// A binary copy whose rows are passed on in pieces, each of which is a copy of its own
/// ([the format](https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.4)).
struct Pieces<S> {
    messages: S,
    /// What every copy begins with, once it has been seen.
    header: Vec<u8>,
}

impl<B: AsRef<[u8]>, S: Stream<Item = sqlx::Result<B>> + Unpin> Pieces<S> {
    fn of(messages: S) -> Self {
        Self { messages, header: Vec::new() }
    }

    /// Adds the next row. `false`: there are no more.
    async fn row(&mut self, piece: &mut Vec<u8>) -> sqlx::Result<bool> {
        while let Some(message) = patient(self.messages.try_next()).await? {
            let mut row = message.as_ref();
            if self.header.is_empty() {
                let (header, rest) = row.split_at(header(row).ok_or_else(strange)?);
                self.header = header.to_vec();
                row = rest;
            }
            if row.is_empty() || row == END {
                continue;
            }
            // The server sends each as one message, which its protocol does not promise.
            if !is_row(row) {
                return Err(strange());
            }
            if piece.is_empty() {
                piece.extend_from_slice(&self.header);
            }
            piece.extend_from_slice(row);
            return Ok(true);
        }
        Ok(false)
    }
}

/// How long the header is that a copy begins with.
fn header(message: &[u8]) -> Option<usize> {
    let extension = message.strip_prefix(SIGNATURE)?.get(4..8)?.try_into().ok()?;
    let length = SIGNATURE.len() + 8 + usize::try_from(u32::from_be_bytes(extension)).ok()?;
    (length <= message.len()).then_some(length)
}

/// Whether a message is one row: the number of its fields, and each with its length.
fn is_row(message: &[u8]) -> bool {
    let Some((fields, mut rest)) = message.split_first_chunk() else { return false };
    for _ in 0..u16::from_be_bytes(*fields) {
        let Some((length, after)) = rest.split_first_chunk() else { return false };
        // Less than nothing: NULL.
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        let Some(after) = after.get(length..) else { return false };
        rest = after;
    }
    rest.is_empty()
}

fn strange() -> sqlx::Error {
    let what = "a copy came in other pieces than rows; connect the mover to Postgres without a proxy between them";
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::InvalidData, what))
}

/// Rows on their way, as a copy.
#[derive(Default)]
pub struct Load {
    bytes: Vec<u8>,
    rows: u64,
}

impl Load {
    /// Adds rows until they are a piece of work. `false`: there are no more.
    async fn fill<B: AsRef<[u8]>, S: Stream<Item = sqlx::Result<B>> + Unpin>(
        &mut self,
        rows: &mut Pieces<S>,
        turns: &Turns<'_>,
        piece: u64,
    ) -> sqlx::Result<bool> {
        while rows.row(&mut self.bytes).await? {
            self.rows += 1;
            // After a piece after which it has to wait for long, both sides would think that nobody is there any more.
            if self.rows >= piece || self.bytes.len() >= LARGE || turns.is_enough(self.rows) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Has the target take them. Gives their number.
    pub async fn unload(&mut self, target: &mut PgConnection, into: &str) -> sqlx::Result<u64> {
        let Self { mut bytes, rows } = std::mem::take(self);
        if rows == 0 {
            return Ok(0);
        }
        bytes.extend_from_slice(&END);
        let mut taker = target.copy_in_raw(into).await?;
        if let Err(error) = patient(taker.send(&*bytes)).await {
            taker.abort(with_causes(&error)).await?;
            return Err(error);
        }
        patient(taker.finish()).await
    }

    /// Adds what a statement gives, and unloads it whenever it is a piece of work; `copied` hears of what was. Gives the number of
    /// rows that it gave.
    pub async fn copy(
        &mut self,
        (source, out): (&mut PgConnection, &str),
        (target, into): (&mut PgConnection, &str),
        turns: &mut Turns<'_>,
        copied: &(dyn Fn(u64) + Sync),
    ) -> sqlx::Result<u64> {
        let (mut rows, mut unloaded, waited) = (Pieces::of(source.copy_out_raw(out).await?), 0, self.rows);
        while self.fill(&mut rows, turns, turns.rows()).await? {
            let some = self.unload(target, into).await?;
            unloaded += some;
            copied(some);
            turns.sent(some).await;
        }
        Ok(unloaded + self.rows - waited)
    }
}

/// A network that is cut says nothing.
pub async fn patient<T>(step: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    match timeout(SILENCE, step).await {
        Ok(done) => done,
        Err(_) => {
            let silence = format!("Postgres has said nothing for {} seconds", SILENCE.as_secs());
            Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, silence)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(key: &[&str]) -> Table {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Table { name: "t".to_owned(), columns: owned(&["slot", "k", "v"]), key: owned(key), by_batch: true }
    }

    #[test]
    fn rows_arrive_as_already_published() {
        let table = table(&["k"]);
        assert_eq!(
            table.copy_out(&[1, 5], &(7..20)),
            "COPY (SELECT slot, k, v, 0::bigint FROM t WHERE slot = ANY('{1,5}') AND ctid >= '(7,0)' AND ctid < '(20,0)') \
             TO STDOUT (FORMAT binary)"
        );
        assert_eq!(
            table.merge(),
            "INSERT INTO t (slot, k, v, batch) SELECT slot, k, v, 0 FROM pg_temp.\"stage t\" \
             ON CONFLICT (k) DO UPDATE SET slot = EXCLUDED.slot, v = EXCLUDED.v, batch = 0"
        );
    }

    /// A row of two fields, the second of which is NULL.
    const ROW: &[u8] = b"\0\x02\0\0\0\x03abc\xff\xff\xff\xff";

    fn begins() -> Vec<u8> {
        [SIGNATURE, &[0; 8]].concat()
    }

    #[test]
    fn a_row_is_told_from_what_is_none() {
        assert!(is_row(ROW) && is_row(b"\0\0"));
        assert!(!is_row(&ROW[..ROW.len() - 1]) && !is_row(&[ROW, b"x"].concat()) && !is_row(b"") && !is_row(&END));
        assert_eq!(header(&[&*begins(), ROW].concat()), Some(19));
        assert_eq!(header(&[SIGNATURE, b"\0\0\0\0\0\0\0\x02", b"xy"].concat()), Some(21));
        assert_eq!((header(ROW), header(&begins()[..18]), header(b"")), (None, None, None));
    }

    #[tokio::test]
    async fn every_piece_begins_as_the_copy_does() {
        for messages in [
            vec![[&*begins(), ROW].concat(), ROW.to_vec(), END.to_vec()],
            vec![begins(), ROW.to_vec(), ROW.to_vec(), END.to_vec()],
        ] {
            let mut pieces = Pieces::of(futures::stream::iter(messages.into_iter().map(Ok)));
            for _ in 0..2 {
                let mut piece = Vec::new();
                assert!(pieces.row(&mut piece).await.unwrap());
                assert_eq!(piece, [&*begins(), ROW].concat());
            }
            assert!(!pieces.row(&mut Vec::new()).await.unwrap());
        }
        let mut cut = Pieces::of(futures::stream::iter([Ok([&*begins(), &ROW[..5]].concat())]));
        let error = cut.row(&mut Vec::new()).await.unwrap_err().to_string();
        assert!(error.contains("proxy"), "{error}");
    }

    #[test]
    fn rows_without_a_key_are_only_added() {
        let table = table(&[]);
        assert!(!table.merge().contains("CONFLICT") && table.compare_stage().is_none());
    }
}
