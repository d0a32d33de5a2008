//! The status of all kinds.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator says of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// In one word, where it is.
    #[serde(default)]
    pub phase: Phase,
    /// The generation of the spec that this speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Progressing, Degraded and Paused, each with its reason.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Number of partitions that own slots.
    #[serde(default)]
    pub replicas: u32,
    /// Number of those whose worker and shard are ready.
    #[serde(default)]
    pub ready_replicas: u32,
    /// `ready/all`, for a table's column.
    #[serde(default)]
    pub ready: String,
    /// Selects the workers' pods, for autoscalers.
    #[serde(default)]
    pub selector: String,
    /// The image that workers run if the spec names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The image that the service's own Redis runs if the spec names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis_image: Option<String>,
    /// The partitions, in order.
    #[serde(default)]
    pub partitions: Vec<PartitionStatus>,
}

impl ServiceStatus {
    /// Whether there is nothing to wait for.
    pub fn is_settled(&self) -> bool {
        let progressing = self.conditions.iter().any(|c| c.type_ == "Progressing" && c.status == "True");
        self.phase == Phase::Running && !progressing
    }
}

/// One partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PartitionStatus {
    /// Its number.
    pub partition: u32,
    /// The worker's pod.
    pub worker: String,
    /// The Cluster or Secret of its shard.
    pub shard: String,
    /// Its slots, as ranges: `0-7,9`.
    pub slots: String,
    /// Whether worker and shard are ready.
    pub ready: bool,
}

/// In one word, where a service is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Waits for something that the operator does not make.
    #[default]
    Pending,
    /// Shards, tables and topics are being made.
    Preparing,
    /// All partitions are ready.
    Running,
    /// Some partitions are not ready, or some slots are halted.
    Degraded,
}
