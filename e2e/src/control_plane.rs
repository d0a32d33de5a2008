//! Operators as plain processes against an API server that runs no pods, each test in a namespace of its own. What the chart
//! allows is all that they may do.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use shardlane_operator::api;
use shardlane_operator::api::signup_shard::SignupShard;
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;

use crate::{free_ports, setting, told, until};

/// How long anything may take to be said.
const PATIENCE: Duration = Duration::from_secs(60);

/// The project's own folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs a program of the project's environment, and gives what it prints.
pub async fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).current_dir(root()).stdin(Stdio::null()).output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {} failed: {said}", arguments.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

/// A namespace with the chart in it.
pub struct Place {
    /// May do everything.
    pub client: Client,
    /// Its name, and the chart's release.
    pub name: String,
    folder: PathBuf,
}

/// An operator; it ends with this.
pub struct Operator {
    child: Child,
    metrics: String,
    log: PathBuf,
}

impl Place {
    /// Makes it.
    pub async fn make(name: &str) -> Result<Self> {
        let client = Client::try_default().await?;
        install_crds().await?;
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        Api::all(client.clone()).create(&PostParams::default(), &namespace).await?;
        let watched = format!("watchNamespaces={{{name}}}");
        run("helm", &["install", name, "charts/shardlane", "--namespace", name, "--set", &watched]).await?;
        let folder = root().join("target/control-plane").join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder)?;
        Ok(Self { client, name: name.to_owned(), folder })
    }

    /// The name that the chart gives to what it makes.
    fn chart_name(&self) -> String {
        format!("{}-shardlane", self.name)
    }

    /// A token of the operator's service account.
    pub async fn token(&self) -> Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.name);
        let request = TokenRequest { spec: TokenRequestSpec::default(), ..TokenRequest::default() };
        let answer = accounts.create_token_request(&self.chart_name(), &PostParams::default(), &request).await?;
        Ok(answer.status.context("no token")?.token)
    }

    /// A kubeconfig of the operator's.
    async fn kubeconfig(&self, holder: &str, server: Option<&str>) -> Result<PathBuf> {
        let mut config: Value = serde_yaml::from_str(&std::fs::read_to_string(setting("KUBECONFIG")?)?)?;
        config["users"][0]["user"] = json!({ "token": self.token().await? });
        if let Some(server) = server {
            config["clusters"][0]["cluster"] = json!({ "server": server });
        }
        let file = self.folder.join(format!("{holder}.kubeconfig"));
        std::fs::write(&file, serde_yaml::to_string(&config)?)?;
        Ok(file)
    }

    /// Starts an operator; of the same holder's name it is one that was started again.
    pub async fn operator(&self, holder: &str) -> Result<Operator> {
        self.operator_at(holder, None).await
    }

    /// Starts an operator that reaches the API server somewhere else.
    pub async fn operator_at(&self, holder: &str, server: Option<&str>) -> Result<Operator> {
        let port = free_ports()?;
        let log = self.folder.join(format!("{holder}.log"));
        let program = Path::new(&setting("SHARDLANE_TEST_PROGRAMS")?).join("shardlane-operator");
        let child = Command::new(program)
            .arg("run")
            .env("KUBECONFIG", self.kubeconfig(holder, server).await?)
            .env("SHARDLANE_NAMESPACES", &self.name)
            .env("POD_NAMESPACE", &self.name)
            .env("POD_NAME", holder)
            .env("SHARDLANE_LEASE", self.chart_name())
            .env("SHARDLANE_SIGNUP_IMAGE", "example/signup:1")
            .env("SHARDLANE_WALLET_IMAGE", "example/wallet:1")
            .env("SHARDLANE_COUNTER_IMAGE", "example/counter:1")
            .env("SHARDLANE_BLOG_IMAGE", "example/blog:1")
            .env("SHARDLANE_REDIS_IMAGE", "example/redis:1")
            .env("SHARDLANE_MOVER_IMAGE", "example/mover:1")
            .env("SHARDLANE_METRICS_PORT", port.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::options().create(true).append(true).open(&log)?)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Operator { child, metrics: format!("http://127.0.0.1:{port}/metrics"), log })
    }

    /// Its services.
    pub fn services(&self) -> Api<SignupShard> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Makes a service.
    pub async fn create(&self, name: &str, spec: Value) -> Result<SignupShard> {
        let service = SignupShard::new(name, serde_json::from_value(spec)?);
        Ok(self.services().create(&PostParams::default(), &service).await?)
    }

    /// Makes a Secret.
    pub async fn secret(&self, name: &str, data: &[(&str, &str)]) -> Result<()> {
        let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let secret = Secret {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            string_data: Some(data.iter().map(text).collect()),
            ..Secret::default()
        };
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.name);
        secrets.create(&PostParams::default(), &secret).await?;
        Ok(())
    }

    /// Removes a Secret.
    pub async fn remove_secret(&self, name: &str) -> Result<()> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.name);
        secrets.delete(name, &DeleteParams::default()).await?;
        Ok(())
    }

    /// Waits until a condition has a reason; its message.
    pub async fn says(&self, name: &str, type_: &str, reason: &str) -> Result<String> {
        told::says(&self.services(), name, type_, reason, &[]).await
    }

    /// Waits until there is an event of this reason about a service; its note.
    pub async fn event(&self, name: &str, reason: &str) -> Result<String> {
        told::event(&self.client, &self.name, name, reason).await
    }
}

