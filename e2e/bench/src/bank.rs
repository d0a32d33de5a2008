//! Accounts that have money, and payments that were made before: databases that are made once and copied for each run.

use anyhow::{Result, ensure};
use shardlane_e2e::plain::{administer, database_uri};
use shardlane_runtime::intake::Keyspace;
use shardlane_wallet::service::schema;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use crate::fill::LARGEST;

/// How many accounts there are where nothing else is said.
pub const ACCOUNTS: u32 = 10_000;

/// What a database begins with.
#[derive(Clone, Copy, Debug)]
pub struct Bank {
    /// Accounts.
    pub accounts: u32,
    /// Entries of payments that were made before.
    pub entries: u32,
}

/// The id of an account.
pub fn account(number: u32) -> String {
    format!("account-{number:06}")
}

impl Bank {
    /// Makes the database, with money enough for all of these transfers from one account.
    pub async fn found(&self, name: &str, keyspace: Keyspace, transfers: u64) -> Result<()> {
        administer(format!("CREATE DATABASE \"{name}\"")).await?;
        let mut database = PgConnection::connect(&database_uri(name)?).await?;
        sqlx::raw_sql(AssertSqlSafe(schema().ddl)).execute(&mut database).await?;
        self.open_accounts(&mut database, keyspace, i64::try_from(transfers)? * LARGEST).await?;
        self.write_entries(&mut database).await?;
        // What the server would do at some time anyhow, and rather not while it is measured.
        sqlx::raw_sql("VACUUM (ANALYZE)").execute(&mut database).await?;
        sqlx::raw_sql("CHECKPOINT").execute(&mut database).await?;
        // It cannot be copied while somebody is connected.
        Ok(database.close().await?)
    }

    /// Accounts with the same balance each, which came from outside.
    async fn open_accounts(&self, database: &mut PgConnection, keyspace: Keyspace, balance: i64) -> Result<()> {
        let ids: Vec<_> = (0..self.accounts).map(account).collect();
        let slots: Vec<_> = ids.iter().map(|id| keyspace.slot_of(id.as_bytes()).cast_signed()).collect();
        sqlx::query(
            "INSERT INTO account (slot, batch, balance, lowest, closed, currency, id)
             SELECT slot, 0, $1, 0, false, 'EUR', id FROM UNNEST($2::int[], $3::text[]) AS a(slot, id)",
        )
        .bind(balance)
        .bind(slots)
        .bind(ids)
        .execute(&mut *database)
        .await?;
        sqlx::query(
            "INSERT INTO totals (slot, batch, currency, deposited, sent, received, sent_digest, received_digest)
             SELECT slot, 0, currency, sum(balance), 0, 0, 0, 0 FROM account GROUP BY slot, currency",
        )
        .execute(database)
        .await?;
        Ok(())
    }

    /// Entries in the order of their ids, which are as random as those of transfers: so the largest index grows at its
    /// end, and is made in a tenth of the time. Half of them follow from debits. Their numbers are before the first one of
    /// a slot.
    async fn write_entries(&self, database: &mut PgConnection) -> Result<()> {
        sqlx::raw_sql("SET work_mem = '256MB'").execute(&mut *database).await?;
        sqlx::query(
            r#"INSERT INTO entry (slot, batch, number, record_offset, recorded_at, amount, balance, epoch, leg, currency,
                                  sender, receiver, request_id, debit_slot, debit_number)
               SELECT a.slot, 0, row_number() OVER (ORDER BY e.id COLLATE "C") - $1 - 1, 0, 0, 1, 1, 0,
                      CASE WHEN e.follows THEN 'incoming' ELSE 'deposit' END, a.currency, a.id, a.id, e.id,
                      CASE WHEN e.follows THEN a.slot END, CASE WHEN e.follows THEN e.number - $1 - 1 END
               FROM (SELECT number, md5(number::text)::uuid::text AS id, number % 2 = 0 AS follows
                     FROM generate_series(1, $1) AS number) e
               JOIN (SELECT row_number() OVER () - 1 AS number, slot, id, currency FROM account) a
                    ON a.number = e.number % $2"#,
        )
        .bind(i64::from(self.entries))
        .bind(i64::from(self.accounts))
        .execute(database)
        .await?;
        Ok(())
    }
}

/// Throws a database away.
pub async fn dissolve(name: &str) -> Result<()> {
    administer(format!("DROP DATABASE \"{name}\"")).await
}

/// Fails unless all of these transfers were made, and all money is there.
pub async fn check(mut shard: PgConnection, transfers: u64) -> Result<()> {
    // What was there before the transfers is of batch 0.
    let row = sqlx::query(
        "SELECT (SELECT count(*) FROM entry WHERE batch > 0 AND balance IS NOT NULL),
                (SELECT sum(balance)::text FROM account), (SELECT sum(deposited)::text FROM totals)",
    )
    .fetch_one(&mut shard)
    .await?;
    let (entries, balances, deposited): (i64, String, String) = (row.get(0), row.get(1), row.get(2));
    ensure!(entries == i64::try_from(2 * transfers)?, "{transfers} transfers, and {entries} entries that moved money");
    ensure!(balances == deposited, "the accounts hold {balances}, and {deposited} came from outside");
    Ok(())
}
