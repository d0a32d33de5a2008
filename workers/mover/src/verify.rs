//! `verify`: whether each slot has one owner, and each row lies where its slot says. The report is made without I/O.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use shardlane_runtime::config::{ServiceConfig, ranges};
use shardlane_runtime::process::Backoff;
use shardlane_runtime::service::Schema;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use crate::init::InitError;
use crate::moves::edges::{SlotRow, State};
use crate::moves::recover::sender;
use crate::moves::statements::{Trouble, slot_rows};
use crate::patience::Passing as _;
use crate::shards::address;

/// How often shards are looked at that contradict each other or do not answer: slots may be moving, and servers may be starting.
const LOOKS: u32 = 8;

/// What lies in a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Its slots' rows, those of Kafka partitions beyond the slots included.
    pub slots: Vec<SlotRow>,
    /// How many rows each table has of each slot.
    pub rows: BTreeMap<String, BTreeMap<u32, i64>>,
}

/// The report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing is wrong.
    pub ok: bool,
    /// How many slots there are.
    pub slots: u32,
    /// What each partition has.
    pub partitions: Vec<PartitionReport>,
    /// Slots that are moving.
    pub moving: Vec<String>,
    /// What is wrong, for a person.
    pub problems: Vec<String>,
}

/// What a partition has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionReport {
    /// The partition.
    pub partition: u32,
    /// The slots that it owns.
    pub slots: String,
    /// Rows of these, by table.
    pub rows: BTreeMap<String, i64>,
}

/// Says what is wrong, given what lies in the shards, by partition.
pub fn report(contents: &[Contents], slots: u32) -> Report {
    let all: Vec<SlotRow> = contents.iter().flat_map(|shard| shard.slots.iter().cloned()).collect();
    let mut problems = Vec::new();
    let mut moving = Vec::new();
    for slot in 0..slots {
        let of_slot = || all.iter().filter(move |row| row.slot == slot);
        let owners: Vec<u32> = of_slot().filter(|row| row.state.owns()).map(|row| row.partition).collect();
        let arriving = of_slot().any(|row| row.state == State::Incoming && sender(&all, row).is_some());
        match owners.as_slice() {
            [_] if arriving => problems.push(format!("slot {slot} is handed over and still owned")),
            [_] => {}
            [] if arriving => {}
            [] => problems.push(format!("slot {slot} is owned by nobody")),
            several => problems.push(format!("slot {slot} is owned by the partitions {several:?}")),
        }
        if of_slot().any(|row| row.state != State::Active) {
            moving.push(slot);
        }
    }
    let mut partitions = Vec::new();
    for (shard, partition) in contents.iter().zip(0..) {
        let state = |slot: u32| shard.slots.iter().find(|row| row.slot == slot).map(|row| row.state);
        let mut rows = BTreeMap::new();
        for (table, counts) in &shard.rows {
            let owned = counts.iter().filter(|(slot, _)| state(**slot).is_some_and(State::owns));
            rows.insert(table.clone(), owned.map(|(_, count)| count).sum());
            for (slot, count) in counts.iter().filter(|(slot, _)| state(**slot).is_none()) {
                problems.push(format!(
                    "partition {partition}: {count} rows of {table} lie in slot {slot}, of which its shard knows nothing"
                ));
            }
        }
        let owned = shard.slots.iter().filter(|row| row.slot < slots && row.state.owns());
        let owned: Vec<u32> = owned.map(|row| row.slot).collect();
        partitions.push(PartitionReport { partition, slots: ranges(&owned), rows });
    }
    let moving = moving.chunk_by(|a, b| a + 1 == *b).map(ranges).collect();
    Report { ok: problems.is_empty(), slots, partitions, moving, problems }
}

