//! How many rows a second a whole move brings from one shard to another, beside a bare copy of the same rows between the same two
//! databases.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use shardlane_e2e::plain::Process;
use sqlx::{AssertSqlSafe, PgConnection};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use crate::kind::Kind;
use crate::report::{Row, Samples, Side, Target, Unit, grouped};
use crate::reshard::pair::{Pair, SECOND};
use crate::stage::{PARTITION, Stage};
use crate::usage::Usage;

/// How often it is looked whether all slots have come.
const OFTEN: Duration = Duration::from_millis(10);
/// Longest that a move or a copy may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// The table whose rows move, and its columns.
const TABLE: &str = "account (slot, batch, record_offset, username, id, request_id)";

/// All runs, as a row of the report.
pub async fn measure(stage: &Stage) -> Result<Row> {
    let runs = stage.options.runs();
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for number in 1..=runs {
        let name = format!("reshard-rows-{number}");
        stage.progress.doing(&name);
        let pair = Pair::make(stage, Kind::Signup, &name, None).await?;
        // Half of the slots go to the second shard while it is empty, and come back full.
        ensure!(pair.reshard(2, 0)?.end(PATIENCE).await? == Some(0), "{name}: the mover failed");
        fill(&mut pair.service.shard(SECOND).await?, stage.options.moved_rows).await?;
        let copied = copy(stage, &pair).await?;
        let moved = moves(stage, &pair).await?;
        stage.progress.done(&format!("moved rows {number}/{runs}: ours {:.0}/s, bare {copied:.0}/s", moved.0));
        ours.push(moved);
        bare.push(copied);
        pair.throw_away().await?;
    }
    let (rates, usages): (Vec<_>, Vec<_>) = ours.into_iter().unzip();
    let (ours, bare) = (Samples(rates), Samples(bare));
    let rate = Some(ours.median());
    Ok(Row {
        name: "Rows moved, accounts".to_owned(),
        unit: Unit::PerSecond,
        ours: Side { samples: ours, usage: Some(Usage::mean(&usages)), rate, waits: Vec::new() },
        // Its processes have ended when it is done, and nobody knows what they have used.
        bare: Some(Side { samples: bare, usage: None, rate: None, waits: Vec::new() }),
        beside: "psql's COPY TO STDOUT (FORMAT binary) into psql's COPY FROM STDIN, both from their start to their end"
            .to_owned(),
        target: Some(Target::Ratio(0.5)),
        notes: vec![format!(
            "{} rows of account, in slots of one group; ours from the start of the mover until the last slot is active in the \
             other shard: it also compares all rows by their digests",
            grouped(f64::from(stage.options.moved_rows))
        )],
    })
}

/// Rows as sign-ups leave them: names in no order, ids that rise. The database does at once what it would do at some time anyhow.
async fn fill(shard: &mut PgConnection, rows: u32) -> Result<()> {
    let fill = format!(
        "INSERT INTO {TABLE}
         SELECT slots.owned[1 + n % cardinality(slots.owned)], 0, n, left(md5(n::text), 16), lpad(n::text, 27, '0'), md5(n::text)::uuid
         FROM generate_series(1, {rows}) AS n, (SELECT array_agg(slot) AS owned FROM slot) AS slots"
    );
    for statement in [&*fill, "VACUUM (ANALYZE) account"] {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *shard).await?;
    }
    Ok(())
}

/// A bare copy, which is thrown away again.
async fn copy(stage: &Stage, pair: &Pair) -> Result<f64> {
    stage.settle().await?;
    let began = Instant::now();
    pipe(pair, [SECOND, PARTITION]).await?;
    let rate = rate(stage, began.elapsed());
    let mut target = pair.service.shard(PARTITION).await?;
    check(&mut target, stage.options.moved_rows).await?;
    sqlx::raw_sql("TRUNCATE account").execute(&mut target).await?;
    Ok(rate)
}

/// A bare copy of all accounts from one shard to another.
async fn pipe(pair: &Pair, [from, to]: [u32; 2]) -> Result<()> {
    let columns = TABLE.split_once(' ').context("no columns")?.1.trim_matches(['(', ')']);
    let psql = |partition| {
        let mut psql = Command::new("psql");
        psql.args(["-X", "-q", "-d", &pair.service.uri(partition)?, "-c"]).kill_on_drop(true);
        anyhow::Ok(psql)
    };
    let out = format!("COPY (SELECT {columns} FROM account) TO STDOUT (FORMAT binary)");
    let mut source = psql(from)?.arg(out).stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let rows: Stdio = source.stdout.take().context("no output")?.try_into()?;
    let mut target = psql(to)?;
    let target = target.arg(format!("COPY {TABLE} FROM STDIN (FORMAT binary)")).stdin(rows).output();
    let (sent, taken) = timeout(PATIENCE, async { tokio::join!(source.wait(), target) }).await?;
    let taken = taken?;
    ensure!(sent?.success() && taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
    Ok(())
}

/// The same rows, moved: how many a second, and who used the processors.
async fn moves(stage: &Stage, pair: &Pair) -> Result<(f64, Usage)> {
    stage.settle().await?;
    let mut target = pair.service.shard(PARTITION).await?;
    let (began, before) = (Instant::now(), stage.servers.snapshot(&[])?);
    let mut mover = pair.reshard(1, 3_600)?;
    let parts = [("mover", mover.pid()?)];
    timeout(PATIENCE, all_come(&mut target, &mut mover, stage.options.slots))
        .await
        .context("the move takes too long")??;
    let (took, usage) = (began.elapsed(), stage.servers.snapshot(&parts)?.since(&before));
    mover.kill().await?;
    check(&mut target, stage.options.moved_rows).await?;
    Ok((rate(stage, took), usage))
}

async fn all_come(target: &mut PgConnection, mover: &mut Process, slots: u32) -> Result<()> {
    loop {
        let active = "SELECT count(*) FROM slot WHERE state = 'active'";
        let active: i64 = sqlx::query_scalar(active).fetch_one(&mut *target).await?;
        if active == i64::from(slots) {
            return Ok(());
        }
        if let Ok(code) = mover.end(OFTEN).await {
            bail!("the mover ended with {code:?}: {}", mover.log()?);
        }
    }
}

fn rate(stage: &Stage, took: Duration) -> f64 {
    f64::from(stage.options.moved_rows) / took.as_secs_f64()
}

async fn check(target: &mut PgConnection, rows: u32) -> Result<()> {
    let found: i64 = sqlx::query_scalar("SELECT count(*) FROM account").fetch_one(target).await?;
    ensure!(found == i64::from(rows), "{found} of {rows} rows have come");
    Ok(())
}
