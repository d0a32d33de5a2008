//! Records that cannot be taken are kept with their reason, and the worker goes on.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use shardlane_e2e::plain::PlainService;
use shardlane_e2e::topic::Admin;
use shardlane_e2e::{same, setting, topic, until};
use shardlane_runtime::config::Partitioner;
use shardlane_runtime::partitioner::slot_of;
use shardlane_runtime::producer::{Outgoing, Producer};

#[tokio::test]
async fn poison_becomes_dead_letters_and_the_rest_is_answered() -> Result<()> {
    let service = PlainService::prepare("poison", crate::spec("poison", 2, 4)).await?;
    let _workers = service.workers().await?;
    let kafka = setting("SHARDLANE_TEST_KAFKA")?;
    let producer = topic::producer(&kafka)?;
    let slot = |key: &[u8]| slot_of(Partitioner::Murmur2, key, 4);
    // A record's default limit, with its key and envelope.
    let long = "x".repeat(500_000);
    let huge = format!(r#"{{"request_id":"huge","username":"{long}"}}"#);
    let good = |n: usize| format!(r#"{{"request_id":"good-{n}","username":"name-{n}"}}"#);
    let bad: Vec<(&[u8], &[u8], u32, &str)> = vec![
        (b"a", b"not json", slot(b"a"), "not {"),
        (b"b", br#"{"username":"b"}"#, slot(b"b"), "missing field `request_id`"),
        (b"c", br#"{"request_id":"1"}"#, slot(b"c"), "missing field `username`"),
        (b"d", b"\xff\xfe", slot(b"d"), "not {"),
        (long.as_bytes(), huge.as_bytes(), slot(long.as_bytes()), "1 to 40 characters; this has 500000"),
        (b"e", br#"{"request_id":"1","username":"e"}"#, (slot(b"e") + 1) % 4, "misrouted: key belongs to"),
        (b"f", br#"{"request_id":"1","username":"g"}"#, slot(b"f"), "canonical form"),
        (b"h", br#"{"request_id":"1","username":"\u0000"}"#, slot(b"h"), "control characters"),
        (b"i", br#"{"request_id":9223372036854775808,"username":"i"}"#, slot(b"i"), "invalid type"),
        (b"j", br#"{"request_id":"\ud800","username":"j"}"#, slot(b"j"), "hex escape"),
    ];
    let request = service.topic("request")?;
    for (n, (key, value, slot_of_record, _)) in bad.iter().enumerate() {
        topic::put(&producer, request, *slot_of_record, Some(key), Some(value)).await?;
        let name = format!("name-{n}");
        topic::put(&producer, request, slot(name.as_bytes()), Some(name.as_bytes()), Some(good(n).as_bytes())).await?;
    }
    // The largest record that the broker takes at all: one byte more is refused.
    let largest = largest_record(&producer, request, slot(b"m")).await?;
    let in_range = (1_048_000..1_048_588).contains(&largest);
    same("a largest record of the broker's default limit", in_range, true)?;
    topic::put(&producer, request, 0, None, Some(b"{}")).await?;
    topic::put(&producer, request, slot(b"n"), Some(b"n"), None).await?;

    let (all_bad, all_good) = (bad.len() + 3, bad.len());
    let patience = Duration::from_secs(30);
    let dead =
        topic::read_until(&kafka, service.topic("request.dlq")?, patience, move |seen| seen.len() >= all_bad).await?;
    for (key, value, slot, reason) in &bad {
        let letter = dead
            .iter()
            .find(|letter| letter.key.as_deref() == Some(*key) && letter.value.as_deref() == Some(*value))
            .with_context(|| format!("no dead letter for {reason}"))?;
        let said = letter.header("shardlane.reason").context("no reason")?;
        anyhow::ensure!(said.contains(reason), "{said} does not say {reason}");
        same("partition", letter.header("shardlane.partition"), Some(&*slot.to_string()))?;
        same("topic", letter.header("shardlane.topic"), Some(request))?;
    }
    for reason in ["no key", "no value", "not {"] {
        let said =
            dead.iter().any(|letter| letter.header("shardlane.reason").is_some_and(|said| said.contains(reason)));
        same(reason, said, true)?;
    }
    let kept = dead.iter().any(|letter| letter.value.as_ref().is_some_and(|value| value.len() == largest));
    same("the largest record is a dead letter as it was", kept, true)?;
    let answered =
        topic::read_until(&kafka, service.topic("response")?, patience, move |seen| seen.len() >= all_good).await?;
    same("answers", answered.len(), all_good)
}

/// Finds the length of the longest value that the broker takes, and leaves one such record in the topic.
async fn largest_record(producer: &Producer, topic: &str, slot: u32) -> Result<usize> {
    let (mut taken, mut refused) = (1_040_000, 1_050_000);
    let scratch = format!("{topic}.scratch");
    Admin::at(&setting("SHARDLANE_TEST_KAFKA")?)?.make(&scratch, 8, &[]).await?;
    while refused - taken > 1 {
        let length = usize::midpoint(taken, refused);
        match topic::put(producer, &scratch, slot, Some(b"m"), Some(&vec![b'y'; length])).await {
            Ok(()) => taken = length,
            Err(_) => refused = length,
        }
    }
    topic::put(producer, topic, slot, Some(b"m"), Some(&vec![b'y'; taken])).await?;
    Ok(taken)
}

/// 10,000 bad records among 100,000 good ones: most cannot be understood, and some pass every rule of the service and are
/// refused by Postgres.
#[tokio::test]
async fn ten_thousand_bad_records_hinder_no_good_one() -> Result<()> {
    const GOOD: usize = 100_000;
    const REFUSED: usize = 200;
    let service = PlainService::prepare("flood", crate::spec("flood", 1, 4)).await?;
    sqlx::query("ALTER TABLE account ADD CHECK (username NOT LIKE 'refused%')")
        .execute(&mut service.shard(0).await?)
        .await?;
    let kafka = setting("SHARDLANE_TEST_KAFKA")?;
    let request = service.topic("request")?;
    let record = |name: String, value: String| Outgoing {
        topic: request.into(),
        slot: slot_of(Partitioner::Murmur2, name.as_bytes(), 4),
        key: Some(name.into_bytes()),
        value: Some(value.into_bytes()),
        headers: Vec::new(),
    };
    let asking = |name: String| {
        let value = format!(r#"{{"request_id":"r-{name}","username":"{name}"}}"#);
        record(name, value)
    };
    let mut records = Vec::new();
    for n in 0..GOOD {
        records.push(asking(format!("good-{n}")));
        match n % 10 {
            0 if n / 10 < REFUSED => records.push(asking(format!("refused-{n}"))),
            0 => records.push(record(format!("bad-{n}"), "not json".to_owned())),
            _ => {}
        }
    }
    topic::producer(&kafka)?.publish_all(&records).await?;
    let worker = service.worker(0).await?;
    let patience = Duration::from_secs(120);
    until(patience, async || {
        let found: i64 =
            sqlx::query_scalar("SELECT count(*) FROM account").fetch_one(&mut service.shard(0).await?).await?;
        if found == GOOD as i64 { Ok(()) } else { bail!("{found} accounts") }
    })
    .await?;
    let dead =
        topic::read_until(&kafka, service.topic("request.dlq")?, patience, |seen| seen.len() >= GOOD / 10).await?;
    same("dead letters", dead.len(), GOOD / 10)?;
    let said = |word: &str| {
        dead.iter().filter(|letter| letter.header("shardlane.reason").is_some_and(|said| said.contains(word))).count()
    };
    same("refused by Postgres", said("SQLSTATE 23514"), REFUSED)?;
    same("not understood", said("not {"), GOOD / 10 - REFUSED)?;
    let counted = worker.metric("shardlane_dead_letters_total{reason=\"refused\"}").await?;
    same("the metric", counted, REFUSED as f64)
}

#[tokio::test]
async fn a_response_that_is_too_large_is_told_by_its_digest_and_the_rest_is_answered() -> Result<()> {
    let kafka = setting("SHARDLANE_TEST_KAFKA")?;
    // One response fits, several at once do not: the broker refuses what it is sent as a whole.
    Admin::at(&kafka)?.make("large.response", 2, &[("max.message.bytes", "300")]).await?;
    let service = PlainService::prepare("large", crate::spec("large", 1, 2)).await?;
    let producer = topic::producer(&kafka)?;
    let ask = async |id: &str, name: &str| {
        let value = format!(r#"{{"request_id":"{id}","username":"{name}"}}"#);
        let slot = slot_of(Partitioner::Murmur2, name.as_bytes(), 2);
        topic::put(&producer, service.topic("request")?, slot, Some(name.as_bytes()), Some(value.as_bytes())).await
    };
    let (long_id, long_name) = ("i".repeat(128), "\u{10348}".repeat(40));
    for n in 0..20 {
        ask(&format!("r{n}"), &format!("name-{n}")).await?;
        if n == 10 {
            ask(&long_id, &long_name).await?;
        }
    }
    let worker = service.worker(0).await?;
    let patience = Duration::from_secs(30);
    let dead = topic::read_until(&kafka, service.topic("request.dlq")?, patience, |seen| !seen.is_empty()).await?;
    let reason = dead[0].header("shardlane.reason").context("no reason")?;
    anyhow::ensure!(reason.contains("larger than the topic large.response takes"), "{reason}");
    same("key of the digest", dead[0].key.as_deref(), Some(long_name.as_bytes()))?;
    dead[0].header("shardlane.value.sha256").context("no hash")?;
    let mut answers = std::collections::BTreeSet::new();
    topic::read_until(&kafka, "large.response", patience, move |seen| {
        answers.extend(seen.iter().filter_map(|record| record.value.clone()));
        answers.len() == 20
    })
    .await?;
    until(patience, async || same("the metric", worker.metric("shardlane_unpublishable_total").await?, 1.0)).await?;
    // The outcome is there for whoever asks.
    let found: i64 = sqlx::query_scalar("SELECT count(*) FROM account WHERE username = $1")
        .bind(&long_name)
        .fetch_one(&mut service.shard(0).await?)
        .await?;
    same("its account", found, 1)
}
