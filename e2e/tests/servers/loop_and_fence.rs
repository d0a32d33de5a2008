//! The loop: nothing is lost or doubled when a worker dies, and of two workers the later one wins.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use shardlane_e2e::plain::PlainService;
use shardlane_e2e::signups::{check_shards, requests, send_all, told_the_same};
use shardlane_e2e::{same, setting, topic};
use shardlane_runtime::intake::Keyspace;
use shardlane_runtime::producer::Outgoing;

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
async fn every_record_of_the_log_is_answered_whatever_is_killed() -> Result<()> {
    const REQUESTS: usize = 20_000;
    let service = PlainService::prepare("answered", spec("answered", 1, 4)).await?;
    // Straight into the log: no client asks again for an answer that was lost.
    let kafka = setting("SHARDLANE_TEST_KAFKA")?;
    let keyspace = Keyspace { partitioner: service.config.partitioner, slots: 4 };
    let record = |n: usize| {
        let name = format!("name-{}", n % 15_000);
        Ok(Outgoing {
            topic: service.topic("request")?.into(),
            slot: keyspace.slot_of(name.as_bytes()),
            value: Some(format!(r#"{{"request_id":"r{n}","username":"{name}"}}"#).into_bytes()),
            key: Some(name.into_bytes()),
            headers: Vec::new(),
        })
    };
    let records = (0..REQUESTS).map(record).collect::<Result<Vec<_>>>()?;
    topic::producer(&kafka)?.publish_all(&records).await?;
    for _ in 0..10 {
        let mut worker = service.worker(0).await?;
        // Anywhere in its work: while it starts, in a batch, between a commit and its relay, in the relay.
        tokio::time::sleep(Duration::from_millis(rand::random_range(50..700))).await;
        worker.kill().await?;
    }
    let _workers = service.workers().await?;

    let (mut answers, mut read) = (BTreeSet::new(), 0);
    let enough = move |seen: &[topic::Seen]| {
        answers.extend(seen[read..].iter().map(|record| record.value.clone()));
        read = seen.len();
        answers.len() >= REQUESTS
    };
    let seen = topic::read_until(&kafka, service.topic("response")?, Duration::from_secs(40), enough).await?;
    let mut told = BTreeMap::new();
    for record in &seen {
        let response = record.json()?;
        let id = response["request_id"].as_str().context("no request_id")?.to_owned();
        let success = response["success"].as_bool().context("no success")?;
        same(&format!("answers to {id}"), *told.entry(id).or_insert(success), success)?;
    }
    same("answered requests", told.len(), REQUESTS)?;
    // In the log's order, the first request for each name is the one with the lowest number.
    for (id, success) in told {
        let n: usize = id.strip_prefix('r').context("id")?.parse()?;
        same(&format!("success of {id}"), success, n < 15_000)?;
    }
    Ok(())
}

#[tokio::test]
async fn of_two_workers_the_later_one_wins_and_the_earlier_one_stops() -> Result<()> {
    let service = PlainService::prepare("fence", spec("fence", 1, 2)).await?;
    let mut earlier = service.worker(0).await?;
    earlier.ready().await?;
    let later = service.second_worker(0).await?;
    later.ready().await?;
    same("exit code of the earlier one", earlier.end(Duration::from_secs(10)).await?, Some(1))?;
    let gateway = service.gateway(&[]).await?;
    let outcomes = send_all(&gateway.url, requests("fence", 50, 60), 8).await?;
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
    let status: Value = serde_json::from_str(&worker.probe("/status").await?)?;
    same("next offset", status["slots"][0]["nextOffset"].as_i64(), Some(5))
}
