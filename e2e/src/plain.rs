//! A service of plain processes, on the Kafka and Postgres that the test run started.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use shardlane_runtime::config::ServiceConfig;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::process::{Child, Command};

use crate::postgres::Postgres;
use crate::topic::Admin;
use crate::{free_ports, metric_of, setting, signal, until};

/// A service: configured, prepared by the mover, with databases of its own.
pub struct PlainService {
    /// What its processes read.
    pub config: ServiceConfig,
    /// The program of its workers and gateways.
    program: &'static str,
    folder: PathBuf,
    shards: AtomicU32,
    /// Of the first shards, if each has a server of its own.
    servers: Vec<Postgres>,
    worker_ports: u16,
}

/// A process of a service.
pub struct Process {
    child: Child,
    /// Where its users reach it.
    pub url: String,
    probes: String,
    log: PathBuf,
}

/// The variable with a dying worker's port for gateways.
pub const HTTP_PORT: &str = "SHARDLANE_HTTP_PORT";
/// The variable with its port for probes.
pub const METRICS_PORT: &str = "SHARDLANE_METRICS_PORT";

/// A point of the loop at which a worker can be made to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// Everything of a batch is written, and nothing is committed.
    BeforeCommit,
    /// A batch is committed, and nobody knows.
    AfterCommit,
    /// Half of a window is published.
    MidRelay,
    /// A window is published, and the mark says that it is not.
    BeforeMark,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::BeforeCommit, Self::AfterCommit, Self::MidRelay, Self::BeforeMark];

    /// Its name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::BeforeCommit => "before-commit",
            Self::AfterCommit => "after-commit",
            Self::MidRelay => "mid-relay",
            Self::BeforeMark => "before-mark",
        }
    }
}

impl std::str::FromStr for Point {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|point| point.name() == name).with_context(|| format!("no point {name}"))
    }
}

impl PlainService {
    /// Makes a service. Its files are kept in the folder until the next run: a run that failed is explained by its logs.
    pub async fn configured(
        folder: PathBuf,
        program: &'static str,
        config: ServiceConfig,
        partitions: u32,
    ) -> Result<Self> {
        Self::made(folder, program, config, partitions, None, Vec::new()).await
    }

    /// The same, with a server for each of its shards.
    pub async fn apart(
        folder: PathBuf,
        program: &'static str,
        config: ServiceConfig,
        partitions: u32,
        servers: Vec<Postgres>,
    ) -> Result<Self> {
        Self::made(folder, program, config, partitions, None, servers).await
    }

    /// The same, with databases that begin as copies of this one, which nobody may be connected to.
    pub async fn copied(
        folder: PathBuf,
        program: &'static str,
        config: ServiceConfig,
        partitions: u32,
        database: &str,
    ) -> Result<Self> {
        Self::made(folder, program, config, partitions, Some(database), Vec::new()).await
    }

    async fn made(
        folder: PathBuf,
        program: &'static str,
        mut config: ServiceConfig,
        partitions: u32,
        database: Option<&str>,
        servers: Vec<Postgres>,
    ) -> Result<Self> {
        let _ = std::fs::remove_dir_all(&folder);
        // Ports that differ in their last digit stand for the pods' names.
        let worker_ports = free_ports()?;
        config.worker_url = format!("http://127.0.0.1:{}{{partition}}", worker_ports / 10);
        let service = Self { config, program, folder, shards: 0.into(), servers, worker_ports };
        service.make_shards(partitions, database).await?;
        service.write_config()?;
        service.init().await?;
        Ok(service)
    }

    /// Makes the shards that are missing to this number.
    async fn make_shards(&self, shards: u32, database: Option<&str>) -> Result<()> {
        // Files are copied several times as fast as their pages pass through the log, and are on the disk afterwards.
        let copied = database.map(|name| format!(" TEMPLATE \"{name}\" STRATEGY file_copy")).unwrap_or_default();
        for partition in self.shard_count()..shards {
            self.administer(partition, format!("CREATE DATABASE \"{}\"{copied}", self.database(partition))).await?;
            let shard = self.folder.join("shards").join(partition.to_string());
            std::fs::create_dir_all(&shard)?;
            std::fs::write(shard.join("uri"), self.uri(partition)?)?;
        }
        self.shards.store(shards, Ordering::Relaxed);
        Ok(())
    }

