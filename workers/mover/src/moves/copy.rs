//! Rows on their way from one shard to another, in Postgres' own binary form.

use std::ops::Range;
use std::time::{Duration, Instant};

use futures::{Stream, TryStreamExt as _};
use shardlane_runtime::process::with_causes;
use sqlx::postgres::types::Oid;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use tokio::time::timeout;

use super::arrays::{ColumnType, Columns};
use super::brief::Brief;
use super::edges::Sum;
use super::pace::{Turns, work};
use super::statements::Trouble;

/// Bytes that are a piece of work, however few rows or pages they are.
const LARGE: usize = 4 * 1024 * 1024;
/// What a binary copy begins with, and what it ends with.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
const END: [u8; 2] = [0xff; 2];
/// Rows of some slots, from the beginning of one page to that of another (see [`of_slots`]).
const IN_PAGES: &str = "slot + 0 = ANY($1) AND ctid >= $2::text::tid AND ctid < $3::text::tid";
/// How long nothing may come before the other side is taken for lost.
const SILENCE: Duration = Duration::from_secs(60);

/// A table whose rows move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name, quoted.
    pub name: String,
    /// Its columns but for `batch`, quoted.
    pub columns: Vec<String>,
    /// Their types.
    pub types: Vec<ColumnType>,
    /// Those of its primary key, quoted; none: its rows are only ever added.
    pub key: Vec<String>,
    /// Whether an index leads to rows by their batch.
    pub by_batch: bool,
}

