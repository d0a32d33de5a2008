//! Stands in for the controllers and kubelets of a control plane that has none: whatever is asked to run, runs at once.

use anyhow::Result;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Does so for as long as this lives.
pub struct StandIn(#[allow(dead_code)] JoinSet<Result<()>>);

impl StandIn {
    /// In a namespace, for everything there.
    pub fn start(client: &Client, namespace: &str) -> Self {
        Self::for_those(client, namespace, "")
    }

    /// In a namespace, for objects with these labels.
    pub fn for_those(client: &Client, namespace: &str, labels: &str) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(run(Api::namespaced(client.clone(), namespace), labels.to_owned(), |job: &Job| {
            let done = job.status.as_ref().is_some_and(|status| status.succeeded.is_some());
            (!done).then(|| json!({ "succeeded": 1 }))
        }));
        tasks.spawn(run(Api::namespaced(client.clone(), namespace), labels.to_owned(), |set: &StatefulSet| {
            let seen = set.status.as_ref().and_then(|status| status.observed_generation);
            (seen != set.metadata.generation).then(|| {
                json!({
                    "observedGeneration": set.metadata.generation, "replicas": 1, "readyReplicas": 1,
                    "currentRevision": "1", "updateRevision": "1",
                })
            })
        }));
        tasks.spawn(run(Api::namespaced(client.clone(), namespace), labels.to_owned(), |deployment: &Deployment| {
            let seen = deployment.status.as_ref().and_then(|status| status.observed_generation);
            let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
            (seen != deployment.metadata.generation).then(|| {
                json!({
                    "observedGeneration": deployment.metadata.generation, "replicas": replicas,
                    "readyReplicas": replicas, "updatedReplicas": replicas, "availableReplicas": replicas,
                })
            })
        }));
        Self(tasks)
    }
}

async fn run<K>(api: Api<K>, labels: String, status: fn(&K) -> Option<Value>) -> Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    let seen = watcher(api.clone(), watcher::Config::default().labels(&labels)).default_backoff().applied_objects();
    seen.filter_map(async |object| object.ok())
        .map(Ok)
        .try_for_each_concurrent(8, async |object: K| {
            if let Some(status) = status(&object) {
                let patch = Patch::Merge(json!({ "status": status }));
                // One that has gone meanwhile needs nothing.
                let _ = api.patch_status(&object.name_any(), &PatchParams::default(), &patch).await;
            }
            Ok(())
        })
        .await
}
