//! Strimzi's resources, by hand: the few fields that are used.

use kube::api::{DynamicObject, ObjectMeta};
use kube::core::{ApiResource, GroupVersionKind};
use serde::Deserialize;
use serde_json::{Value, json};

use super::config::short_hash;
use super::kafka::{self, Kafka, User};
use super::names::{Component, Names};
use super::topics::ServiceTopic;
use super::{Object, Plan};
use crate::api::common::DeletionPolicy;
use crate::api::kafka::StrimziKafka;
use crate::kind::ServiceKind;

/// The group of Strimzi's resources.
pub const GROUP: &str = "kafka.strimzi.io";

/// A type of Strimzi's.
pub fn resource(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(GROUP, "v1", kind))
}

/// What matters of a Kafka resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct FoundKafka {
    spec: Spec,
    status: Status,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Spec {
    kafka: KafkaPart,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct KafkaPart {
    listeners: Vec<Listener>,
    authorization: Option<Typed>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Listener {
    name: String,
    #[serde(rename = "type")]
    reach: String,
    tls: bool,
    authentication: Option<Typed>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct Typed {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    listeners: Vec<ListenerStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ListenerStatus {
    name: String,
    bootstrap_servers: String,
}

/// What Strimzi says of a topic or a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ReadyStatus {
    conditions: Vec<StrimziCondition>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct StrimziCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    message: String,
}

impl ReadyStatus {
    /// Why it is not ready; `None` if it is.
    pub fn not_ready(&self) -> Option<String> {
        match self.conditions.iter().find(|condition| condition.kind == "Ready") {
            Some(ready) if ready.status == "True" => None,
            Some(not) if !not.message.is_empty() => Some(not.message.clone()),
            _ => Some("Strimzi has not said anything of it yet".to_owned()),
        }
    }
}

/// Why a Kafka of Strimzi's cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It has no listener that we could use.
    #[error(
        "the Kafka {cluster} has no listener {wanted}; add one to its spec.kafka.listeners: \
         {{name: tls, port: 9093, type: internal, tls: true, authentication: {{type: scram-sha-512}}}}"
    )]
    NoListener {
        /// The Kafka resource.
        cluster: String,
        /// What is missing.
        wanted: String,
    },
    /// Its listener asks for another proof than we have.
    #[error(
        "the listener {listener} of the Kafka {cluster} wants {found}, and Shardlane can show scram-sha-512 or nothing"
    )]
    Authentication {
        /// The Kafka resource.
        cluster: String,
        /// The listener.
        listener: String,
        /// What it wants.
        found: String,
    },
    /// It does not say yet where it is.
    #[error("waiting for the Kafka {cluster} to say where its listener {listener} is")]
    Starting {
        /// The Kafka resource.
        cluster: String,
        /// The listener.
        listener: String,
    },
}

impl FoundKafka {
    /// Whether there are rules for who may do what.
    pub fn has_acls(&self) -> bool {
        self.spec.kafka.authorization.as_ref().is_some_and(|authorization| authorization.kind == "simple")
    }

    /// How it is reached.
    pub fn reach(&self, wanted: &StrimziKafka) -> Result<Kafka, Unusable> {
        let cluster = wanted.cluster.clone();
        let scram = |listener: &Listener| listener.authentication.as_ref().is_some_and(|a| a.kind == SCRAM);
        let found = self.spec.kafka.listeners.iter().find(|listener| match &wanted.listener {
            Some(name) => listener.name == *name,
            None => listener.reach == "internal" && listener.tls && scram(listener),
        });
        let Some(listener) = found else {
            let named = |name: &String| format!("named {name}");
            let kind = || "that is internal, with TLS and SCRAM-SHA-512".to_owned();
            return Err(Unusable::NoListener { cluster, wanted: wanted.listener.as_ref().map_or_else(kind, named) });
        };
        if let Some(other) = listener.authentication.as_ref().filter(|authentication| authentication.kind != SCRAM) {
            let (listener, found) = (listener.name.clone(), other.kind.clone());
            return Err(Unusable::Authentication { cluster, listener, found });
        }
        let status = self.status.listeners.iter().find(|status| status.name == listener.name);
        let Some(status) = status.filter(|status| !status.bootstrap_servers.is_empty()) else {
            return Err(Unusable::Starting { cluster, listener: listener.name.clone() });
        };
        Ok(Kafka {
            bootstrap_servers: status.bootstrap_servers.clone(),
            tls: listener.tls,
            ca: listener.tls.then(|| format!("{cluster}-cluster-ca-cert")),
            user: scram(listener).then_some(User::OfEachPart),
        })
    }
}

