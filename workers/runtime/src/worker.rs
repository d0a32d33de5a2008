//! The partition loop: reads a worker's slots, applies them to its shard batch by batch, and relays the outcomes.
//!
//! Any failure ends in the same place: a new connection, the slots read again, and reading on from where the shard
//! says that they stand. So nothing needs to be known of how far a failed batch got.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use shardlane_config::{ConfigError, ServiceConfig};
use sqlx::{Connection, PgConnection};
use tokio::sync::Notify;

use crate::database::{ShardAddress, within};
use crate::health::Health;
use crate::intake::{Intake, Keyspace, Positions, sort_out};
use crate::kafka;
use crate::metrics::Metrics;
use crate::process::{self, Backoff, Shutdown};
use crate::producer::Producer;
use crate::reader::{Read, Reader};
use crate::record::Batch;
use crate::relay::{self, Relay, RelayError};
use crate::service::Service;
use crate::shard::{self, TakeOver};

/// How often an idle worker looks for a successor, and for slots that came or went.
const LOOK: Duration = Duration::from_millis(100);
/// The parts of a worker that can be waiting for something.
const LOOP: &str = "loop";
const RELAY: &str = "relay";
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
    /// The reading thread ended, which it never does by itself.
    #[error("the reading thread has ended; see the log lines before this one")]
    ReaderEnded,
}

/// Runs a worker until the shutdown, or until another takes its place.
pub async fn run<S: Service>(service: S, options: WorkerOptions, shutdown: Shutdown) -> Result<(), WorkerError> {
    let config = Arc::new(options.config);
    let metrics = Arc::new(Metrics::new()?);
    let health = Health::starting(Arc::clone(&metrics), &[LOOP, RELAY]);
    let service = Arc::new(service);
    let keyspace = Keyspace { partitioner: config.partitioner, slots: config.max_partitions };
    let name = format!("{}-{}", config.name, options.partition);
    let owner = format!("{name}-{}", uuid::Uuid::new_v4());
    let relay = Relay {
        service: Arc::clone(&service),
        config: Arc::clone(&config),
        keyspace,
        owner: owner.clone(),
        producer: Producer::new(&kafka::lasting_producer(&config.kafka, &name))?,
        metrics: Arc::clone(&metrics),
    };
    let reader = Reader::start(&config.kafka, &name, &config.topic(S::INPUT)?.name, Arc::clone(&metrics))?;
    let worker = Worker {
        service: Arc::clone(&service),
        config,
        keyspace,
        owner,
        partition: options.partition,
        address: options.shard.clone(),
        health: health.clone(),
        metrics,
        committed: Arc::new(Notify::new()),
    };
    let reads = process::serve(options.http_port, service.reads(options.shard.pool()), shutdown.clone());
    let probes = process::serve(options.metrics_port, health.routes(), shutdown.clone());
    tokio::select! {
        result = worker.run(reader, relay, shutdown.clone()) => result,
        // They end only with an error, or with the shutdown, which the worker sees too and takes its time over.
        Err(error) = reads => Err(error.into()),
        Err(error) = probes => Err(error.into()),
    }
}

struct Worker<S> {
    service: Arc<S>,
    config: Arc<ServiceConfig>,
    keyspace: Keyspace,
    owner: String,
    partition: u32,
    address: ShardAddress,
    health: Health,
    metrics: Arc<Metrics>,
    committed: Arc<Notify>,
}

/// How a turn of the loop failed.
enum Failure {
    /// Another worker has taken over.
    Fenced,
    /// What is known of the slots is no longer so.
    Stale,
    /// Something that passes.
    Passing(String),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Passing(format!("Postgres: {}", process::with_causes(&error)))
    }
}

impl<S: Service> Worker<S> {
    async fn run(self, reader: Reader, relay: Relay<S>, mut shutdown: Shutdown) -> Result<(), WorkerError> {
        let connection = tokio::select! {
            connection = self.start() => connection?,
            () = shutdown.wait() => return Ok(()),
        };
        let (stop_relay, relay_stop) = Shutdown::by_hand();
        let relaying = tokio::spawn(relay_until(
            relay,
            self.address.clone(),
            Arc::clone(&self.committed),
            relay_stop,
            self.health.clone(),
        ));
        let result = self.turn_until(connection, reader, shutdown).await;
        let _ = stop_relay.send(true);
        if tokio::time::timeout(LAST_RELAY, relaying).await.is_err() {
            tracing::info!("the relay has not finished; the next worker publishes the rest");
        }
        result
    }

