//! What stands in a service's way on a real cluster is said, with its cause, and gone when that is repaired.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Secret, Service};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use shardlane_e2e::cluster::{
    ClusterService, FORWARDED_KAFKA, NAMESPACE, broker, change, create, kafka, on_strimzi, remove, services,
};
use shardlane_e2e::signups::{requests, send_all};
use shardlane_e2e::told::{event, says};
use shardlane_e2e::{same, topic, until};
use shardlane_operator::controller::farewell::PATIENCE as FAREWELL;

use crate::services::{Databases, spec, unique};

fn secrets(client: &Client) -> Api<Secret> {
    Api::namespaced(client.clone(), NAMESPACE)
}

async fn secret(client: &Client, name: &str, data: &[(&str, &str)]) -> Result<()> {
    let data: BTreeMap<_, _> = data.iter().copied().collect();
    let secret = serde_json::from_value(json!({ "metadata": { "name": name }, "stringData": data }))?;
    secrets(client).create(&PostParams::default(), &secret).await?;
    Ok(())
}

/// A service on one database of somebody else's, and what it says of Kafka.
async fn external(client: &Client, name: &str, kafka: Value) -> Result<(Databases, Value)> {
    let databases = Databases::make(client, name, 1).await?;
    let mut spec = spec(name, 1, 2, json!({ "external": { "shards": databases.references() } }));
    if !kafka.is_null() {
        spec["kafka"] = kafka;
    }
    Ok((databases, spec))
}

