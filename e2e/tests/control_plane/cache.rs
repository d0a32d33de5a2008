//! A Redis beside a service: made, told of when it is missing, and gone when another takes its place.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use shardlane_e2e::control_plane::{DATABASE, Place, external_spec};
use shardlane_e2e::stand_in::StandIn;
use shardlane_e2e::told::{condition, is_settled, says};
use shardlane_e2e::{same, until};
use shardlane_operator::api::blog_pipeline::BlogPipeline;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn blogs(place: &Place) -> Api<BlogPipeline> {
    Api::namespaced(place.client.clone(), &place.name)
}

async fn create(place: &Place, name: &str) -> Result<()> {
    let mut spec = external_spec(name);
    spec["topics"] = json!({ "newPosts": format!("{name}.new"), "publishedPosts": format!("{name}.published") });
    blogs(place).create(&PostParams::default(), &BlogPipeline::new(name, serde_json::from_value(spec)?)).await?;
    settled(place, name).await
}

async fn settled(place: &Place, name: &str) -> Result<()> {
    until(PATIENCE, async || {
        let service = blogs(place).get(name).await?;
        ensure!(is_settled(&service), "{name} is not settled: {:?}", service.status);
        Ok(())
    })
    .await
}

async fn change(place: &Place, name: &str, spec: Value) -> Result<()> {
    let patch = Patch::Merge(json!({ "spec": spec }));
    blogs(place).patch(name, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Whether each of what its own Redis consists of is there.
async fn parts(client: &Client, namespace: &str, name: &str) -> Result<[bool; 3]> {
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), namespace);
    Ok([
        sets.get_opt(name).await?.is_some(),
        services.get_opt(name).await?.is_some(),
        policies.get_opt(name).await?.is_some(),
    ])
}

/// Where the gateway finds Redis, and the hash that makes its pods anew.
async fn gateway(place: &Place, name: &str) -> Result<(Value, Value)> {
    let deployments: Api<Deployment> = Api::namespaced(place.client.clone(), &place.name);
    let template = serde_json::to_value(deployments.get(name).await?)?["spec"]["template"].clone();
    let all = template["spec"]["containers"][0]["env"].as_array().cloned().unwrap_or_default();
    let address = all.into_iter().find(|variable| variable["name"] == "SHARDLANE_REDIS_URI").unwrap_or_default();
    Ok((address, template["metadata"]["annotations"]["shardlane.dev/config-hash"].clone()))
}

#[tokio::test]
async fn a_service_without_its_redis_is_ready_and_says_so() -> Result<()> {
    let place = Place::make("cacheless").await?;
    place.secret("database", &DATABASE).await?;
    let _operator = place.operator("one").await?;
    let _stand_in = StandIn::start(&place.client, &place.name);
    create(&place, "journal").await?;
    let sets: Api<StatefulSet> = Api::namespaced(place.client.clone(), &place.name);
    let ready = async |replicas: i32| {
        let status = Patch::Merge(json!({ "status": { "readyReplicas": replicas } }));
        sets.patch_status("journal-redis", &PatchParams::default(), &status).await.map(drop)
    };
    ready(0).await?;
    let said = says(&blogs(&place), "journal", "Degraded", "CacheNotReady", &["journal-redis-0"]).await?;
    ensure!(said.contains("reads go to the shards"), "{said}");
    place.event("journal", "CacheNotReady").await?;
    let status = blogs(&place).get("journal").await?.status.unwrap_or_default();
    same("Ready", condition(&status, "Ready").map(|ready| ready.status.clone()), Some("True".to_owned()))?;
    ready(1).await?;
    says(&blogs(&place), "journal", "Degraded", "AsExpected", &[]).await.map(drop)
}

#[tokio::test]
async fn a_redis_of_ones_own_goes_when_another_takes_its_place() -> Result<()> {
    let place = Place::make("caches").await?;
    place.secret("database", &DATABASE).await?;
    let _operator = place.operator("one").await?;
    let _stand_in = StandIn::start(&place.client, &place.name);
    create(&place, "journal").await?;
    let own = async || parts(&place.client, &place.name, "journal-redis").await;
    same("parts of Redis", own().await?, [true; 3])?;
    let status = blogs(&place).get("journal").await?.status.unwrap_or_default();
    same("image", status.redis_image, Some("example/redis:1".to_owned()))?;

    change(&place, "journal", json!({ "redis": { "external": { "secretRef": { "name": "cache" } } } })).await?;
    let said = says(&blogs(&place), "journal", "Degraded", "SecretMissing", &["cache"]).await?;
    ensure!(said.contains("\"uri\""), "{said}");
    same("parts of Redis before there is another", own().await?, [true; 3])?;
    place.secret("cache", &[("uri", "redis://elsewhere:6379")]).await?;
    until(PATIENCE, async || same("parts of Redis", own().await?, [false; 3])).await?;
    settled(&place, "journal").await?;
    let (address, before) = gateway(&place, "journal-gateway").await?;
    same("address", address["valueFrom"]["secretKeyRef"].clone(), json!({ "name": "cache", "key": "uri" }))?;

    // An address that changes makes new pods of those that use it.
    let secrets: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(place.client.clone(), &place.name);
    let moved = Patch::Merge(json!({ "stringData": { "uri": "redis://moved:6379" } }));
    secrets.patch("cache", &PatchParams::default(), &moved).await?;
    until(PATIENCE, async || {
        let (_, now) = gateway(&place, "journal-gateway").await?;
        ensure!(now != before, "the gateway's pods are as they were: {now}");
        Ok(())
    })
    .await?;
    change(&place, "journal", json!({ "redis": { "external": null } })).await?;
    until(PATIENCE, async || same("parts of Redis", own().await?, [true; 3])).await
}
