//! Everything that a service consists of, as objects: pure, from what was read to what is to be applied.

pub mod cloud_native_pg;
pub mod config;
mod disruption;
mod gateway;
mod init;
pub mod kafka;
mod mover;
pub mod names;
mod network;
mod pods;
pub mod redis;
pub mod reshard;
pub mod retire;
pub mod shards;
mod stateless;
pub mod strimzi;
pub mod topics;
mod workers;

use std::collections::BTreeMap;

use kube::Resource;
use kube::core::{ApiResource, DynamicObject};
use serde::Serialize;

use crate::identity::Identity;
use crate::images::Images;
use crate::kind::ServiceKind;
use kafka::Kafka;
use names::{Component, Names};
use shards::ShardSource;
use topics::ServiceTopic;

/// A service that can be built: what was read, found good.
#[derive(Clone, Debug)]
pub struct Plan<'a, K> {
    /// The custom resource.
    pub service: &'a K,
    /// Names and labels.
    pub names: Names,
    /// Identity of its data, and the number of partitions that own slots.
    pub identity: Identity,
    /// Where its shards are.
    pub shards: Vec<ShardSource>,
    /// How Kafka is reached.
    pub kafka: Kafka,
    /// Whether Strimzi's Kafka asks who may do what.
    pub acls: bool,
    /// For each part that speaks to Kafka, what changes when its credentials do.
    pub credentials: BTreeMap<&'static str, String>,
    /// The service's image.
    pub image: String,
    /// The image of its own Redis, if it has one.
    pub redis_image: String,
    /// The operator's images.
    pub images: &'a Images,
}

impl<K: ServiceKind> Plan<'_, K> {
    /// All topics.
    pub fn topics(&self) -> Vec<ServiceTopic> {
        topics::all(self.service, &self.names.service)
    }

    /// Changes when what a part reads at its start does, so that its pods are made anew.
    fn hash(&self, part: Component) -> Result<String, BuildError> {
        let config = config::hash(self)?;
        Ok(match self.credentials.get(part.in_kafka().label()) {
            Some(credentials) => format!("{config}-{credentials}"),
            None => config,
        })
    }
}

/// Why a service cannot be built: an object that is no object, which is our fault.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// It cannot be written as JSON.
    #[error("cannot write an object: {0}")]
    Json(#[from] serde_json::Error),
    /// It cannot be written as YAML.
    #[error("cannot write the configuration: {0}")]
    Yaml(#[from] serde_yaml::Error),
}

/// An object of any type, to be applied.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its type.
    pub resource: ApiResource,
    /// The object.
    pub object: DynamicObject,
}

impl Object {
    /// A typed object as one of any type.
    pub fn new<K: Resource<DynamicType = ()> + Serialize>(typed: &K) -> Result<Self, BuildError> {
        let resource = ApiResource::erase::<K>(&());
        let mut value = serde_json::to_value(typed)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("apiVersion".to_owned(), resource.api_version.clone().into());
            object.insert("kind".to_owned(), resource.kind.clone().into());
            object.remove("status");
        }
        Ok(Self { resource, object: serde_json::from_value(value)? })
    }

    /// `Kind/name`, for logs.
    pub fn describe(&self) -> String {
        format!("{}/{}", self.resource.kind, self.object.metadata.name.as_deref().unwrap_or_default())
    }
}

/// What the service stands on: identity, configuration, shards.
pub fn foundation<K: ServiceKind>(plan: &Plan<'_, K>) -> Result<Vec<Object>, BuildError> {
    let mut objects = vec![Object::new(&plan.identity.config_map(plan))?];
    // Of a Kafka that is not found just now, the last that was known stays.
    if !plan.kafka.bootstrap_servers.is_empty() {
        objects.push(Object::new(&config::config_map(plan)?)?);
    }
    if let Some(strimzi) = &plan.service.service().kafka.strimzi {
        objects.extend(strimzi::objects(plan, strimzi, plan.acls));
    }
    for shard in &plan.shards {
        if let Some(cluster) = cloud_native_pg::cluster(plan, shard) {
            objects.push(Object::new(&cluster)?);
        }
    }
    Ok(objects)
}

/// What runs on it all the time: the init Job, workers, gateways, and a Redis and a loop without a shard if there are such. To be applied
/// once the shards can be reached.
pub fn processes<K: ServiceKind>(plan: &Plan<'_, K>) -> Result<Vec<Object>, BuildError> {
    let mut objects = vec![Object::new(&init::job(plan)?)?, Object::new(&workers::service(plan))?];
    for shard in &plan.shards {
        objects.push(Object::new(&workers::stateful_set(plan, shard)?)?);
    }
    if let Some(redis) = plan.service.own_redis() {
        objects.push(Object::new(&redis::service(plan))?);
        objects.push(Object::new(&redis::stateful_set(plan, redis))?);
    }
    for policy in network::policies(plan) {
        objects.push(Object::new(&policy)?);
    }
    for budget in disruption::budgets(plan) {
        objects.push(Object::new(&budget)?);
    }
    objects.push(Object::new(&gateway::service(plan))?);
    objects.push(Object::new(&gateway::deployment(plan)?)?);
    if let Some(each) = plan.service.stateless() {
        objects.push(Object::new(&stateless::stateful_set(plan, each)?)?);
    }
    Ok(objects)
}
