//! What the specs of all kinds have in common.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shardlane_config::Partitioner;

use super::kafka::KafkaSpec;
use super::resources::Resources;

/// The part of a spec that every kind has. Its rules become the spec's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.partitions <= self.maxPartitions")
        .message("partitions is at most maxPartitions, which never changes; make a new service to go higher"),
    validation = Rule::new("self.maxPartitions == oldSelf.maxPartitions")
        .message("maxPartitions never changes: a key's Kafka partition depends on it"),
    validation = Rule::new("self.partitioner == oldSelf.partitioner")
        .message("partitioner never changes: a key's Kafka partition depends on it"),
    validation = Rule::new("!has(self.postgres.external) || size(self.postgres.external.shards) >= self.partitions")
        .message("postgres.external.shards needs a Secret for each partition"),
)]
pub struct ServiceSpec {
    /// Number of partitions: pairs of one worker and its Postgres shard. May be changed at any time, up or down: slots are moved
    /// while the service runs.
    #[schemars(range(min = 1, max = 1024))]
    pub partitions: u32,
    /// Number of slots: Kafka partitions of each keyed topic. The most that `partitions` can ever be; never changes.
    #[serde(default = "default_max_partitions")]
    #[schemars(range(min = 1, max = 1024))]
    pub max_partitions: u32,
    /// How a key finds its Kafka partition; the same as in everything else that produces. Never changes.
    #[serde(default)]
    pub partitioner: PartitionerName,
    /// Where Kafka is.
    pub kafka: KafkaSpec,
    /// Where the shards are.
    pub postgres: PostgresSpec,
    /// The workers.
    #[serde(default)]
    pub worker: WorkerSpec,
    /// The HTTP front.
    #[serde(default)]
    pub gateway: GatewaySpec,
    /// How long, in hours, shards keep what became of requests, so that a retry is answered the same; 0 for ever. At least as
    /// long as the topic of requests keeps records.
    #[serde(default = "default_outcome_retention_hours")]
    pub outcome_retention_hours: u32,
    /// How slots are moved when `partitions` changes.
    #[serde(default)]
    pub resharding: ReshardingSpec,
    /// Whether the operator makes NetworkPolicies: nobody may speak to a part of the service, or it to others, but for what is
    /// needed.
    #[serde(default)]
    pub network_policies: NetworkPolicies,
    /// Leave everything of this service as it is, whatever else the spec says: workers and gateways run on, and the operator
    /// only tells how they are. Slots that are being moved are brought to where each has one owner, and the move goes on when the
    /// pause ends.
    #[serde(default, skip_serializing_if = "is_false")]
    pub paused: bool,
    /// What becomes of databases and topics when this resource is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !value
}

/// A day longer than Kafka keeps records by default.
fn default_outcome_retention_hours() -> u32 {
    192
}

fn default_max_partitions() -> u32 {
    24
}

/// A client's default hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PartitionerName {
    /// Java clients'.
    #[default]
    Murmur2,
    /// sarama's (Go).
    Fnv1a,
    /// librdkafka's.
    Crc32,
}

impl From<PartitionerName> for Partitioner {
    fn from(name: PartitionerName) -> Self {
        match name {
            PartitionerName::Murmur2 => Self::Murmur2,
            PartitionerName::Fnv1a => Self::Fnv1a,
            PartitionerName::Crc32 => Self::Crc32,
        }
    }
}

/// Where the shards are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.cloudNativePG) != has(self.external)")
    .message("exactly one of cloudNativePG and external says where the shards are"))]
pub struct PostgresSpec {
    /// One CloudNativePG Cluster for each partition.
    #[serde(default, rename = "cloudNativePG", skip_serializing_if = "Option::is_none")]
    pub cloud_native_pg: Option<CloudNativePgSpec>,
    /// Databases that somebody else runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalPostgres>,
}

/// A CloudNativePG Cluster for each partition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.parameters) || !('synchronous_commit' in self.parameters) || self.parameters['synchronous_commit'] in ['on', 'remote_write', 'remote_apply']")
    .message("parameters.synchronous_commit is one of on, remote_write and remote_apply: with less, a failover would lose what was committed"))]
pub struct CloudNativePgSpec {
    /// Instances of each Cluster: a primary and its standbys. Two or more survive the loss of one.
    #[serde(default = "default_instances")]
    #[schemars(range(min = 1, max = 9))]
    pub instances: u32,
    /// What goes first when, of two or more instances, no standby is there: `Required` never loses what was committed,
    /// `Preferred` goes on.
    #[serde(default)]
    pub durability: Durability,
    /// The Postgres image; CloudNativePG's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_name: Option<String>,
    /// The volume of each instance.
    pub storage: StorageSpec,
    /// Requests and limits of each instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Settings of Postgres.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
}

