//! Services of plain processes, configured as the operator would.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use kube::api::ObjectMeta;
use shardlane_operator::api::signup_shard::SignupShard;
use shardlane_operator::build::kafka::Kafka;
use shardlane_operator::build::names::Names;
use shardlane_operator::build::{Plan, config};
use shardlane_operator::identity::Identity;
use shardlane_operator::images::Images;
use shardlane_runtime::config::{KafkaConfig, ServiceConfig};

use crate::plain::PlainService;
use crate::setting;

impl PlainService {
    /// Makes a service of a SignupShard's spec; `name` is unique to the test.
    pub async fn prepare(name: &str, spec: serde_json::Value) -> Result<Self> {
        Self::prepare_on(name, spec, KafkaConfig::plain(&setting("SHARDLANE_TEST_KAFKA")?)).await
    }

    /// The same on another way to Kafka.
    pub async fn prepare_on(name: &str, mut spec: serde_json::Value, kafka: KafkaConfig) -> Result<Self> {
        spec["kafka"] = serde_json::json!({ "external": { "bootstrapServers": kafka.bootstrap_servers } });
        spec["postgres"] = serde_json::json!({ "external": { "shards": [] } });
        let partitions = u32::try_from(spec["partitions"].as_u64().context("partitions")?)?;
        let mut service = SignupShard::new(name, serde_json::from_value(spec)?);
        service.metadata =
            ObjectMeta { uid: Some("test".to_owned()), namespace: Some("test".to_owned()), ..service.metadata };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/servers").join(name);
        let config = ServiceConfig { kafka, ..service_config(&service, partitions)? };
        Self::configured(folder, config, partitions).await
    }
}

/// What the operator would tell the service's processes.
fn service_config(service: &SignupShard, partitions: u32) -> Result<ServiceConfig> {
    let names = Names {
        service: service.metadata.name.clone().context("name")?,
        namespace: "test".to_owned(),
        kind: "SignupShard".to_owned(),
        owner: kube::Resource::controller_owner_ref(service, &()).context("owner")?,
    };
    let identity = Identity {
        service_id: uuid::Uuid::new_v4().to_string(),
        partitions,
        max_partitions: service.spec.service.max_partitions,
        fixed: String::new(),
        placed: false,
    };
    let images = Images { signup_image: String::new(), mover_image: String::new() };
    let plan = Plan {
        service,
        names,
        identity,
        shards: Vec::new(),
        kafka: Kafka::default(),
        acls: false,
        credentials: BTreeMap::new(),
        image: String::new(),
        images: &images,
    };
    Ok(config::service_config(&plan)?)
}
