//! What to say of a service: pure, from what was read. The same state always gives the same words.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use shardlane_config::initial_owner;

use super::dereference::Found;
use super::validate::Obstacle;
use crate::api::status::{PartitionStatus, Phase, ServiceStatus};
use crate::build::names::Names;
use crate::build::shards::ShardSource;
use crate::identity::Identity;

/// Everything that the status is made of.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The resource's generation.
    pub generation: Option<i64>,
    /// Names of its parts.
    pub names: &'a Names,
    /// The recorded identity, if it came that far.
    pub identity: Option<&'a Identity>,
    /// Its shards.
    pub shards: &'a [ShardSource],
    /// What was read.
    pub found: &'a Found,
    /// Name of the present init Job, if it was applied.
    pub init_job: Option<&'a str>,
    /// How many gateways there should be.
    pub gateways: u32,
    /// What stands in the way of everything.
    pub obstacle: Option<Obstacle>,
    /// What stands in the way of the spec, while the service runs as it was.
    pub unfulfilled: Option<Obstacle>,
    /// The image that workers run if the spec names none.
    pub image: Option<&'a str>,
}

/// The status, given the last one, whose times of transition are kept.
pub fn status(facts: &Facts<'_>, last: Option<&ServiceStatus>) -> ServiceStatus {
    let partitions = partitions(facts);
    let replicas = u32::try_from(partitions.len()).unwrap_or(u32::MAX);
    let ready_replicas = u32::try_from(partitions.iter().filter(|p| p.ready).count()).unwrap_or(u32::MAX);
    let waiting = facts.obstacle.clone().or_else(|| waiting(facts, &partitions));
    let was_ready = last.is_some_and(|last| matches!(last.phase, Phase::Running | Phase::Degraded));
    let phase = match &waiting {
        None => Phase::Running,
        Some(_) if was_ready => Phase::Degraded,
        Some(obstacle) if obstacle.passes => Phase::Preparing,
        Some(_) => Phase::Pending,
    };
    let mut status = ServiceStatus {
        phase,
        observed_generation: facts.generation,
        conditions: Vec::new(),
        replicas,
        ready_replicas,
        ready: format!("{ready_replicas}/{replicas}"),
        selector: facts.names.worker_selector(),
        image: facts.image.map(str::to_owned),
        partitions,
    };
    status.conditions = conditions(facts, waiting, last);
    status
}

fn conditions(facts: &Facts<'_>, waiting: Option<Obstacle>, last: Option<&ServiceStatus>) -> Vec<Condition> {
    let progressing = waiting.as_ref().filter(|obstacle| obstacle.passes);
    let degraded = waiting.as_ref().filter(|obstacle| !obstacle.passes).or(facts.unfulfilled.as_ref());
    let condition = |type_: &str, status: bool, (reason, message): (&str, &str)| {
        let status = if status { "True" } else { "False" };
        let before = last.and_then(|last| last.conditions.iter().find(|c| c.type_ == type_ && c.status == status));
        Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            observed_generation: facts.generation,
            last_transition_time: before.map_or_else(|| Time(Timestamp::now()), |c| c.last_transition_time.clone()),
        }
    };
    let why = |obstacle: &Obstacle| (obstacle.reason, obstacle.message.clone());
    let ready = waiting.as_ref().map_or(("AllPartitionsReady", String::new()), why);
    let moving = progressing.map_or(("Settled", String::new()), why);
    let broken = degraded.map_or(("AsExpected", String::new()), why);
    vec![
        condition("Ready", waiting.is_none(), (ready.0, &ready.1)),
        condition("Progressing", progressing.is_some(), (moving.0, &moving.1)),
        condition("Degraded", degraded.is_some(), (broken.0, &broken.1)),
    ]
}

