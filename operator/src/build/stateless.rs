//! A loop without a shard: consumers that share the slots of a topic, as many as wanted.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};

use super::names::Component;
use super::pods::{pod, pod_name_env, probed, resources, template};
use super::{BuildError, Plan, redis};
use crate::kind::{ServiceKind, StatelessLoop};

/// Its pods. They have no volumes, but names that stay: by its name Kafka knows one again that was away for a moment,
/// and leaves it what it had.
pub fn stateful_set<K: ServiceKind>(plan: &Plan<'_, K>, each: StatelessLoop<'_>) -> Result<StatefulSet, BuildError> {
    let names = &plan.names;
    let labels = names.labels(Component::Stateless);
    let mut container = probed(each.name, &plan.image, vec![K::PROGRAM.to_owned(), each.name.to_owned()]);
    container.resources = Some(resources(each.resources, "32Mi"));
    container.env = Some(std::iter::once(pod_name_env("SHARDLANE_INSTANCE")).chain(redis::address(plan)).collect());
    let hash = plan.hash(Component::Stateless)?;
    Ok(StatefulSet {
        metadata: names.meta(names.stateless(each.name), labels.clone()),
        spec: Some(StatefulSetSpec {
            replicas: Some(each.replicas.cast_signed()),
            selector: names.label_selector(Component::Stateless),
            // None waits for another, and nobody looks for one in DNS: so there is no Service.
            pod_management_policy: Some("Parallel".to_owned()),
            template: template(labels, &hash, pod(plan, Component::Stateless, container)),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    })
}
