//! The gateway: stateless, as many as wanted.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::core::v1::{EnvVar, Service, ServiceSpec};

use super::names::Component;
use super::pods::{env, pod, resources, secret_env, server, service_ports, template};
use super::{BuildError, Plan, redis};
use crate::api::common::GatewaySpec;
use crate::kind::ServiceKind;

/// The gateway's pods.
pub fn deployment<K: ServiceKind>(plan: &Plan<'_, K>) -> Result<Deployment, BuildError> {
    let (names, spec) = (&plan.names, &plan.service.service().gateway);
    let labels = names.labels(Component::Gateway);
    let mut gateway = server("gateway", &plan.image, vec![K::PROGRAM.to_owned(), "gateway".to_owned()]);
    gateway.resources = Some(resources(spec.resources.as_ref(), "32Mi"));
    let variables: Vec<_> = variables(spec).chain(redis::address(plan)).collect();
    gateway.env = (!variables.is_empty()).then_some(variables);
    let hash = plan.hash(Component::Gateway)?;
    Ok(Deployment {
        metadata: names.meta(names.gateway(), labels.clone()),
        spec: Some(DeploymentSpec {
            replicas: Some(spec.replicas.cast_signed()),
            selector: names.label_selector(Component::Gateway),
            template: template(labels, &hash, pod(plan, Component::Gateway, gateway)),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    })
}

/// Whom it lets in.
fn variables(spec: &GatewaySpec) -> impl Iterator<Item = EnvVar> {
    let rate = spec.rate_limit.map(|rate| env("SHARDLANE_RATE_LIMIT", rate));
    let each = spec.client_rate_limit.map(|rate| env("SHARDLANE_CLIENT_RATE_LIMIT", rate));
    let proxy = spec.behind_proxy.then(|| env("SHARDLANE_BEHIND_PROXY", true));
    let token = spec.token_secret_ref.as_ref().map(|secret| secret_env("SHARDLANE_TOKEN", &secret.name, "token"));
    [rate, each, proxy, token].into_iter().flatten()
}

/// Where users reach the gateway.
pub fn service<K: ServiceKind>(plan: &Plan<'_, K>) -> Service {
    let names = &plan.names;
    Service {
        metadata: names.meta(names.gateway(), names.labels(Component::Gateway)),
        spec: Some(ServiceSpec {
            selector: Some(names.selector(Component::Gateway)),
            ports: Some(service_ports(80)),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