impl Table {
    /// Reads what the catalogue says of a table.
    pub async fn read(shard: &mut PgConnection, name: &str) -> Result<Self, Trouble> {
        let row = sqlx::query(
            "SELECT c.oid::regclass::text, columns.names, columns.elements, columns.arrays,
                    ARRAY(SELECT quote_ident(a.attname) FROM pg_index i
                          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
                          WHERE i.indrelid = c.oid AND i.indisprimary),
                    EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
                            WHERE i.indrelid = c.oid AND a.attname = 'batch')
             FROM pg_class c, LATERAL (
                 SELECT array_agg(quote_ident(a.attname) ORDER BY a.attnum) AS names,
                        array_agg(t.oid ORDER BY a.attnum) AS elements,
                        array_agg(t.typarray ORDER BY a.attnum) AS arrays
                 FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> 'batch') columns
             WHERE c.oid = quote_ident($1)::regclass",
        )
        .bind(name)
        .fetch_one(shard)
        .await?;
        let (elements, arrays): (Vec<Oid>, Vec<Oid>) = (row.get(2), row.get(3));
        let types =
            elements.into_iter().zip(arrays).map(|(element, array)| ColumnType { element: element.0, array: array.0 });
        let (name, columns, types): (String, Vec<String>, Vec<_>) = (row.get(0), row.get(1), types.collect());
        match types.iter().zip(&columns).find(|(of, _)| of.array == 0) {
            Some((_, column)) => Err(Trouble::Unmovable { table: name, column: column.clone() }),
            None => Ok(Self { name, columns, types, key: row.get(4), by_batch: row.get(5) }),
        }
    }

    /// A digest of a row, whichever batch wrote it.
    fn digest(&self) -> String {
        format!("hash_record_extended(ROW({}), 0)", self.columns.join(", "))
    }

    /// Copies out the rows of these slots from some pages that were not written after a batch, as already published, each with its
    /// digest.
    pub fn copy_out(&self, slots: &[u32], pages: &Range<i64>, batch: i64) -> String {
        let (columns, digest, of_slots) = (self.columns.join(", "), self.digest(), of_slots(slots));
        let Range { start, end } = pages;
        format!(
            "COPY (SELECT {columns}, 0::bigint, {digest} FROM {} WHERE {of_slots} AND batch <= {batch} \
             AND ctid >= '({start},0)' AND ctid < '({end},0)') TO STDOUT (FORMAT binary)",
            self.name
        )
    }

    /// Takes them in.
    pub fn copy_in(&self) -> String {
        format!("COPY {} ({}, batch) FROM STDIN (FORMAT binary)", self.name, self.columns.join(", "))
    }

    /// Copies out the rows that were written by some batches and by none since, each with its digest.
    pub fn delta_out(&self, slots: &[u32], Since { after, last }: Since) -> String {
        let (columns, digest, of_slots) = (self.columns.join(", "), self.digest(), of_slots(slots));
        format!(
            "COPY (SELECT {columns}, {digest} FROM {} WHERE {of_slots} AND batch > {after} AND batch <= {last}) \
             TO STDOUT (FORMAT binary)",
            self.name
        )
    }

    /// Brings them into the table, given as one array for each column. Gives how many lie there afterwards, and the sum of their
    /// digests.
    pub fn merge(&self) -> String {
        let columns = self.columns.join(", ");
        let arrays: Vec<_> = (1..=self.columns.len()).map(|number| format!("${number}")).collect();
        let set = self.columns.iter().filter(|column| !self.key.contains(column));
        let set = set.map(|column| format!("{column} = EXCLUDED.{column}")).chain(["batch = 0".to_owned()]);
        let replaces = match &*self.key {
            [] => String::new(),
            key => {
                format!("ON CONFLICT ({}) DO UPDATE SET {} ", key.join(", "), set.collect::<Vec<_>>().join(", "))
            }
        };
        format!(
            "WITH merged AS (INSERT INTO {} ({columns}, batch) SELECT {columns}, 0 FROM unnest({}) AS brought ({columns}) \
             {replaces}RETURNING {} AS digest) SELECT count(*), COALESCE(sum(digest), 0)::text FROM merged",
            self.name,
            arrays.join(", "),
            self.digest(),
        )
    }

    /// How many rows some slots have in some pages, and the sum of their digests.
    pub fn sum(&self) -> String {
        format!("SELECT count(*), COALESCE(sum({}), 0)::text FROM {} WHERE {IN_PAGES}", self.digest(), self.name)
    }

    /// Says how what lies in the target is not what the source has sent, if it is not.
    pub fn differs(&self, sent: Sum, lies: Sum) -> Option<String> {
        let Self { name, .. } = self;
        (sent != lies).then(|| {
            format!(
                "{name}: {} rows with the digest {} were sent, {} rows with {} lie in the target",
                sent.rows, sent.digest, lies.rows, lies.digest
            )
        })
    }

    /// Deletes the rows that some slots have in some pages.
    pub fn delete(&self) -> String {
        format!("DELETE FROM {} WHERE {IN_PAGES}", self.name)
    }
}

/// Rows of these slots, as no index has them. Of a slot that has just come, a table's statistics know nothing; the planner takes it
/// for a row or two, and would find it by an index that begins with the slot: all of it, for each piece of the table.
fn of_slots(slots: &[u32]) -> String {
    let slots = slots.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    format!("slot + 0 = ANY('{{{slots}}}')")
}

/// Rows that were written after one batch, and not after another.
#[derive(Clone, Copy, Debug)]
pub struct Since {
    /// What this one wrote, and all before it, is there.
    pub after: i64,
    /// What came later than this one comes later here too.
    pub last: i64,
}

/// What was brought of a table.
#[derive(Debug, Default)]
pub struct Brought {
    /// How many rows.
    pub rows: u64,
    /// How much work they were, in rows.
    pub work: u64,
    /// What of them does not lie in the table as it was sent.
    pub differs: Option<String>,
}

