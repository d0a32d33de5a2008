//! Reading what a service stands on: everything that the decisions need, and no decision.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DynamicObject, PostParams};
use kube::{Api, Client};

use super::workers::{self, WorkerStatus};
use crate::api::kafka::StrimziKafka;
use crate::build::cloud_native_pg::ClusterStatus;
use crate::build::names::{Component, Names};
use crate::build::strimzi::{self, FoundKafka};
use crate::identity::{BrokenIdentity, Identity};
use crate::secrets::{FoundSecret, Secrets};
use crate::watched::{Objects, Watched};

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Those of the Secrets that the service needs that are there.
    pub secrets: BTreeMap<String, FoundSecret>,
    /// What CloudNativePG says of the Clusters, by name; `None` if it is not installed.
    pub clusters: Option<BTreeMap<String, ClusterStatus>>,
    /// The StatefulSets, of workers and of a loop without a shard, by name.
    pub sets: BTreeMap<String, StatefulSet>,
    /// The gateway.
    pub gateway: Option<Deployment>,
    /// The Jobs, by name; of their specs, whether they are stopped.
    pub jobs: BTreeMap<String, Job>,
    /// Pods of the service.
    pub pods: Vec<Pod>,
    /// What workers, loops without a shard, the init Job and the mover say of themselves, by the pod's name; those that do not
    /// answer are not among them.
    pub statuses: BTreeMap<String, WorkerStatus>,
    /// Strimzi's topics and users that are not ready, each with what Strimzi says of it.
    pub unready: BTreeMap<String, String>,
}

/// The recorded identity, if the service was ever prepared.
pub fn identity(names: &Names, there: &Objects) -> Option<Result<Identity, BrokenIdentity>> {
    there.of::<ConfigMap>().get(&names.identity()).map(Identity::read)
}

/// The number of shards that the API server has on record by now, if it has any.
pub async fn recorded_partitions(client: &Client, names: &Names) -> kube::Result<Option<u32>> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &names.namespace);
    let map = maps.get_opt(&names.identity()).await?;
    Ok(map.and_then(|map| Identity::read(&map).ok()).map(|identity| identity.partitions))
}

/// Records a new identity, unless one is recorded already.
pub async fn record(client: &Client, names: &Names, map: &ConfigMap) -> kube::Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &names.namespace);
    match maps.create(&PostParams::default(), map).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        result => result.map(|_| ()),
    }
}

/// Reads Secrets, of which only those are asked for that have changed.
pub async fn secrets(
    secrets: &Secrets,
    names: &Names,
    wanted: impl Iterator<Item = &str>,
) -> kube::Result<BTreeMap<String, FoundSecret>> {
    let (service, mut found) = (names.key(), BTreeMap::new());
    for name in wanted {
        if !found.contains_key(name)
            && let Some(secret) = secrets.get(&service, name).await?
        {
            found.insert(name.to_owned(), secret);
        }
    }
    Ok(found)
}

/// Everything that the watches have told, and what the workers say.
pub async fn dereference(http: &reqwest::Client, watched: &Watched, names: &Names, there: &Objects) -> Found {
    let clusters = || {
        let status = |name: &str| there.get("Cluster", name).and_then(|seen| seen.status()).unwrap_or_default();
        let named = there.iter().filter(|(key, _)| key.kind == "Cluster").map(|(key, _)| key.name.clone());
        named.map(|name| (name.clone(), status(&name))).collect()
    };
    let pods: Vec<Pod> = there.of::<Pod>().into_values().collect();
    let tells = |pod: &&Pod| {
        let labels = kube::ResourceExt::labels(*pod);
        let parts = [Component::Worker, Component::Stateless, Component::Init, Component::Mover];
        parts.iter().any(|part| part.is_of(labels))
    };
    Found {
        secrets: BTreeMap::new(),
        clusters: watched.knows("Cluster", &names.namespace).then(clusters),
        sets: there.of(),
        gateway: there.of().remove(&names.gateway()),
        jobs: there.of(),
        statuses: workers::ask(http, pods.iter().filter(tells)).await,
        pods,
        unready: unready(there),
    }
}

/// Whether a Job has done its work.
pub fn has_succeeded(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|status| status.succeeded > Some(0))
}

/// What Strimzi has not made yet.
fn unready(there: &Objects) -> BTreeMap<String, String> {
    let strimzis = there.iter().filter(|(key, _)| matches!(&*key.kind, "KafkaTopic" | "KafkaUser"));
    strimzis
        .filter_map(|(key, seen)| {
            let status: strimzi::ReadyStatus = seen.status().unwrap_or_default();
            Some((format!("{} {}", key.kind, key.name), status.not_ready()?))
        })
        .collect()
}

/// Reads a Kafka of Strimzi's. `Ok(None)`: there is none of that name.
pub async fn kafka(client: &Client, names: &Names, strimzi: &StrimziKafka) -> kube::Result<Option<FoundKafka>> {
    let resource = strimzi::resource("Kafka");
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &names.namespace, &resource);
    let found = api.get_opt(&strimzi.cluster).await?;
    Ok(found.map(|kafka| serde_json::from_value(kafka.data).unwrap_or_default()))
}
