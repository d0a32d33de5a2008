//! Names and labels: those that a user may rely on, and how everything is told apart.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, OwnerReference};
use kube::api::ObjectMeta;

use crate::watched::ServiceKey;

/// The field manager of everything that the operator applies.
pub const MANAGER: &str = "shardlane";
/// Label of the partition of pods and shards.
pub const PARTITION: &str = "shardlane.dev/partition";
/// Annotation of a worker's StatefulSet that changes when its pod has to be made anew.
pub const TEMPLATE: &str = "shardlane.dev/template-hash";
/// Label of the service's kind, since services of two kinds may share a name.
pub const KIND: &str = "shardlane.dev/kind";

/// Label of the service's name.
pub const INSTANCE: &str = "app.kubernetes.io/instance";

/// The label that says who applied an object.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The label that says what an object is a part of.
const COMPONENT: &str = "app.kubernetes.io/component";

/// What a part of a service does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// A worker.
    Worker,
    /// A gateway.
    Gateway,
    /// A loop without a shard.
    Stateless,
    /// The init Job.
    Init,
    /// The Job that moves slots.
    Mover,
    /// The Job that deletes topics.
    Retire,
    /// A shard.
    Shard,
    /// Redis.
    Cache,
    /// What is not a process.
    Config,
}

impl Component {
    /// Whether an object with these labels is a part of it.
    pub fn is_of(self, labels: &BTreeMap<String, String>) -> bool {
        labels.get(COMPONENT).is_some_and(|label| label == self.label())
    }

    /// Whose credentials it has in Kafka: who moves slots says the same there as who placed them.
    pub fn in_kafka(self) -> Self {
        if self == Self::Mover { Self::Init } else { self }
    }

    /// What it is called in labels and names.
    pub fn label(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Gateway => "gateway",
            Self::Stateless => "stateless",
            Self::Init => "init",
            Self::Mover => "mover",
            Self::Retire => "retire",
            Self::Shard => "shard",
            Self::Cache => "cache",
            Self::Config => "config",
        }
    }
}

/// Name of the ConfigMap that says whose a service's data are.
pub fn identity_of(service: &str) -> String {
    format!("{service}-identity")
}

/// Selects the objects of all services, as the API server reads it.
pub fn ours() -> String {
    format!("{MANAGED_BY}={MANAGER}")
}

/// Names of a service's parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Names {
    /// The service.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
    /// Its kind.
    pub kind: String,
    /// What makes its parts go with it.
    pub owner: OwnerReference,
}

impl Names {
    /// The service itself.
    pub fn key(&self) -> ServiceKey {
        ServiceKey { namespace: self.namespace.clone(), kind: self.kind.clone(), name: self.service.clone() }
    }

    /// `<service>-<partition>`.
    pub fn worker(&self, partition: u32) -> String {
        format!("{}-{partition}", self.service)
    }

    /// `<service>-<partition>-0`.
    pub fn worker_pod(&self, partition: u32) -> String {
        format!("{}-0", self.worker(partition))
    }

    /// `<service>-shard-<partition>`.
    pub fn shard(&self, partition: u32) -> String {
        format!("{}-shard-{partition}", self.service)
    }

    /// `<service>-gateway`.
    pub fn gateway(&self) -> String {
        format!("{}-gateway", self.service)
    }

    /// `<service>-workers`: gives pods of workers their names in DNS.
    pub fn workers(&self) -> String {
        format!("{}-workers", self.service)
    }

    /// `<service>-<loop>`: a loop without a shard.
    pub fn stateless(&self, name: &str) -> String {
        format!("{}-{name}", self.service)
    }

    /// `<service>-<loop>-<number>`.
    pub fn stateless_pod(&self, name: &str, number: u32) -> String {
        format!("{}-{number}", self.stateless(name))
    }

    /// `<service>-redis`: Redis, and where it is reached.
    pub fn redis(&self) -> String {
        format!("{}-redis", self.service)
    }

    /// `<service>-redis-0`.
    pub fn redis_pod(&self) -> String {
        format!("{}-0", self.redis())
    }

    /// `<service>-retire`: the Job that deletes topics.
    pub fn retire(&self) -> String {
        format!("{}-retire", self.service)
    }

    /// `<service>-config`.
    pub fn config(&self) -> String {
        format!("{}-config", self.service)
    }

    /// `<service>-<part>`: a user of Kafka's.
    pub fn kafka_user(&self, part: Component) -> String {
        format!("{}-{}", self.service, part.label())
    }

    /// `<service>-identity`.
    pub fn identity(&self) -> String {
        identity_of(&self.service)
    }

    /// Labels by which a component's pods are selected; they never change.
    pub fn selector(&self, component: Component) -> BTreeMap<String, String> {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        BTreeMap::from([
            label("app.kubernetes.io/name", "shardlane"),
            label(INSTANCE, &self.service),
            label(COMPONENT, component.label()),
            label(KIND, &self.kind),
        ])
    }

    /// A component's labels.
    pub fn labels(&self, component: Component) -> BTreeMap<String, String> {
        let mut labels = self.selector(component);
        labels.insert("app.kubernetes.io/part-of".to_owned(), "shardlane".to_owned());
        labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
        labels
    }

    /// A component's labels, with its partition.
    pub fn labels_of(&self, component: Component, partition: u32) -> BTreeMap<String, String> {
        let mut labels = self.labels(component);
        labels.insert(PARTITION.to_owned(), partition.to_string());
        labels
    }

    /// Selects a component's pods.
    pub fn label_selector(&self, component: Component) -> LabelSelector {
        LabelSelector { match_labels: Some(self.selector(component)), ..LabelSelector::default() }
    }

    /// Selects the workers' pods, as the API server reads it.
    pub fn worker_selector(&self) -> String {
        let pairs: Vec<_> =
            self.selector(Component::Worker).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        pairs.join(",")
    }

    /// Metadata of an object that goes with the service.
    pub fn meta(&self, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
        ObjectMeta { owner_references: Some(vec![self.owner.clone()]), ..self.lasting_meta(name, labels) }
    }

    /// Metadata of an object that outlives the service.
    pub fn lasting_meta(&self, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.clone()),
            labels: Some(labels),
            ..ObjectMeta::default()
        }
    }
}
