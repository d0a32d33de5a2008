//! Services of plain processes, configured as the operator would.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use futures::future::try_join_all;
use serde_json::{Value, json};
use shardlane_operator::api::signup_shard::SignupShard;
use shardlane_operator::build::kafka::Kafka;
use shardlane_operator::build::names::Names;
use shardlane_operator::build::{Plan, config};
use shardlane_operator::identity::Identity;
use shardlane_operator::images::Images;
use shardlane_operator::kind::ServiceKind;
use shardlane_runtime::config::{KafkaConfig, ServiceConfig};

use crate::plain::PlainService;
use crate::postgres::Postgres;
use crate::setting;

impl PlainService {
    /// Makes a sign-up service of its spec; `name` is unique to the test.
    pub async fn prepare(name: &str, spec: Value) -> Result<Self> {
        Self::prepare_as::<SignupShard>(name, spec).await
    }

    /// Makes a service of any kind of its spec.
    pub async fn prepare_as<K: ServiceKind>(name: &str, spec: Value) -> Result<Self> {
        Self::prepare_on::<K>(name, spec, KafkaConfig::plain(&setting("SHARDLANE_TEST_KAFKA")?)).await
    }

    /// The same on another way to Kafka.
    pub async fn prepare_on<K: ServiceKind>(name: &str, spec: Value, kafka: KafkaConfig) -> Result<Self> {
        let (folder, config, partitions) = Self::described::<K>(name, spec, kafka)?;
        Self::configured(folder, K::PROGRAM, config, partitions).await
    }

    /// Makes a service of which each of the first shards has a server of its own, which may be lost.
    pub async fn prepare_apart<K: ServiceKind>(name: &str, spec: Value, servers: u32) -> Result<Self> {
        let kafka = KafkaConfig::plain(&setting("SHARDLANE_TEST_KAFKA")?);
        let (folder, config, partitions) = Self::described::<K>(name, spec, kafka)?;
        let names = (0..servers).map(|partition| format!("{name}-{partition}"));
        let servers = try_join_all(names.map(async |name| Postgres::start(&name).await)).await?;
        Self::apart(folder, K::PROGRAM, config, partitions, servers).await
    }

    /// Where its files lie, what its processes read, and how many partitions it begins with.
    fn described<K: ServiceKind>(
        name: &str,
        mut spec: Value,
        kafka: KafkaConfig,
    ) -> Result<(PathBuf, ServiceConfig, u32)> {
        spec["kafka"] = json!({ "external": { "bootstrapServers": kafka.bootstrap_servers } });
        spec["postgres"] = json!({ "external": { "shards": [] } });
        let partitions = u32::try_from(spec["partitions"].as_u64().context("partitions")?)?;
        let service: K = serde_json::from_value(json!({
            "apiVersion": K::api_version(&()), "kind": K::kind(&()), "spec": spec,
            "metadata": { "name": name, "namespace": "test", "uid": "test" },
        }))?;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/servers").join(name);
        let config = ServiceConfig { kafka, ..service_config(&service, name, partitions)? };
        Ok((folder, config, partitions))
    }
}

/// What the operator would tell the service's processes.
fn service_config<K: ServiceKind>(service: &K, name: &str, partitions: u32) -> Result<ServiceConfig> {
    let names = Names {
        service: name.to_owned(),
        namespace: "test".to_owned(),
        kind: K::kind(&()).into_owned(),
        owner: service.controller_owner_ref(&()).context("owner")?,
    };
    let id = uuid::Uuid::new_v4().to_string();
    let identity = Identity::first(id, partitions, service.service().max_partitions, String::new());
    let images = Images::default();
    let plan = Plan {
        service,
        names,
        identity,
        shards: Vec::new(),
        kafka: Kafka::default(),
        acls: false,
        credentials: BTreeMap::new(),
        image: String::new(),
        redis_image: String::new(),
        images: &images,
    };
    Ok(config::service_config(&plan)?)
}