    /// How many shards it has.
    pub fn shard_count(&self) -> u32 {
        self.shards.load(Ordering::Relaxed)
    }

    /// Gives it more shards, which have no slots yet.
    pub async fn grow(&self, shards: u32) -> Result<()> {
        self.note_placed()?;
        self.make_shards(shards, None).await?;
        self.init().await
    }

    /// Writes the configuration that processes read at their start.
    pub fn write_config(&self) -> Result<()> {
        Ok(std::fs::write(self.config_file(), serde_yaml::to_string(&self.config)?)?)
    }

    /// The file that its processes read.
    pub fn config_file(&self) -> PathBuf {
        self.folder.join("service.yaml")
    }

    /// Throws its databases and topics away; whatever is connected to them loses its connection. A topic that another service has given
    /// to it stays.
    pub async fn throw_away(&self) -> Result<()> {
        for partition in 0..self.shard_count() {
            let name = self.database(partition);
            self.administer(partition, format!("DROP DATABASE \"{name}\" WITH (FORCE)")).await?;
        }
        let (admin, own) = (Admin::at(&self.config.kafka.bootstrap_servers)?, format!("{}.", self.config.name));
        for topic in self.config.topics.iter().filter(|topic| topic.name.starts_with(&own)) {
            admin.delete(&topic.name).await?;
        }
        Ok(())
    }

    /// Name of a shard's database.
    pub(crate) fn database(&self, partition: u32) -> String {
        format!("{}-{partition}", self.config.name)
    }

    /// A shard's address.
    pub fn uri(&self, partition: u32) -> Result<String> {
        self.uri_beside(partition, &self.database(partition))
    }

    /// Address of a database on the server of a shard.
    fn uri_beside(&self, partition: u32, database: &str) -> Result<String> {
        let own = self.servers.get(partition as usize).map(|server| server.uri(database));
        own.map_or_else(|| database_uri(database), Ok)
    }

    /// The server of a shard, if it has one of its own.
    pub fn server(&self, partition: u32) -> Result<&Postgres> {
        self.servers.get(partition as usize).context("the shard shares its server")
    }

    /// Runs a statement that is about a shard's database.
    async fn administer(&self, partition: u32, statement: String) -> Result<()> {
        administer_at(&self.uri_beside(partition, "postgres")?, statement).await
    }

