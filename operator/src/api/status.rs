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
    /// Number of partitions that there are; while slots are moved, the larger of both numbers.
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
    /// How far slots are moved; absent when none are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reshard: Option<ReshardStatus>,
}

impl ServiceStatus {
    /// Whether there is nothing to wait for.
    pub fn is_settled(&self) -> bool {
        let progressing = self.conditions.iter().any(|c| c.type_ == "Progressing" && c.status == "True");
        self.phase == Phase::Running && !progressing
    }

    /// Of how many partitions a worker should be ready, and of how many of them it is. In a move, partitions without slots are
    /// missed by nobody; else there are as many as the spec wants.
    pub fn due(&self, wanted: u32) -> (u32, u32) {
        if self.reshard.is_none() {
            return (wanted, self.ready_replicas);
        }
        let owners = || self.partitions.iter().filter(|partition| !partition.slots.is_empty());
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        (count(owners().count()), count(owners().filter(|partition| partition.ready).count()))
    }
}

/// How far slots are moved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReshardStatus {
    /// Number of partitions that owned slots before.
    pub from: u32,
    /// Number of partitions that are to own slots.
    pub to: u32,
    /// Slots that the mover has moved or has yet to move, as far as it has said.
    #[serde(default)]
    pub slots_total: u32,
    /// Those of them that it has moved.
    #[serde(default)]
    pub slots_moved: u32,
    /// In one word, where it is.
    #[serde(default)]
    pub phase: ReshardPhase,
    /// What is being done, or waited for.
    #[serde(default)]
    pub message: String,
}

/// In one word, where moving slots is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReshardPhase {
    /// Shards and workers are being made, or the mover starts.
    #[default]
    Preparing,
    /// The mover looks where every slot is.
    Planning,
    /// Slots are moved.
    Moving,
    /// Every slot is where it should be; what is left where they were is deleted.
    Cleaning,
    /// Nothing is moved until the pause ends.
    Paused,
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
    /// Slots that its worker works on, as ranges: `0-7,9`. Of a worker that does not answer, those that it last had.
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
