//! The workers: one StatefulSet for each partition, so that a pod sees its own shard's Secret and no other.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::config;
use super::names::{Component, PARTITION, TEMPLATE};
use super::pods::{env, pod, resources, secret_env, server, service_ports, template};
use super::shards::ShardSource;
use super::{BuildError, Plan};
use crate::kind::ServiceKind;

/// The worker of a partition. The number of partitions is nowhere in it, so scaling restarts nobody.
pub fn stateful_set<K: ServiceKind>(plan: &Plan<'_, K>, shard: &ShardSource) -> Result<StatefulSet, BuildError> {
    let (names, spec) = (&plan.names, plan.service.service());
    let labels = names.labels_of(Component::Worker, shard.partition);
    let mut selector = names.selector(Component::Worker);
    selector.insert(PARTITION.to_owned(), shard.partition.to_string());
    let mut worker = server("worker", &plan.image, vec![K::PROGRAM.to_owned(), "worker".to_owned()]);
    worker.resources = Some(resources(spec.worker.resources.as_ref(), "64Mi"));
    worker.env = Some(vec![
        env("SHARDLANE_PARTITION", shard.partition),
        secret_env("SHARDLANE_POSTGRES_URI", &shard.secret, "uri"),
    ]);
    // A pod reads its shard's Secret when it starts, so a new Secret means a new pod.
    let hash = format!("{}-{}", plan.hash(Component::Worker)?, shard.version.as_deref().unwrap_or_default());
    let template = template(labels.clone(), &hash, pod(plan, Component::Worker, worker));
    let mut metadata = names.meta(names.worker(shard.partition), labels);
    let changes = config::short_hash(&serde_json::to_string(&template)?);
    metadata.annotations = Some(BTreeMap::from([(TEMPLATE.to_owned(), changes)]));
    Ok(StatefulSet {
        metadata,
        spec: Some(StatefulSetSpec {
            replicas: Some(1),
            service_name: Some(names.workers()),
            selector: LabelSelector { match_labels: Some(selector), ..LabelSelector::default() },
            // One pod: a broken one is replaced when the spec is mended, and not waited for.
            pod_management_policy: Some("Parallel".to_owned()),
            template,
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    })
}

/// Gives the workers' pods their names.
pub fn service<K: ServiceKind>(plan: &Plan<'_, K>) -> Service {
    let names = &plan.names;
    Service {
        metadata: names.meta(names.workers(), names.labels(Component::Worker)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            // A worker that waits for its broker can still be read from.
            publish_not_ready_addresses: Some(true),
            selector: Some(names.selector(Component::Worker)),
            ports: Some(service_ports(8080)),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
