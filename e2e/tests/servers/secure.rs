//! A Kafka that wants TLS and passwords.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use shardlane_e2e::plain::PlainService;
use shardlane_e2e::signups::{check_shards, requests, send_all, told_the_same};
use shardlane_e2e::{setting, until};
use shardlane_operator::api::signup_shard::SignupShard;
use shardlane_runtime::config::{KafkaConfig, SaslConfig, TlsConfig};

use crate::spec;

/// How a test reaches the broker, with a password in a file as a Secret's is.
fn secure(name: &str, password: &str) -> Result<KafkaConfig> {
    let folder: PathBuf = std::env::temp_dir().join(format!("shardlane-secure-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let file = |key: &str, text: &str| {
        let path = folder.join(key);
        std::fs::write(&path, text)?;
        Ok::<_, anyhow::Error>(path.display().to_string())
    };
    Ok(KafkaConfig {
        tls: Some(TlsConfig { ca_file: Some(setting("SHARDLANE_TEST_KAFKA_CA")?) }),
        sasl: Some(SaslConfig {
            mechanism: "SCRAM-SHA-512".to_owned(),
            username_file: file("username", "demo")?,
            password_file: file("password", password)?,
            ..SaslConfig::default()
        }),
        ..KafkaConfig::plain(&setting("SHARDLANE_TEST_SECURE_KAFKA")?)
    })
}

#[tokio::test]
async fn a_service_works_over_tls_with_a_password() -> Result<()> {
    let service =
        PlainService::prepare_on::<SignupShard>("secure", spec("secure", 2, 4), secure("good", "hunter2")?).await?;
    let workers = service.workers().await?;
    let gateway = service.gateway(&[]).await?;
    let all = requests("secure", 400, 500);
    let outcomes = send_all(&gateway.url, all.clone(), 16).await?;
    told_the_same(&outcomes, &send_all(&gateway.url, all, 16).await?)?;
    check_shards(&service.config, &mut service.shards().await?, &outcomes).await?;
    for worker in &workers {
        let shown = [worker.log()?, worker.status().await?.to_string(), worker.probe("/metrics").await?].concat();
        ensure!(!shown.contains("hunter2"), "a password is shown");
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_authority_are_said_to_be_so() -> Result<()> {
    let mut service =
        PlainService::prepare_on::<SignupShard>("wrong", spec("wrong", 1, 1), secure("right", "hunter2")?).await?;
    let unknown = KafkaConfig { tls: Some(TlsConfig::default()), ..service.config.kafka.clone() };
    for (kafka, word) in [(secure("wrong", "hunter3")?, "uthentication"), (unknown, "certificate")] {
        service.config.kafka = kafka;
        service.write_config()?;
        let worker = service.worker(0).await?;
        let gateway = service.start_gateway(&[])?;
        for process in [&worker, &gateway] {
            until(Duration::from_secs(40), async || {
                let said = process.probe("/readyz").await?;
                ensure!(said.contains(word), "{said}");
                ensure!(!said.contains("hunter"), "a password is shown: {said}");
                Ok(())
            })
            .await
            .context(word)?;
        }
    }
    Ok(())
}
