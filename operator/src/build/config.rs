//! The configuration that every process of a service reads.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use sha2::{Digest, Sha256};
use shardlane_config::{PLACED_FILE, ServiceConfig};

use super::kafka::{self, User};
use super::names::Component;
use super::{BuildError, Plan};
use crate::kind::ServiceKind;

/// The key in the ConfigMap, which is the name of the mounted file.
pub const FILE: &str = "service.yaml";

/// What the processes are told.
pub fn service_config<K: ServiceKind>(plan: &Plan<'_, K>) -> Result<ServiceConfig, BuildError> {
    let (spec, names) = (plan.service.service(), &plan.names);
    Ok(ServiceConfig {
        name: names.service.clone(),
        id: plan.identity.service_id.clone(),
        max_partitions: plan.identity.max_partitions,
        partitioner: spec.partitioner.into(),
        kafka: plan.kafka.config(),
        topics: plan.topics().into_iter().map(|topic| topic.config).collect(),
        worker_url: format!(
            "http://{service}-{{partition}}-0.{workers}.{namespace}:8080",
            service = names.service,
            workers = names.workers(),
            namespace = names.namespace,
        ),
        outcome_retention_ms: (spec.outcome_retention_hours > 0)
            .then(|| u64::from(spec.outcome_retention_hours) * 3_600_000),
        settings: plan.service.settings()?,
    })
}

/// The file that they read.
pub fn text<K: ServiceKind>(plan: &Plan<'_, K>) -> Result<String, BuildError> {
    Ok(serde_yaml::to_string(&service_config(plan)?)?)
}

/// The ConfigMap that is mounted.
pub fn config_map<K: ServiceKind>(plan: &Plan<'_, K>) -> Result<ConfigMap, BuildError> {
    let metadata = plan.names.meta(plan.names.config(), plan.names.labels(Component::Config));
    let mut data = BTreeMap::from([(FILE.to_owned(), text(plan)?)]);
    if plan.kafka.user == Some(User::OfEachPart) {
        data.extend(kafka::parts(plan.service).map(|part| (kafka::user_key(part), plan.names.kafka_user(part))));
    }
    if plan.identity.placed {
        // Read by the mover; not in the hash, for nothing that runs need know it.
        data.insert(PLACED_FILE.to_owned(), String::new());
    }
    Ok(ConfigMap { metadata, data: Some(data), ..ConfigMap::default() })
}

/// Changes when the configuration does, so that pods are made anew with it.
pub fn hash<K: ServiceKind>(plan: &Plan<'_, K>) -> Result<String, BuildError> {
    Ok(short_hash(&text(plan)?))
}

/// Ten hexadecimal digits of a text.
pub fn short_hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}
