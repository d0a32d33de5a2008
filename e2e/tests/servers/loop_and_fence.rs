//! The loop: what a worker does and says from its start to its end.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;
use shardlane_e2e::direct::Direct;
use shardlane_e2e::plain::PlainService;
use shardlane_e2e::signups::{check_shards, requests, send_all, told_the_same};
use shardlane_e2e::{same, setting, topic, until};
use shardlane_runtime::database::within;
use shardlane_runtime::shard::{Raised, raise_mark};

use crate::spec;

#[tokio::test]
async fn killed_workers_lose_and_double_nothing() -> Result<()> {
    let service = PlainService::prepare("killed", spec("killed", 2, 6)).await?;
    let mut workers = service.workers().await?;
    let gateway = service.gateway(&[]).await?;
    let all = requests("killed", 800, 1_000);
    let (url, sending) = (gateway.url.clone(), all.clone());
    let load = tokio::spawn(async move { send_all(&url, sending, 16).await });
    while !load.is_finished() {
        for (partition, worker) in workers.iter_mut().enumerate() {
            worker.kill().await?;
            *worker = service.worker(u32::try_from(partition)?).await?;
            worker.ready().await?;
        }
    }
    let outcomes = load.await??;
    same("outcomes", outcomes.len(), 1_000)?;
    told_the_same(&outcomes, &send_all(&gateway.url, all, 16).await?)?;
    check_shards(&service.config, &mut service.shards().await?, &outcomes).await
}

#[tokio::test]
async fn a_stopped_worker_ends_well_and_everything_committed_is_published() -> Result<()> {
    let service = PlainService::prepare("stopped", spec("stopped", 1, 2)).await?;
    let mut worker = service.worker(0).await?;
    worker.ready().await?;
    let gateway = service.gateway(&[]).await?;
    send_all(&gateway.url, requests("stopped", 100, 100), 16).await?;
    same("exit code", worker.stop().await?, Some(0))?;
    let row = sqlx::query_as::<_, (i64, i64)>("SELECT batch, relayed_batch FROM shard")
        .fetch_one(&mut service.shard(0).await?)
        .await?;
    same("batches not published", row.0 - row.1, 0)
}

#[tokio::test]
async fn a_mark_is_raised_unless_a_batch_is_being_written() -> Result<()> {
    let service = PlainService::prepare("mark", spec("mark", 1, 2)).await?;
    let [mut relay, mut batch] = [service.shard(0).await?, service.shard(0).await?];
    sqlx::raw_sql("UPDATE shard SET owner = 'me', batch = 7").execute(&mut relay).await?;
    sqlx::raw_sql("BEGIN; SELECT FROM shard FOR UPDATE").execute(&mut batch).await?;
    same("under a batch", within(raise_mark(&mut relay, "me", 5)).await?, Raised::NotNow)?;
    sqlx::raw_sql("ROLLBACK").execute(&mut batch).await?;
    same("after it", within(raise_mark(&mut relay, "me", 5)).await?, Raised::Yes)?;
    same("by somebody else", within(raise_mark(&mut relay, "another", 6)).await?, Raised::Fenced)?;
    let mark = "SELECT relayed_batch FROM shard";
    same("the mark", sqlx::query_scalar::<_, i64>(mark).fetch_one(&mut relay).await?, 5)?;
    within(raise_mark(&mut relay, "me", 9)).await?;
    same("the mark of a shard that was taken back", sqlx::query_scalar::<_, i64>(mark).fetch_one(&mut relay).await?, 7)
}

/// Waits until this many requests have been answered twice, each time the same.
async fn each_is_told_twice(service: &PlainService, requests: usize) -> Result<()> {
    let (kafka, response) = (setting("SHARDLANE_TEST_KAFKA")?, service.topic("response")?);
    let enough = move |seen: &[topic::Seen]| seen.len() >= 2 * requests;
    let seen = topic::read_until(&kafka, response, Duration::from_secs(20), enough).await?;
    let mut told: Vec<_> = seen.into_iter().map(|record| record.value).collect();
    told.sort();
    let twice = told.chunk_by(|one, other| one == other).filter(|same| same.len() == 2).count();
    same("requests that were told the same twice", twice, requests)
}

