//! `signup-ctl`: type usernames, see what becomes of them.

use std::collections::HashSet;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use shardlane_runtime::config::{KafkaConfig, Partitioner, TopicConfig};
use shardlane_runtime::gateway::{Follower, Start, tail};
use shardlane_runtime::health::Health;
use shardlane_runtime::intake::Keyspace;
use shardlane_runtime::metrics::Metrics;
use shardlane_runtime::producer::{Outgoing, Producer};
use shardlane_runtime::{kafka, process};
use shardlane_signup::username::{CanonicalForm, UsernameRules};
use shardlane_signup::wire::{SignupRequest, SignupResponse};
use tokio::io::{AsyncBufReadExt, BufReader};

/// How long the outcomes of what was typed last may take.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Parser)]
#[command(version, about = "Type usernames, one a line; see `partition:offset request_id username` and ✅ or ❌")]
struct Cli {
    /// Kafka, as host:port.
    #[arg(long, env = "SHARDLANE_BOOTSTRAP_SERVERS", default_value = "localhost:9092")]
    bootstrap_servers: String,
    /// Topic of requests.
    #[arg(long, default_value = "account.signup_request")]
    request_topic: String,
    /// Topic of outcomes.
    #[arg(long, default_value = "account.signup_response")]
    response_topic: String,
    /// The service's partitioner.
    #[arg(long, value_enum, default_value = "murmur2")]
    partitioner: Hash,
    /// The service has `exact` usernames.
    #[arg(long)]
    exact: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Hash {
    Murmur2,
    Fnv1a,
    Crc32,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("Kafka: {0}; is --bootstrap-servers right?")]
    Kafka(#[from] KafkaError),
    #[error("there is no topic {0}; is --request-topic or --response-topic right?")]
    NoTopic(String),
    #[error("the topic of outcomes cannot be read: {0}")]
    NotReady(String),
    #[error("{0} of the requests had no outcome within {s} s; they are in Kafka and will have one", s = PATIENCE.as_secs())]
    Unanswered(usize),
    #[error(transparent)]
    Other(#[from] Box<dyn std::error::Error + Send + Sync>),
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    process::init_logs();
    process::finish(run(cli).await)
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let kafka = KafkaConfig::plain(&cli.bootstrap_servers);
    let responses = topic(&kafka, &cli.response_topic)?;
    let requests = topic(&kafka, &cli.request_topic)?;
    let producer = Producer::new(&kafka::prompt_producer(&kafka, "signup-ctl", PATIENCE))?;
    let partitioner = match cli.partitioner {
        Hash::Murmur2 => Partitioner::Murmur2,
        Hash::Fnv1a => Partitioner::Fnv1a,
        Hash::Crc32 => Partitioner::Crc32,
    };
    let keyspace = Keyspace { partitioner, slots: requests.partitions };
    let canonical_form = if cli.exact { CanonicalForm::Exact } else { CanonicalForm::NfkcCasefold };
    let rules = UsernameRules { canonical_form, ..UsernameRules::default() };

    let asked: Arc<Mutex<HashSet<String>>> = Arc::default();
    show_outcomes(&kafka, &responses, Arc::clone(&asked)).await?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = next_line(&mut lines).await? {
        let username = match rules.canonical(line.trim()) {
            Ok(username) => username,
            Err(error) => {
                eprintln!("{error}");
                continue;
            }
        };
        let request_id = uuid::Uuid::new_v4().to_string();
        if let Ok(mut asked) = asked.lock() {
            asked.insert(request_id.clone());
        }
        let request = SignupRequest { request_id: request_id.into(), username: (&*username).into() };
        let value = serde_json::to_vec(&request).map_err(|error| Failure::Other(error.into()))?;
        let slot = keyspace.slot_of(username.as_bytes());
        let key = Some(username.clone().into_bytes());
        let topic = requests.name.as_str().into();
        producer.publish(&Outgoing { topic, slot, key, value: Some(value), headers: Vec::new() }).await?;
    }
    wait_for_rest(&asked).await
}

fn topic(kafka: &KafkaConfig, name: &str) -> Result<TopicConfig, Failure> {
    let consumer: BaseConsumer = kafka::client(kafka, "signup-ctl").create()?;
    let partitions = kafka::partitions_of(&consumer, name)?.ok_or_else(|| Failure::NoTopic(name.to_owned()))?;
    Ok(TopicConfig {
        role: String::new(),
        name: name.to_owned(),
        partitions,
        compacted: false,
        retention_ms: None,
        max_message_bytes: None,
    })
}

/// Prints the outcomes of what was asked here, from now on.
async fn show_outcomes(
    kafka: &KafkaConfig,
    topic: &TopicConfig,
    asked: Arc<Mutex<HashSet<String>>>,
) -> Result<(), Failure> {
    let metrics = Metrics::new().map_err(|error| Failure::Other(error.into()))?;
    let health = Health::starting(Arc::new(metrics), &["outcomes"]);
    let follower = Follower { kafka, name: "signup-ctl", part: "outcomes", health: &health };
    tail(follower, topic, Start::End, move |record| {
        let Some(Ok(response)) = record.value.map(serde_json::from_slice::<SignupResponse<'_>>) else { return };
        // An outcome may be published more than once; a person is told once.
        if asked.lock().is_ok_and(|mut asked| asked.remove(&*response.request_id)) {
            let mark = if response.success { "✅" } else { "❌" };
            println!("{}:{} {} {} {mark}", record.slot, record.offset, response.request_id, response.username);
        }
    })?;
    if health.wait_until_ready(PATIENCE).await {
        return Ok(());
    }
    Err(Failure::NotReady(health.reason().unwrap_or_default()))
}

async fn next_line<R: tokio::io::AsyncBufRead + Unpin>(
    lines: &mut tokio::io::Lines<R>,
) -> Result<Option<String>, Failure> {
    if std::io::stdin().is_terminal() {
        print!("username> ");
        // A prompt that cannot be shown is no reason to stop.
        let _ = std::io::stdout().flush();
    }
    lines.next_line().await.map_err(|error| Failure::Other(error.into()))
}

async fn wait_for_rest(asked: &Mutex<HashSet<String>>) -> Result<(), Failure> {
    let left = || asked.lock().map_or(0, |asked| asked.len());
    let all = async {
        while left() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, all).await {
        Ok(()) => Ok(()),
        Err(_) => Err(Failure::Unanswered(left())),
    }
}
