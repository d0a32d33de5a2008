//! Rows on their way from one shard to another, in Postgres' own binary form.

use std::time::Duration;

use futures::TryStreamExt as _;
use shardlane_runtime::process::with_causes;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

/// How much is sent at once: the server gives each row as a message of its own.
const CHUNK: usize = 256 * 1024;
/// How many rows are few.
const FEW: u32 = 3_000;
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

    /// Copies out all rows of these slots, as already published.
    pub fn copy_out(&self, slots: &[u32]) -> String {
        let columns = self.columns.join(", ");
        let slots = list(slots);
        format!(
            "COPY (SELECT {columns}, 0::bigint FROM {} WHERE slot = ANY('{{{slots}}}')) TO STDOUT (FORMAT binary)",
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

    /// How many rows these slots have, and the sum of their digests.
    pub fn sum(&self, slots: &[u32]) -> String {
        format!(
            "SELECT count(*), COALESCE(sum({}), 0)::text FROM {} WHERE slot = ANY('{{{}}}')",
            self.digest(""),
            self.name,
            list(slots)
        )
    }
}

/// Numbers as an array has them.
fn list(slots: &[u32]) -> String {
    slots.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// Bounds rows per second, over everybody who waits for it.
#[derive(Debug)]
pub struct Pace {
    rows_per_second: Option<u32>,
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// At most so many; `None`: as fast as it goes.
    pub fn of(rows_per_second: Option<u32>) -> Self {
        Self { rows_per_second, free_at: Mutex::default() }
    }

    /// Whether so many rows are a tenth of a second's.
    fn is_enough(&self, rows: u64) -> bool {
        self.rows_per_second.is_some_and(|most| rows >= u64::from(most / 10).max(1))
    }

    async fn take(&self, rows: u64) {
        let Some(most) = self.rows_per_second.filter(|most| *most > 0) else { return };
        let until = {
            let mut free_at = self.free_at.lock().await;
            let from = free_at.unwrap_or_else(Instant::now).max(Instant::now());
            *free_at = Some(from + Duration::from_secs_f64(rows as f64 / f64::from(most)));
            from
        };
        tokio::time::sleep_until(until).await;
    }
}

/// Brings rows that were written after a batch to where they wait in the target. Gives their number.
///
/// A few go as one text: a copy sends its last rows and its end as two messages, and on a connection that collects small ones
/// (Nagle's algorithm, which the client library leaves on) the second waits 40 milliseconds for the first to be acknowledged.
pub async fn bring_delta(
    (source, target): (&mut PgConnection, &mut PgConnection),
    table: &Table,
    slots: &[u32],
    after: i64,
    pace: &Pace,
) -> sqlx::Result<u64> {
    let few = sqlx::query_as(AssertSqlSafe(table.few_out(slots, after))).fetch_one(&mut *source);
    let (rows, text): (i64, Option<String>) = patient(few).await?;
    if rows == 0 {
        return Ok(0);
    }
    patient(sqlx::raw_sql(AssertSqlSafe(table.make_stage())).execute(&mut *target)).await?;
    match text {
        Some(text) => {
            let taken = sqlx::query(AssertSqlSafe(table.few_in())).bind(text).execute(target);
            Ok(patient(taken).await?.rows_affected())
        }
        None => pipe((source, table.delta_out(slots, after)), (target, table.delta_in()), pace, &|_| {}).await,
    }
}

/// Copies what one statement gives into what another one takes. Gives the number of rows.
pub async fn pipe(
    (source, out): (&mut PgConnection, String),
    (target, into): (&mut PgConnection, String),
    pace: &Pace,
    copied: &(dyn Fn(u64) + Sync),
) -> sqlx::Result<u64> {
    let mut rows = source.copy_out_raw(&out).await?;
    let mut taker = target.copy_in_raw(&into).await?;
    let (mut chunk, mut held) = (Vec::with_capacity(CHUNK + 8_192), 0);
    let sent = async {
        while let Some(row) = patient(rows.try_next()).await? {
            chunk.extend_from_slice(&row);
            held += 1;
            if chunk.len() >= CHUNK || pace.is_enough(held) {
                pace.take(held).await;
                patient(taker.send(&*chunk)).await?;
                copied(std::mem::take(&mut held));
                chunk.clear();
            }
        }
        pace.take(held).await;
        patient(taker.send(&*chunk)).await
    };
    match sent.await {
        Ok(_) => {
            let all = patient(taker.finish()).await?;
            copied(held.min(all));
            Ok(all)
        }
        Err(error) => {
            taker.abort(with_causes(&error)).await?;
            Err(error)
        }
    }
}

/// A network that is cut says nothing.
async fn patient<T>(step: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
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
            table.copy_out(&[1, 5]),
            "COPY (SELECT slot, k, v, 0::bigint FROM t WHERE slot = ANY('{1,5}')) TO STDOUT (FORMAT binary)"
        );
        assert_eq!(
            table.merge(),
            "INSERT INTO t (slot, k, v, batch) SELECT slot, k, v, 0 FROM pg_temp.\"stage t\" \
             ON CONFLICT (k) DO UPDATE SET slot = EXCLUDED.slot, v = EXCLUDED.v, batch = 0"
        );
    }

    #[test]
    fn rows_without_a_key_are_only_added() {
        let table = table(&[]);
        assert!(!table.merge().contains("CONFLICT") && table.compare_stage().is_none());
    }
}