    /// Becomes the shard's owner, once; waits for a shard that is not there or not prepared.
    async fn start(&self) -> Result<PgConnection, WorkerError> {
        let mut backoff = Backoff::default();
        loop {
            let taken = async {
                let mut connection = self.address.connect().await?;
                let taken =
                    within(shard::take_over(&mut connection, &self.config.id, self.partition, &self.owner)).await?;
                Ok::<_, sqlx::Error>((connection, taken))
            };
            match taken.await {
                Ok((connection, TakeOver::Owned)) => return Ok(connection),
                Ok((_, TakeOver::Foreign { service_id, partition })) => {
                    return Err(WorkerError::Foreign {
                        found_id: service_id,
                        found_partition: partition,
                        id: self.config.id.clone(),
                        partition: self.partition,
                    });
                }
                Ok((_, TakeOver::NotPrepared)) => {
                    self.health.waiting_for(LOOP, "the shard is not prepared yet: the service's init Job does that");
                }
                Err(error) => {
                    self.metrics.failure("postgres");
                    self.health.waiting_for(LOOP, format!("Postgres: {}", process::with_causes(&error)));
                }
            }
            tokio::time::sleep(backoff.wait()).await;
        }
    }

    /// Turns the loop until the shutdown or a successor.
    async fn turn_until(
        &self,
        connection: PgConnection,
        mut reader: Reader,
        mut shutdown: Shutdown,
    ) -> Result<(), WorkerError> {
        let mut connection = Some(connection);
        let mut backoff = Backoff::default();
        loop {
            let turned = self.turn(&mut connection, &mut reader, &mut shutdown, &mut backoff).await?;
            match turned {
                Ok(()) => return Ok(()),
                Err(Failure::Fenced) => return Err(WorkerError::Fenced(self.partition)),
                Err(Failure::Stale) => {}
                Err(Failure::Passing(reason)) => {
                    // A connection in an unknown state is worth nothing; the server rolls back what it had begun.
                    connection = None;
                    self.health.waiting_for(LOOP, reason);
                    tokio::select! {
                        () = tokio::time::sleep(backoff.wait()) => {}
                        () = shutdown.wait() => return Ok(()),
                    }
                }
            }
        }
    }

    /// From reading the slots to the first failure, or to the shutdown.
    async fn turn(
        &self,
        connection: &mut Option<PgConnection>,
        reader: &mut Reader,
        shutdown: &mut Shutdown,
        backoff: &mut Backoff,
    ) -> Result<Result<(), Failure>, WorkerError> {
        let connection = match connection {
            Some(connection) => connection,
            None => match self.address.connect().await {
                Ok(fresh) => connection.insert(fresh),
                Err(error) => return Ok(Err(self.failed("postgres", error))),
            },
        };
        let (version, mut positions) = match self.take_up(connection, reader).await {
            Ok(slots) => slots,
            Err(failure) => return Ok(Err(failure)),
        };
        self.health.ready(LOOP);
        loop {
            let read = tokio::select! {
                read = reader.next() => read.ok_or(WorkerError::ReaderEnded)?,
                () = tokio::time::sleep(LOOK) => match self.look(connection, version).await {
                    Ok(()) => continue,
                    Err(failure) => return Ok(Err(failure)),
                },
                () = shutdown.wait() => return Ok(Ok(())),
            };
            let batch = match read {
                Read::Batch(batch) => batch,
                Read::Trouble(error) => {
                    self.metrics.failure("kafka");
                    return Ok(Err(Failure::Passing(format!("Kafka: {error}"))));
                }
            };
            if let Err(failure) = self.apply(connection, version, &mut positions, &batch).await {
                return Ok(Err(failure));
            }
            self.committed.notify_one();
            self.health.ready(LOOP);
            backoff.reset();
            reader.show_progress(positions.clone());
        }
    }

