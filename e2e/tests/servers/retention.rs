//! Outcomes are removed once they are older than the service keeps them, and no other rows are.

use std::time::Duration;

use anyhow::{Result, bail};
use shardlane_e2e::direct::Direct;
use shardlane_e2e::plain::PlainService;
use shardlane_e2e::{same, until};

use crate::spec;

async fn count(service: &PlainService, table: &str) -> Result<i64> {
    let statement = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    Ok(sqlx::query_scalar(statement).fetch_one(&mut service.shard(0).await?).await?)
}

#[tokio::test]
async fn old_outcomes_go_and_accounts_stay() -> Result<()> {
    let mut service = PlainService::prepare("old", spec("old", 1, 2)).await?;
    let mut direct = Direct::new(&service, 1_000)?;
    direct.send(5_000).await?;
    let mut worker = service.worker(0).await?;
    direct.check(Duration::from_secs(30)).await?;
    same("refusals", count(&service, "refusal").await?, 4_000)?;
    worker.stop().await?;
    drop(direct);

    service.config.outcome_retention_ms = Some(2_000);
    service.write_config()?;
    let _worker = service.worker(0).await?;
    until(Duration::from_secs(30), async || match count(&service, "refusal").await? {
        0 => Ok(()),
        left => bail!("{left} refusals are left"),
    })
    .await?;
    same("accounts", count(&service, "account").await?, 1_000)
}