/// Another name for the broker, which can come and go.
async fn name_broker(client: &Client, name: &str) -> Result<()> {
    let (namespace, labels) = broker();
    let service = json!({
        "metadata": { "name": name },
        "spec": { "selector": BTreeMap::from(labels), "ports": [{ "name": "kafka", "port": 9092 }] },
    });
    let api: Api<Service> = Api::namespaced(client.clone(), namespace);
    api.create(&PostParams::default(), &serde_json::from_value(service)?).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_comes_late_and_goes_early() -> Result<()> {
    let _shared = crate::SHARED.read().await;
    let client = Client::try_default().await?;
    let name = unique("late");
    let address = format!("{name}.{}:9092", broker().0);
    let (_databases, mut spec) =
        external(&client, &name, json!({ "external": { "bootstrapServers": address } })).await?;
    spec["deletionPolicy"] = "Delete".into();
    create(&client, &name, spec).await?;
    let said = says(&services(&client), &name, "Degraded", "InitWaiting", &[&name]).await?;
    println!("an unreachable broker: {said}");
    event(&client, NAMESPACE, &name, "InitWaiting").await?;

    name_broker(&client, &name).await?;
    let mut service = ClusterService::ready(&client, &name).await?;
    let url = service.gateway().await?;
    same("answers", send_all(&url, requests(&name, 50, 50), 8).await?.len(), 50)?;

    // Nobody can reach it by that name any more: its topics cannot be deleted, and the resource goes all the same.
    let api: Api<Service> = Api::namespaced(client.clone(), broker().0);
    api.delete(&name, &DeleteParams::default()).await?;
    services(&client).delete(&name, &DeleteParams::default()).await?;
    let told = event(&client, NAMESPACE, &name, "Deleting").await?;
    ensure!(told.contains("waiting for"), "{told}");
    until(3 * FAREWELL, async || match services(&client).get_opt(&name).await? {
        None => Ok(()),
        Some(_) => anyhow::bail!("{name} is still there"),
    })
    .await?;
    let told = event(&client, NAMESPACE, &name, "TopicsLeft").await?;
    println!("a Kafka that is gone: {told}");
    let _forward = kafka().await?;
    for topic in service.config.topics.iter().map(|topic| &topic.name) {
        ensure!(told.contains(topic.as_str()), "{topic} is not in {told}");
        topic::Admin::at(FORWARDED_KAFKA)?.delete(topic).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_of_kafka_are_said_and_mended_by_the_secret() -> Result<()> {
    if on_strimzi() {
        // There, Strimzi makes the credentials, and every other test uses them.
        return Ok(());
    }
    let _shared = crate::SHARED.read().await;
    let client = Client::try_default().await?;
    let name = unique("login");
    let of_broker: Api<Secret> = Api::namespaced(client.clone(), "kafka");
    let read = async |secret: &str, key: &str| {
        let data = of_broker.get(secret).await?.data.unwrap_or_default();
        Ok::<_, anyhow::Error>(String::from_utf8(data.get(key).context("no key")?.0.clone())?)
    };
    let (ca, login) = (format!("{name}-ca"), format!("{name}-login"));
    secret(&client, &ca, &[("ca.crt", &read("kafka-ca", "ca.crt").await?)]).await?;
    secret(&client, &login, &[("username", "demo"), ("password", "wrong")]).await?;
    let kafka = json!({ "external": {
        "bootstrapServers": "kafka.kafka:9094",
        "tls": { "caSecretRef": { "name": ca } },
        "sasl": { "secretRef": { "name": login } },
    } });
    let (_databases, spec) = external(&client, &name, kafka).await?;
    create(&client, &name, spec).await?;
    let said = says(&services(&client), &name, "Degraded", "InitWaiting", &["uthentication"]).await?;
    println!("a wrong password: {said}");
    event(&client, NAMESPACE, &name, "InitWaiting").await?;
    let right = json!({ "stringData": { "password": read("kafka-demo", "password").await? } });
    secrets(&client).patch(&login, &PatchParams::default(), &Patch::Merge(&right)).await?;
    let mut service = ClusterService::ready(&client, &name).await?;
    let url = service.gateway().await?;
    same("answers", send_all(&url, requests(&name, 200, 200), 16).await?.len(), 200)?;
    service.remove().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_login_of_a_shard_is_said_and_mended_by_the_secret() -> Result<()> {
    let _shared = crate::SHARED.read().await;
    let client = Client::try_default().await?;
    let name = unique("shard-login");
    let (databases, spec) = external(&client, &name, Value::Null).await?;
    let database = &databases.names[0];
    let uri = |password: &str| format!("postgresql://postgres:{password}@postgres.postgres:5432/{database}");
    let set = async |password: &str| {
        let patch = json!({ "stringData": { "uri": uri(password) } });
        secrets(&client).patch(database, &PatchParams::default(), &Patch::Merge(&patch)).await
    };
    set("wrong").await?;
    create(&client, &name, spec).await?;
    let said = says(&services(&client), &name, "Degraded", "InitFailed", &["password authentication failed"]).await?;
    println!("a wrong login: {said}");
    ensure!(!said.contains("wrong"), "a password is shown: {said}");
    event(&client, NAMESPACE, &name, "InitFailed").await?;
    set("postgres").await?;
    ClusterService::ready(&client, &name).await?.remove().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_strimzi_or_kafka_is_said() -> Result<()> {
    let _shared = crate::SHARED.read().await;
    let client = Client::try_default().await?;
    let name = unique("strimzi");
    let kafka = json!({ "strimzi": { "cluster": "there-is-none" } });
    let mut spec = spec(&name, 1, 1, json!({ "external": { "shards": [{ "secretRef": { "name": "none" } }] } }));
    spec["kafka"] = kafka;
    create(&client, &name, spec).await?;
    let (reason, word) =
        if on_strimzi() { ("KafkaMissing", "there-is-none") } else { ("StrimziMissing", "install it") };
    says(&services(&client), &name, "Degraded", reason, &[word]).await?;
    event(&client, NAMESPACE, &name, reason).await?;
    remove(&client, &name).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_goes_from_partition_to_partition_and_stops_where_it_breaks() -> Result<()> {
    let _shared = crate::SHARED.read().await;
    let client = Client::try_default().await?;
    let name = unique("rolling");
    let databases = Databases::make(&client, &name, 3).await?;
    let spec = spec(&name, 3, 3, json!({ "external": { "shards": databases.references() } }));
    let service = ClusterService::start(&client, &name, spec.clone()).await?;
    let uids = async || {
        let mut uids = Vec::new();
        for partition in 0..3 {
            uids.push(service.worker(partition).await?.metadata.uid);
        }
        Ok::<_, anyhow::Error>(uids)
    };
    let before = uids().await?;
    let image = shardlane_e2e::setting("SHARDLANE_TEST_SIGNUP_IMAGE")?;
    change(&client, &name, &json!({ "worker": { "image": "docker.io/shardlane/there-is-none:1" } })).await?;
    // It does not get past the init Job, and so breaks no worker.
    let said = says(&services(&client), &name, "Degraded", "InitFailed", &["there-is-none:1 cannot be pulled"]).await?;
    println!("an image that is not there: {said}");
    same("the workers", uids().await?, before.clone())?;
    same("ready", service.status().await?.ready_replicas, 3)?;
    change(&client, &name, &json!({ "worker": { "image": image } })).await?;
    service.settled(Duration::from_secs(120)).await?;
    same("the workers", uids().await?, before.clone())?;

    // What only the workers break on stops at the first.
    let requests =
        |memory: &str| json!({ "worker": { "resources": { "requests": { "cpu": "21m", "memory": memory } } } });
    change(&client, &name, &requests("5Ti")).await?;
    let said = says(&services(&client), &name, "Degraded", "WorkerNotReady", &["-0-0", "memory"]).await?;
    println!("more memory than there is: {said}");
    until(Duration::from_secs(60), async || {
        let now = service.worker(0).await?.metadata.uid;
        ensure!(now != before[0], "the first has not changed yet");
        Ok(())
    })
    .await?;
    // The others are up and stay as they are, for as long as the first is down.
    same("the others", &uids().await?[1..], &before[1..])?;
    same("ready", service.status().await?.ready_replicas, 2)?;
    let began = uids().await?;

    // Mended: it comes to all, and at most one is away at a time.
    change(&client, &name, &requests("65Mi")).await?;
    until(Duration::from_secs(180), async || {
        let (status, now) = (service.status().await?, uids().await?);
        if status.ready_replicas < 2 {
            // Said at once: waiting would hide it.
            return Ok(Err(format!("{} of 3 are ready", status.ready_replicas)));
        }
        ensure!(
            now[1..].iter().zip(&began[1..]).all(|(now, began)| now != began) && status.ready_replicas == 3,
            "{now:?}"
        );
        Ok(Ok(()))
    })
    .await?
    .map_err(anyhow::Error::msg)?;
    service.remove().await
}
