//! Programs written for the original keep working: its topics, its hash, its messages.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use shardlane_e2e::plain::PlainService;
use shardlane_e2e::{same, setting, topic};
use shardlane_runtime::config::Partitioner;
use shardlane_runtime::partitioner::slot_of;

#[tokio::test]
async fn a_message_of_the_go_client_is_answered_as_its_ctl_reads_it() -> Result<()> {
    let spec = json!({
        "partitions": 3, "maxPartitions": 3, "partitioner": "fnv1a", "usernames": { "canonicalForm": "exact" },
    });
    let service = PlainService::prepare("original", spec).await?;
    let _workers = service.workers().await?;
    let kafka = setting("SHARDLANE_TEST_KAFKA")?;
    let producer = topic::producer(&kafka)?;
    let names = ["Alice", "Bob", "Carol", "Dave", "Eve", "Alice"];
    for (n, name) in names.iter().enumerate() {
        // As encoding/json writes the struct, and as sarama's hash partitioner places it.
        let value = format!(r#"{{"request_id":"2Pm4FX0Z5UGHSnYKKdvVgxtgHQ{n}","username":"{name}"}}"#);
        let slot = slot_of(Partitioner::Fnv1a, name.as_bytes(), 3);
        topic::put(&producer, "account.signup_request", slot, Some(name.as_bytes()), Some(value.as_bytes())).await?;
    }
    let enough = |seen: &[topic::Seen]| seen.len() >= 6;
    let seen = topic::read_until(&kafka, "account.signup_response", Duration::from_secs(20), enough).await?;
    for (n, name) in names.iter().enumerate() {
        let id = format!("2Pm4FX0Z5UGHSnYKKdvVgxtgHQ{n}");
        let expected = format!(r#"{{"request_id":"{id}","username":"{name}","success":{}}}"#, n < 5);
        let found = seen.iter().find(|record| {
            record.value.as_deref() == Some(expected.as_bytes()) && record.key.as_deref() == Some(name.as_bytes())
        });
        same(&expected, found.is_some(), true)?;
    }
    Ok(())
}

#[tokio::test]
async fn signup_ctl_shows_what_becomes_of_typed_names() -> Result<()> {
    let service = PlainService::prepare("ctl", crate::spec("ctl", 1, 2)).await?;
    let _workers = service.workers().await?;
    let output = typed(&service, "ada\ngrace\n\u{1}\nada\n").await?;
    let text = String::from_utf8(output.stdout)?;
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    same("lines", lines.len(), 3)?;
    for (name, mark, times) in [("ada", "✅", 1), ("ada", "❌", 1), ("grace", "✅", 1)] {
        let found = lines.iter().filter(|line| line[2] == name && line[3] == mark && line[0].contains(':')).count();
        same(&format!("{name} {mark}"), found, times)?;
    }
    same("the name that is none", String::from_utf8(output.stderr)?.contains("control characters"), true)
}

async fn typed(service: &PlainService, text: &str) -> Result<std::process::Output> {
    use tokio::io::AsyncWriteExt;
    let program = std::path::PathBuf::from(setting("SHARDLANE_TEST_PROGRAMS")?).join("signup-ctl");
    let mut child = tokio::process::Command::new(program)
        .arg(format!("--bootstrap-servers={}", setting("SHARDLANE_TEST_KAFKA")?))
        .arg(format!("--request-topic={}", service.topic("request")?))
        .arg(format!("--response-topic={}", service.topic("response")?))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes()).await?;
    }
    Ok(child.wait_with_output().await?)
}
