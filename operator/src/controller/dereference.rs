//! Reading what a service stands on: everything that the decisions need, and no decision.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client, ResourceExt};

use super::workers::{self, WorkerStatus};
use crate::build::cloud_native_pg::Cluster;
use crate::build::config::short_hash;
use crate::build::names::{Component, Names};
use crate::build::shards::ShardSource;
use crate::identity::{BrokenIdentity, Identity};

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The recorded identity, if the service was ever prepared.
    pub identity: Option<Result<Identity, BrokenIdentity>>,
    /// Those of the Secrets that lead to shards that are there.
    pub secrets: BTreeMap<String, FoundSecret>,
    /// The Clusters, by name; `None` if CloudNativePG is not installed.
    pub clusters: Option<BTreeMap<String, Cluster>>,
    /// The workers' StatefulSets, by name.
    pub workers: BTreeMap<String, StatefulSet>,
    /// The gateway.
    pub gateway: Option<Deployment>,
    /// The init Jobs, by name.
    pub jobs: BTreeMap<String, Job>,
    /// Pods of the service.
    pub pods: Vec<Pod>,
    /// What workers say of themselves, by the pod's name; those that do not answer are not among them.
    pub statuses: BTreeMap<String, WorkerStatus>,
}

/// A Secret, without what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundSecret {
    /// Its keys.
    pub keys: BTreeSet<String>,
    /// Changes when what leads to the shard does: a short hash, from which it cannot be told.
    pub version: String,
}

/// Reads the identity, which says which shards there are.
pub async fn identity(client: &Client, names: &Names) -> kube::Result<Option<Result<Identity, BrokenIdentity>>> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &names.namespace);
    Ok(maps.get_opt(&names.identity()).await?.map(|map| Identity::read(&map)))
}

/// Records a new identity, unless one is recorded already.
pub async fn record(client: &Client, names: &Names, map: &ConfigMap) -> kube::Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &names.namespace);
    match maps.create(&PostParams::default(), map).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        result => result.map(|_| ()),
    }
}

/// Reads everything else.
pub async fn dereference(
    client: &Client,
    http: &reqwest::Client,
    names: &Names,
    shards: &[ShardSource],
) -> kube::Result<Found> {
    let selected = ListParams::default().labels(&names.all());
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &names.namespace);
    let mut found = Found::default();
    for shard in shards {
        if let Some(secret) = secrets.get_opt(&shard.secret).await? {
            let data = secret.data.unwrap_or_default();
            let uri = data.get("uri").map(|uri| String::from_utf8_lossy(&uri.0).into_owned()).unwrap_or_default();
            let version = short_hash(&format!("{} {uri}", shard.secret));
            found.secrets.insert(shard.secret.clone(), FoundSecret { keys: data.into_keys().collect(), version });
        }
    }
    if shards.iter().any(|shard| shard.cluster.is_some()) {
        let clusters: Api<Cluster> = Api::namespaced(client.clone(), &names.namespace);
        found.clusters = match clusters.list(&selected).await {
            Ok(list) => Some(by_name(list.items)),
            Err(kube::Error::Api(status)) if status.code == 404 => None,
            Err(error) => return Err(error),
        };
    }
    found.workers = by_name(list(client, names, &selected).await?);
    found.jobs = by_name(list(client, names, &selected).await?);
    let gateways: Api<Deployment> = Api::namespaced(client.clone(), &names.namespace);
    found.gateway = gateways.get_opt(&names.gateway()).await?;
    found.pods = list(client, names, &selected).await?;
    let is_worker = |pod: &&Pod| Component::Worker.is_of(pod.labels());
    found.statuses = workers::ask(http, found.pods.iter().filter(is_worker)).await;
    Ok(found)
}

async fn list<K>(client: &Client, names: &Names, selected: &ListParams) -> kube::Result<Vec<K>>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    Ok(Api::namespaced(client.clone(), &names.namespace).list(selected).await?.items)
}

fn by_name<K: kube::ResourceExt>(items: Vec<K>) -> BTreeMap<String, K> {
    items.into_iter().map(|item| (item.name_any(), item)).collect()
}