#[tokio::test]
async fn in_large_batches_the_first_request_for_a_name_wins_and_each_is_told_the_same_again() -> Result<()> {
    let service = PlainService::prepare("repeats", spec("repeats", 1, 2)).await?;
    // A backlog, so that the worker finds batches as large as they get: names come three times, within one and across several.
    let mut requests = Direct::new(&service, 5_000)?;
    requests.send(15_000).await?;
    let _worker = service.worker(0).await?;
    requests.check(Duration::from_secs(20)).await?;
    requests.send_again().await?;
    each_is_told_twice(&service, 15_000).await
}

#[tokio::test]
async fn a_worker_that_is_behind_takes_its_slots_in_turn() -> Result<()> {
    const SLOTS: u32 = 8;
    const REQUESTS: usize = 240_000;
    let service = PlainService::prepare("turns", spec("turns", 1, SLOTS)).await?;
    // Many times what it fetches of a slot at once, and in batches that are small beside that.
    let mut requests = Direct::new(&service, REQUESTS)?;
    for _ in 0..60 {
        requests.send(REQUESTS / 60).await?;
    }
    let _worker = service.worker(0).await?;
    let stand = until(Duration::from_secs(60), async || {
        let stand: Vec<i64> =
            sqlx::query_scalar("SELECT next_offset FROM slot").fetch_all(&mut service.shard(0).await?).await?;
        ensure!(stand.iter().sum::<i64>() >= i64::try_from(REQUESTS / 2)?, "it has only begun: {stand:?}");
        Ok(stand)
    })
    .await?;
    let (last, first) = (stand.iter().min().copied(), stand.iter().max().copied());
    ensure!(last.unwrap_or(0) * 2 >= first.unwrap_or(0), "some slots are far behind the others: {stand:?}");
    requests.check(Duration::from_secs(60)).await
}

/// The offset that a record of Kafka's own topic says a group has committed for a topic with one partition.
fn committed(record: &topic::Seen, group: &str, of: &str) -> Option<i64> {
    let holds = |text: &str| record.key.as_ref()?.windows(text.len()).find(|part| *part == text.as_bytes());
    holds(group).and(holds(of))?;
    // A version of two bytes, then the offset.
    let offset = record.value.as_ref()?.get(2..10)?;
    Some(i64::from_be_bytes(offset.try_into().ok()?))
}

