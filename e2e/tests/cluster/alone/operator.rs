//! What an operator that restarts, changes or idles leaves alone.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use shardlane_e2e::cluster::{ClusterService, NAMESPACE, change, create};
use shardlane_e2e::faults::{lose_pod, pod_of};
use shardlane_e2e::told::event;
use shardlane_e2e::{same, setting};

use crate::lives::{OPERATOR, SYSTEM, helm};
use crate::services::{cloud_native_pg, spec, unique};

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_restarts_or_is_upgraded_restarts_nobody() -> Result<()> {
    let _alone = crate::SHARED.write().await;
    let client = Client::try_default().await?;
    let name = unique("steady");
    // The image that the operator has by itself, as a user who names none gets it.
    create(&client, &name, spec(&name, 2, 4, cloud_native_pg(1)?)).await?;
    let service = ClusterService::ready(&client, &name).await?;
    change(&client, &name, &serde_json::json!({ "worker": { "image": null } })).await?;
    let labelled = ListParams::default().labels(&format!("app.kubernetes.io/instance={name}"));
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let running = async || {
        let all = pods.list(&labelled).await?.items;
        let of = |pod: &Pod| pod.labels().get("app.kubernetes.io/component").cloned().unwrap_or_default();
        let ours = all.iter().filter(|pod| matches!(&*of(pod), "worker" | "gateway"));
        Ok::<_, anyhow::Error>(ours.map(|pod| (pod.name_any(), pod.uid())).collect::<BTreeSet<_>>())
    };
    let settled = async || service.settled(Duration::from_secs(120)).await;
    settled().await?;
    let before = running().await?;
    same("workers and gateway", before.len(), 3)?;
    lose_pod(&client, SYSTEM, OPERATOR, Duration::from_secs(120)).await?;
    settled().await?;
    same("pods after a restart", running().await?, before.clone())?;

    // A release with other images and other words in its log.
    let chart = ["upgrade", "shardlane", "charts/shardlane", "--namespace", SYSTEM, "--reuse-values", "--wait"];
    let next = ["--set=images.signup.repository=shardlane/signup-of-the-next-release", "--set=logLevel=debug"];
    helm(&[&chart[..], &next[..]].concat()).await?;
    let pod = pod_of(&client, SYSTEM, OPERATOR).await?;
    let environment = pod.spec.context("no spec")?.containers[0].env.clone().unwrap_or_default();
    ensure!(environment.iter().any(|v| v.value.as_deref().is_some_and(|v| v.contains("of-the-next-release"))));
    change(&client, &name, &serde_json::json!({ "outcomeRetentionHours": 192 })).await?;
    settled().await?;
    same("pods after an upgrade", running().await?, before.clone())?;
    helm(&["rollback", "shardlane", "--namespace", SYSTEM, "--wait"]).await?;
    settled().await?;
    same("pods after a rollback", running().await?, before)?;
    service.remove().await
}

/// How long an idle operator is watched here: longer than it takes to look at every service anew, twice. `SHARDLANE_TEST_IDLE`
/// sets another time, in seconds.
const IDLE: u64 = 65;

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_operator_writes_nothing_but_its_lease() -> Result<()> {
    let audit = setting("SHARDLANE_TEST_AUDIT_LOG")?;
    if audit.is_empty() {
        println!("the cluster keeps no audit log: skipped");
        return Ok(());
    }
    let _alone = crate::SHARED.write().await;
    let client = Client::try_default().await?;
    let name = unique("idle");
    let service = ClusterService::start(&client, &name, spec(&name, 2, 4, cloud_native_pg(1)?)).await?;
    service.settled(Duration::from_secs(60)).await?;
    // The event follows the status that the line before waits for.
    event(&client, NAMESPACE, &name, "AllPartitionsReady").await?;
    let writes = async || {
        let log = shardlane_e2e::cluster::on_node(&["cat", &audit]).await?;
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let said = |event: Value| (text(&event["objectRef"]["resource"]), text(&event["objectRef"]["name"]));
        Ok::<_, anyhow::Error>(events.map(said).filter(|(resource, _)| resource != "leases").collect::<Vec<_>>())
    };
    let before = writes().await?;
    ensure!(!before.is_empty(), "{audit} does not tell what the operator writes");
    let idle = std::env::var("SHARDLANE_TEST_IDLE").map_or(Ok(IDLE), |text| text.parse())?;
    tokio::time::sleep(Duration::from_secs(idle)).await;
    same(&format!("writes in {idle} s"), writes().await?.split_off(before.len()), Vec::new())?;
    println!("idle for {idle} s: nothing was written but the Lease; {} writes before", before.len());
    service.remove().await
}
