//! The most that a service can do with one partition while requests come in.
//!
//! A drain alone says too much: its requests lie there already, and it is over before the tables have grown. So a service is also
//! offered what a drain worked off, at the same time and for as long as a move takes, by a producer on the same machine.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use shardlane_runtime::intake::Keyspace;
use sqlx::PgConnection;
use tokio::time::{Instant, sleep};

use crate::Options;
use crate::backlog::Backlog;
use crate::bank::{ACCOUNTS, Bank};
use crate::fill::{Increments, Requests, Transfers, fill};
use crate::kind::{COUNTERS, Kind};
use crate::reshard::offer::{MOST, Offer};
use crate::reshard::pair::Pair;
use crate::stage::{Given, Stage};

/// Transfers for which the accounts have money.
const PAID_FOR: u64 = 100_000_000;

/// How much of what is offered is worked off by somebody who keeps up.
const ALL: f64 = 0.97;

/// Requests a second with one partition.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    /// Of a backlog.
    pub drained: f64,
    /// Of what comes in meanwhile, unless one producer cannot offer more than is worked off.
    pub kept_up: Option<f64>,
}

impl Most {
    /// The most that it can do.
    pub fn at_all(self) -> f64 {
        self.kept_up.unwrap_or(self.drained)
    }
}

/// Measures it, and makes the database that services of this kind begin as a copy of.
pub async fn measure(stage: &Stage, kind: Kind, database: Option<&str>) -> Result<Most> {
    let drained = drained(stage, kind, database).await?;
    let offered = drained.min(MOST);
    let kept_up = kept_up(stage, kind, database, offered).await?;
    stage.progress.done(&format!(
        "{} with one partition: {drained:.0}/s of a backlog, {kept_up:.0}/s of {offered:.0}/s that come in",
        kind.program()
    ));
    Ok(Most { drained, kept_up: Some(kept_up).filter(|kept_up| *kept_up < ALL * offered) })
}

async fn drained(stage: &Stage, kind: Kind, database: Option<&str>) -> Result<f64> {
    let Options { records, transfers, increments, .. } = stage.options;
    let records = match kind {
        Kind::Wallet => transfers,
        Kind::Counter => increments,
        Kind::Signup | Kind::Blog => records,
    };
    let name = format!("reshard-{}-most", kind.program());
    stage.progress.doing("filling a topic");
    let source = stage.service(kind, &format!("{name}-source"), Given::default()).await?;
    match kind {
        Kind::Signup => fill(&source, kind, Requests::new(5, 0.), records).await?,
        Kind::Wallet => fill(&source, kind, Transfers::new(5, ACCOUNTS), records).await?,
        Kind::Counter => fill(&source, kind, Increments::uniform(5, COUNTERS), records).await?,
        Kind::Blog => bail!("posts are not drained here"),
    }
    if let Some(database) = database {
        let bank = Bank { accounts: ACCOUNTS, entries: 0 };
        bank.found(database, Keyspace::of(&source.config), PAID_FOR).await?;
    }
    let backlog = Backlog { stage, kind, source: &source, database, records, name: &name, bare: &[] };
    let drained = backlog.ours(&format!("{name}-ours")).await?;
    Ok(drained.published.unwrap_or(drained.committed))
}

async fn kept_up(stage: &Stage, kind: Kind, database: Option<&str>, rate: f64) -> Result<f64> {
    let name = format!("reshard-{}-kept-up", kind.program());
    stage.progress.doing(&name);
    let pair = Pair::make(stage, kind, &name, database).await?;
    let team = pair.team(kind).await?;
    stage.settle().await?;
    let offer = Offer::begin(&pair.service, kind, kind.series(5_999), rate)?;
    let [warm, long] = if stage.options.quick { [2, 4] } else { [10, 60] }.map(Duration::from_secs);
    let [mut shard, _] = pair.shards().await?;
    sleep(warm).await;
    let (began, before) = (Instant::now(), applied(&mut shard).await?);
    sleep(long).await;
    let (took, after) = (began.elapsed(), applied(&mut shard).await?);
    // What is left of its requests is nobody's business.
    drop(team);
    offer.end().await?;
    pair.throw_away().await?;
    let records = after - before;
    ensure!(records > 0, "{name}: nothing is worked off");
    #[allow(clippy::cast_precision_loss)]
    Ok(records as f64 / f64::from(kind.steps()) / took.as_secs_f64())
}

/// Records so far.
async fn applied(shard: &mut PgConnection) -> Result<i64> {
    Ok(sqlx::query_scalar("SELECT sum(next_offset)::bigint FROM slot").fetch_one(shard).await?)
}
