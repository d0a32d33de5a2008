//! Faults of a cluster's parts. Each ends by itself, whatever becomes of the test.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, ResourceExt};

use crate::cluster::on_node;
use crate::forward::is_ready;
use crate::until;

/// The one ready pod with these labels.
pub async fn pod_of(client: &Client, namespace: &str, labels: &str) -> Result<Pod> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let found = pods.list(&ListParams::default().labels(labels)).await?;
    found.items.into_iter().find(is_ready).with_context(|| format!("no pod with {labels} is ready"))
}

/// Takes a pod away at once, without a word to what runs in it, and waits until another is ready with the same labels.
pub async fn lose_pod(client: &Client, namespace: &str, labels: &str, patience: Duration) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let lost = pod_of(client, namespace, labels).await?;
    pods.delete(&lost.name_any(), &DeleteParams::default().grace_period(0)).await?;
    until(patience, async || {
        let now = pod_of(client, namespace, labels).await?;
        if now.uid() == lost.uid() { bail!("{} is still there", lost.name_any()) } else { Ok(()) }
    })
    .await
}

/// Drops every packet between a pod and all others for a while; the node itself still reaches it.
pub async fn cut_off(pod: &Pod, how_long: Duration) -> Result<()> {
    let name = pod.name_any();
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()).with_context(|| format!("{name}: no IP"))?;
    // The node's own shell takes the rules away again: also if nobody is there any more to ask for it.
    let script = format!(
        "PATH=$PATH:/usr/sbin:/sbin; \
         rules() {{ iptables $1 FORWARD -d {ip} -j DROP; iptables $1 FORWARD -s {ip} -j DROP; }}; \
         trap 'rules -D' EXIT; trap 'exit 1' HUP INT TERM; \
         rules -I && echo cut && sleep {} && echo over",
        how_long.as_secs()
    );
    let output = on_node(&["sh", "-c", &script]).await?;
    if output.contains("cut") && output.contains("over") {
        Ok(())
    } else {
        bail!("{name} could not be cut off: {output}")
    }
}

/// Sends a signal to the worker's process in this pod, on its node.
pub async fn signal_worker(pod: &Pod, signal: &str) -> Result<()> {
    let (name, uid) = (pod.name_any(), pod.uid().context("uid")?);
    // Where cgroups are managed by systemd, their names have underscores.
    let script = format!(
        "for p in $(pgrep -f '^[a-z]+ worker'); do \
           if tr _ - </proc/$p/cgroup | grep -q {uid}; then kill -{signal} $p && echo signalled; fi; done"
    );
    let output = on_node(&["sh", "-c", &script]).await?;
    if output.contains("signalled") { Ok(()) } else { bail!("no process of {name} was found on the node: {output}") }
}