/// Brings rows that were written since a batch into the target's table, in pieces, each of which is one statement.
pub async fn bring_delta(
    (source, target): (&mut PgConnection, &mut Brief<'_>),
    table: &Table,
    slots: &[u32],
    since: Since,
    turns: &mut Turns<'_>,
) -> Result<Brought, Trouble> {
    let mut pieces = Pieces::of(patient(source.copy_out_raw(&table.delta_out(slots, since))).await?);
    let (mut brought, mut rows, mut more) = (Brought::default(), Columns::new(table.columns.len()), true);
    while more {
        more = match pieces.row().await? {
            Some(row) => rows.add(row.values, row.digest).map(|()| true).ok_or_else(strange)?,
            None => false,
        };
        let is_piece = rows.sum.rows >= turns.rows() || rows.size() >= LARGE || turns.is_enough(rows.sum.rows);
        if is_piece || (!more && rows.sum.rows > 0) {
            let (sent, bytes) = (rows.sum.rows, rows.size());
            brought.differs = brought.differs.or(merge(target.shard(), table, &mut rows).await?);
            brought.rows += sent;
            brought.work += work(sent, bytes);
            turns.merged(sent, bytes).await;
            target.go_on().await?;
        }
    }
    Ok(brought)
}

/// Brings rows into the table. Gives what of them does not lie there as it was sent.
async fn merge(shard: &mut PgConnection, table: &Table, rows: &mut Columns) -> sqlx::Result<Option<String>> {
    let (arrays, sent) = rows.take(&table.types);
    let merge = arrays.into_iter().fold(sqlx::query_as(AssertSqlSafe(table.merge())), |merge, array| merge.bind(array));
    let (rows, digest): (i64, String) = patient(merge.fetch_one(shard)).await?;
    Ok(table.differs(sent, sum_of(rows, &digest)?))
}

/// A sum as the server tells it: more than a number of its own has room for.
pub fn sum_of(rows: i64, digest: &str) -> sqlx::Result<Sum> {
    let digest = digest.parse().map_err(|error: std::num::ParseIntError| sqlx::Error::Decode(error.into()))?;
    Ok(Sum { rows: rows.unsigned_abs(), digest })
}

/// A binary copy whose rows are passed on in pieces, each of which is a copy of its own
/// ([the format](https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.4)).
struct Pieces<S, B> {
    messages: S,
    /// The last of them.
    message: Option<B>,
    /// What every copy begins with, once it has been seen.
    header: Vec<u8>,
}

/// A row of a copy.
#[derive(Debug, PartialEq, Eq)]
struct Row<'a> {
    /// What every copy begins with.
    header: &'a [u8],
    /// How many values there are.
    fields: u16,
    /// Those, each after its length.
    values: &'a [u8],
    /// The digest that came with them.
    digest: i64,
}

impl<B: AsRef<[u8]>, S: Stream<Item = sqlx::Result<B>> + Unpin> Pieces<S, B> {
    fn of(messages: S) -> Self {
        Self { messages, message: None, header: Vec::new() }
    }

    /// The next row; `None`: there are no more.
    async fn row(&mut self) -> sqlx::Result<Option<Row<'_>>> {
        loop {
            self.message = patient(self.messages.try_next()).await?;
            let Some(message) = &self.message else { return Ok(None) };
            let mut begin = 0;
            if self.header.is_empty() {
                begin = header(message.as_ref()).ok_or_else(strange)?;
                self.header.extend_from_slice(message.as_ref().get(..begin).unwrap_or_default());
            }
            if message.as_ref().get(begin..).is_some_and(|row| !row.is_empty() && row != END) {
                break self.row_from(begin);
            }
        }
    }

    /// The row that the message is from some byte on.
    fn row_from(&self, begin: usize) -> sqlx::Result<Option<Row<'_>>> {
        let row = self.message.as_ref().and_then(|message| message.as_ref().get(begin..));
        // The server sends each as one message, which its protocol does not promise.
        let (fields, values, digest) = row.and_then(parted).ok_or_else(strange)?;
        Ok(Some(Row { header: &self.header, fields, values, digest }))
    }
}