#[tokio::test]
async fn kafkas_own_tools_see_how_far_a_worker_is_but_not_with_each_batch() -> Result<()> {
    const REQUESTS: i64 = 400;
    let service = PlainService::prepare("shown", spec("shown", 1, 1)).await?;
    let worker = service.worker(0).await?;
    worker.ready().await?;
    let (kafka, began) = (setting("SHARDLANE_TEST_KAFKA")?, Instant::now());
    let (producer, request) = (topic::producer(&kafka)?, service.topic("request")?);
    for n in 0..REQUESTS {
        let value = format!(r#"{{"request_id":"r{n}","username":"name-{n}"}}"#);
        topic::put(&producer, request, 0, Some(format!("name-{n}").as_bytes()), Some(value.as_bytes())).await?;
    }
    let (group, of) = (format!("{}-0", service.config.name), request.to_owned());
    let told = {
        let (group, of) = (group.clone(), of.clone());
        let all =
            move |seen: &[topic::Seen]| seen.last().is_some_and(|last| committed(last, &group, &of) == Some(REQUESTS));
        topic::read_until(&kafka, "__consumer_offsets", Duration::from_secs(20), all).await?
    };
    let told = told.iter().filter(|record| committed(record, &group, &of).is_some()).count() as u64;
    // One a second, and whatever was begun before and ends after.
    let most = began.elapsed().as_secs() + 3;
    let batches: i64 = sqlx::query_scalar("SELECT batch FROM shard").fetch_one(&mut service.shard(0).await?).await?;
    ensure!(batches.unsigned_abs() > 3 * most, "{batches} batches say nothing");
    ensure!(told <= most, "it was committed {told} times how far the worker is, which hinders it when slots come");
    Ok(())
}

#[tokio::test]
async fn a_relay_that_is_far_behind_publishes_everything_and_has_the_index_on_its_side() -> Result<()> {
    let service = PlainService::prepare("behind", spec("behind", 1, 2)).await?;
    // It would do the same as the relay, or hold the lock when the relay wants it.
    let alone = "ALTER TABLE account SET (autovacuum_enabled = off)";
    sqlx::query(alone).execute(&mut service.shard(0).await?).await?;
    let mut worker = service.worker(0).await?;
    // More than a page range of the index, which knows the first one from its making; and more batches than are read at once, each
    // of which has been written before the next one is asked for.
    let mut requests = Direct::new(&service, 3_000)?;
    for asked in [1_000_i64, 2_000, 3_000] {
        requests.send(1_000).await?;
        until(Duration::from_secs(20), async || {
            let read = sqlx::query_scalar("SELECT sum(next_offset)::bigint FROM slot");
            same("requests that are written", read.fetch_one(&mut service.shard(0).await?).await?, asked)
        })
        .await?;
    }
    requests.check(Duration::from_secs(20)).await?;
    worker.stop().await?;
    let mut shard = service.shard(0).await?;
    // As if the broker had been away for long.
    sqlx::query("UPDATE shard SET relayed_batch = 0").execute(&mut shard).await?;
    let _worker = service.worker(0).await?;
    each_is_told_twice(&service, 3_000).await?;
    until(Duration::from_secs(20), async || {
        let left: i64 = sqlx::query_scalar("SELECT batch - relayed_batch FROM shard")
            .fetch_one(&mut service.shard(0).await?)
            .await?;
        same("batches not published", left, 0)
    })
    .await?;
    let not_yet: i32 =
        sqlx::query_scalar("SELECT brin_summarize_new_values('account_batch')").fetch_one(&mut shard).await?;
    same("page ranges of which the index knows nothing", not_yet, 0)
}

#[tokio::test]
async fn answers_of_a_key_come_in_the_order_of_its_requests() -> Result<()> {
    let service = PlainService::prepare("order", spec("order", 1, 2)).await?;
    let kafka = setting("SHARDLANE_TEST_KAFKA")?;
    let producer = topic::producer(&kafka)?;
    let request = service.topic("request")?;
    let slot = shardlane_runtime::partitioner::slot_of(Default::default(), b"name", 2);
    for n in 0..50 {
        let value = format!(r#"{{"request_id":"r{n}","username":"name"}}"#);
        topic::put(&producer, request, slot, Some(b"name"), Some(value.as_bytes())).await?;
    }
    let _workers = service.workers().await?;
    let seen =
        topic::read_until(&kafka, service.topic("response")?, Duration::from_secs(20), |seen| seen.len() >= 50).await?;
    for (n, record) in seen.iter().enumerate() {
        let response: Value = record.json()?;
        same("request", response["request_id"].as_str(), Some(&*format!("r{n}")))?;
        same("success", response["success"].as_bool(), Some(n == 0))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_worker_says_what_it_waits_for_and_counts_what_it_does() -> Result<()> {
    let service = PlainService::prepare("metrics", spec("metrics", 1, 1)).await?;
    let worker = service.worker(0).await?;
    worker.ready().await?;
    let gateway = service.gateway(&[]).await?;
    send_all(&gateway.url, requests("metrics", 5, 5), 1).await?;
    let metrics = worker.probe("/metrics").await?;
    for line in ["shardlane_records_total 5", "shardlane_ready 1"] {
        same(line, metrics.lines().any(|found| found == line), true)?;
    }
    let status = worker.status().await?;
    same("next offset", status["slots"][0]["nextOffset"].as_i64(), Some(5))
}
