//! On what it was measured.

use anyhow::Result;
use procfs::{CpuInfo, Current, LoadAverage, Meminfo};
use serde::Serialize;
use shardlane_e2e::posts::ask;
use shardlane_e2e::setting;
use sqlx::{Connection, PgConnection};

/// What a reader needs to know of the machine, the servers and the programs.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    /// What was measured.
    pub commit: String,
    /// The processors' name.
    pub processor: String,
    /// How many there are.
    pub cores: usize,
    /// Memory, in GiB.
    pub memory: u64,
    /// The kernel.
    pub kernel: String,
    /// Its version and the settings on which its speed depends.
    pub postgres: String,
    /// Its version.
    pub kafka: String,
    /// Its version.
    pub redis: String,
    /// Its version.
    pub librdkafka: String,
    /// Processes that wanted a processor in the minute before.
    pub load_before: f32,
}

impl Machine {
    /// This one.
    pub async fn look() -> Result<Self> {
        let processors = CpuInfo::current()?;
        let named = |name: &str| std::env::var(name).unwrap_or_else(|_| "unknown".to_owned());
        Ok(Self {
            commit: named("SHARDLANE_BENCH_COMMIT"),
            processor: processors.model_name(0).unwrap_or("unknown").to_owned(),
            cores: processors.num_cores(),
            memory: Meminfo::current()?.mem_total >> 30,
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            postgres: postgres().await?,
            kafka: named("SHARDLANE_BENCH_KAFKA"),
            redis: redis().await?,
            librdkafka: rdkafka::util::get_rdkafka_version().1,
            load_before: LoadAverage::current()?.one,
        })
    }

    /// As lines.
    pub fn lines(&self) -> Vec<String> {
        let Self { commit, processor, cores, memory, kernel, postgres, kafka, redis, librdkafka, load_before } = self;
        vec![
            format!("{cores} cores ({processor}), {memory} GiB, Linux {kernel}; load before: {load_before:.2}"),
            format!("Postgres {postgres}; Kafka {kafka}, one broker; librdkafka {librdkafka}; Redis {redis}"),
            format!("Shardlane {commit}"),
        ]
    }
}

async fn postgres() -> Result<String> {
    let mut admin = PgConnection::connect(&setting("SHARDLANE_TEST_POSTGRES")?).await?;
    Ok(sqlx::query_scalar(
        "SELECT split_part(current_setting('server_version'), ' ', 1) || ' (' || string_agg(name || ' '
                || current_setting(name), ', ' ORDER BY name) || ')'
         FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit', 'shared_buffers', 'max_wal_size', 'min_wal_size', 'wal_sync_method')",
    )
    .fetch_one(&mut admin)
    .await?)
}

async fn redis() -> Result<String> {
    let told: String = ask(&setting("SHARDLANE_TEST_REDIS")?, &["INFO", "server"]).await?;
    let version = told.lines().find_map(|line| line.strip_prefix("redis_version:"));
    Ok(version.unwrap_or("unknown").to_owned())
}