/// The CRDs, as people install them.
async fn install_crds() -> Result<()> {
    static DONE: OnceCell<()> = OnceCell::const_new();
    let install = async || {
        let arguments = ["install", "shardlane-crds", "charts/shardlane-crds", "--namespace", "kube-system"];
        run("helm", &arguments).await?;
        let crds: Vec<_> = api::kinds().iter().map(|kind| format!("crd/{}.{}", kind.plural, kind.group)).collect();
        let wait = ["wait", "--for=condition=Established", "--timeout=30s"].into_iter();
        run("kubectl", &wait.chain(crds.iter().map(String::as_str)).collect::<Vec<_>>()).await?;
        Ok(())
    };
    DONE.get_or_try_init(install).await.copied()
}

impl Operator {
    /// Its process.
    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("it has ended")
    }

    /// Ends it without a word.
    pub async fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(&mut self) -> Result<()> {
        let pid = self.pid()?.to_string();
        run("kill", &["-TERM", &pid]).await?;
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await.context("it did not stop")??;
        ensure!(status.success(), "{status}; its log: {}", self.log()?);
        Ok(())
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> Result<()> {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.context("it did not end")??;
        Ok(())
    }

    /// What it has logged.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }

    /// The sum of all values of a metric.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let text = reqwest::get(&self.metrics).await?.text().await?;
        let values =
            text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
        Ok(values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// The most memory of its own that it ever had, in bytes: without the file that its program is.
    pub fn peak_memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
            Ok::<_, anyhow::Error>(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
        };
        // What is read of the program's file can be read again, and a debug build's is larger.
        Ok(bytes("VmHWM:")?.saturating_sub(bytes("RssFile:")?))
    }
}

/// Waits until these services are settled.
pub async fn settled(place: &Place, names: &[&str]) -> Result<()> {
    until(PATIENCE, async || {
        for name in names {
            let service = place.services().get(name).await?;
            ensure!(told::is_settled(&service), "{} is not settled: {:?}", service.name_any(), service.status);
        }
        Ok(())
    })
    .await
}

/// A spec that needs nothing but a Secret of the name `database`.
pub fn external_spec(topic: &str) -> Value {
    json!({
        "partitions": 1,
        "maxPartitions": 4,
        "topics": { "request": format!("{topic}.request"), "response": format!("{topic}.response") },
        "kafka": { "external": { "bootstrapServers": "kafka:9092" } },
        "postgres": { "external": { "shards": [{ "secretRef": { "name": "database" } }] } },
    })
}

/// What the Secret `database` holds.
pub const DATABASE: [(&str, &str); 1] = [("uri", "postgresql://app:secret@db:5432/app")];
