//! The statements of a sign-up shard: one for each table and batch, never one for each record.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use shardlane_runtime::service::BatchRange;
use shardlane_runtime::shard;
use sqlx::{PgConnection, Row};

use crate::fold::{Accounts, Claim, SignupPlan};
use crate::wire::SignupResponse;

/// Statements that make the tables.
pub const DDL: &str = include_str!("schema.sql");
/// The tables.
pub const TABLES: [&str; 2] = ["account", "refusal"];

/// Writes a batch.
pub async fn apply(tx: &mut PgConnection, batch: i64, plan: &SignupPlan, trust: &Trust) -> sqlx::Result<Told> {
    let won = open_accounts(tx, batch, plan, trust).await?;
    if won == plan.first.len() as u64 && plan.later.is_empty() {
        return Ok(Told::AllWon(Arc::clone(&plan.first)));
    }
    // Somebody has lost or asks again: the winners say who.
    let claims: Vec<&Claim> = plan.first.iter().chain(&plan.later).collect();
    let winners = winners(tx, &claims).await?;
    let (mut again, mut lost, mut told) = (Vec::new(), Vec::new(), Vec::with_capacity(claims.len()));
    for claim in claims {
        let winner = winners.get(&*claim.username).filter(|winner| winner.request_id == claim.request_id);
        told.push(((claim.slot, claim.offset), response(claim, winner.is_some())));
        match winner {
            Some(winner) if winner.batch != batch => again.push(claim),
            Some(_) => {}
            None => lost.push(claim),
        }
    }
    answer_again(tx, batch, &again).await?;
    refuse(tx, batch, &lost).await?;
    told.sort_unstable_by_key(|(place, _)| *place);
    Ok(Told::Each(told.into_iter().map(|(_, response)| response).collect()))
}

/// What became of some requests.
#[derive(Debug)]
pub enum Told {
    /// Every claim of a batch has won, and no name was claimed twice.
    AllWon(Arc<Vec<Claim>>),
    /// This.
    Each(Vec<SignupResponse>),
}

fn response(claim: &Claim, success: bool) -> SignupResponse {
    SignupResponse { request_id: claim.request_id.clone(), username: claim.username.clone(), success }
}

/// Whether the names of a batch are taken to be free. Where none is taken already, asking first costs a fifth of the time;
/// where some are, trying in vain costs as well. Only the speed depends on it.
#[derive(Debug, Default)]
pub struct Trust {
    /// Batches for which the names are asked after first.
    wary: AtomicU32,
}

/// For how many batches names are asked after, once one was taken.
const WARY: u32 = 32;

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

/// Opens an account for each claim on a name that is free.
async fn open_accounts(tx: &mut PgConnection, batch: i64, plan: &SignupPlan, trust: &Trust) -> sqlx::Result<u64> {
    if plan.first.is_empty() {
        return Ok(0);
    }
    // For a few, trying twice costs more than asking.
    if plan.first.len() < FEW {
        return insert(tx, OPEN_IF_FREE, batch, &plan.accounts).await;
    }
    if trust.wary.load(Ordering::Relaxed) == 0 {
        match insert(tx, OPEN, batch, &plan.accounts).await {
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                shard::start_over(tx).await?;
                trust.wary.store(WARY, Ordering::Relaxed);
            }
            result => return result,
        }
    } else {
        trust.wary.fetch_sub(1, Ordering::Relaxed);
    }
    insert(tx, OPEN_IF_FREE, batch, &plan.accounts).await
}

async fn insert(tx: &mut PgConnection, statement: &'static str, batch: i64, accounts: &Accounts) -> sqlx::Result<u64> {
    let Accounts { slots, offsets, usernames, ids, request_ids } = accounts;
    let insert =
        sqlx::query(statement).bind(batch).bind(slots).bind(offsets).bind(usernames).bind(ids).bind(request_ids);
    Ok(insert.execute(tx).await?.rows_affected())
}

struct Winner {
    request_id: String,
    batch: i64,
}

/// Who has each of the names.
async fn winners(tx: &mut PgConnection, claims: &[&Claim]) -> sqlx::Result<HashMap<String, Winner>> {
    let rows = sqlx::query("SELECT username, request_id, batch FROM account WHERE username = ANY($1)")
        .bind(claims.iter().map(|c| &*c.username).collect::<Vec<_>>())
        .fetch_all(tx)
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), Winner { request_id: row.get(1), batch: row.get(2) })).collect())
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
pub async fn outcomes(shard: &mut PgConnection, range: BatchRange) -> sqlx::Result<Told> {
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
        request_id: row.get(0),
        username: row.get(1),
        success: row.get(2),
    };
    Ok(Told::Each(rows.iter().map(response).collect()))
}