/// How long the header is that a copy begins with.
fn header(message: &[u8]) -> Option<usize> {
    let extension = message.strip_prefix(SIGNATURE)?.get(4..8)?.try_into().ok()?;
    let length = SIGNATURE.len() + 8 + usize::try_from(u32::from_be_bytes(extension)).ok()?;
    (length <= message.len()).then_some(length)
}

/// A row, which is the number of its fields, and each with its length: how many there are without the last, those, and the last as
/// the number that it is.
fn parted(row: &[u8]) -> Option<(u16, &[u8], i64)> {
    let (fields, values) = row.split_first_chunk()?;
    let fields = u16::from_be_bytes(*fields).checked_sub(1)?;
    let mut rest = values;
    for _ in 0..fields {
        let (length, after) = rest.split_first_chunk()?;
        // Less than nothing: NULL.
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        rest = after.get(length..)?;
    }
    let last = rest.strip_prefix(&8_i32.to_be_bytes())?.try_into().ok()?;
    Some((fields, values.get(..values.len() - rest.len())?, i64::from_be_bytes(last)))
}

fn strange() -> sqlx::Error {
    let what = "a copy came in other pieces than rows; connect the mover to Postgres without a proxy between them";
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::InvalidData, what))
}

/// Rows on their way, as a copy.
#[derive(Default)]
pub struct Load {
    bytes: Vec<u8>,
    /// Rows that are in them.
    waiting: u64,
    /// All that were ever added.
    pub all: Sum,
}

/// What a target has taken.
#[derive(Debug, Default)]
pub struct Unloaded {
    /// How many rows.
    pub rows: u64,
    /// Of how many bytes.
    pub bytes: usize,
    /// How long the end of it took.
    pub end: Duration,
}

