//! A service on a cluster.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use shardlane_operator::api::signup_shard::SignupShard;
use shardlane_operator::api::status::ServiceStatus;
use shardlane_operator::build::cloud_native_pg::Cluster;
use shardlane_operator::images::Images;
use shardlane_operator::kind::ServiceKind;
use shardlane_runtime::config::ServiceConfig;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use tokio::process::Command;
use tokio::runtime::Runtime;
use tokio::sync::OnceCell;

use crate::faults::signal_worker;
use crate::forward::Forward;
use crate::told::condition;
use crate::{setting, until};

/// The namespace of the tests' services.
pub const NAMESPACE: &str = "default";
/// Kafka, as pods reach it.
pub const KAFKA: &str = "kafka.kafka:9092";

/// Whether services use a Kafka that Strimzi runs, of the name `kafka` in the tests' namespace (`E2E_KAFKA=strimzi`).
pub fn on_strimzi() -> bool {
    std::env::var("E2E_KAFKA").is_ok_and(|kafka| kafka == "strimzi")
}

/// Where the broker's pod is, and its labels.
pub fn broker() -> (&'static str, [(&'static str, &'static str); 2]) {
    if on_strimzi() {
        (NAMESPACE, [("strimzi.io/cluster", "kafka"), ("strimzi.io/name", "kafka-kafka")])
    } else {
        ("kafka", [("app.kubernetes.io/name", "kafka"), ("app.kubernetes.io/component", "broker")])
    }
}

/// The broker's labels, as the API server reads them.
pub fn broker_selector() -> String {
    broker().1.map(|(key, value)| format!("{key}={value}")).join(",")
}

/// What a spec says of Kafka.
fn kafka_of_spec() -> serde_json::Value {
    if on_strimzi() {
        serde_json::json!({ "strimzi": { "cluster": "kafka" } })
    } else {
        serde_json::json!({ "external": { "bootstrapServers": KAFKA } })
    }
}
/// Kafka, as tests reach it: the broker says this very address, so the port is fixed.
pub const FORWARDED_KAFKA: &str = "127.0.0.1:19092";

/// A way to the broker, opened once for all tests of a process; on a runtime of its own, for a test's ends with the test.
pub async fn kafka() -> Result<Arc<Forward>> {
    static RUNTIME: OnceCell<Runtime> = OnceCell::const_new();
    static KAFKA: OnceCell<Arc<Forward>> = OnceCell::const_new();
    let make = async || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = RUNTIME.get_or_try_init(make).await?;
    let open = async || {
        let opened = runtime.spawn(async {
            let client = Client::try_default().await?;
            Forward::open(&client, broker().0, &broker_selector(), 19_092, 19_092).await
        });
        Ok::<_, anyhow::Error>(Arc::new(opened.await??))
    };
    Ok(Arc::clone(KAFKA.get_or_try_init(open).await?))
}

/// A SignupShard on the cluster.
pub type ClusterService = ServiceOf<SignupShard>;

/// A service of some kind on the cluster.
pub struct ServiceOf<K> {
    client: Client,
    /// Its name.
    pub name: String,
    /// What its processes read.
    pub config: ServiceConfig,
    forwards: Vec<Forward>,
    kind: PhantomData<K>,
}

impl<K: ServiceKind> ServiceOf<K> {
    /// Makes a service and waits until it is ready. What the spec does not say of Kafka and of the image is as the run has it.
    pub async fn start(client: &Client, name: &str, spec: serde_json::Value) -> Result<Self> {
        create_as::<K>(client, name, spec).await?;
        Self::ready(client, name).await
    }

    /// Waits until a service is ready.
    pub async fn ready(client: &Client, name: &str) -> Result<Self> {
        let config = wait_ready::<K>(client, name).await?;
        Ok(Self { client: client.clone(), name: name.to_owned(), config, forwards: Vec::new(), kind: PhantomData })
    }

    /// URL of its gateway.
    pub async fn gateway(&mut self) -> Result<String> {
        Ok(format!("http://{}", self.reach("gateway", 8080).await?))
    }

