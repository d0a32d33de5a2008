//! Specs that cannot be: refused at once by the API server, or explained in a condition.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use kube::{Api, Client};
use serde_json::{Value, json};
use shardlane_e2e::cluster::{KAFKA, NAMESPACE};
use shardlane_e2e::{same, until};
use shardlane_operator::api::blog_pipeline::BlogPipeline;
use shardlane_operator::api::counter_pool::CounterPool;
use shardlane_operator::api::signup_shard::SignupShard;
use shardlane_operator::kind::ServiceKind;

use crate::services::spec;

fn service(name: &str, change: impl FnOnce(&mut Value)) -> Result<SignupShard> {
    // Topics of its own: the usual ones may be another's on this cluster, as the sample's.
    let mut spec =
        spec(name, 1, 24, json!({ "external": { "shards": [{ "secretRef": { "name": "there-is-none" } }] } }));
    spec["kafka"] = json!({ "external": { "bootstrapServers": KAFKA } });
    change(&mut spec);
    Ok(SignupShard::new(name, serde_json::from_value(spec)?))
}

/// Standbys that nothing waits for.
fn careless() -> Value {
    let parameters = json!({ "synchronous_commit": "off" });
    json!({ "cloudNativePG": { "instances": 2, "storage": { "size": "1Gi" }, "parameters": parameters } })
}

/// What is wrong with a spec.
type Change = fn(&mut Value);

fn services(client: &Client) -> Api<SignupShard> {
    Api::namespaced(client.clone(), NAMESPACE)
}

#[tokio::test]
async fn bad_specs_are_refused_with_what_to_do() -> Result<()> {
    let _shared = crate::SHARED.read().await;
    let client = Client::try_default().await?;
    let services = services(&client);
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let cases: [(&str, Change, &str); 10] = [
        ("none", |spec| spec["partitions"] = json!(0), "greater than or equal to 1"),
        ("too-many", |spec| spec["partitions"] = json!(25), "partitions is at most maxPartitions"),
        ("no-kafka", |spec| spec["kafka"] = json!({}), "exactly one of strimzi and external"),
        ("both", |spec| spec["kafka"]["strimzi"] = json!({ "cluster": "x" }), "exactly one of strimzi and external"),
        ("quantity", |spec| spec["worker"] = json!({ "resources": { "limits": { "memory": "64 MB" } } }), "memory"),
        ("no-shards", |spec| spec["postgres"] = json!({}), "exactly one of cloudNativePG and external"),
        ("careless", |spec| spec["postgres"] = careless(), "a failover would lose what was committed"),
        ("few-shards", |spec| spec["partitions"] = json!(2), "needs a Secret for each partition"),
        ("a.name", |_| {}, "only lower-case letters"),
        ("a-name-of-more-than-forty-characters-which-is-too-long", |_| {}, "at most 40 characters"),
    ];
    for (name, change, word) in cases {
        let refused = services.create(&dry, &service(name, change)?).await.err().context(name)?.to_string();
        anyhow::ensure!(refused.contains(word), "{name}: {refused}");
    }
    Ok(())
}

/// What the API server answers to a service of this kind that differs from a good one by this.
async fn answer<K: ServiceKind>(client: &Client, topics: &Value, change: Change) -> Result<Option<String>> {
    let mut spec = json!({
        "partitions": 1,
        "topics": topics,
        "kafka": { "external": { "bootstrapServers": KAFKA } },
        "postgres": { "external": { "shards": [{ "secretRef": { "name": "there-is-none" } }] } },
    });
    change(&mut spec);
    // As text, for our own types would not take it either.
    let service = serde_json::from_value(json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": { "name": "specs-dry" }, "spec": spec,
    }))?;
    let services: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &ApiResource::erase::<K>(&()));
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    Ok(services.create(&dry, &service).await.err().map(|refused| refused.to_string()))
}

async fn all_refused<K: ServiceKind>(client: &Client, topics: Value, cases: &[(Change, &str)]) -> Result<()> {
    same("the answer to a good one", answer::<K>(client, &topics, |_| {}).await?, None)?;
    for (change, word) in cases {
        let refused = answer::<K>(client, &topics, *change).await?.with_context(|| format!("taken: {word}"))?;
        anyhow::ensure!(refused.contains(word), "no {word}: {refused}");
    }
    Ok(())
}

