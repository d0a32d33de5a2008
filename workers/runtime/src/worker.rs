//! A worker: the partition loop and its relay over the real Kafka and Postgres, and what it serves.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::error::KafkaError;
use shardlane_config::{ConfigError, ServiceConfig, roles};
use tokio::sync::Notify;

use crate::apart::apart;
use crate::database::ShardAddress;
use crate::edges::{Log, Outbox, Outlet, RealClock, Shard};
use crate::fences::Fences;
use crate::fresh::Fresh;
use crate::gateway::{GatewayError, SLOTS, SlotMap};
use crate::health::Health;
use crate::intake::Keyspace;
use crate::kafka;
use crate::metrics::Metrics;
use crate::partition_loop::{LOOP, LoopEnd, PartitionLoop};
use crate::postgres::{PgOutbox, PgShard};
use crate::process::{self, Shutdown};
use crate::producer::Producer;
use crate::reader::Reader;
use crate::relay::{RELAY, Relay};
use crate::retention::Retention;
use crate::service::{Service, Tables};
use crate::shard;

/// How long a stopping worker's relay may take to publish what is committed; its successor publishes the rest.
const LAST_RELAY: Duration = Duration::from_secs(5);

/// How a worker is started.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// The service's configuration.
    pub config: ServiceConfig,
    /// The partition.
    pub partition: u32,
    /// Its shard's URI.
    pub shard: ShardAddress,
    /// Where gateways read.
    pub http_port: u16,
    /// Where probes and metrics are.
    pub metrics_port: u16,
}