    /// Where a port of the pods of one of its parts is reached.
    pub async fn reach(&mut self, part: &str, port: u16) -> Result<SocketAddr> {
        let forward = Forward::open(&self.client, NAMESPACE, &self.part(part), port, 0).await?;
        let address = forward.address;
        self.forwards.push(forward);
        Ok(address)
    }

    /// Labels of the pods of one of its parts.
    pub fn part(&self, part: &str) -> String {
        format!("app.kubernetes.io/instance={},app.kubernetes.io/component={part}", self.name)
    }

    /// A connection to the primary of a partition's CloudNativePG Cluster.
    pub async fn shard(&mut self, partition: u32) -> Result<PgConnection> {
        let cluster = format!("{}-shard-{partition}", self.name);
        let forward = Forward::open(&self.client, NAMESPACE, &self.primary(partition), 5432, 0).await?;
        let secret = Api::<Secret>::namespaced(self.client.clone(), NAMESPACE).get(&format!("{cluster}-app")).await?;
        let uri = secret.data.as_ref().and_then(|data| data.get("uri")).context("no uri")?;
        let options: PgConnectOptions = String::from_utf8(uri.0.clone())?.parse()?;
        let options = options.host("127.0.0.1").port(forward.address.port());
        self.forwards.push(forward);
        Ok(options.connect().await?)
    }

    /// The worker's pod.
    pub async fn worker(&self, partition: u32) -> Result<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        Ok(pods.get(&format!("{}-{partition}-0", self.name)).await?)
    }

    /// Kills a worker's process on its node with SIGKILL, and waits until it is ready again.
    pub async fn kill_worker(&self, partition: u32) -> Result<()> {
        let pod = self.worker(partition).await?;
        let restarts = restarts_of(&pod);
        signal_worker(&pod, "KILL").await?;
        until(Duration::from_secs(120), async || {
            let pod = self.worker(partition).await?;
            if restarts_of(&pod) > restarts && crate::forward::is_ready(&pod) {
                Ok(())
            } else {
                bail!("{} is not back", pod.name_any())
            }
        })
        .await
    }

    /// Labels of the primary of a partition's CloudNativePG Cluster.
    pub fn primary(&self, partition: u32) -> String {
        format!("cnpg.io/cluster={}-shard-{partition},cnpg.io/instanceRole=primary", self.name)
    }

    /// What the operator says of it.
    pub async fn status(&self) -> Result<ServiceStatus> {
        Ok(of_kind::<K>(&self.client).get(&self.name).await?.status().cloned().unwrap_or_default())
    }

    /// Waits until its condition Ready is true, and every instance of its shards is back.
    pub async fn whole(&self, patience: Duration) -> Result<()> {
        let clusters: Api<Cluster> = Api::namespaced(self.client.clone(), NAMESPACE);
        until(patience, async || {
            let status = self.status().await?;
            for partition in &status.partitions {
                let cluster = clusters.get(&partition.shard).await?;
                let (spec, status) = (cluster.spec, cluster.status.unwrap_or_default());
                let phase = status.phase.unwrap_or_default();
                if status.ready_instances < spec.instances || phase != "Cluster in healthy state" {
                    bail!("{}: {} instances are ready: {phase}", partition.shard, status.ready_instances);
                }
            }
            ready(&status)
        })
        .await
    }

    /// Waits until the operator has seen its spec as it is and there is nothing to wait for.
    pub async fn settled(&self, patience: Duration) -> Result<()> {
        until(patience, async || {
            let now = of_kind::<K>(&self.client).get(&self.name).await?;
            if crate::told::is_settled(&now) {
                Ok(())
            } else {
                bail!("{} is not settled: {:?}", self.name, now.status())
            }
        })
        .await
    }

    /// Deletes the service and its databases.
    pub async fn remove(self) -> Result<()> {
        remove_as::<K>(&self.client, &self.name).await
    }
}

/// Makes a sign-up service.
pub async fn create(client: &Client, name: &str, spec: serde_json::Value) -> Result<()> {
    create_as::<SignupShard>(client, name, spec).await
}

