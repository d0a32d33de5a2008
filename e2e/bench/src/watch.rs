//! Watching a shard while it is written, from outside and cheaply: one statement now and then, the same for both sides.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sqlx::{PgConnection, Row};

/// How often a shard is looked at.
pub const OFTEN: Duration = Duration::from_millis(20);

/// Looks at a shard.
pub struct Watch {
    connection: PgConnection,
    /// What each backend did when it was looked at.
    seen: BTreeMap<i32, BTreeMap<String, u32>>,
}

/// A shard at a moment.
pub struct Look {
    /// When.
    pub at: Instant,
    /// Records applied, as the slots say; always 0 for a bare loop, which keeps no offsets.
    pub applied: i64,
    /// Whether everything that is committed is published.
    pub published: bool,
}

impl Watch {
    /// Through this connection.
    pub fn new(connection: PgConnection) -> Self {
        Self { connection, seen: BTreeMap::new() }
    }

    /// Looks once.
    pub async fn look(&mut self) -> Result<Look> {
        let rows = sqlx::query(
            "SELECT s.published, s.applied, a.pid,
                    CASE WHEN a.state = 'idle' THEN 'idle' ELSE coalesce(a.wait_event, 'on a processor') END
             FROM (SELECT batch = relayed_batch AS published, (SELECT sum(next_offset) FROM slot)::bigint AS applied
                   FROM shard) s
             LEFT JOIN pg_stat_activity a
                  ON a.datname = current_database() AND a.application_name = 'shardlane'",
        )
        .fetch_all(&mut self.connection)
        .await?;
        let at = Instant::now();
        let first = rows.first().context("the shard is not prepared")?;
        let (published, applied) = (first.get(0), first.get::<Option<i64>, _>(1).unwrap_or_default());
        for row in &rows {
            if let Some(pid) = row.get::<Option<i32>, _>(2) {
                *self.seen.entry(pid).or_default().entry(row.get(3)).or_default() += 1;
            }
        }
        Ok(Look { at, applied, published })
    }

    /// Forgets what was seen before the clock ran.
    pub fn begin(&mut self) {
        self.seen.clear();
    }

    /// What the backends did, the busiest first: in how many of a hundred looks.
    pub fn waits(&self) -> Vec<Waits> {
        let mut all: Vec<_> = self.seen.values().map(Waits::of).collect();
        all.sort_by_key(|waits| waits.idle);
        all
    }
}

/// What a backend did, in percent of the looks at it.
#[derive(Clone, Debug)]
pub struct Waits {
    idle: u32,
    shares: Vec<(String, u32)>,
}

impl Waits {
    fn of(seen: &BTreeMap<String, u32>) -> Self {
        let all = seen.values().sum::<u32>().max(1);
        let share = |count: &u32| (count * 100 + all / 2) / all;
        let mut shares: Vec<_> = seen.iter().map(|(what, count)| (what.clone(), share(count))).collect();
        shares.sort_by_key(|(_, share)| std::cmp::Reverse(*share));
        let idle = ["idle", "ClientRead"].iter().filter_map(|what| seen.get(*what)).map(share).sum();
        Self { idle, shares }
    }
}

impl std::fmt::Display for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let told = self.shares.iter().filter(|(_, share)| *share > 0);
        let texts: Vec<_> = told.map(|(what, share)| format!("{share}% {what}")).collect();
        f.write_str(&texts.join(", "))
    }
}
