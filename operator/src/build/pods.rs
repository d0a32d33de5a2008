//! What all our pods have in common: nothing they need not have.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction,
    ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
    SecretKeySelector, SecurityContext, ServicePort, TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;

use super::Plan;
use super::kafka;
use super::names::Component;
use crate::api::resources::Resources;
use crate::kind::ServiceKind;

/// Port of users, and of a worker's gateways.
pub const HTTP: i32 = 8080;
/// Port of probes, metrics and status.
pub const METRICS: i32 = 9090;
/// The user that every process of ours runs as.
const USER: i64 = 65_532;
/// The volume that the configuration is in.
pub const CONFIG_VOLUME: &str = "config";
/// Where the configuration is mounted.
const CONFIG_FOLDER: &str = "/etc/shardlane";
/// Changes when the configuration does.
const CONFIG_HASH: &str = "shardlane.dev/config-hash";

/// A container that can do nothing but run its program, which finds the service's configuration.
pub fn container(name: &str, image: &str, command: Vec<String>) -> Container {
    Container { volume_mounts: Some(vec![mount(CONFIG_VOLUME, CONFIG_FOLDER)]), ..confined(name, image, command) }
}

/// A container that can do nothing but run its program.
pub fn confined(name: &str, image: &str, command: Vec<String>) -> Container {
    Container {
        name: name.to_owned(),
        image: Some(image.to_owned()),
        command: Some(command),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
            ..SecurityContext::default()
        }),
        // A process that ends by itself says why in its last lines.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// A container that serves: HTTP, metrics, probes.
pub fn server(name: &str, image: &str, command: Vec<String>) -> Container {
    Container { ports: Some(vec![port("http", HTTP), metrics_port()]), ..probed(name, image, command) }
}

/// A container that serves metrics and probes alone.
pub fn probed(name: &str, image: &str, command: Vec<String>) -> Container {
    Container {
        ports: Some(vec![metrics_port()]),
        liveness_probe: Some(Probe { failure_threshold: Some(6), ..probe("/healthz") }),
        readiness_probe: Some(Probe { period_seconds: Some(2), ..probe("/readyz") }),
        ..container(name, image, command)
    }
}

/// Where a container says how it is.
pub fn metrics_port() -> ContainerPort {
    port("metrics", METRICS)
}

/// A port of a container.
pub fn port(name: &str, port: i32) -> ContainerPort {
    ContainerPort { name: Some(name.to_owned()), container_port: port, ..ContainerPort::default() }
}

fn probe(path: &str) -> Probe {
    let get = HTTPGetAction {
        path: Some(path.to_owned()),
        port: IntOrString::String("metrics".to_owned()),
        ..HTTPGetAction::default()
    };
    Probe { http_get: Some(get), timeout_seconds: Some(3), ..Probe::default() }
}

/// An environment variable from a Secret.
pub fn secret_env(name: &str, secret: &str, key: &str) -> EnvVar {
    let selector = SecretKeySelector { name: secret.to_owned(), key: key.to_owned(), ..SecretKeySelector::default() };
    env_from(name, EnvVarSource { secret_key_ref: Some(selector), ..EnvVarSource::default() })
}

/// An environment variable with the pod's name.
pub fn pod_name_env(name: &str) -> EnvVar {
    let field = ObjectFieldSelector { field_path: "metadata.name".to_owned(), ..ObjectFieldSelector::default() };
    env_from(name, EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() })
}

fn env_from(name: &str, source: EnvVarSource) -> EnvVar {
    EnvVar { name: name.to_owned(), value_from: Some(source), ..EnvVar::default() }
}

/// An environment variable.
pub fn env(name: &str, value: impl ToString) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_string()), ..EnvVar::default() }
}

/// A mount that cannot be written to.
pub fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    }
}

/// A Service's ports to a server: HTTP at `http`, and metrics.
pub fn service_ports(http: i32) -> Vec<ServicePort> {
    let port = |name: &str, port| ServicePort {
        name: Some(name.to_owned()),
        port,
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    };
    vec![port("http", http), port("metrics", METRICS)]
}

/// A pod of a part with the configuration and its credentials.
pub fn pod<K: ServiceKind>(plan: &Plan<'_, K>, part: Component, mut container: Container) -> PodSpec {
    let config = ConfigMapVolumeSource { name: plan.names.config(), ..ConfigMapVolumeSource::default() };
    let mut volumes = vec![Volume { name: CONFIG_VOLUME.to_owned(), config_map: Some(config), ..Volume::default() }];
    if let Some(volume) = plan.kafka.volume(&plan.names, part) {
        container.volume_mounts.get_or_insert_default().push(mount(&volume.name, kafka::FOLDER));
        volumes.push(volume);
    }
    PodSpec {
        topology_spread_constraints: Some(vec![spread(plan, part)]),
        volumes: Some(volumes),
        ..restricted(container)
    }
}

/// A pod under the `restricted` pod security standard, without a token of the API server.
pub fn restricted(container: Container) -> PodSpec {
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container],
        ..PodSpec::default()
    }
}

/// Over nodes, as far as there are enough.
fn spread<K: ServiceKind>(plan: &Plan<'_, K>, part: Component) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(plan.names.label_selector(part)),
        ..TopologySpreadConstraint::default()
    }
}

/// What a container asks for: what the spec says, else what it is known to need when it does little.
pub fn resources(spec: Option<&Resources>, memory: &str) -> ResourceRequirements {
    let quantity = |name: &str, amount: &str| (name.to_owned(), Quantity(amount.to_owned()));
    spec.map_or_else(
        || ResourceRequirements {
            requests: Some(BTreeMap::from([quantity("cpu", "20m"), quantity("memory", memory)])),
            ..ResourceRequirements::default()
        },
        Resources::requirements,
    )
}

/// A pod's template; `hash` makes pods anew when the configuration changes.
pub fn template(labels: BTreeMap<String, String>, hash: &str, spec: PodSpec) -> PodTemplateSpec {
    let annotations = BTreeMap::from([(CONFIG_HASH.to_owned(), hash.to_owned())]);
    let metadata = ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() };
    PodTemplateSpec { metadata: Some(metadata), spec: Some(spec) }
}
