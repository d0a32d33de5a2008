//! CloudNativePG's Cluster, by hand: the few fields that are used.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Plan;
use super::names::Component;
use super::shards::ShardSource;
use crate::api::common::{CloudNativePgSpec, DeletionPolicy, Durability};
use crate::api::resources::Resources;
use crate::kind::ServiceKind;

/// The spec of a `postgresql.cnpg.io/v1` Cluster.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(group = "postgresql.cnpg.io", version = "v1", kind = "Cluster", namespaced, status = "ClusterStatus")]
#[serde(rename_all = "camelCase")]
pub struct ClusterSpec {
    /// The primary and its standbys.
    pub instances: u32,
    /// The image; CloudNativePG's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_name: Option<String>,
    /// The volume of each instance.
    pub storage: ClusterStorage,
    /// How the first database is made.
    pub bootstrap: Bootstrap,
    /// Settings of Postgres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgresql: Option<PostgresConfiguration>,
    /// Requests and limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// How long a stopping instance waits for its clients to leave by themselves, in seconds.
    #[serde(default)]
    pub smart_shutdown_timeout: u32,
    /// How instances are asked whether they are there.
    #[serde(default)]
    pub probes: Probes,
}

/// How instances are asked whether they are there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Probes {
    /// While one starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup: Option<Probe>,
}

/// How often an instance is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// In seconds.
    pub period_seconds: u32,
}

/// The volume of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStorage {
    /// Its size.
    #[serde(default)]
    pub size: String,
    /// Its class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
}

/// How the first database is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Bootstrap {
    /// From nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initdb: Option<InitDb>,
}

/// A database from nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InitDb {
    /// Its name.
    pub database: String,
    /// Its owner.
    pub owner: String,
    /// Its character set.
    pub encoding: String,
    /// Its collation.
    pub locale: String,
}

/// Settings of Postgres.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PostgresConfiguration {
    /// By name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    /// Whether a commit waits for standbys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synchronous: Option<Synchronous>,
}

/// How a commit waits for standbys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Synchronous {
    /// `any` standbys, or the `first` ones.
    pub method: String,
    /// For how many.
    pub number: u32,
    /// `required`, or `preferred`.
    pub data_durability: String,
}

/// What CloudNativePG says of a Cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Instances that are ready.
    #[serde(default)]
    pub ready_instances: u32,
    /// In words, where it is.
    #[serde(default)]
    pub phase: Option<String>,
}

/// Of three instances or more, the one that a failover promotes need not be the one that has the last commit, unless
/// CloudNativePG first asks enough of them. With two it needs nothing: the only standby has everything, or else the
/// primary would not have committed. (CloudNativePG refuses this for two.)
const FAILOVER_QUORUM: &str = "alpha.cnpg.io/failoverQuorum";

/// The Cluster of a partition; `None` if its database is somebody else's.
pub fn cluster<K: ServiceKind>(plan: &Plan<'_, K>, shard: &ShardSource) -> Option<Cluster> {
    let service = plan.service.service();
    let (name, postgres) = (shard.cluster.clone()?, service.postgres.cloud_native_pg.as_ref()?);
    let labels = plan.names.labels_of(Component::Shard, shard.partition);
    let spec = ClusterSpec {
        instances: postgres.instances,
        image_name: postgres.image_name.clone(),
        storage: ClusterStorage {
            size: postgres.storage.size.clone(),
            storage_class: postgres.storage.storage_class.clone(),
        },
        bootstrap: Bootstrap {
            // Bytes decide what is one name and what comes first, whatever the machine's locale.
            initdb: Some(InitDb {
                database: "app".to_owned(),
                owner: "app".to_owned(),
                encoding: "UTF8".to_owned(),
                locale: "C".to_owned(),
            }),
        },
        postgresql: configuration(postgres),
        resources: postgres.resources.as_ref().map(Resources::requirements),
        // Workers never leave, and come back by themselves: waiting only means three minutes without new connections.
        smart_shutdown_timeout: 1,
        // CloudNativePG asks every ten seconds, for which a shard that is there already has no address.
        probes: Probes { startup: Some(Probe { period_seconds: 1 }) },
    };
    let mut cluster = Cluster::new(&name, spec);
    cluster.metadata = match service.deletion_policy {
        DeletionPolicy::Retain => plan.names.lasting_meta(name, labels),
        DeletionPolicy::Delete => plan.names.meta(name, labels),
    };
    if postgres.durability == Durability::Required && postgres.instances > 2 {
        cluster.metadata.annotations = Some(BTreeMap::from([(FAILOVER_QUORUM.to_owned(), "true".to_owned())]));
    }
    Some(cluster)
}

fn configuration(postgres: &CloudNativePgSpec) -> Option<PostgresConfiguration> {
    let synchronous = (postgres.instances > 1).then(|| Synchronous {
        // One, and no matter which: a slow or lost standby holds nothing up while another is there.
        method: "any".to_owned(),
        number: 1,
        data_durability: match postgres.durability {
            Durability::Required => "required".to_owned(),
            Durability::Preferred => "preferred".to_owned(),
        },
    });
    let parameters = postgres.parameters.clone();
    (synchronous.is_some() || !parameters.is_empty()).then_some(PostgresConfiguration { parameters, synchronous })
}
