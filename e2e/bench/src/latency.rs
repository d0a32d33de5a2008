//! How long one request takes when there is no other: through Kafka, the worker, Postgres and Kafka again; and the parts
//! of that way by themselves.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use shardlane_e2e::plain::PlainService;
use shardlane_runtime::intake::Keyspace;
use shardlane_runtime::kafka;
use shardlane_runtime::producer::{Outgoing, Producer};
use shardlane_signup::service::{REQUEST, RESPONSE};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::fill::{Requests, value_of};
use crate::kind::Kind;
use crate::report::{Row, Samples, Side, Target, Unit, milliseconds, percentile};
use crate::stage::{Given, PARTITION, Stage};
use crate::usage::Usage;

/// Between two requests.
const PACE: Duration = Duration::from_millis(20);
/// Requests before the clock runs: connections are made, statements prepared.
const WARM_UP: usize = 25;
/// Longest that a response may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Milliseconds of each request of a run.
type Times = Vec<f64>;

/// The measure's services.
struct Trips<'a> {
    stage: &'a Stage,
    /// Has a worker.
    served: PlainService,
    /// Has none: its topics and tables are used by themselves.
    idle: PlainService,
    requests: usize,
}

/// All runs, as rows of the report.
pub async fn measure(stage: &Stage) -> Result<Vec<Row>> {
    let requests = if stage.options.quick { 100 } else { 400 };
    let served = stage.service(Kind::Signup, "latency", Given::default()).await?;
    let idle = stage.service(Kind::Signup, "latency-bare", Given::default()).await?;
    let trips = Trips { stage, served, idle, requests };
    let (mut ours, mut bare, mut commits, mut usages) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let runs = stage.options.runs();
    for run in 1..=runs {
        let seed = 1_000 + run as u64;
        let (times, usage) = trips.through_worker(seed).await?;
        let kafka = trips.through_kafka(seed).await?;
        let commit = trips.through_postgres(seed).await?;
        let of = |times: &Times| format!("{:.2}/{:.2}", percentile(times, 0.5), percentile(times, 0.99));
        stage.progress.done(&format!(
            "latency {run}/{runs}, p50/p99 in ms: {} ours, {} Kafka alone, {} commit alone",
            of(&times),
            of(&kafka),
            of(&commit)
        ));
        ours.push(times);
        bare.push(kafka);
        commits.push(commit);
        usages.push(usage);
    }
    let usage = Usage::mean(&usages);
    let samples = |all: &[Times], share| Samples(all.iter().map(|times| percentile(times, share)).collect());
    let side = |all, share, usage| Side { samples: samples(all, share), usage, rate: None, waits: Vec::new() };
    let alone = |all: &[Times], share| samples(all, share).median();
    let note = format!(
        "a trip passes Kafka twice and commits once; p50/p99 in ms: {:.2}/{:.2} Kafka once, {:.2}/{:.2} a commit of one row",
        alone(&bare, 0.5),
        alone(&bare, 0.99),
        alone(&commits, 0.5),
        alone(&commits, 0.99)
    );
    let row = |name: &str, share, target| Row {
        name: name.to_owned(),
        unit: Unit::Milliseconds,
        ours: side(&ours, share, Some(usage.clone())),
        bare: Some(side(&bare, share, None)),
        beside: "Kafka alone, there and back once".to_owned(),
        target,
        notes: vec![note.clone()],
    };
    Ok(vec![
        row("Idle request to response, p50", 0.5, Some(Target::AtMost(5.))),
        row("Idle request to response, p99", 0.99, None),
    ])
}