    /// Runs `mover init`, as its Job would.
    pub async fn init(&self) -> Result<()> {
        run(self.program, &["schema", "--format=json", &format!("--output={}", self.schema_file().display())]).await?;
        let mut arguments = self.place("init");
        arguments.extend(["--plan-id=first".to_owned(), format!("--partitions={}", self.shard_count())]);
        run("mover", &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await.map(drop)
    }

    fn schema_file(&self) -> PathBuf {
        self.folder.join("schema.json")
    }

    /// What the mover is told first: what to do, and where the service is.
    pub(crate) fn place(&self, command: &str) -> Vec<String> {
        vec![
            command.to_owned(),
            format!("--config={}", self.config_file().display()),
            format!("--schema={}", self.schema_file().display()),
            format!("--shards={}", self.folder.join("shards").display()),
        ]
    }

    /// Notes, as the operator does, that every slot was placed.
    pub fn note_placed(&self) -> Result<()> {
        Ok(std::fs::write(self.folder.join("placed"), "")?)
    }

    /// Starts a worker.
    pub async fn worker(&self, partition: u32) -> Result<Process> {
        self.start_worker(partition, self.worker_ports + u16::try_from(partition)?)
    }

    /// Starts another worker of a partition that has one, where no gateway looks for it.
    pub async fn second_worker(&self, partition: u32) -> Result<Process> {
        self.start_worker(partition, free_ports()?)
    }

    fn start_worker(&self, partition: u32, port: u16) -> Result<Process> {
        let variables =
            [("SHARDLANE_PARTITION", partition.to_string()), ("SHARDLANE_POSTGRES_URI", self.uri(partition)?)];
        self.start("worker", port, &variables)
    }

    /// Starts all workers and waits for them.
    pub async fn workers(&self) -> Result<Vec<Process>> {
        let mut workers = Vec::new();
        for partition in 0..self.shard_count() {
            workers.push(self.worker(partition).await?);
        }
        for worker in &workers {
            worker.ready().await?;
        }
        Ok(workers)
    }

    /// Starts a gateway and waits for it.
    pub async fn gateway(&self, variables: &[(&str, String)]) -> Result<Process> {
        let gateway = self.start_gateway(variables)?;
        gateway.ready().await?;
        Ok(gateway)
    }

    /// Starts a gateway.
    pub fn start_gateway(&self, variables: &[(&str, String)]) -> Result<Process> {
        self.start("gateway", free_ports()?, variables)
    }

    /// Starts a stateless loop as this member of its group, and waits for it.
    pub async fn stateless(&self, command: &str, instance: &str) -> Result<Process> {
        self.stateless_with(command, instance, &[]).await
    }

    /// The same, with more variables.
    pub async fn stateless_with(&self, command: &str, instance: &str, variables: &[(&str, String)]) -> Result<Process> {
        let variables: Vec<_> =
            variables.iter().cloned().chain([("SHARDLANE_INSTANCE", instance.to_owned())]).collect();
        let process = self.start(command, free_ports()?, &variables)?;
        process.ready().await?;
        Ok(process)
    }

    /// Has the program do something once. Gives what it says.
    pub async fn once(&self, command: &str, arguments: &[&str]) -> Result<String> {
        let config = format!("--config={}", self.config_file().display());
        run(self.program, &[&[command, &config], arguments].concat()).await
    }

    fn start(&self, command: &str, port: u16, variables: &[(&str, String)]) -> Result<Process> {
        let mut program = Command::new(program(self.program)?);
        let probes = free_ports()?;
        program
            .arg(command)
            .arg(format!("--config={}", self.config_file().display()))
            .args([format!("--http-port={port}"), format!("--metrics-port={probes}")]);
        self.spawn(program, command, (port, probes), variables)
    }

    /// Starts a worker that sends itself a signal when it reaches a point for the `pass`th time. `program` is the
    /// `dying-worker` of this package.
    pub fn dying_worker(
        &self,
        program: &str,
        partition: u32,
        point: Point,
        signal: &str,
        pass: u32,
    ) -> Result<Process> {
        let mut dying = Command::new(program);
        let (port, probes) = (free_ports()?, free_ports()?);
        dying.args([point.name(), signal, &pass.to_string()]);
        let variables = [
            ("SHARDLANE_CONFIG", self.config_file().display().to_string()),
            ("SHARDLANE_PARTITION", partition.to_string()),
            ("SHARDLANE_POSTGRES_URI", self.uri(partition)?),
            (HTTP_PORT, port.to_string()),
            (METRICS_PORT, probes.to_string()),
        ];
        self.spawn(dying, "dying", (port, probes), &variables)
    }

    /// Runs the program's `resume` for a slot of a partition, as a person would in the worker's container.
    pub async fn resume(&self, partition: u32, slot: u32) -> Result<()> {
        let config = format!("--config={}", self.config_file().display());
        let shard = format!("--postgres-uri={}", self.uri(partition)?);
        run(self.program, &["resume", &config, &shard, &format!("--slot={slot}")]).await.map(drop)
    }

    /// Starts a program with its ports, for users and for probes.
    pub fn spawn(
        &self,
        mut program: Command,
        name: &str,
        (port, probes): (u16, u16),
        variables: &[(&str, String)],
    ) -> Result<Process> {
        let log = self.folder.join(format!("{name}-{port}.log"));
        let child = program
            .envs(variables.iter().map(|(name, value)| (*name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::options().create(true).append(true).open(&log)?)
            .kill_on_drop(true)
            .spawn()?;
        let url = |port| format!("http://127.0.0.1:{port}");
        Ok(Process { child, url: url(port), probes: url(probes), log })
    }

    /// A connection to a shard.
    pub async fn shard(&self, partition: u32) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.uri(partition)?).await?)
    }

    /// Connections to all shards, by partition.
    pub async fn shards(&self) -> Result<Vec<PgConnection>> {
        futures::future::try_join_all((0..self.shard_count()).map(|partition| self.shard(partition))).await
    }

