//! What one kind of service supplies; everything else is the same for all of them.

use kube::Resource;
use kube::core::NamespaceResourceScope;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::common::ServiceSpec;
use crate::api::redis::RedisSpec;
use crate::api::resources::Resources;
use crate::api::status::ServiceStatus;
use crate::build::topics::ServiceTopic;
use crate::images::Images;

/// A loop without a shard, as a kind has it: consumers that share a topic, of which each keeps its place by its name.
#[derive(Clone, Copy, Debug)]
pub struct StatelessLoop<'a> {
    /// Its name, which is the subcommand of the kind's program too.
    pub name: &'static str,
    /// How many.
    pub replicas: u32,
    /// Requests and limits.
    pub resources: Option<&'a Resources>,
    /// Whether the service does nothing for its users without it.
    pub essential: bool,
}

/// A kind of service, as its custom resource.
pub trait ServiceKind:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + std::fmt::Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// Program of the workers and gateways in their image.
    const PROGRAM: &'static str;

    /// What it has in common with the others.
    fn service(&self) -> &ServiceSpec;

    /// What the operator last said of it.
    fn status(&self) -> Option<&ServiceStatus>;

    /// Its topics, but for those that every kind has.
    fn topics(&self) -> Vec<ServiceTopic>;

    /// What its workers and gateways read besides, as the workers' crate has it.
    fn settings(&self) -> serde_yaml::Result<serde_yaml::Value>;

    /// Which of these its data depends on, so that they never change; all, unless a kind says otherwise.
    fn fixed_settings(&self) -> serde_yaml::Result<serde_yaml::Value> {
        self.settings()
    }

    /// The loop without a shard that it has besides its workers; none, unless a kind says otherwise.
    fn stateless(&self) -> Option<StatelessLoop<'_>> {
        None
    }

    /// The Redis that its gateways and its loop without a shard use; none, unless a kind says otherwise.
    fn redis(&self) -> Option<&RedisSpec> {
        None
    }

    /// The Redis that the operator runs for it.
    fn own_redis(&self) -> Option<&RedisSpec> {
        self.redis().filter(|redis| redis.external.is_none())
    }

    /// What of the spec its data depends on besides the number of slots, as a text to compare.
    fn fixed(&self) -> serde_yaml::Result<String> {
        let said = |topic: ServiceTopic| format!("{}={}", topic.config.role, topic.config.name);
        let topics: Vec<_> = self.topics().into_iter().map(said).collect();
        let settings = serde_yaml::to_string(&self.fixed_settings()?)?;
        let partitioner = self.service().partitioner;
        Ok(format!("partitioner={partitioner:?}\n{}\n{}", topics.join("\n"), settings.trim()))
    }

    /// The image that a new service gets.
    fn default_image(images: &Images) -> &str;
}

/// The settings of a kind that has none: an empty mapping, for that is what its processes read.
pub fn no_settings() -> serde_yaml::Value {
    serde_yaml::Value::Mapping(serde_yaml::Mapping::new())
}