impl Trips<'_> {
    async fn through_worker(&self, seed: u64) -> Result<(Times, Usage)> {
        let mut worker = self.served.worker(PARTITION).await?;
        worker.ready().await?;
        let parts = [("worker", worker.pid()?)];
        let before = self.stage.servers.snapshot(&parts)?;
        let times = self.trips(&self.served, RESPONSE, seed).await?;
        let usage = self.stage.servers.snapshot(&parts)?.since(&before);
        worker.kill().await?;
        Ok((times, usage))
    }

    async fn through_kafka(&self, seed: u64) -> Result<Times> {
        self.trips(&self.idle, REQUEST, seed).await
    }

    /// From the topic of requests of a service to one of its topics.
    async fn trips(&self, service: &PlainService, back: &str, seed: u64) -> Result<Times> {
        self.stage.settle().await?;
        let mut config = kafka::prompt_producer(&service.config.kafka, "bench", PATIENCE);
        let producer = Producer::new(config.set("linger.ms", "0"))?;
        let mut arrivals = Arrivals::follow(service, service.topic(back)?).await?;
        let (topic, keyspace) = (service.topic(REQUEST)?, Keyspace::of(&service.config));
        let (mut series, mut times, mut pace) = (Requests::new(seed, 0.), Vec::new(), paced());
        for number in 0..WARM_UP + self.requests {
            pace.tick().await;
            let (username, request_id) = series.next();
            let record = Outgoing {
                topic: topic.into(),
                slot: keyspace.slot_of(username.as_bytes()),
                value: Some(value_of(&username, &request_id)?),
                key: Some(username.clone().into_bytes()),
                headers: Vec::new(),
            };
            let sent = Instant::now();
            producer.publish(&record).await?;
            let arrived = timeout(PATIENCE, arrivals.of(username.as_bytes())).await.context("no response came")??;
            if number >= WARM_UP {
                times.push(milliseconds(arrived.duration_since(sent)));
            }
        }
        Ok(times)
    }

    /// Single rows, each committed by itself.
    async fn through_postgres(&self, seed: u64) -> Result<Times> {
        let mut shard = self.idle.shard(PARTITION).await?;
        let (mut series, mut times, mut pace) = (Requests::new(seed, 0.), Vec::new(), paced());
        for number in 0..WARM_UP + self.requests {
            pace.tick().await;
            let (username, request_id) = series.next();
            let began = Instant::now();
            sqlx::query(
                "INSERT INTO account (slot, batch, record_offset, username, id, request_id) VALUES (0, 0, 0, $1, '', $2)",
            )
            .bind(username)
            .bind(request_id)
            .execute(&mut shard)
            .await?;
            if number >= WARM_UP {
                times.push(milliseconds(began.elapsed()));
            }
        }
        Ok(times)
    }
}

/// Keys and when they were seen, by a thread that does nothing else.
struct Arrivals(mpsc::UnboundedReceiver<(Vec<u8>, Instant)>);

impl Arrivals {
    /// What comes into a topic from now on.
    async fn follow(service: &PlainService, topic: &str) -> Result<Self> {
        let (kafka, topic, slots) = (service.config.kafka.clone(), topic.to_owned(), service.config.max_partitions);
        let consumer = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = kafka::consumer(&kafka, "bench", 1).create()?;
            let mut list = TopicPartitionList::new();
            for (slot, log) in kafka::extents(&consumer, &topic, 0..slots)? {
                list.add_partition_offset(&topic, slot.cast_signed(), Offset::Offset(log.end))?;
            }
            consumer.assign(&list)?;
            anyhow::Ok(consumer)
        })
        .await??;
        let (sender, receiver) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            while !sender.is_closed() {
                if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                    let now = Instant::now();
                    // Nobody waits any more: the next turn sees it.
                    let _ = sender.send((message.key().unwrap_or_default().to_vec(), now));
                }
            }
        });
        Ok(Self(receiver))
    }

    /// When the record with this key was seen.
    async fn of(&mut self, key: &[u8]) -> Result<Instant> {
        loop {
            let (seen, at) = self.0.recv().await.context("the topic is not followed any more")?;
            if seen == key {
                return Ok(at);
            }
        }
    }
}

fn paced() -> tokio::time::Interval {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}
