//! How services begin, end, and begin again.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use shardlane_e2e::cluster::{
    ClusterService, FORWARDED_KAFKA, NAMESPACE, change, create, kafka, on_strimzi, remove, services,
};
use shardlane_e2e::faults::lose_pod;
use shardlane_e2e::signups::{check_shards, requests, send_all, told_the_same};
use shardlane_e2e::told::says;
use shardlane_e2e::{same, setting, topic, until};
use shardlane_operator::controller;

use crate::services::{cloud_native_pg, spec, unique};

pub const OPERATOR: &str = "app.kubernetes.io/component=operator";
pub const SYSTEM: &str = "shardlane-system";

/// Everything in the tests' namespace that carries a service's name, but for events.
async fn parts(client: &Client, name: &str) -> Result<BTreeSet<String>> {
    let core = |kind: &str| ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", kind));
    let mut types = controller::types();
    types.extend(["Secret", "PersistentVolumeClaim", "ServiceAccount"].map(core));
    let mut found = BTreeSet::new();
    for resource in types {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &resource);
        let all = match api.list(&ListParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => continue,
            all => all?.items,
        };
        let ours =
            |object: &String| object == name || object.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'));
        found
            .extend(all.iter().map(ResourceExt::name_any).filter(ours).map(|name| format!("{}/{name}", resource.kind)));
    }
    Ok(found)
}

async fn topics_of(name: &str) -> Result<Vec<String>> {
    let all = topic::Admin::at(FORWARDED_KAFKA)?.topics()?;
    Ok(all.into_iter().filter(|topic| topic.starts_with(&format!("{name}."))).collect())
}

