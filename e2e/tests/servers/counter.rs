//! Counters of plain processes: what their users rely on, and exact sums whatever is killed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shardlane_e2e::increments::{Load, Pool, check_shards};
use shardlane_e2e::plain::{PlainService, Process};
use shardlane_e2e::{same, setting, topic};
use shardlane_operator::api::counter_pool::CounterPool;
use shardlane_runtime::intake::Keyspace;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(60);

fn spec(name: &str, partitions: u32, slots: u32) -> Value {
    json!({
        "partitions": partitions,
        "maxPartitions": slots,
        "flushInterval": "100ms",
        "topics": { "increments": format!("{name}.increments") },
    })
}

async fn start(name: &str, spec: Value) -> Result<(PlainService, Vec<Process>, Process, Pool)> {
    let service = PlainService::prepare_as::<CounterPool>(name, spec).await?;
    let workers = service.workers().await?;
    let gateway = service.gateway(&[]).await?;
    let pool = Pool::at(&gateway.url)?;
    Ok((service, workers, gateway, pool))
}

#[tokio::test]
async fn counters_rise_and_are_found_one_by_one_together_and_by_size() -> Result<()> {
    let (_service, _workers, gateway, pool) = start("counters", spec("counters", 2, 4)).await?;
    let keys: Vec<Uuid> = (0..10).map(|_| Uuid::new_v4()).collect();
    for (key, value) in keys.iter().zip(1..) {
        pool.increment(*key, value, None).await?;
        pool.increment(*key, 10, None).await?;
    }
    for (key, value) in keys.iter().zip(11..) {
        pool.shows(*key, value).await?;
    }
    let (status, nobody) = pool.get(&format!("counters/{}", Uuid::nil())).await?;
    same("a counter that was never raised", (status, &nobody["value"]), (200, &json!(0)))?;
    ensure!(nobody["staleness_ms"].is_u64(), "{nobody}");

    let upper = keys[1].simple().to_string().to_uppercase();
    let (_, some) = pool.get(&format!("counters?keys={},{upper},{}", keys[7], Uuid::nil())).await?;
    let told =
        json!([{ "key": keys[7], "value": 18 }, { "key": keys[1], "value": 12 }, { "key": Uuid::nil(), "value": 0 }]);
    same("several, in the order asked for", &some["counters"], &told)?;
    let (_, largest) = pool.get("counters?top=2").await?;
    let told = json!([{ "key": keys[9], "value": 20 }, { "key": keys[8], "value": 19 }]);
    same("the largest", &largest["counters"], &told)?;
    same("metric of received increments", gateway.metric("shardlane_increments_received_total").await?, 20.0)?;
    let openapi: Value = reqwest::get(format!("{}/openapi.json", gateway.url)).await?.json().await?;
    same("documented path", openapi["paths"]["/increment"]["post"].is_object(), true)
}