impl Load {
    /// Adds rows until they are a piece of work. `false`: there are no more.
    async fn fill<B: AsRef<[u8]>, S: Stream<Item = sqlx::Result<B>> + Unpin>(
        &mut self,
        rows: &mut Pieces<S, B>,
        turns: &Turns<'_>,
    ) -> sqlx::Result<bool> {
        while let Some(Row { header, fields, values, digest }) = rows.row().await? {
            if self.bytes.is_empty() {
                self.bytes.extend_from_slice(header);
            }
            self.bytes.extend_from_slice(&fields.to_be_bytes());
            self.bytes.extend_from_slice(values);
            self.waiting += 1;
            self.all.add(digest);
            // After a piece after which it has to wait for long, both sides would think that nobody is there any more.
            if self.waiting >= turns.rows() || self.bytes.len() >= LARGE || turns.is_enough(self.waiting) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Has the target take them.
    ///
    /// A copy sends its last rows and its end as two messages, and on a connection that collects small ones (Nagle's algorithm, which
    /// the client library leaves on) the second waits 40 milliseconds for the first to be acknowledged.
    pub async fn unload(&mut self, target: &mut PgConnection, into: &str) -> sqlx::Result<Unloaded> {
        let rows = std::mem::take(&mut self.waiting);
        if rows == 0 {
            return Ok(Unloaded::default());
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.extend_from_slice(&END);
        let mut taker = patient(target.copy_in_raw(into)).await?;
        if let Err(error) = patient(taker.send(&*bytes)).await {
            patient(taker.abort(with_causes(&error))).await?;
            return Err(error);
        }
        let ends = Instant::now();
        patient(taker.finish()).await?;
        Ok(Unloaded { rows, bytes: bytes.len(), end: ends.elapsed() })
    }

    /// Adds what a statement gives, and unloads it whenever it is a piece of work; `copied` hears of what was.
    pub async fn copy(
        &mut self,
        (source, out): (&mut PgConnection, &str),
        (target, into): (&mut Brief<'_>, &str),
        turns: &mut Turns<'_>,
        copied: &(dyn Fn(u64) + Sync),
    ) -> Result<(), Trouble> {
        let mut rows = Pieces::of(patient(source.copy_out_raw(out)).await?);
        while self.fill(&mut rows, turns).await? {
            let Unloaded { rows, bytes, end } = self.unload(target.shard(), into).await?;
            copied(rows);
            turns.sent(rows, bytes, end).await;
            target.go_on().await?;
        }
        Ok(())
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
        let columns = owned(&["slot", "k", "v"]);
        Table { name: "t".to_owned(), columns, types: Vec::new(), key: owned(key), by_batch: true }
    }

    #[test]
    fn rows_arrive_as_already_published() {
        let table = table(&["k"]);
        assert_eq!(
            table.copy_out(&[1, 5], &(7..20), 99),
            "COPY (SELECT slot, k, v, 0::bigint, hash_record_extended(ROW(slot, k, v), 0) FROM t WHERE slot + 0 = ANY('{1,5}') \
             AND batch <= 99 AND ctid >= '(7,0)' AND ctid < '(20,0)') TO STDOUT (FORMAT binary)"
        );
        assert_eq!(
            table.merge(),
            "WITH merged AS (INSERT INTO t (slot, k, v, batch) SELECT slot, k, v, 0 FROM unnest($1, $2, $3) \
             AS brought (slot, k, v) ON CONFLICT (k) DO UPDATE SET slot = EXCLUDED.slot, v = EXCLUDED.v, batch = 0 \
             RETURNING hash_record_extended(ROW(slot, k, v), 0) AS digest) \
             SELECT count(*), COALESCE(sum(digest), 0)::text FROM merged"
        );
    }

    /// The fields of a row, the second of which is NULL.
    const VALUES: &[u8] = b"\0\0\0\x03abc\xff\xff\xff\xff";

    /// The row, with a digest.
    fn row(digest: i64) -> Vec<u8> {
        [b"\0\x03", VALUES, b"\0\0\0\x08", &digest.to_be_bytes()].concat()
    }

    fn begins() -> Vec<u8> {
        [SIGNATURE, &[0; 8]].concat()
    }

    #[test]
    fn a_row_is_told_from_what_is_none() {
        let row = row(-7);
        assert_eq!(parted(&row), Some((2, VALUES, -7)));
        assert_eq!(parted(&[b"\0\x01\0\0\0\x08", &[0; 8][..]].concat()), Some((0, &[][..], 0)), "nothing but a digest");
        for none in
            [&row[..row.len() - 1], &*[&*row, b"x"].concat(), b"", b"\0\0", &END, &*[b"\0\x02", VALUES].concat()]
        {
            assert_eq!(parted(none), None);
        }
        assert_eq!(header(&[&*begins(), &row].concat()), Some(19));
        assert_eq!(header(&[SIGNATURE, b"\0\0\0\0\0\0\0\x02", b"xy"].concat()), Some(21));
        assert_eq!((header(&row), header(&begins()[..18]), header(b"")), (None, None, None));
    }

    #[tokio::test]
    async fn every_piece_begins_as_the_copy_does() {
        for messages in
            [vec![[&*begins(), &row(1)].concat(), row(2), END.to_vec()], vec![begins(), row(1), row(2), END.to_vec()]]
        {
            let mut pieces = Pieces::of(futures::stream::iter(messages.into_iter().map(Ok)));
            for digest in [1, 2] {
                let row = Row { header: &begins(), fields: 2, values: VALUES, digest };
                assert_eq!(pieces.row().await.unwrap(), Some(row));
            }
            assert_eq!(pieces.row().await.unwrap(), None);
        }
        let mut cut = Pieces::of(futures::stream::iter([Ok([&*begins(), &row(1)[..5]].concat())]));
        let error = cut.row().await.unwrap_err().to_string();
        assert!(error.contains("proxy"), "{error}");
    }

    #[test]
    fn rows_without_a_key_are_only_added() {
        assert!(!table(&[]).merge().contains("CONFLICT"));
    }
}
