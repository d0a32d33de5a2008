//! Services that work.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};
use shardlane_e2e::cluster::{ClusterService, FORWARDED_KAFKA, NAMESPACE, kafka};
use shardlane_e2e::signups::{check_shards, requests, send_all, told_the_same};
use shardlane_e2e::{same, setting, topic};
use shardlane_runtime::partitioner::slot_of;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// A name that no earlier run has used: topics outlive their service.
pub fn unique(name: &str) -> String {
    let suffix: String = uuid::Uuid::new_v4().simple().to_string().chars().take(6).collect();
    format!("{name}-{suffix}")
}

/// A spec with topics of its own.
pub fn spec(name: &str, partitions: u32, max_partitions: u32, postgres: Value) -> Value {
    json!({
        "partitions": partitions,
        "maxPartitions": max_partitions,
        "topics": { "request": format!("{name}.request"), "response": format!("{name}.response") },
        "postgres": postgres,
    })
}

/// Shards of CloudNativePG's, with this many instances each.
pub fn cloud_native_pg(instances: u32) -> Result<Value> {
    let image = setting("SHARDLANE_TEST_POSTGRES_IMAGE")?;
    let mut postgres = json!({ "cloudNativePG": { "instances": instances, "storage": { "size": "1Gi" } } });
    if !image.is_empty() {
        postgres["cloudNativePG"]["imageName"] = image.into();
    }
    Ok(postgres)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_of_24_with_clients_retries_kills_and_poison() -> Result<()> {
    let _shared = crate::SHARED.read().await;
    let client = Client::try_default().await?;
    let name = unique("signups");
    let mut service = ClusterService::start(&client, &name, spec(&name, 3, 24, cloud_native_pg(1)?)).await?;
    let url = service.gateway().await?;
    let mut shards = Vec::new();
    for partition in 0..3 {
        shards.push(service.shard(partition).await?);
    }

    // In peace: 10,000 sign-ups of 8,000 names, and every one of them again.
    let began = Instant::now();
    let all = requests("peace", 8_000, 10_000);
    let outcomes = send_all(&url, all.clone(), 64).await?;
    println!("10,000 sign-ups in peace: {:.0?}", began.elapsed());
    same("outcomes", outcomes.len(), 10_000)?;
    told_the_same(&outcomes, &send_all(&url, all, 64).await?)?;
    check_shards(&service.config, &mut shards, &outcomes).await?;

    // The same while workers are killed, one after another. Not more often than this: the kubelet waits twice as long
    // before each further restart of a container.
    let began = Instant::now();
    let all = requests("kills", 8_000, 10_000);
    let (load_url, sending) = (url.clone(), all.clone());
    let load = tokio::spawn(async move { send_all(&load_url, sending, 64).await });
    for partition in [0, 1, 2, 1] {
        anyhow::ensure!(!load.is_finished(), "the load was over before partition {partition}'s worker was killed");
        service.kill_worker(partition).await?;
    }
    let mut both = outcomes;
    both.extend(load.await??);
    println!("10,000 sign-ups with 4 kills: {:.0?}", began.elapsed());
    told_the_same(&both, &send_all(&url, all, 64).await?)?;
    check_shards(&service.config, &mut shards, &both).await?;

    poison(&service, &url).await?;
    drop(shards);
    service.remove().await
}

/// Poison goes to the dead-letter topic with its reason, and the worker goes on.
async fn poison(service: &ClusterService, url: &str) -> Result<()> {
    let _forward = kafka().await?;
    let producer = topic::producer(FORWARDED_KAFKA)?;
    let request = &service.config.topic("request")?.name;
    let slot = |key: &[u8]| slot_of(service.config.partitioner, key, 24);
    let megabyte = format!(r#"{{"request_id":"1","username":"{}"}}"#, "y".repeat(1_000_000));
    let bad: [(&[u8], &[u8], u32, &str); 4] = [
        (b"a", b"not json", slot(b"a"), "not {"),
        (b"b", br#"{"username":"b"}"#, slot(b"b"), "missing field"),
        (b"c", megabyte.as_bytes(), slot(b"c"), "1 to 40 characters"),
        (b"d", br#"{"request_id":"1","username":"d"}"#, (slot(b"d") + 1) % 24, "misrouted: key belongs to"),
    ];
    for (key, value, slot, _) in bad {
        topic::put(&producer, request, slot, Some(key), Some(value)).await?;
    }
    let dead_letters = &service.config.topic("request.dlq")?.name;
    let patience = Duration::from_secs(60);
    let seen = topic::read_until(FORWARDED_KAFKA, dead_letters, patience, |seen| seen.len() >= 4).await?;
    for (key, value, _, reason) in bad {
        let letter = seen.iter().find(|letter| letter.key.as_deref() == Some(key)).context(reason)?;
        same("value", letter.value.as_deref(), Some(value))?;
        let said = letter.header("shardlane.reason").context("no reason")?;
        anyhow::ensure!(said.contains(reason), "{said} does not say {reason}");
    }
    let after = send_all(url, requests("after-poison", 100, 100), 16).await?;
    same("answers after poison", after.values().filter(|told| told.success).count(), 100)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_of_three_on_databases_of_somebody_elses() -> Result<()> {
    let _shared = crate::SHARED.read().await;
    let client = Client::try_default().await?;
    let name = unique("external");
    let databases = Databases::make(&client, &name, 3).await?;
    let mut spec = spec(&name, 3, 3, json!({ "external": { "shards": databases.references() } }));
    spec["partitioner"] = "fnv1a".into();
    let mut service = ClusterService::start(&client, &name, spec).await?;
    let url = service.gateway().await?;
    let outcomes = send_all(&url, requests("external", 800, 1_000), 32).await?;
    check_shards(&service.config, &mut databases.connect().await?, &outcomes).await?;
    service.remove().await
}

/// Databases on the cluster's plain Postgres, and Secrets that lead there.
pub struct Databases {
    forward: shardlane_e2e::forward::Forward,
    /// Their names, which are their Secrets' too.
    pub names: Vec<String>,
}

impl Databases {
    /// Makes them.
    pub async fn make(client: &Client, service: &str, count: usize) -> Result<Self> {
        let forward =
            shardlane_e2e::forward::Forward::open(client, "postgres", "app.kubernetes.io/name=postgres", 5432, 0)
                .await?;
        let names: Vec<_> = (0..count).map(|n| format!("{service}-database-{n}")).collect();
        let databases = Self { forward, names };
        let mut admin = PgConnection::connect(&databases.uri("postgres")).await?;
        let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
        for name in &databases.names {
            sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE \"{name}\""))).execute(&mut admin).await?;
            let uri = format!("postgresql://postgres:postgres@postgres.postgres:5432/{name}");
            let secret = serde_json::from_value(json!({ "metadata": { "name": name }, "stringData": { "uri": uri } }))?;
            secrets.create(&PostParams::default(), &secret).await?;
        }
        Ok(databases)
    }

    fn uri(&self, database: &str) -> String {
        format!("postgresql://postgres:postgres@{}/{database}", self.forward.address)
    }

    /// As a spec lists them.
    pub fn references(&self) -> Vec<Value> {
        self.names.iter().map(|name| json!({ "secretRef": { "name": name } })).collect()
    }

    /// Connections to all of them.
    pub async fn connect(&self) -> Result<Vec<PgConnection>> {
        let mut connections = Vec::new();
        for name in &self.names {
            connections.push(PgConnection::connect(&self.uri(name)).await?);
        }
        Ok(connections)
    }
}
