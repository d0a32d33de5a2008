//! What all Jobs have in common in which the mover looks into shards.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Container, EmptyDirVolumeSource, KeyToPath, SecretVolumeSource, Volume, VolumeMount};

use super::config;
use super::names::Component;
use super::pods::{METRICS, container, metrics_port, mount, pod, template};
use super::{BuildError, Plan};
use crate::kind::ServiceKind;

const SCHEMA_FOLDER: &str = "/schema";
const SCHEMA_FILE: &str = "/schema/schema.json";
const SHARDS_FOLDER: &str = "/shards";

/// An argument of the mover.
pub(super) fn argument(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}

/// Such a Job, and what changes when it does: part of its name has to, since a Job itself cannot be changed.
pub(super) fn job<K: ServiceKind>(
    plan: &Plan<'_, K>,
    part: Component,
    command: Vec<String>,
    grace_seconds: Option<i64>,
) -> Result<(Job, String), BuildError> {
    let labels = plan.names.labels(part);
    let mut spec = pod(plan, part, mover(plan, command));
    spec.restart_policy = Some("OnFailure".to_owned());
    spec.termination_grace_period_seconds = grace_seconds;
    // The service's own image says what its tables are, so that the mover need not know any service.
    spec.init_containers = Some(vec![schema(plan)]);
    let volumes = spec.volumes.get_or_insert_default();
    volumes.push(Volume {
        name: "schema".to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    });
    for shard in &plan.shards {
        volumes.push(Volume {
            name: format!("shard-{}", shard.partition),
            secret: Some(SecretVolumeSource {
                secret_name: Some(shard.secret.clone()),
                items: Some(vec![KeyToPath { key: "uri".to_owned(), path: "uri".to_owned(), mode: None }]),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    // It reads how to reach the shards when it starts, and a database that is another one has to be prepared anew.
    let versions: Vec<_> = plan.shards.iter().map(|shard| shard.version.as_deref().unwrap_or_default()).collect();
    let reads = format!("{}-{}", plan.hash(part)?, config::short_hash(&versions.join(" ")));
    let template = template(labels.clone(), &reads, spec);
    let hash = config::short_hash(&serde_json::to_string(&template)?);
    let spec = JobSpec { template, backoff_limit: Some(1_000), ..JobSpec::default() };
    Ok((Job { metadata: plan.names.meta(String::new(), labels), spec: Some(spec), ..Job::default() }, hash))
}

fn mover<K: ServiceKind>(plan: &Plan<'_, K>, command: Vec<String>) -> Container {
    let mut mover = container("mover", &plan.images.mover_image, command);
    mover.command.get_or_insert_default().push(argument("status-port", METRICS));
    mover.ports = Some(vec![metrics_port()]);
    let mounts = mover.volume_mounts.get_or_insert_default();
    mounts.push(mount("schema", SCHEMA_FOLDER));
    for shard in &plan.shards {
        mounts.push(mount(&format!("shard-{}", shard.partition), &format!("{SHARDS_FOLDER}/{}", shard.partition)));
    }
    mover
}

/// The mover's subcommand, and where it finds tables and shards.
pub(super) fn command(subcommand: &str) -> Vec<String> {
    let words = ["mover", subcommand].map(str::to_owned).into_iter();
    words.chain([argument("schema", SCHEMA_FILE), argument("shards", SHARDS_FOLDER)]).collect()
}

fn schema<K: ServiceKind>(plan: &Plan<'_, K>) -> Container {
    let command = ["schema", "--format=json", &format!("--output={SCHEMA_FILE}")].map(str::to_owned);
    let command = std::iter::once(K::PROGRAM.to_owned()).chain(command).collect();
    let mut schema = container("schema", &plan.image, command);
    let mounts = schema.volume_mounts.get_or_insert_default();
    mounts.push(VolumeMount { read_only: None, ..mount("schema", SCHEMA_FOLDER) });
    schema
}