/// What runs, but not as it should.
fn waiting(facts: &Facts<'_>, partitions: &[PartitionStatus]) -> Option<Obstacle> {
    let obstacle = |reason, message, passes| Some(Obstacle { reason, message, passes });
    let prepared = facts.init_job.and_then(|name| facts.found.jobs.get(name)).and_then(|job| job.status.as_ref());
    // A service that runs is not held up by a Job that only looks whether anything is missing.
    let running = !partitions.is_empty() && partitions.iter().all(|partition| partition.ready);
    if !running && prepared.and_then(|status| status.succeeded).unwrap_or(0) == 0 {
        let Some(error) = last_words(facts, "init") else {
            return obstacle("Preparing", "the init Job makes topics, tables and slots".to_owned(), true);
        };
        return obstacle("InitFailed", format!("the init Job says: {error}"), false);
    }
    if let Some(down) = partitions.iter().find(|partition| !partition.ready) {
        let words = last_words(facts, "worker").map(|words| format!(", and said: {words}")).unwrap_or_default();
        let message = format!("the worker {} is not ready{words}; its /readyz and its log say why", down.worker);
        return obstacle("WorkerNotReady", message, words.is_empty());
    }
    let ready = facts.found.gateway.as_ref().and_then(|gateway| gateway.status.as_ref()?.ready_replicas).unwrap_or(0);
    if ready.unsigned_abs() < facts.gateways {
        let message = format!("{ready} of {} gateways are ready", facts.gateways);
        return obstacle("GatewayNotReady", message, true);
    }
    None
}

/// What a container of a component said when it last failed, if it has not come back since.
fn last_words(facts: &Facts<'_>, component: &str) -> Option<String> {
    let pods = facts
        .found
        .pods
        .iter()
        .filter(|pod| pod.labels().get("app.kubernetes.io/component").is_some_and(|found| found == component));
    pods.filter_map(words_of).next()
}

fn words_of(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    containers
        // A container without probes counts as ready while it runs, however often it has failed.
        .filter(|container| !container.ready || container.restart_count > 0)
        .filter_map(|container| {
            let states = [container.state.as_ref(), container.last_state.as_ref()];
            states.into_iter().flatten().find_map(|state| {
                let ended = state.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
                Some(summary(ended.message.as_deref().unwrap_or_default()))
            })
        })
        .find(|words| !words.is_empty())
}

/// The message of the last log line, which is JSON, or the line itself.
fn summary(log: &str) -> String {
    let line = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let parsed: Option<serde_json::Value> = serde_json::from_str(line).ok();
    parsed.and_then(|value| Some(value.get("message")?.as_str()?.to_owned())).unwrap_or_else(|| line.to_owned())
}

fn partitions(facts: &Facts<'_>) -> Vec<PartitionStatus> {
    let Some(identity) = facts.identity else { return Vec::new() };
    facts
        .shards
        .iter()
        .map(|shard| {
            let worker = facts.found.workers.get(&facts.names.worker(shard.partition));
            let ready = worker.and_then(|worker| worker.status.as_ref()?.ready_replicas).unwrap_or(0) > 0;
            let ours =
                |slot: &u32| initial_owner(*slot, identity.partitions, identity.max_partitions) == shard.partition;
            PartitionStatus {
                partition: shard.partition,
                worker: facts.names.worker_pod(shard.partition),
                shard: shard.name().to_owned(),
                slots: ranges(&(0..identity.max_partitions).filter(ours).collect::<Vec<_>>()),
                ready,
            }
        })
        .collect()
}

/// Numbers in order as `0-7,9`.
fn ranges(slots: &[u32]) -> String {
    slots
        .chunk_by(|a, b| a + 1 == *b)
        .filter_map(|run| Some((run.first()?, run.last()?)))
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_shown_as_ranges() {
        assert_eq!(ranges(&[0, 1, 2, 3, 7, 9, 10]), "0-3,7,9-10");
        assert_eq!(ranges(&[]), "");
    }

    #[test]
    fn the_last_log_line_is_the_summary() {
        assert_eq!(summary("noise\n{\"message\":\"no such topic\",\"level\":\"ERROR\"}\n\n"), "no such topic");
        assert_eq!(summary("plain words"), "plain words");
    }
}