const SCRAM: &str = "scram-sha-512";

/// Topics and users of a service.
pub fn objects<K: ServiceKind>(plan: &Plan<'_, K>, strimzi: &StrimziKafka, acls: bool) -> Vec<Object> {
    let topics: Vec<_> = plan.topics();
    let mut objects: Vec<_> = topics.iter().map(|topic| kafka_topic(plan, strimzi, topic)).collect();
    if plan.kafka.user == Some(User::OfEachPart) {
        let user = |part| kafka_user(&plan.names, strimzi, part, acls.then_some(&topics));
        objects.extend(kafka::parts(plan.service).map(user));
    }
    objects
}

fn kafka_topic<K: ServiceKind>(plan: &Plan<'_, K>, strimzi: &StrimziKafka, topic: &ServiceTopic) -> Object {
    let (names, topic) = (&plan.names, &topic.config);
    let mut config = json!({ "cleanup.policy": if topic.compacted { "compact" } else { "delete" } });
    if let Some(retention) = topic.retention_ms {
        config["retention.ms"] = retention.into();
    }
    if let Some(largest) = topic.max_message_bytes {
        config["max.message.bytes"] = largest.into();
    }
    let mut spec = json!({ "topicName": topic.name, "partitions": topic.partitions, "config": config });
    if let Some(replicas) = strimzi.replicas {
        spec["replicas"] = replicas.into();
    }
    let (name, labels) = (topic_object(&topic.name), names.labels(Component::Config));
    let metadata = match plan.service.service().deletion_policy {
        DeletionPolicy::Retain => names.lasting_meta(name, labels),
        DeletionPolicy::Delete => names.meta(name, labels),
    };
    object("KafkaTopic", strimzi, metadata, spec)
}

fn kafka_user(names: &Names, strimzi: &StrimziKafka, part: Component, topics: Option<&Vec<ServiceTopic>>) -> Object {
    let mut spec = json!({ "authentication": { "type": SCRAM } });
    if let Some(topics) = topics {
        let rule = |kind: &str, name: &str, pattern: &str, operations: &[&'static str]| {
            let resource = json!({ "type": kind, "name": name, "patternType": pattern });
            json!({ "resource": resource, "operations": operations })
        };
        let allowed = topics.iter().map(|topic| (&topic.config.name, topic.flow.operations(part)));
        let allowed = allowed.filter(|(_, operations)| !operations.is_empty());
        let mut acls: Vec<_> = allowed.map(|(name, operations)| rule("topic", name, "literal", &operations)).collect();
        // Progress shown to Kafka's own tools, and the groups of whoever follows a topic.
        acls.push(rule("group", &format!("{}-", names.service), "prefix", &["Describe", "Read"]));
        spec["authorization"] = json!({ "type": "simple", "acls": acls });
    }
    object("KafkaUser", strimzi, names.meta(names.kafka_user(part), names.labels(part)), spec)
}

fn object(kind: &str, strimzi: &StrimziKafka, mut metadata: ObjectMeta, spec: Value) -> Object {
    let resource = resource(kind);
    metadata.labels.get_or_insert_default().insert("strimzi.io/cluster".to_owned(), strimzi.cluster.clone());
    let mut object = DynamicObject::new("", &resource).data(json!({ "spec": spec }));
    object.metadata = metadata;
    Object { resource, object }
}

/// The name of a topic's resource: the topic's own where Kubernetes allows that.
pub fn topic_object(topic: &str) -> String {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-';
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let parts_good = topic.split('.').all(|part| edge(part.chars().next()) && edge(part.chars().last()));
    if topic.chars().all(allowed) && parts_good {
        return topic.to_owned();
    }
    let plain: String =
        topic.to_ascii_lowercase().chars().map(|c| if allowed(c) && c != '.' { c } else { '-' }).collect();
    format!("t-{}-{}", plain.trim_matches('-'), short_hash(topic))
}

#[cfg(test)]
mod tests;