/// Why a worker ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Its configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A Kafka client could not be made.
    #[error("cannot make a Kafka client: {0}")]
    Kafka(#[from] KafkaError),
    /// It cannot learn who owns which slot.
    #[error(transparent)]
    Owners(#[from] GatewayError),
    /// Its metrics could not be made.
    #[error("cannot make metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// It cannot serve.
    #[error(transparent)]
    Serve(#[from] std::io::Error),
    /// A newer worker took over.
    #[error("another worker has taken over partition {0}; this one stops, and nothing of it is half done")]
    Fenced(u32),
    /// The database is somebody else's.
    #[error(
        "the database belongs to partition {found_partition} of the service with id {found_id:?}, not to partition \
         {partition} of {id:?}; point this partition's Secret at its own database"
    )]
    Foreign {
        /// Whose the database is.
        found_id: String,
        /// Whose the database is.
        found_partition: i32,
        /// Whose it should be.
        id: String,
        /// Whose it should be.
        partition: u32,
    },
    /// One of its threads ended, which none does by itself.
    #[error("the thread {0:?} has ended; see the log lines before this one")]
    ThreadEnded(&'static str),
}

impl WorkerError {
    fn of(end: LoopEnd, config: &ServiceConfig, partition: u32) -> Self {
        match end {
            LoopEnd::Fenced => Self::Fenced(partition),
            LoopEnd::LogEnded => Self::ThreadEnded("reader"),
            LoopEnd::Foreign { service_id, partition: found_partition } => {
                Self::Foreign { found_id: service_id, found_partition, id: config.id.clone(), partition }
            }
        }
    }
}

/// What a worker sees of the world outside.
pub struct Edges<H, L, O, T> {
    /// The loop's shard.
    pub shard: H,
    /// The log.
    pub log: L,
    /// The relay's shard.
    pub outbox: O,
    /// The broker.
    pub outlet: T,
}

/// The real ones.
pub type RealEdges<S> = Edges<PgShard<S>, Reader<<S as Service>::Plan>, PgOutbox<S>, Producer>;

/// Runs a worker until the shutdown, or until another takes its place.
pub async fn run<S: Tables>(service: S, options: WorkerOptions, shutdown: Shutdown) -> Result<(), WorkerError> {
    run_wrapped(service, options, shutdown, |edges| edges).await
}

/// Runs a worker whose edges are wrapped, to see it through something that breaks them.
pub async fn run_wrapped<S, H, L, O, T>(
    service: S,
    options: WorkerOptions,
    shutdown: Shutdown,
    wrap: impl FnOnce(RealEdges<S>) -> Edges<H, L, O, T>,
) -> Result<(), WorkerError>
where
    S: Tables,
    H: Shard<S> + 'static,
    L: Log<S> + 'static,
    O: Outbox + 'static,
    T: Outlet + 'static,
{
    let config = &options.config;
    let metrics = Arc::new(Metrics::new()?);
    let health = Health::starting(Arc::clone(&metrics), &[LOOP, RELAY, SLOTS]);
    let service = Arc::new(service);
    let owner = format!("{}-{}-{}", config.name, options.partition, uuid::Uuid::new_v4());
    let edges = wrap(real_edges(&service, &options, &owner, &metrics)?);
    let (committed, fresh) = (Arc::new(Notify::new()), Arc::new(Fresh::default()));
    let relay = Relay {
        outbox: edges.outbox,
        outlet: edges.outlet,
        dead_letters: config.topic(&roles::dead_letter(S::INPUT))?.name.as_str().into(),
        clock: RealClock,
        health: health.clone(),
        metrics: Arc::clone(&metrics),
        committed: Arc::clone(&committed),
        fresh: Arc::clone(&fresh),
    };
    let turning = PartitionLoop {
        service: Arc::clone(&service),
        keyspace: Keyspace::of(config),
        shard: edges.shard,
        log: edges.log,
        clock: RealClock,
        health: health.clone(),
        metrics: Arc::clone(&metrics),
        committed,
        fresh,
        owners: SlotMap::follow(config, &health)?,
        singly: None,
    };
    let behind = Arc::clone(metrics.behind());
    let mut retention = retention::<S>(&options, &owner);
    let mut fences = Fences::new(options.shard.clone(), &owner);
    let reads = process::serve(options.http_port, service.reads(options.shard.pool(), behind), shutdown.clone());
    let probes = process::serve(options.metrics_port, health.routes(), shutdown.clone());
    let told = move |end| WorkerError::of(end, &options.config, options.partition);
    let turned = apart(LOOP, move || turn_and_relay(turning, relay, shutdown, told))?;
    tokio::select! {
        ended = turned => ended.unwrap_or(Err(WorkerError::ThreadEnded(LOOP))),
        never = retention.run() => match never {},
        never = fences.run() => match never {},
        // They end only with an error, or with the shutdown, which the loop sees too and takes its time over.
        Err(error) = reads => Err(error.into()),
        Err(error) = probes => Err(error.into()),
    }
}

fn retention<S: Tables>(options: &WorkerOptions, owner: &str) -> Retention {
    let tables: Vec<_> = shard::TABLES.iter().chain(S::PRUNED).copied().collect();
    let kept = options.config.outcome_retention_ms.map(Duration::from_millis);
    Retention::new(options.shard.clone(), owner, &tables, kept)
}

fn real_edges<S: Tables>(
    service: &Arc<S>,
    options: &WorkerOptions,
    owner: &str,
    metrics: &Arc<Metrics>,
) -> Result<RealEdges<S>, WorkerError> {
    let WorkerOptions { config, partition, shard: address, .. } = options;
    let name = format!("{}-{partition}", config.name);
    Ok(Edges {
        shard: PgShard::new(Arc::clone(service), config, *partition, owner, address.clone()),
        log: Reader::start(Arc::clone(service), config, config.topic(S::INPUT)?, &name, Arc::clone(metrics))?,
        outbox: PgOutbox::new(Arc::clone(service), config, owner, address.clone()),
        outlet: Producer::new(&kafka::lasting_producer(&config.kafka, &name))?,
    })
}

/// The relay begins once the shard is this worker's, and ends a little after the loop.
async fn turn_and_relay<S, H, L, O, T>(
    mut turning: PartitionLoop<S, H, L, RealClock>,
    mut relay: Relay<O, T, RealClock>,
    mut shutdown: Shutdown,
    told: impl Fn(LoopEnd) -> WorkerError,
) -> Result<(), WorkerError>
where
    S: Service,
    H: Shard<S>,
    L: Log<S>,
    O: Outbox + 'static,
    T: Outlet + 'static,
{
    if !turning.take_over(&mut shutdown).await.map_err(&told)? {
        return Ok(());
    }
    // A shard that was taken back does not know which of its slots have moved since.
    tokio::select! {
        () = shutdown.wait() => return Ok(()),
        () = turning.health.part_is_ready(SLOTS) => {}
    }
    let (stop, mut stopped) = Shutdown::by_hand();
    let relaying = apart(RELAY, move || async move { relay.run(&mut stopped).await })?;
    let ended = turning.run(&mut shutdown).await;
    let _ = stop.send(true);
    if tokio::time::timeout(LAST_RELAY, relaying).await.is_err() {
        tracing::info!("the relay has not finished; the next worker publishes the rest");
    }
    ended.map_err(told)
}