/// Makes a service.
async fn create_as<K: ServiceKind>(client: &Client, name: &str, mut spec: serde_json::Value) -> Result<()> {
    if spec["kafka"].is_null() {
        spec["kafka"] = kafka_of_spec();
    }
    if spec["worker"]["image"].is_null() {
        let images = Images {
            signup_image: setting("SHARDLANE_TEST_SIGNUP_IMAGE")?,
            wallet_image: setting("SHARDLANE_TEST_WALLET_IMAGE")?,
            counter_image: setting("SHARDLANE_TEST_COUNTER_IMAGE")?,
            blog_image: setting("SHARDLANE_TEST_BLOG_IMAGE")?,
            ..Images::default()
        };
        spec["worker"]["image"] = K::default_image(&images).into();
    }
    let service: K = serde_json::from_value(serde_json::json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": { "name": name }, "spec": spec,
    }))?;
    of_kind(client).create(&PostParams::default(), &service).await.context("the service was refused")?;
    Ok(())
}

/// Changes a sign-up service.
pub async fn change(client: &Client, name: &str, spec: &serde_json::Value) -> Result<()> {
    change_as::<SignupShard>(client, name, spec).await
}

/// Changes a service.
pub async fn change_as<K: ServiceKind>(client: &Client, name: &str, spec: &serde_json::Value) -> Result<()> {
    let patch = serde_json::json!({ "spec": spec });
    of_kind::<K>(client).patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

/// Removes a sign-up service whole: the resource, its data and its identity.
pub async fn remove(client: &Client, name: &str) -> Result<()> {
    remove_as::<SignupShard>(client, name).await
}

async fn remove_as<K: ServiceKind>(client: &Client, name: &str) -> Result<()> {
    let services = of_kind::<K>(client);
    let policy = serde_json::json!({ "spec": { "deletionPolicy": "Delete" } });
    if services.get_opt(name).await?.is_none() {
        return Ok(());
    }
    let patched = services.patch(name, &PatchParams::default(), &Patch::Merge(&policy)).await?;
    let generation = patched.meta().generation;
    until(Duration::from_secs(60), async || {
        let status = services.get(name).await?.status().cloned().unwrap_or_default();
        if status.observed_generation == generation { Ok(()) } else { bail!("the operator has not seen the policy") }
    })
    .await?;
    services.delete(name, &DeleteParams::foreground()).await?;
    until(Duration::from_secs(180), async || match services.get_opt(name).await? {
        None => Ok(()),
        Some(_) => bail!("{name} is still there"),
    })
    .await
}

/// The tests' sign-up services.
pub fn services(client: &Client) -> Api<SignupShard> {
    of_kind(client)
}

fn of_kind<K: ServiceKind>(client: &Client) -> Api<K> {
    Api::namespaced(client.clone(), NAMESPACE)
}

async fn wait_ready<K: ServiceKind>(client: &Client, name: &str) -> Result<ServiceConfig> {
    let services = of_kind::<K>(client);
    until(Duration::from_secs(300), async || {
        let service = services.get(name).await?;
        ready(&service.status().cloned().unwrap_or_default()).with_context(|| name.to_owned())
    })
    .await?;
    let map = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE).get(&format!("{name}-config")).await?;
    let text = map.data.as_ref().and_then(|data| data.get("service.yaml")).context("no service.yaml")?;
    Ok(serde_yaml::from_str(text)?)
}

fn ready(status: &ServiceStatus) -> Result<()> {
    match condition(status, "Ready") {
        Some(ready) if ready.status == "True" => Ok(()),
        Some(ready) => bail!("{}: {}", ready.reason, ready.message),
        None => bail!("the operator has not said anything"),
    }
}

/// How often the containers of a pod were started again.
pub fn restarts_of(pod: &Pod) -> i32 {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    containers.into_iter().flatten().map(|container| container.restart_count).sum()
}

/// Runs a command on the cluster's node.
pub async fn on_node(command: &[&str]) -> Result<String> {
    let cluster = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/cluster");
    let output = Command::new(cluster).arg("node").args(command).output().await?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{command:?} fails on the node: {said}");
    Ok(said)
}
