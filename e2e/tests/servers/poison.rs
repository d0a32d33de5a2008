//! Records that cannot be taken are kept with their reason, and the worker goes on.

use std::time::Duration;

use anyhow::{Context, Result};
use shardlane_e2e::plain::PlainService;
use shardlane_e2e::{same, setting, topic};
use shardlane_runtime::config::Partitioner;
use shardlane_runtime::partitioner::slot_of;

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
    ];
    let request = service.topic("request")?;
    for (n, (key, value, slot_of_record, _)) in bad.iter().enumerate() {
        topic::put(&producer, request, *slot_of_record, Some(key), Some(value)).await?;
        let name = format!("name-{n}");
        topic::put(&producer, request, slot(name.as_bytes()), Some(name.as_bytes()), Some(good(n).as_bytes())).await?;
    }
    // One record of a megabyte, the most that a broker takes by default.
    let megabyte = format!(r#"{{"request_id":"1","username":"{}"}}"#, "y".repeat(1_000_000));
    topic::put(&producer, request, slot(b"m"), Some(b"m"), Some(megabyte.as_bytes())).await?;
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
    for reason in ["no key", "no value", "this has 1000000"] {
        let said =
            dead.iter().any(|letter| letter.header("shardlane.reason").is_some_and(|said| said.contains(reason)));
        same(reason, said, true)?;
    }
    let answered =
        topic::read_until(&kafka, service.topic("response")?, patience, move |seen| seen.len() >= all_good).await?;
    same("answers", answered.len(), all_good)
}