    /// Name of the topic with this role.
    pub fn topic(&self, role: &str) -> Result<&str> {
        Ok(&self.config.topic(role)?.name)
    }
}

impl Process {
    /// Waits until it does its work.
    pub async fn ready(&self) -> Result<()> {
        let url = format!("{}/readyz", self.probes);
        until(Duration::from_secs(30), async || {
            let answer = reqwest::get(&url).await?;
            let (status, text) = (answer.status(), answer.text().await?);
            if status.is_success() { Ok(()) } else { bail!("not ready: {text}") }
        })
        .await
        .with_context(|| format!("its log: {}", std::fs::read_to_string(&self.log).unwrap_or_default()))
    }

    /// A probe's or the metrics' text.
    pub async fn probe(&self, path: &str) -> Result<String> {
        Ok(reqwest::get(format!("{}{path}", self.probes)).await?.text().await?)
    }

    /// What it has logged.
    pub fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.log)?)
    }

    /// What it says of itself.
    pub async fn status(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.probe("/status").await?)?)
    }

    /// The value of a metric, with its labels if it has any.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        metric_of(&self.probe("/metrics").await?, name)
    }

    /// Ends it without a word, as SIGKILL does.
    pub async fn kill(&mut self) -> Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Waits until a signal ends it.
    pub async fn killed_by(&mut self, patience: Duration) -> Result<Option<i32>> {
        let status = tokio::time::timeout(patience, self.child.wait()).await.context("it did not end")??;
        Ok(std::os::unix::process::ExitStatusExt::signal(&status))
    }

    /// Waits until a signal has stopped it.
    pub async fn stopped(&self, patience: Duration) -> Result<()> {
        until(patience, async || if self.is_stopped()? { Ok(()) } else { bail!("it is not stopped") }).await
    }

    /// Whether a signal has stopped it.
    fn is_stopped(&self) -> Result<bool> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()?))?;
        // The state follows the name, which is in parentheses.
        Ok(stat.rsplit(") ").next().unwrap_or_default().starts_with('T'))
    }

    /// Waits until a signal has stopped it, `None`, or it has ended; then its exit code, -1 if a signal ended it.
    pub async fn stopped_or_ended(&mut self, patience: Duration) -> Result<Option<i32>> {
        let end = std::time::Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Some(status.code().unwrap_or(-1)));
            }
            if self.is_stopped()? {
                return Ok(None);
            }
            if std::time::Instant::now() > end {
                bail!("it neither stops nor ends; its log: {}", self.log()?);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Its number, while it runs.
    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("it has ended")
    }

    /// Sends it a signal.
    pub async fn signal(&self, name: &str) -> Result<()> {
        signal(self.child.id(), name).await
    }

    /// Waits until it ends by itself; its exit code.
    pub async fn end(&mut self, patience: Duration) -> Result<Option<i32>> {
        Ok(tokio::time::timeout(patience, self.child.wait()).await.context("it did not end")??.code())
    }

    /// Asks it to stop, as the kubelet does.
    pub async fn stop(&mut self) -> Result<Option<i32>> {
        self.signal("TERM").await?;
        self.end(Duration::from_secs(20)).await
    }
}

/// A program of the release build.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    Ok(PathBuf::from(setting("SHARDLANE_TEST_PROGRAMS")?).join(name))
}

async fn run(name: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program(name)?).args(arguments).stdin(Stdio::null()).output().await?;
    if !output.status.success() {
        bail!("{name} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Address of a database.
pub fn database_uri(name: &str) -> Result<String> {
    let admin = setting("SHARDLANE_TEST_POSTGRES")?;
    let server = admin.strip_suffix("/postgres").context("SHARDLANE_TEST_POSTGRES ends with /postgres")?;
    Ok(format!("{server}/{name}"))
}

/// Runs a statement that is about databases, or about all of the server.
pub async fn administer(statement: String) -> Result<()> {
    administer_at(&setting("SHARDLANE_TEST_POSTGRES")?, statement).await
}

async fn administer_at(uri: &str, statement: String) -> Result<()> {
    let mut admin = PgConnection::connect(uri).await?;
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut admin).await?;
    Ok(())
}