#[tokio::test]
async fn whatever_is_not_exactly_an_increment_is_refused_with_its_reason() -> Result<()> {
    let (_service, _workers, gateway, pool) = start("notcounters", spec("notcounters", 1, 1)).await?;
    let key = Uuid::new_v4();
    let long = "x".repeat(200);
    let many: Vec<_> = (0..1_001).map(|_| json!({ "key": key, "value": 1 })).collect();
    for (path, body, id, word) in [
        ("increment", "not json".to_owned(), None, "not as expected"),
        ("increment", json!({ "value": 1 }).to_string(), None, "key"),
        ("increment", json!({ "key": key }).to_string(), None, "value"),
        ("increment", json!({ "key": "me", "value": 1 }).to_string(), None, "invalid"),
        ("increment", json!({ "key": key, "value": 0 }).to_string(), None, "1 to 9223372036854775807"),
        ("increment", json!({ "key": key, "value": -1 }).to_string(), None, "1 to 9223372036854775807"),
        ("increment", json!({ "key": key, "value": 1.5 }).to_string(), None, "1.5"),
        ("increment", json!({ "key": key, "value": "1" }).to_string(), None, "string"),
        ("increment", format!(r#"{{"key":"{key}","value":9223372036854775808}}"#), None, "9223372036854775808"),
        ("increment", json!({ "key": key, "value": 1, "by": "me" }).to_string(), None, "by"),
        ("increment", json!({ "key": key, "value": 1 }).to_string(), Some(&*long), "128"),
        ("increments", json!({ "increments": [] }).to_string(), None, "no increment"),
        (
            "increments",
            json!({ "increments": [{ "key": key, "value": 1 }, { "key": key, "value": 0 }] }).to_string(),
            None,
            "increments[1]",
        ),
    ] {
        let (status, problem) = pool.post(path, &body, id).await?;
        same(&body, status, 400)?;
        let detail = problem["detail"].as_str().context("no detail")?;
        ensure!(detail.contains(word), "{body}: {detail}");
    }
    same("too many", pool.post("increments", &json!({ "increments": many }).to_string(), None).await?.0, 413)?;
    for path in ["counters", "counters?keys=me", "counters/me", "counters?top=5&keys=me", "counters?top=1001"] {
        same(path, pool.get(path).await?.0, 400)?;
    }
    let rejected = gateway.metric(r#"shardlane_increments_rejected_total{reason="bad_request"}"#).await?;
    same("metric of refused requests", rejected, 13.0)?;
    pool.increment(key, 3, None).await?;
    pool.shows(key, 3).await
}

#[tokio::test]
async fn a_retry_with_an_idempotency_key_adds_nothing() -> Result<()> {
    let (service, mut workers, _gateway, pool) = start("retries", spec("retries", 1, 2)).await?;
    let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
    for _ in 0..5 {
        pool.increment(one, 7, Some("a")).await?;
    }
    pool.shows(one, 7).await?;
    // What is known of it is in the shard, and not in a worker's memory.
    workers[0].kill().await?;
    workers[0] = service.worker(0).await?;
    pool.increment(one, 7, Some("a")).await?;
    pool.increment(one, 2, Some("b")).await?;
    pool.increment(other, 5, Some("a")).await?;
    pool.shows(other, 5).await?;
    pool.shows(one, 9).await
}

#[tokio::test]
async fn what_a_counter_cannot_hold_is_a_dead_letter_and_nothing_else_is_lost() -> Result<()> {
    let (service, _workers, _gateway, pool) = start("overflow", spec("overflow", 1, 1)).await?;
    let (full, fresh, other) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    pool.increment(full, i64::MAX - 5, None).await?;
    pool.shows(full, i64::MAX - 5).await?;
    // Within one flush, among others: too much for a counter that is nearly full, and for one that is new.
    let increment = |key: Uuid, value: i64| json!({ "key": key, "value": value });
    let increments: Vec<_> = (0..400)
        .flat_map(|_| [increment(other, 1)])
        .chain([increment(full, 6), increment(fresh, i64::MAX), increment(fresh, i64::MAX), increment(full, 5)])
        .collect();
    let (status, answer) = pool.post("increments", &json!({ "increments": increments }).to_string(), None).await?;
    same(&format!("{answer}"), status, 200)?;
    let kafka = setting("SHARDLANE_TEST_KAFKA")?;
    let dead = topic::read_until(&kafka, service.topic("increments.dlq")?, PATIENCE, |seen| seen.len() >= 2).await?;
    for letter in &dead {
        let reason = letter.header("shardlane.reason").context("no reason")?;
        ensure!(reason.contains("out of range"), "{reason}");
    }
    pool.shows(other, 400).await?;
    pool.shows(fresh, i64::MAX).await?;
    pool.shows(full, i64::MAX).await?;
    same("dead letters", dead.len(), 2)?;
    // It gathers again.
    pool.increment(other, 1, None).await?;
    pool.shows(other, 401).await
}

#[tokio::test]
async fn poison_is_a_dead_letter_and_the_rest_counts() -> Result<()> {
    let (service, _workers, _gateway, pool) = start("nocount", spec("nocount", 1, 4)).await?;
    let kafka = setting("SHARDLANE_TEST_KAFKA")?;
    let producer = topic::producer(&kafka)?;
    let (keyspace, increments) = (Keyspace::of(&service.config), service.topic("increments")?);
    let key = Uuid::new_v4();
    let (text, upper) = (key.to_string(), key.to_string().to_uppercase());
    let good = format!(r#"{{"key":"{key}","value":1}}"#);
    let bad = [(&text, "not json".to_owned()), (&text, good.replace('1', "0")), (&upper, good.clone())];
    for (key, value) in &bad {
        let slot = keyspace.slot_of(key.as_bytes());
        topic::put(&producer, increments, slot, Some(key.as_bytes()), Some(value.as_bytes())).await?;
        let slot = keyspace.slot_of(text.as_bytes());
        topic::put(&producer, increments, slot, Some(text.as_bytes()), Some(good.as_bytes())).await?;
    }
    pool.shows(key, 3).await?;
    let dead = topic::read_until(&kafka, service.topic("increments.dlq")?, PATIENCE, |seen| seen.len() >= 3).await?;
    same("dead letters", dead.len(), 3)
}

/// Workers killed all the time, at any place of their work: while they gather, flush, or start.
#[tokio::test]
async fn sums_are_exact_however_often_workers_are_killed() -> Result<()> {
    let (service, mut workers, _gateway, pool) = start("sums", spec("sums", 2, 8)).await?;
    let keys: Vec<Uuid> = (0..1_000).map(|_| Uuid::new_v4()).collect();
    let load = Load { requests: 3_000, each: 50, clients: 4, doubled: 4 };
    let (acknowledged, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let counting = async {
        let sums = pool.count(&keys, load, &acknowledged).await;
        over.store(true, Ordering::Relaxed);
        sums
    };
    let killing = async {
        let mut kills = 0;
        while !over.load(Ordering::Relaxed) {
            let partition = kills % 2;
            tokio::time::sleep(Duration::from_millis(rand::random_range(20..400))).await;
            workers[partition].kill().await?;
            workers[partition] = service.worker(u32::try_from(partition)?).await?;
            kills += 1;
        }
        Ok::<_, anyhow::Error>(kills)
    };
    let (sums, kills) = tokio::join!(counting, killing);
    let (sums, kills) = (sums?, kills?);
    ensure!(kills >= 4, "only {kills} kills");
    pool.settle(&sums).await?;
    println!("{} increments, {kills} kills", acknowledged.load(Ordering::Relaxed));
    check_shards(&mut service.shards().await?, &service.config, &sums).await
}