    /// Reads the slots and assigns them.
    async fn take_up(&self, connection: &mut PgConnection, reader: &mut Reader) -> Result<(i64, Positions), Failure> {
        let slots = within(shard::load_slots(connection, &self.owner))
            .await
            .map_err(|error| self.failed("postgres", error))?
            .ok_or(Failure::Fenced)?;
        tracing::info!(version = slots.version, slots = ?slots.positions, "slots taken up");
        self.metrics.keep_slots(|slot| slots.positions.contains_key(&slot));
        for (slot, offset) in &slots.positions {
            self.metrics.applied_to(*slot, *offset);
        }
        reader.assign(slots.positions.clone());
        Ok((slots.version, slots.positions))
    }

    /// What an idle worker does: looks for a successor and for a change of its slots.
    async fn look(&self, connection: &mut PgConnection, version: i64) -> Result<(), Failure> {
        match within(shard::slots_version(connection, &self.owner)).await {
            Ok(Some(now)) if now == version => Ok(()),
            Ok(Some(_)) => Err(Failure::Stale),
            Ok(None) => Err(Failure::Fenced),
            Err(error) => Err(self.failed("postgres", error)),
        }
    }

    /// Applies one batch in one transaction.
    async fn apply(
        &self,
        connection: &mut PgConnection,
        version: i64,
        positions: &mut Positions,
        batch: &Batch,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let intake = sort_out(&*self.service, self.keyspace, positions, batch);
        let Intake { accepted, dead, advances } = intake;
        let plan = self.service.fold(accepted);
        within(async {
            let mut tx = connection.begin().await?;
            let fence = shard::fence(&mut tx, &self.owner).await?.ok_or(Failure::Fenced)?;
            if fence.slots_version != version {
                return Err(Failure::Stale);
            }
            self.service.apply(&mut tx, fence.batch, &plan).await?;
            shard::bury(&mut tx, fence.batch, &dead).await?;
            if !shard::advance(&mut tx, &advances).await? {
                return Err(Failure::Stale);
            }
            tx.commit().await?;
            Ok(())
        })
        .await
        .inspect_err(|failure| {
            if matches!(failure, Failure::Passing(_)) {
                self.metrics.failure("postgres");
            }
        })?;
        self.metrics.batch(batch.len(), began.elapsed());
        for letter in &dead {
            self.metrics.dead_letter(letter.rejection.kind);
        }
        if let Some(first) = dead.first() {
            let (slot, offset, reason) = (first.slot, first.offset, &first.rejection.reason);
            tracing::warn!(count = dead.len(), slot, offset, reason, "dead letters; the first is shown");
        }
        for advance in advances {
            self.metrics.applied_to(advance.slot, advance.to);
            positions.insert(advance.slot, advance.to);
        }
        Ok(())
    }

    fn failed(&self, part: &str, error: sqlx::Error) -> Failure {
        self.metrics.failure(part);
        error.into()
    }
}

/// Relays until told to stop, then until nothing is left; comes back from failures by itself.
async fn relay_until<S: Service>(
    relay: Relay<S>,
    address: ShardAddress,
    committed: Arc<Notify>,
    mut stop: Shutdown,
    health: Health,
) {
    let mut connection = None;
    let mut backoff = Backoff::default();
    loop {
        match relay_round(&relay, &address, &mut connection).await {
            Ok(more) if more || !stop.has_come() => {
                health.ready(RELAY);
                backoff.reset();
                if more {
                    continue;
                }
                tokio::select! {
                    () = committed.notified() => {}
                    () = tokio::time::sleep(relay::IDLE) => {}
                    () = stop.wait() => {}
                }
            }
            Ok(_) => return,
            // The loop notices too, and says so.
            Err(RelayError::Fenced) => return,
            Err(error) => {
                connection = None;
                relay.metrics.failure("relay");
                health.waiting_for(RELAY, format!("relay: {}", process::with_causes(&error)));
                tokio::time::sleep(backoff.wait()).await;
            }
        }
    }
}

async fn relay_round<S: Service>(
    relay: &Relay<S>,
    address: &ShardAddress,
    connection: &mut Option<PgConnection>,
) -> Result<bool, RelayError> {
    let connection = match connection {
        Some(connection) => connection,
        None => {
            let mut fresh = address.connect().await?;
            relay::prepare(&mut fresh).await?;
            connection.insert(fresh)
        }
    };
    relay.round(connection).await
}
