//! The init Job: topics, tables and the first slot table.

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

/// The Job. Its name changes with what it does, since a Job itself cannot be changed.
pub fn job<K: ServiceKind>(plan: &Plan<'_, K>) -> Result<Job, BuildError> {
    let names = &plan.names;
    let labels = names.labels(Component::Init);
    let mut spec = pod(plan, Component::Init, mover(plan));
    spec.restart_policy = Some("OnFailure".to_owned());
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
    let template = template(labels.clone(), &plan.hash(Component::Init)?, spec);
    let hash = config::short_hash(&serde_json::to_string(&template)?);
    Ok(Job {
        metadata: names.meta(format!("{}-init-{hash}", names.service), labels),
        spec: Some(JobSpec { template, backoff_limit: Some(1_000), ..JobSpec::default() }),
        ..Job::default()
    })
}

fn mover<K: ServiceKind>(plan: &Plan<'_, K>) -> Container {
    let argument = |name: &str, value: &str| format!("--{name}={value}");
    let command = vec![
        "mover".to_owned(),
        "init".to_owned(),
        argument("schema", SCHEMA_FILE),
        argument("shards", SHARDS_FOLDER),
        argument("partitions", &plan.identity.partitions.to_string()),
        argument("plan-id", &format!("init-{}", plan.identity.service_id)),
        argument("status-port", &METRICS.to_string()),
    ];
    let mut mover = container("mover", &plan.images.mover_image, command);
    mover.ports = Some(vec![metrics_port()]);
    let mounts = mover.volume_mounts.get_or_insert_default();
    mounts.push(mount("schema", SCHEMA_FOLDER));
    for shard in &plan.shards {
        mounts.push(mount(&format!("shard-{}", shard.partition), &format!("{SHARDS_FOLDER}/{}", shard.partition)));
    }
    mover
}

fn schema<K: ServiceKind>(plan: &Plan<'_, K>) -> Container {
    let command = ["schema", "--format=json", &format!("--output={SCHEMA_FILE}")].map(str::to_owned);
    let command = std::iter::once(K::PROGRAM.to_owned()).chain(command).collect();
    let mut schema = container("schema", &plan.image, command);
    let mounts = schema.volume_mounts.get_or_insert_default();
    mounts.push(VolumeMount { read_only: None, ..mount("schema", SCHEMA_FOLDER) });
    schema
}