#[tokio::test]
async fn bad_counters_are_refused_with_what_to_do() -> Result<()> {
    let _shared = crate::SHARED.read().await;
    let client = Client::try_default().await?;
    let interval = "flushInterval is from 10ms to 5s";
    let window = "idempotencyWindowHours is at most outcomeRetentionHours";
    let topics = json!({ "increments": "specs.increments" });
    let cases: [(Change, &str); 8] = [
        (|spec| spec["flushInterval"] = json!("9ms"), interval),
        (|spec| spec["flushInterval"] = json!("6s"), interval),
        (|spec| spec["flushInterval"] = json!("0s"), interval),
        (|spec| spec["flushInterval"] = json!("1m"), "spec.flushInterval"),
        (|spec| spec["maxPendingKeys"] = json!(999), "greater than or equal to 1000"),
        (|spec| spec["maxPendingKeys"] = json!(1_000_001), "less than or equal to 1000000"),
        (|spec| spec["idempotencyWindowHours"] = json!(200), window),
        (|spec| spec["idempotencyWindowHours"] = json!(0), "greater than or equal to 1"),
    ];
    all_refused::<CounterPool>(&client, topics.clone(), &cases).await?;
    let for_ever: Change = |spec| {
        spec["outcomeRetentionHours"] = json!(0);
        spec["idempotencyWindowHours"] = json!(8760);
    };
    for taken in [for_ever, |spec| spec["flushInterval"] = json!("10ms"), |spec| spec["flushInterval"] = json!("5s")] {
        same("the answer", answer::<CounterPool>(&client, &topics, taken).await?, None)?;
    }
    Ok(())
}

#[tokio::test]
async fn bad_blogs_are_refused_with_what_to_do() -> Result<()> {
    let _shared = crate::SHARED.read().await;
    let client = Client::try_default().await?;
    let topics = json!({ "newPosts": "specs.newPosts", "publishedPosts": "specs.publishedPosts" });
    let cases: [(Change, &str); 7] = [
        (|spec| spec["redis"] = json!({ "memoryMib": 8 }), "greater than or equal to 16"),
        (|spec| spec["redis"] = json!({ "image": "", "memoryMib": 64 }), "redis.image"),
        (|spec| spec["redis"] = json!({ "external": {} }), "secretRef"),
        (
            |spec| spec["redis"] = json!({ "image": "x", "external": { "secretRef": { "name": "cache" } } }),
            "leave them out, or leave out external",
        ),
        (|spec| spec["cacheManager"] = json!({ "replicas": 25 }), "less than or equal to 24"),
        (|spec| spec["topics"]["publishedPosts"] = spec["topics"]["newPosts"].clone(), "are two topics"),
        (|spec| spec["gateway"] = json!({ "clientRateLimit": 0 }), "greater than or equal to 1"),
    ];
    all_refused::<BlogPipeline>(&client, topics, &cases).await
}

#[tokio::test]
async fn a_missing_secret_is_said_and_what_never_changes_cannot_be_changed() -> Result<()> {
    let _shared = crate::SHARED.read().await;
    let client = Client::try_default().await?;
    let services = services(&client);
    let name = "specs-missing-secret";
    let _ = services.delete(name, &DeleteParams::default()).await;
    until(Duration::from_secs(30), async || match services.get_opt(name).await? {
        None => Ok(()),
        Some(_) => bail!("the last run's {name} is still there"),
    })
    .await?;
    services.create(&PostParams::default(), &service(name, |_| {})?).await?;
    let message = until(Duration::from_secs(30), async || {
        let status = services.get(name).await?.status.context("no status")?;
        let degraded = status.conditions.into_iter().find(|c| c.type_ == "Degraded").context("no condition")?;
        if degraded.reason == "SecretMissing" { Ok(degraded.message) } else { bail!("{}", degraded.reason) }
    })
    .await?;
    anyhow::ensure!(message.contains("there-is-none") && message.contains("uri"), "{message}");
    for (change, word) in [
        (json!({ "spec": { "maxPartitions": 25 } }), "maxPartitions never changes"),
        (json!({ "spec": { "partitioner": "crc32" } }), "partitioner never changes"),
        (json!({ "spec": { "topics": { "request": "another" } } }), "topics never change"),
        (json!({ "spec": { "usernames": { "canonicalForm": "exact" } } }), "canonicalForm never changes"),
    ] {
        let refused = services.patch(name, &PatchParams::default(), &Patch::Merge(&change)).await;
        let refused = refused.err().context(word)?.to_string();
        anyhow::ensure!(refused.contains(word), "{refused}");
    }
    services.delete(name, &DeleteParams::default()).await?;
    Ok(())
}
