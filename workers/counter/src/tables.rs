//! The statements of a counter's shard: one for each table and flush, never one for each record.

use shardlane_runtime::column::Column;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use crate::fold::{Counted, CounterPlan, Decision, Raise, Use, decide, raises};

/// Statements that make the tables, or leave them as they are.
pub const DDL: &str = include_str!("schema.sql");
/// The tables, each led by its slot.
pub const TABLES: [&str; 2] = ["counter", "used"];

/// Writes a flush.
pub async fn apply(tx: &mut PgConnection, batch: i64, plan: &CounterPlan, window: i64) -> sqlx::Result<()> {
    let counted = counted(tx, plan).await?;
    let Decision { raises: used, first } = decide(plan, &counted, window);
    note_uses(tx, batch, first.into_values().collect()).await?;
    raise(tx, batch, &raises(plan, used)).await
}

/// Which of the uses have counted before.
async fn counted(tx: &mut PgConnection, plan: &CounterPlan) -> sqlx::Result<Counted> {
    if plan.uses.is_empty() {
        return Ok(Counted::new());
    }
    let rows = sqlx::query(
        r#"SELECT used.key, used.id, used.first_at FROM used
           JOIN (SELECT DISTINCT key, id FROM UNNEST($1::uuid[], $2::text[]) AS u(key, id)) u
             ON used.key = u.key AND used.id = u.id COLLATE "C""#,
    )
    .bind(plan.uses.iter().map(|each| each.key).collect::<Vec<_>>())
    .bind(plan.uses.iter().map(|each| &*each.id).collect::<Vec<_>>())
    .fetch_all(tx)
    .await?;
    Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect())
}

/// Notes which uses have counted now.
async fn note_uses(tx: &mut PgConnection, batch: i64, mut uses: Vec<&Use>) -> sqlx::Result<()> {
    if uses.is_empty() {
        return Ok(());
    }
    uses.sort_unstable_by_key(|each| (each.key, &*each.id));
    sqlx::query(
        "INSERT INTO used (slot, batch, key, id, first_at)
         SELECT slot, $1, key, id, first_at
         FROM UNNEST($2::int[], $3::uuid[], $4::text[], $5::bigint[]) AS u(slot, key, id, first_at)
         ON CONFLICT (key, id) DO UPDATE SET batch = EXCLUDED.batch, first_at = EXCLUDED.first_at",
    )
    .bind(batch)
    .bind(uses.iter().map(|each| each.slot.cast_signed()).collect::<Vec<_>>())
    .bind(uses.iter().map(|each| each.key).collect::<Vec<_>>())
    .bind(uses.iter().map(|each| &*each.id).collect::<Vec<_>>())
    .bind(uses.iter().map(|each| each.at).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

/// Raises counters. Of one that would get beyond what it can hold, Postgres refuses the whole; the runtime then finds the records
/// that are too much.
async fn raise(tx: &mut PgConnection, batch: i64, raises: &[(Uuid, Raise)]) -> sqlx::Result<()> {
    if raises.is_empty() {
        return Ok(());
    }
    let Ok(by) = raises.iter().map(|(_, raise)| i64::try_from(raise.by)).collect::<Result<Vec<_>, _>>() else {
        // In Postgres' own words, as of a counter that is nearly full already.
        return sqlx::query("SELECT $1::bigint + 1").bind(i64::MAX).execute(tx).await.map(drop);
    };
    sqlx::query(
        "INSERT INTO counter AS c (slot, batch, key, value)
         SELECT slot, $1, key, by FROM UNNEST($2::int[], $3::uuid[], $4::bigint[]) AS r(slot, key, by)
         ON CONFLICT (key) DO UPDATE SET batch = EXCLUDED.batch, value = c.value + EXCLUDED.value",
    )
    .bind(batch)
    .bind(Column::of(raises.iter().map(|(_, raise)| raise.slot.cast_signed()).collect()))
    .bind(Column::of(raises.iter().map(|(key, _)| *key).collect()))
    .bind(Column::of(by))
    .execute(tx)
    .await?;
    Ok(())
}
