//! Redis: a cache that may be lost at any time, so it has no volume, no copy and no say in whether the service is ready.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    EnvVar, ExecAction, Probe, ResourceRequirements, Service, ServicePort, ServiceSpec as KubernetesService,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Plan;
use super::names::Component;
use super::pods::{confined, env, port, restricted, secret_env, template};
use crate::api::redis::RedisSpec;
use crate::api::resources::Resources;
use crate::kind::ServiceKind;

/// Where it listens.
pub const PORT: i32 = 6379;
/// The key of the Secret that says where somebody else's Redis is.
pub const KEY: &str = "uri";
/// The key of that Secret with the certificates by which its own must be signed, if they are not the public authorities'.
pub const AUTHORITY: &str = "ca.crt";
/// The variable that says where it is.
const ADDRESS: &str = "SHARDLANE_REDIS_URI";
/// The variable that says whose certificates are good.
const TRUSTED: &str = "SHARDLANE_REDIS_CA";
const PORT_NAME: &str = "redis";

/// What tells a gateway and a loop without a shard where Redis is, if the service has one.
pub fn address<K: ServiceKind>(plan: &Plan<'_, K>) -> Vec<EnvVar> {
    let Some(redis) = plan.service.redis() else { return Vec::new() };
    match &redis.external {
        Some(external) => {
            let secret = &external.secret_ref.name;
            vec![secret_env(ADDRESS, secret, KEY), optional(secret_env(TRUSTED, secret, AUTHORITY))]
        }
        None => vec![env(ADDRESS, format!("redis://{}:{PORT}", plan.names.redis()))],
    }
}

/// A variable from a Secret that may lack it.
fn optional(mut variable: EnvVar) -> EnvVar {
    if let Some(selector) = variable.value_from.as_mut().and_then(|source| source.secret_key_ref.as_mut()) {
        selector.optional = Some(true);
    }
    variable
}

/// The Redis that the operator runs. Nothing of it is in a worker's pod, so no worker is restarted with it.
pub fn stateful_set<K: ServiceKind>(plan: &Plan<'_, K>, spec: &RedisSpec) -> StatefulSet {
    let names = &plan.names;
    let labels = names.labels(Component::Cache);
    let mut redis = confined("redis", &plan.redis_image, command(spec));
    redis.ports = Some(vec![port(PORT_NAME, PORT)]);
    redis.resources = Some(spec.resources.as_ref().map_or_else(|| needed(spec.memory_mib), Resources::requirements));
    redis.liveness_probe = Some(Probe { failure_threshold: Some(6), ..ping() });
    redis.readiness_probe = Some(Probe { period_seconds: Some(5), ..ping() });
    StatefulSet {
        metadata: names.meta(names.redis(), labels.clone()),
        spec: Some(StatefulSetSpec {
            replicas: Some(1),
            service_name: Some(names.redis()),
            selector: names.label_selector(Component::Cache),
            // One pod: a broken one is replaced when the spec is mended, and not waited for.
            pod_management_policy: Some("Parallel".to_owned()),
            // It reads nothing at its start but its command.
            template: template(labels, "", restricted(redis)),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

/// Nothing is written to a disk, and what is asked for least makes room when memory is full.
fn command(spec: &RedisSpec) -> Vec<String> {
    let memory = format!("{}mb", spec.memory_mib);
    // Its protection is for those that nothing else keeps strangers from; with it, no other pod gets an answer.
    let words = ["redis-server", "--protected-mode", "no", "--maxmemory", &memory, "--maxmemory-policy", "allkeys-lfu"];
    words.into_iter().chain(["--save", "", "--appendonly", "no"]).map(str::to_owned).collect()
}

/// `maxmemory` counts neither connections nor what is lost between pieces of memory.
fn needed(memory_mib: u32) -> ResourceRequirements {
    let memory = |mib: u32| ("memory".to_owned(), Quantity(format!("{mib}Mi")));
    ResourceRequirements {
        requests: Some(BTreeMap::from([("cpu".to_owned(), Quantity("20m".to_owned())), memory(memory_mib + 32)])),
        limits: Some(BTreeMap::from([memory(memory_mib + memory_mib / 2 + 64)])),
        ..ResourceRequirements::default()
    }
}

/// An answer, and not only a port that is open: Redis answers all from one thread.
fn ping() -> Probe {
    let command = ["redis-cli", "-p", &PORT.to_string(), "ping"].map(str::to_owned).to_vec();
    Probe { exec: Some(ExecAction { command: Some(command) }), timeout_seconds: Some(3), ..Probe::default() }
}

/// Where it is reached.
pub fn service<K: ServiceKind>(plan: &Plan<'_, K>) -> Service {
    let names = &plan.names;
    let port = ServicePort {
        name: Some(PORT_NAME.to_owned()),
        port: PORT,
        target_port: Some(IntOrString::String(PORT_NAME.to_owned())),
        ..ServicePort::default()
    };
    Service {
        metadata: names.meta(names.redis(), names.labels(Component::Cache)),
        spec: Some(KubernetesService {
            selector: Some(names.selector(Component::Cache)),
            ports: Some(vec![port]),
            ..KubernetesService::default()
        }),
        ..Service::default()
    }
}
