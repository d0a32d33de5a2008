//! A service with two shards, and the mover between them.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use shardlane_counter::service::CounterSettings;
use shardlane_e2e::plain::{PlainService, Process, administer};
use shardlane_e2e::{free_ports, setting};
use sqlx::PgConnection;
use tokio::process::Command;

use crate::kind::{Kind, Team};
use crate::stage::{Given, PARTITION, Stage};

/// The second partition.
pub const SECOND: u32 = 1;
/// How often counters are flushed here, in milliseconds: a pause is not to hide behind the usual second.
pub const FLUSH_MS: u64 = 50;

/// A service with two shards.
pub struct Pair {
    /// As it is with its first shard alone.
    pub service: PlainService,
}

impl Pair {
    /// One whose slots all lie in its first shard, which begins as a copy of this database if there is one.
    pub async fn make(stage: &Stage, kind: Kind, name: &str, database: Option<&str>) -> Result<Self> {
        let mut service = stage.service(kind, name, Given { database, ..Given::default() }).await?;
        if kind == Kind::Counter {
            let settings = CounterSettings { flush_interval_ms: FLUSH_MS, ..CounterSettings::default() };
            service.config.settings = serde_json::from_value(serde_json::to_value(settings)?)?;
            service.write_config()?;
        }
        let pair = Self { service };
        administer(format!("CREATE DATABASE \"{}\"", pair.second_database())).await?;
        let shard = pair.folder()?.join("shards").join(SECOND.to_string());
        std::fs::create_dir_all(&shard)?;
        std::fs::write(shard.join("uri"), pair.service.uri(SECOND)?)?;
        let mut init = pair.mover("init")?;
        let output = init.args(["--plan-id=first", "--partitions=2"]).output().await?;
        ensure!(output.status.success(), "the mover failed: {}", String::from_utf8_lossy(&output.stderr));
        Ok(pair)
    }

    fn second_database(&self) -> String {
        format!("{}-{SECOND}", self.service.config.name)
    }

    fn folder(&self) -> Result<PathBuf> {
        Ok(self.service.config_file().parent().context("no folder")?.to_owned())
    }

    fn mover(&self, command: &str) -> Result<Command> {
        let (folder, argument) = (self.folder()?, |name: &str, path: PathBuf| format!("--{name}={}", path.display()));
        let mut mover = Command::new(PathBuf::from(setting("SHARDLANE_TEST_PROGRAMS")?).join("mover"));
        mover.arg(command).arg(argument("config", self.service.config_file()));
        mover.args([argument("schema", folder.join("schema.json")), argument("shards", folder.join("shards"))]);
        Ok(mover)
    }

    /// Starts a mover that has so many partitions own all slots. What has moved is deleted where it lay after so many seconds.
    pub fn reshard(&self, partitions: u32, clean_after_seconds: u32) -> Result<Process> {
        let (mut mover, port) = (self.mover("reshard")?, free_ports()?);
        let arguments = [("partitions", partitions), ("shard-count", 2), ("clean-after-seconds", clean_after_seconds)];
        mover.args(arguments.map(|(name, value)| format!("--{name}={value}"))).arg(format!("--status-port={port}"));
        self.service.spawn(mover, "mover", (port, port), &[])
    }

    /// Starts whoever does the work on both shards, and waits until they are ready.
    pub async fn team(&self, kind: Kind) -> Result<Team> {
        let mut team = kind.start(&self.service).await?;
        team.push(("second worker", self.service.worker(SECOND).await?));
        for (_, process) in &team {
            process.ready().await?;
        }
        Ok(team)
    }

    /// Connections to both shards.
    pub async fn shards(&self) -> Result<[PgConnection; 2]> {
        Ok([self.service.shard(PARTITION).await?, self.service.shard(SECOND).await?])
    }

    /// Throws its databases and topics away.
    pub async fn throw_away(&self) -> Result<()> {
        self.service.throw_away().await?;
        administer(format!("DROP DATABASE \"{}\" WITH (FORCE)", self.second_database())).await
    }
}