/// Looks at all shards. What contradicts itself is looked at again, for slots may be on their way meanwhile.
pub async fn verify(
    config: &ServiceConfig,
    schema: &Schema,
    shards: &Path,
    shard_count: u32,
) -> Result<Report, InitError> {
    let mut looks = 1;
    let mut backoff = Backoff::default();
    loop {
        let contents = match look_at_all(config, schema, shards, shard_count).await {
            // Who has just been started may not be let through yet; and a server may be starting too.
            Err(error) if error.passes() && looks < LOOKS => {
                tracing::warn!(%error, "not yet; trying again");
                looks += 1;
                tokio::time::sleep(backoff.wait()).await;
                continue;
            }
            contents => contents?,
        };
        let report = report(&contents, config.max_partitions);
        if report.ok || looks == LOOKS {
            return Ok(report);
        }
        looks += 1;
    }
}

async fn look_at_all(
    config: &ServiceConfig,
    schema: &Schema,
    shards: &Path,
    shard_count: u32,
) -> Result<Vec<Contents>, InitError> {
    let mut contents = Vec::new();
    for partition in 0..shard_count {
        let mut shard = address(shards, partition)?.connect().await?;
        contents.push(look(&mut shard, config, schema, partition).await?);
    }
    Ok(contents)
}

/// One snapshot of a shard.
async fn look(
    shard: &mut PgConnection,
    config: &ServiceConfig,
    schema: &Schema,
    partition: u32,
) -> Result<Contents, Trouble> {
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL statement_timeout = 0")
        .execute(&mut *shard)
        .await?;
    let slots = slot_rows(shard, &config.id, partition).await?;
    let mut rows = BTreeMap::new();
    for table in &schema.tables {
        let name = table.replace('"', "\"\"");
        let counts = sqlx::query(AssertSqlSafe(format!("SELECT slot, count(*) FROM \"{name}\" GROUP BY slot")))
            .fetch_all(&mut *shard)
            .await?;
        let counts = counts.iter().map(|row| (row.get::<i32, _>(0).unsigned_abs(), row.get(1)));
        rows.insert(table.clone(), counts.collect());
    }
    Ok(Contents { slots, rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(partition: u32, slots: &[(u32, State, Option<u32>)], rows: &[(u32, i64)]) -> Contents {
        let row = |(slot, state, moved_to): &(u32, State, Option<u32>)| SlotRow {
            partition,
            slot: *slot,
            state: *state,
            attempt: Some("a".to_owned()),
            epoch: 1,
            moved_to: *moved_to,
        };
        Contents {
            slots: slots.iter().map(row).collect(),
            rows: BTreeMap::from([("account".to_owned(), rows.iter().copied().collect())]),
        }
    }

    #[test]
    fn a_service_at_rest_is_well() {
        let shards =
            [shard(0, &[(0, State::Active, None)], &[(0, 7)]), shard(1, &[(1, State::Active, None)], &[(1, 2)])];
        let report = report(&shards, 2);
        assert!(report.ok && report.moving.is_empty(), "{report:?}");
        assert_eq!(report.partitions[1].slots, "1");
        assert_eq!(report.partitions[0].rows["account"], 7);
    }

    #[test]
    fn slots_on_their_way_are_no_problem() {
        let sent = shard(0, &[(0, State::Moved, Some(1)), (1, State::Leaving, None)], &[(0, 7), (1, 1)]);
        let report = report(&[sent, shard(1, &[(0, State::Incoming, None), (1, State::Incoming, None)], &[(0, 7)])], 2);
        assert!(report.ok, "{report:?}");
        assert_eq!(report.moving, ["0-1"]);
    }

    #[test]
    fn what_is_lost_doubled_or_astray_is_told() {
        let shards = [
            shard(0, &[(0, State::Active, None), (1, State::Active, None)], &[(2, 12)]),
            shard(1, &[(0, State::Active, None)], &[]),
        ];
        let report = report(&shards, 3);
        assert!(!report.ok);
        let expected = [
            "slot 0 is owned by the partitions [0, 1]",
            "slot 2 is owned by nobody",
            "partition 0: 12 rows of account lie in slot 2, of which its shard knows nothing",
        ];
        assert_eq!(report.problems, expected);
    }
}
