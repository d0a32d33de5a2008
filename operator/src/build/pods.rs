//! What all our pods have in common: nothing they need not have.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction,
    PodSecurityContext, PodSpec, PodTemplateSpec, Probe, SeccompProfile, SecretKeySelector, SecurityContext,
    ServicePort, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;

use super::names::Names;

/// The user that every process of ours runs as.
const USER: i64 = 65_532;
/// Where the configuration is mounted.
const CONFIG_FOLDER: &str = "/etc/shardlane";
/// Changes when the configuration does.
const CONFIG_HASH: &str = "shardlane.dev/config-hash";

/// A container that can do nothing but run its program.
pub fn container(name: &str, image: &str, command: Vec<String>) -> Container {
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
        volume_mounts: Some(vec![mount("config", CONFIG_FOLDER)]),
        ..Container::default()
    }
}

/// A container that serves: HTTP, metrics, probes.
pub fn server(name: &str, image: &str, command: Vec<String>) -> Container {
    let port = |name: &str, port| ContainerPort {
        name: Some(name.to_owned()),
        container_port: port,
        ..ContainerPort::default()
    };
    Container {
        ports: Some(vec![port("http", 8080), port("metrics", 9090)]),
        liveness_probe: Some(Probe { failure_threshold: Some(6), ..probe("/healthz") }),
        readiness_probe: Some(Probe { period_seconds: Some(2), ..probe("/readyz") }),
        ..container(name, image, command)
    }
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
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource { secret_key_ref: Some(selector), ..EnvVarSource::default() }),
        ..EnvVar::default()
    }
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
    vec![port("http", http), port("metrics", 9090)]
}

/// A pod with the configuration, under the `restricted` pod security standard, without a token of the API server.
pub fn pod(names: &Names, container: Container) -> PodSpec {
    let config = ConfigMapVolumeSource { name: names.config(), ..ConfigMapVolumeSource::default() };
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
        volumes: Some(vec![Volume { name: "config".to_owned(), config_map: Some(config), ..Volume::default() }]),
        containers: vec![container],
        ..PodSpec::default()
    }
}

/// A pod's template; `hash` makes pods anew when the configuration changes.
pub fn template(labels: BTreeMap<String, String>, hash: &str, spec: PodSpec) -> PodTemplateSpec {
    let annotations = BTreeMap::from([(CONFIG_HASH.to_owned(), hash.to_owned())]);
    let metadata = ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..ObjectMeta::default() };
    PodTemplateSpec { metadata: Some(metadata), spec: Some(spec) }
}