fn default_instances() -> u32 {
    1
}

/// What goes first when no standby is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Durability {
    /// A commit waits until a standby has it, however long. A failover loses nothing; without a standby, nothing is
    /// written until one is back.
    #[default]
    Required,
    /// A commit waits for a standby while one is healthy. Without one the primary goes on alone, and a failover then loses
    /// what only it had.
    Preferred,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageSpec {
    /// Its size, e.g. `10Gi`.
    #[schemars(regex(pattern = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$"))]
    pub size: String,
    /// Its class; the cluster's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
}

/// Databases that somebody else runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalPostgres {
    /// For each partition, in order, the Secret of its database. There may be more than partitions.
    #[schemars(length(min = 1, max = 1024))]
    pub shards: Vec<ShardSecret>,
}

/// The Secret of a database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShardSecret {
    /// Its name. Its key `uri` is `postgresql://user:password@host:5432/database`, an empty database at first.
    pub secret_ref: SecretName,
}

/// A Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretName {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerSpec {
    /// The service's image. If absent, the one that was current when the resource was made, until you set it: an upgrade
    /// of the operator restarts no worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Requests and limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

/// The HTTP front.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// How many.
    #[serde(default = "default_gateways")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: u32,
    /// Requests a second that each lets in; more get 429. No limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub rate_limit: Option<u32>,
    /// Requests a second that each lets in from one client; more get 429. No limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub client_rate_limit: Option<u32>,
    /// Whether a proxy stands before the gateways: clients are then told apart by the last address in `X-Forwarded-For`, which
    /// the proxy has to write, and not by the one that a connection comes from.
    #[serde(default, skip_serializing_if = "is_false")]
    pub behind_proxy: bool,
    /// A Secret whose key `token` every request must bear (`Authorization: Bearer`). No authentication if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_secret_ref: Option<SecretName>,
    /// Requests and limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

impl Default for GatewaySpec {
    fn default() -> Self {
        Self {
            replicas: default_gateways(),
            rate_limit: None,
            client_rate_limit: None,
            behind_proxy: false,
            token_secret_ref: None,
            resources: None,
        }
    }
}

fn default_gateways() -> u32 {
    1
}

/// A loop without a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StatelessSpec {
    /// How many. They share the slots of the topic that they read.
    #[serde(default = "default_loops")]
    #[schemars(range(min = 1, max = 24))]
    pub replicas: u32,
    /// Requests and limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

impl Default for StatelessSpec {
    fn default() -> Self {
        Self { replicas: default_loops(), resources: None }
    }
}

fn default_loops() -> u32 {
    1
}

/// How slots are moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReshardingSpec {
    /// Groups of slots that are moved at the same time, each from one shard to another. More are done sooner, and cost the shards
    /// more.
    #[serde(default = "default_groups_at_once")]
    #[schemars(range(min = 1, max = 16))]
    pub groups_at_once: u32,
    /// Rows a second that are copied at most, all groups together, so that the shards have time for their workers. No limit if
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100))]
    pub rows_per_second: Option<u32>,
    /// How long, in seconds, the slots of a group may be held up at most while the last of it is moved. What takes longer is undone
    /// and tried again.
    #[serde(default = "default_fence_seconds")]
    #[schemars(range(min = 1, max = 60))]
    pub fence_seconds: u32,
    /// How long, in seconds, the rows of slots that were moved stay where they were before they are deleted.
    #[serde(default = "default_clean_after_seconds")]
    #[schemars(range(min = 0, max = 86_400))]
    pub clean_after_seconds: u32,
}

impl Default for ReshardingSpec {
    fn default() -> Self {
        Self {
            groups_at_once: default_groups_at_once(),
            rows_per_second: None,
            fence_seconds: default_fence_seconds(),
            clean_after_seconds: default_clean_after_seconds(),
        }
    }
}

fn default_groups_at_once() -> u32 {
    1
}

fn default_fence_seconds() -> u32 {
    5
}

fn default_clean_after_seconds() -> u32 {
    30
}

/// Who makes NetworkPolicies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NetworkPolicies {
    /// The operator.
    #[default]
    Managed,
    /// Nobody, or somebody else.
    None,
}

/// What becomes of databases and topics when the resource is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// They stay, and a new resource of the same name takes them up.
    #[default]
    Retain,
    /// Databases that the operator made, and all topics of the service, are deleted with it.
    Delete,
}
