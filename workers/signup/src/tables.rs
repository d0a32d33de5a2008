//! The statements of a sign-up shard: one for each table and batch, never one for each record.

use shardlane_runtime::service::BatchRange;
use shardlane_runtime::shard;
use shardlane_runtime::trust::Trust;
use sqlx::{PgConnection, Row};

use crate::fold::{Accounts, Claim, SignupPlan, Taken, Verdict};
use crate::wire::SignupResponse;

/// Statements that make the tables.
pub const DDL: &str = include_str!("schema.sql");
/// The tables.
pub const TABLES: [&str; 2] = ["account", "refusal"];

/// Writes a batch.
pub async fn apply(tx: &mut PgConnection, batch: i64, plan: &SignupPlan, trust: &Trust) -> sqlx::Result<Verdict> {
    let taken = open_accounts(tx, batch, plan, trust).await?;
    let verdict = Verdict::of(&plan.claims, &taken);
    let mut again: Vec<&Claim> = Vec::new();
    if !taken.is_empty() {
        let retried = |(claim, won): (_, bool)| won.then_some(claim);
        again.extend(verdict.each().filter_map(retried).filter(|claim| taken.contains_key(&claim.username)));
    }
    answer_again(tx, batch, &again).await?;
    refuse(tx, batch, &verdict.lost()).await?;
    Ok(verdict)
}

/// Claims that are too few for trust to pay.
const FEW: usize = 256;

macro_rules! open {
    () => {
        "INSERT INTO account (slot, batch, record_offset, username, id, request_id)
         SELECT slot, $1, record_offset, username, id, request_id
         FROM UNNEST($2::int[], $3::bigint[], $4::text[], $5::text[], $6::text[])
              AS c(slot, record_offset, username, id, request_id)"
    };
}

/// Opens accounts whose names are free.
pub const OPEN: &str = open!();

/// Opens those accounts whose names are free. An anti-join instead of ON CONFLICT is a quarter faster. The fence row is locked
/// by a statement before this one, so nobody else writes, and what this one sees is all there is.
pub const OPEN_IF_FREE: &str =
    concat!(open!(), r#" WHERE NOT EXISTS (SELECT FROM account a WHERE a.username = c.username COLLATE "C")"#);

/// Opens an account for each first claim on a name that is free. Gives the names that are not.
async fn open_accounts(tx: &mut PgConnection, batch: i64, plan: &SignupPlan, trust: &Trust) -> sqlx::Result<Taken> {
    let SignupPlan { claims, accounts } = plan;
    if claims.first.is_empty() {
        return Ok(Taken::new());
    }
    if claims.first.len() < FEW {
        let opened = insert(tx, OPEN_IF_FREE, batch, accounts).await?;
        let all = opened == claims.first.len() as u64;
        return if all { Ok(Taken::new()) } else { taken(tx, batch, accounts).await };
    }
    if trust.holds() {
        match insert(tx, OPEN, batch, accounts).await {
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => shard::start_over(tx).await?,
            result => return result.map(|_| Taken::new()),
        }
    }
    let taken = taken(tx, batch, accounts).await?;
    if taken.is_empty() {
        trust.kept();
        insert(tx, OPEN, batch, accounts).await?;
    } else {
        trust.broken();
        let free: Vec<bool> = claims.first.iter().map(|claim| !taken.contains_key(&claim.username)).collect();
        insert(tx, OPEN, batch, &accounts.pick(&free)).await?;
    }
    Ok(taken)
}

async fn insert(tx: &mut PgConnection, statement: &'static str, batch: i64, accounts: &Accounts) -> sqlx::Result<u64> {
    let Accounts { slots, offsets, usernames, ids, request_ids } = accounts;
    let insert =
        sqlx::query(statement).bind(batch).bind(slots).bind(offsets).bind(usernames).bind(ids).bind(request_ids);
    Ok(insert.execute(tx).await?.rows_affected())
}

/// Who had which of the names before this batch.
async fn taken(tx: &mut PgConnection, batch: i64, accounts: &Accounts) -> sqlx::Result<Taken> {
    let rows = sqlx::query("SELECT username, request_id, batch FROM account WHERE username = ANY($1)")
        .bind(&accounts.usernames)
        .fetch_all(tx)
        .await?;
    let before = rows.iter().filter(|row| row.get::<i64, _>(2) < batch);
    Ok(before.map(|row| (row.get(0), row.get(1))).collect())
}

/// Has the accounts of retried requests published again.
async fn answer_again(tx: &mut PgConnection, batch: i64, claims: &[&Claim]) -> sqlx::Result<()> {
    if claims.is_empty() {
        return Ok(());
    }
    sqlx::query(
        r#"UPDATE account SET batch = $1, record_offset = c.record_offset
           FROM UNNEST($2::text[], $3::bigint[]) AS c(username, record_offset)
           WHERE account.username = c.username COLLATE "C""#,
    )
    .bind(batch)
    .bind(claims.iter().map(|c| &*c.username).collect::<Vec<_>>())
    .bind(claims.iter().map(|c| c.offset).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

/// Notes requests that have lost, or has them published again.
async fn refuse(tx: &mut PgConnection, batch: i64, claims: &[&Claim]) -> sqlx::Result<()> {
    if claims.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO refusal (slot, batch, record_offset, username, request_id)
         SELECT slot, $1, record_offset, username, request_id
         FROM UNNEST($2::int[], $3::bigint[], $4::text[], $5::text[])
              AS c(slot, record_offset, username, request_id)
         ON CONFLICT (username, request_id)
         DO UPDATE SET batch = EXCLUDED.batch, record_offset = EXCLUDED.record_offset",
    )
    .bind(batch)
    .bind(claims.iter().map(|c| c.slot.cast_signed()).collect::<Vec<_>>())
    .bind(claims.iter().map(|c| c.offset).collect::<Vec<_>>())
    .bind(claims.iter().map(|c| &*c.username).collect::<Vec<_>>())
    .bind(claims.iter().map(|c| &*c.request_id).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

/// The outcomes of some batches, in order.
pub async fn outcomes(shard: &mut PgConnection, range: BatchRange) -> sqlx::Result<Vec<SignupResponse<'static>>> {
    let rows = sqlx::query(
        "SELECT request_id, username, success FROM (
             SELECT batch, slot, record_offset, request_id, username, true AS success
             FROM account WHERE batch > $1 AND batch <= $2
             UNION ALL
             SELECT batch, slot, record_offset, request_id, username, false
             FROM refusal WHERE batch > $1 AND batch <= $2
         ) o ORDER BY batch, slot, record_offset",
    )
    .bind(range.after)
    .bind(range.to)
    .fetch_all(shard)
    .await?;
    let response = |row: &sqlx::postgres::PgRow| SignupResponse {
        request_id: row.get::<String, _>(0).into(),
        username: row.get::<String, _>(1).into(),
        success: row.get(2),
    };
    Ok(rows.iter().map(response).collect())
}
