//! How much of a service may be taken away at once by whoever drains nodes.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Plan;
use super::names::{Component, Names};
use crate::kind::ServiceKind;

/// One of each part at a time. One alone may go too: a budget that lets nothing go would hold up a node for ever.
pub fn budgets<K: ServiceKind>(plan: &Plan<'_, K>) -> Vec<PodDisruptionBudget> {
    let names = &plan.names;
    let stateless = plan.service.stateless().map(|each| (names.stateless(each.name), Component::Stateless));
    let parts = [(names.workers(), Component::Worker), (names.gateway(), Component::Gateway)];
    parts.into_iter().chain(stateless).map(|(name, part)| budget(names, name, part)).collect()
}

fn budget(names: &Names, name: String, part: Component) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: names.meta(name, names.labels(part)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(names.label_selector(part)),
            // One that does not work anyway never holds up a node.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