pub async fn gone(client: &Client, name: &str) -> Result<()> {
    until(Duration::from_secs(180), async || match services(client).get_opt(name).await? {
        None => Ok(()),
        Some(_) => bail!("{name} is still there"),
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_retained_is_taken_up_and_what_is_deleted_is_gone() -> Result<()> {
    let _shared = crate::SHARED.read().await;
    let client = Client::try_default().await?;
    let _forward = kafka().await?;
    let name = unique("lives");
    let spec = spec(&name, 2, 4, cloud_native_pg(1)?);
    let mut service = ClusterService::start(&client, &name, spec.clone()).await?;
    let all = requests(&name, 400, 500);
    let outcomes = send_all(&service.gateway().await?, all.clone(), 16).await?;

    services(&client).delete(&name, &DeleteParams::default()).await?;
    gone(&client, &name).await?;
    until(Duration::from_secs(60), async || {
        let left = parts(&client, &name).await?;
        ensure!(
            !left
                .iter()
                .any(|part| part.starts_with("StatefulSet") || part.starts_with("Pod/") && !part.contains("-shard-")),
            "{left:?}"
        );
        ensure!(
            left.contains(&format!("Cluster/{name}-shard-0")) && left.contains(&format!("ConfigMap/{name}-identity")),
            "{left:?}"
        );
        Ok(())
    })
    .await?;
    same("topics", topics_of(&name).await?.len(), 4)?;

    // Another number of slots would move every key: it is refused, and what is there is left alone.
    let mut other = spec.clone();
    other["maxPartitions"] = 8.into();
    create(&client, &name, other).await?;
    says(&services(&client), &name, "Degraded", "MaxPartitionsChanged", &["maxPartitions 4"]).await?;
    services(&client).delete(&name, &DeleteParams::default()).await?;
    gone(&client, &name).await?;

    let mut service = ClusterService::start(&client, &name, spec).await?;
    told_the_same(&outcomes, &send_all(&service.gateway().await?, all, 16).await?)?;
    let mut shards = vec![service.shard(0).await?, service.shard(1).await?];
    check_shards(&service.config, &mut shards, &outcomes).await?;
    drop(shards);

    // With Delete nothing is left, also when the operator is killed in the middle.
    change(&client, &name, &serde_json::json!({ "deletionPolicy": "Delete" })).await?;
    until(Duration::from_secs(60), async || {
        let now = services(&client).get(&name).await?;
        let seen = now.status.as_ref().and_then(|status| status.observed_generation) == now.metadata.generation;
        ensure!(seen && (on_strimzi() || !now.finalizers().is_empty()), "the operator has not seen it");
        Ok(())
    })
    .await?;
    services(&client).delete(&name, &DeleteParams::default()).await?;
    lose_pod(&client, SYSTEM, OPERATOR, Duration::from_secs(120)).await?;
    gone(&client, &name).await?;
    until(Duration::from_secs(120), async || {
        let (parts, topics) = (parts(&client, &name).await?, topics_of(&name).await?);
        ensure!(parts.is_empty() && topics.is_empty(), "left: {parts:?} {topics:?}");
        Ok(())
    })
    .await
}

/// Runs helm on the cluster's release of the operator.
pub async fn helm(arguments: &[&str]) -> Result<String> {
    shardlane_e2e::control_plane::run("helm", arguments).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_installed_upgraded_taken_back_and_uninstalled() -> Result<()> {
    let _shared = crate::SHARED.read().await;
    let namespace = "shardlane-second";
    let second =
        ["second", "charts/shardlane", "--namespace", namespace, "--set", "watchNamespaces={shardlane-second}"];
    let values = helm(&["get", "values", "shardlane", "--namespace", SYSTEM, "-o", "json"]).await?;
    let values: Value = serde_json::from_str(&values)?;
    let tag = format!("images.tag={}", values["images"]["tag"].as_str().context("no tag")?);
    let with = |verb: &'static str, more: &[&'static str]| {
        let mut all = vec![verb.to_owned()];
        all.extend(second.iter().chain(more).map(|word| (*word).to_owned()));
        all.extend(["--set".to_owned(), tag.clone(), "--wait".to_owned(), "--timeout=3m".to_owned()]);
        all
    };
    for arguments in [
        with("install", &["--create-namespace"]),
        with("upgrade", &["--set", "replicas=2", "--set", "monitoring.dashboard.enabled=true"]),
    ] {
        helm(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    }
    let client = Client::try_default().await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    same("operators", pods.list(&ListParams::default().labels(OPERATOR)).await?.items.len(), 2)?;
    helm(&["rollback", "second", "1", "--namespace", namespace, "--wait"]).await?;
    helm(&["uninstall", "second", "--namespace", namespace, "--wait"]).await?;
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client);
    namespaces.delete(namespace, &DeleteParams::default()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plugin_tells_and_does_what_people_ask() -> Result<()> {
    let _shared = crate::SHARED.read().await;
    let client = Client::try_default().await?;
    let name = unique("plugin");
    let service = ClusterService::start(&client, &name, spec(&name, 2, 4, cloud_native_pg(1)?)).await?;
    let plugin = format!("{}/kubectl-shardlane", setting("SHARDLANE_TEST_PROGRAMS")?);
    let say = async |arguments: &[&str]| shardlane_e2e::control_plane::run(&plugin, arguments).await;

    let told = say(&["signup", &name, "ada", "grace"]).await?;
    ensure!(told.contains("ada: ✅") && told.contains("grace: ✅"), "{told}");
    ensure!(say(&["signup", &name, "ada"]).await.is_err(), "a taken name is told by the exit code");
    let told = say(&["status", &name]).await?;
    ensure!(told.contains("2/2 partitions ready") && told.contains(&format!("{name}-1-0")), "{told}");
    ensure!(!told.contains('\u{1b}'), "colours where there is no terminal: {told}");
    let told: Value = serde_json::from_str(&say(&["status", &name, "-o", "json"]).await?)?;
    same("partitions", told[0]["status"]["partitions"].as_array().map(Vec::len), Some(2))?;
    same("lag", told[0]["lag"].clone(), serde_json::json!({ "0": 0, "1": 0 }))?;

    say(&["pause", &name]).await?;
    says(&services(&client), &name, "Paused", "SpecPaused", &[]).await?;
    say(&["resume", &name]).await?;
    says(&services(&client), &name, "Paused", "NotPaused", &[]).await?;

    let report = say(&["report", &name]).await?;
    let secret: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(client.clone(), NAMESPACE);
    let secret = secret.get(&format!("{name}-shard-0-app")).await?.data.unwrap_or_default();
    let password = String::from_utf8(secret.get("password").context("no password")?.0.clone())?;
    ensure!(!report.contains(&password), "the report shows a password");
    for word in [&format!("{name}-0-0"), "nextOffset", "StatefulSet", "AllPartitionsReady"] {
        ensure!(report.contains(word), "the report lacks {word}");
    }
    let missing = say(&["status", "there-is-none"]).await.err().context("found")?.to_string();
    ensure!(missing.contains("there is no there-is-none") && missing.contains("-A"), "{missing}");
    service.remove().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_reaches_its_own_shard_and_nothing_of_others() -> Result<()> {
    let _shared = crate::SHARED.read().await;
    let client = Client::try_default().await?;
    let name = unique("apart");
    let service = ClusterService::start(&client, &name, spec(&name, 2, 4, cloud_native_pg(1)?)).await?;
    let pod = format!("{name}-0-0");
    let inside = async |script: &str| {
        let arguments = ["exec", &pod, "--namespace", NAMESPACE, "--", "bash", "-c", script];
        shardlane_e2e::control_plane::run("kubectl", &arguments).await
    };
    // Nothing of another shard's is in the pod, and nothing by which to ask for it.
    let environment = inside("env").await?;
    ensure!(environment.contains(&format!("{name}-shard-0-rw")) && !environment.contains("-shard-1-"), "{environment}");
    same("token", inside("ls /var/run/secrets/kubernetes.io 2>/dev/null | wc -l").await?.trim(), "0")?;
    let account = format!("--as=system:serviceaccount:{NAMESPACE}:default");
    let other = format!("secret/{name}-shard-1-app");
    let may =
        shardlane_e2e::control_plane::run("kubectl", &["auth", "can-i", "get", &other, "-n", NAMESPACE, &account])
            .await;
    ensure!(may.is_err(), "the pod's account may read {other}");

    // Whether a port can be reached, by the pod's own means.
    let reach = async |host: &str| {
        let script = format!("timeout 5 bash -c 'exec 3<>/dev/tcp/{host}/5432' && echo reached || echo refused");
        Ok::<_, anyhow::Error>(inside(&script).await?.trim().to_owned())
    };
    same("its own shard", reach(&format!("{name}-shard-0-rw")).await?, "reached".to_owned())?;
    let other = reach(&format!("{name}-shard-1-rw")).await?;
    let policies: Api<k8s_openapi::api::networking::v1::NetworkPolicy> = Api::namespaced(client.clone(), NAMESPACE);
    let policy = policies.get(&format!("{name}-shard-1")).await?.spec.context("no spec")?;
    let rules = serde_json::to_string(&policy.ingress)?;
    ensure!(
        rules.contains(r#""shardlane.dev/partition":"1""#) && !rules.contains(r#""shardlane.dev/partition":"0""#),
        "{rules}"
    );
    let policy = policies.get(&format!("{name}-0")).await?.spec.context("no spec")?;
    let rules = serde_json::to_string(&policy.egress)?;
    ensure!(rules.contains(&format!("{name}-shard-0")) && !rules.contains(&format!("{name}-shard-1")), "{rules}");
    match &*other {
        "refused" => println!("another shard's Postgres cannot be reached"),
        _ => println!("this cluster's network enforces no NetworkPolicy; the objects are as they should be"),
    }
    service.remove().await
}

#[tokio::test]
async fn nothing_of_a_removed_service_is_left() -> Result<()> {
    let _shared = crate::SHARED.read().await;
    let client = Client::try_default().await?;
    let name = unique("never");
    // One that never came to anything, for its Secret is missing.
    create(
        &client,
        &name,
        spec(&name, 1, 1, serde_json::json!({ "external": { "shards": [{ "secretRef": { "name": "none" } }] } })),
    )
    .await?;
    says(&services(&client), &name, "Degraded", "SecretMissing", &["none"]).await?;
    remove(&client, &name).await?;
    until(Duration::from_secs(60), async || {
        let left = parts(&client, &name).await?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
    .await
}
