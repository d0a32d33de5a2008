//! What to say of a service: pure, from what was read. The same state always gives the same words.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use shardlane_config::ranges;

use super::complaints::{SLOT_HALTED, complaint};
use super::dereference::{self, Found};
use super::reshard::{self, Progress};
use super::validate::Obstacle;
use super::{dispensable, slots};
use crate::api::status::{PartitionStatus, Phase, ServiceStatus};
use crate::build::names::{Component, Names};
use crate::build::shards::ShardSource;
use crate::identity::Identity;
use crate::kind::StatelessLoop;

/// Reason of a loop without a shard that is not ready.
pub(super) const STATELESS_NOT_READY: &str = "StatelessNotReady";
/// Reason of a resource that is going.
const DELETING: &str = "Deleting";

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
    /// The loop without a shard, if it has one.
    pub stateless: Option<StatelessLoop<'a>>,
    /// Whether the operator runs a Redis for it.
    pub redis: bool,
    /// What stands in the way of everything.
    pub obstacle: Option<Obstacle>,
    /// What stands in the way of shards that are to be filled with slots, while the service runs on those that have some.
    pub joining: Option<Obstacle>,
    /// Name of the Job that moves slots as they should be now, if they are to be moved.
    pub mover: Option<&'a str>,
    /// The worker whose turn to be changed has not come yet, if there is one.
    pub rolling: Option<String>,
    /// Whether the operator changes nothing.
    pub paused: bool,
    /// The image that workers run if the spec names none.
    pub image: Option<&'a str>,
    /// The image that its own Redis runs if the spec names none.
    pub redis_image: Option<&'a str>,
}

impl Facts<'_> {
    /// Names of the pods of the loop without a shard.
    pub fn stateless_pods(&self) -> impl Iterator<Item = String> {
        let all = self.stateless.iter().flat_map(|each| (0..each.replicas).map(|number| (each.name, number)));
        all.map(|(name, number)| self.names.stateless_pod(name, number))
    }
}

/// The status, given the last one, whose times of transition are kept.
pub fn status(facts: &Facts<'_>, last: Option<&ServiceStatus>) -> ServiceStatus {
    let partitions = partitions(facts, last);
    let replicas = u32::try_from(partitions.len()).unwrap_or(u32::MAX);
    let ready_replicas = u32::try_from(partitions.iter().filter(|p| p.ready).count()).unwrap_or(u32::MAX);
    let waiting = facts.obstacle.clone().or_else(|| waiting(facts, &partitions));
    let complaint = complaint(facts, last);
    let progress = reshard::progress(facts, &partitions, last);
    let halted = complaint.as_ref().is_some_and(|complaint| complaint.reason == SLOT_HALTED);
    let was_ready = last.is_some_and(|last| matches!(last.phase, Phase::Running | Phase::Degraded));
    let phase = match &waiting {
        None if halted => Phase::Degraded,
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
        redis_image: facts.redis_image.map(str::to_owned),
        partitions,
        reshard: progress.as_ref().map(|progress| progress.status.clone()),
    };
    status.conditions = conditions(facts, waiting, complaint, progress, last);
    status
}

fn conditions(
    facts: &Facts<'_>,
    waiting: Option<Obstacle>,
    complaint: Option<Obstacle>,
    progress: Option<Progress>,
    last: Option<&ServiceStatus>,
) -> Vec<Condition> {
    let progressing = waiting.as_ref().filter(|obstacle| obstacle.passes);
    let halted = complaint.as_ref().filter(|complaint| complaint.reason == SLOT_HALTED);
    let broken = waiting.as_ref().filter(|obstacle| !obstacle.passes).or(halted);
    // Workers that wait for their turn wait for the Job first.
    let held = facts.rolling.as_ref().map(|worker| unprepared(facts).unwrap_or_else(|| next_in_turn(worker)));
    let stuck = held.as_ref().filter(|held| !held.passes);
    let (starting, lost) = match dispensable::missing(facts).filter(|_| waiting.is_none()) {
        Some(missing) if dispensable::starts(&missing, last) => (Some(missing), None),
        missing => (None, missing),
    };
    let moves = progress.as_ref().map(Progress::obstacle);
    let trouble = progress.and_then(|progress| progress.trouble);
    let degraded = broken.or(stuck).or(trouble.as_ref()).or(lost.as_ref()).or(complaint.as_ref());
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
    // Whether a service that runs is all that it should be is not known before the Job has said so.
    let looking = facts.init_job.and_then(|_| unprepared(facts)).filter(|unprepared| unprepared.passes);
    let progressing = progressing.or(moves.as_ref()).or(held.as_ref()).or(starting.as_ref()).or(looking.as_ref());
    let moving = progressing.map_or(("Settled", String::new()), why);
    let worse = degraded.map_or(("AsExpected", String::new()), why);
    let paused = match facts.paused {
        true => ("SpecPaused", "spec.paused is true: the operator leaves everything as it is"),
        false => ("NotPaused", ""),
    };
    vec![
        condition("Ready", waiting.is_none(), (ready.0, &ready.1)),
        condition("Progressing", progressing.is_some(), (moving.0, &moving.1)),
        condition("Degraded", degraded.is_some(), (worse.0, &worse.1)),
        condition("Paused", facts.paused, paused),
    ]
}

fn next_in_turn(worker: &str) -> Obstacle {
    let message = format!("workers are changed one after another; {worker} is next when all others are ready");
    Obstacle { reason: "Rolling", message, passes: true }
}

/// The last status, of a resource that is being deleted.
pub fn leaving(last: Option<&ServiceStatus>, waits_for: &str) -> ServiceStatus {
    let mut status = last.cloned().unwrap_or_default();
    for condition in status.conditions.iter_mut().filter(|condition| condition.reason != DELETING) {
        let now = match &*condition.type_ {
            "Ready" => "False",
            "Progressing" => "True",
            _ => continue,
        };
        if condition.status != now {
            condition.last_transition_time = Time(Timestamp::now());
        }
        now.clone_into(&mut condition.status);
        DELETING.clone_into(&mut condition.reason);
    }
    for condition in status.conditions.iter_mut().filter(|condition| condition.reason == DELETING) {
        condition.message = format!("the resource is being deleted; waiting for {waits_for}");
    }
    status
}

/// What to do about an object that is stored and cannot be read.
pub fn unreadable_message(why: &str) -> String {
    format!("this version of the operator cannot read the resource: {why}; mend it with kubectl edit")
}

/// What is said of an object that is stored and cannot be read. It has no other status: what it had may be what cannot be read.
pub fn unreadable(generation: Option<i64>, message: &str) -> serde_json::Value {
    let condition = |type_: &str, status: &str| Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: "Unreadable".to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: Time(Timestamp::now()),
    };
    serde_json::json!({
        "phase": Phase::Degraded,
        "observedGeneration": generation,
        "conditions": [condition("Ready", "False"), condition("Degraded", "True")],
    })
}

/// What runs, but not as it should.
fn waiting(facts: &Facts<'_>, partitions: &[PartitionStatus]) -> Option<Obstacle> {
    let obstacle = |reason, message, passes| Some(Obstacle { reason, message, passes });
    let needed =
        |partition: &&PartitionStatus| facts.identity.is_none_or(|identity| reshard::is_needed(identity, partition));
    let partitions: Vec<_> = partitions.iter().filter(needed).collect();
    // A service that runs is not held up by a Job that only looks whether anything is missing.
    let running = !partitions.is_empty() && partitions.iter().all(|partition| partition.ready);
    if let Some(unprepared) = unprepared(facts).filter(|_| !running) {
        return Some(unprepared);
    }
    if let Some(down) = partitions.iter().find(|partition| !partition.ready) {
        return Some(not_ready(facts, "WorkerNotReady", &format!("the worker {}", down.worker), &down.worker));
    }
    let ready = facts.found.gateway.as_ref().and_then(|gateway| gateway.status.as_ref()?.ready_replicas).unwrap_or(0);
    if ready.unsigned_abs() < facts.gateways {
        let message = format!("{ready} of {} gateways are ready", facts.gateways);
        return obstacle("GatewayNotReady", message, true);
    }
    stateless_waiting(facts, true)
}

/// Why not all pods of the loop without a shard are ready, if it is `essential` or if it is not; the first of those that are not
/// ready has its say.
pub(super) fn stateless_waiting(facts: &Facts<'_>, essential: bool) -> Option<Obstacle> {
    let StatelessLoop { name, replicas, .. } = facts.stateless.filter(|each| each.essential == essential)?;
    let set = facts.found.sets.get(&facts.names.stateless(name));
    let ready = set.and_then(|set| set.status.as_ref()?.ready_replicas).unwrap_or(0);
    if ready.unsigned_abs() >= replicas {
        return None;
    }
    let works = |pod: &String| facts.found.statuses.get(pod).is_some_and(|status| status.ready);
    let reason = STATELESS_NOT_READY;
    Some(match facts.stateless_pods().find(|pod| !works(pod)) {
        Some(down) => not_ready(facts, reason, &format!("{ready} of {replicas} {name} are ready; {down}"), &down),
        None => Obstacle { reason, message: format!("{ready} of {replicas} {name} are ready"), passes: true },
    })
}

/// What the present init Job has not done yet, if it has not succeeded.
pub(super) fn unprepared(facts: &Facts<'_>) -> Option<Obstacle> {
    let obstacle = |reason, message, passes| Some(Obstacle { reason, message, passes });
    if facts.init_job.and_then(|name| facts.found.jobs.get(name)).is_some_and(dereference::has_succeeded) {
        return None;
    }
    let of_init = |pod: &Pod| Component::Init.is_of(pod.labels());
    let says = facts.found.pods.iter().filter(|pod| of_init(pod));
    // One that runs has outlived whatever it said before it last failed.
    let says = says.filter_map(|pod| facts.found.statuses.get(&pod.name_any())?.waiting_for.clone()).next();
    match (says, words(facts, of_init)) {
        (Some(says), _) => obstacle("InitWaiting", format!("the init Job waits for what fails: {says}"), false),
        (None, Some(Words::Unstarted(why))) => obstacle("InitFailed", format!("the init Job {why}"), false),
        (None, Some(Words::Last(error))) => obstacle("InitFailed", format!("the init Job says: {error}"), false),
        (None, None) => obstacle("Preparing", "the init Job makes topics, tables and slots".to_owned(), true),
    }
}

/// A pod that is not ready, in its own words if it has any.
pub(super) fn not_ready(facts: &Facts<'_>, reason: &'static str, who: &str, down: &str) -> Obstacle {
    let obstacle = |message, passes| Obstacle { reason, message, passes };
    // One that answers has outlived whatever it said before it last failed.
    if let Some(why) = facts.found.statuses.get(down).and_then(|status| status.waiting_for.as_ref()) {
        return obstacle(format!("{who} waits: {why}"), true);
    }
    match words(facts, |pod| pod.name_any() == down) {
        Some(Words::Unstarted(why)) => obstacle(format!("{who} {why}"), false),
        Some(Words::Last(words)) => {
            let message = format!("{who} is not ready, and said: {words}; its log says more");
            obstacle(message, false)
        }
        None => obstacle(format!("{who} is not ready; its /readyz and its log say why"), true),
    }
}

/// Why a pod does not work.
pub(super) enum Words {
    /// It has never begun, and what Kubernetes says of that.
    Unstarted(String),
    /// What it said when it last failed.
    Last(String),
}

/// Why the first of these pods that does not work does not.
pub(super) fn words(facts: &Facts<'_>, these: impl Fn(&Pod) -> bool) -> Option<Words> {
    facts.found.pods.iter().filter(|pod| these(pod)).find_map(words_of)
}

fn words_of(pod: &Pod) -> Option<Words> {
    let status = pod.status.as_ref()?;
    let unscheduled = status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(unscheduled) = unscheduled {
        let why = unscheduled.message.as_deref().unwrap_or_default();
        return Some(Words::Unstarted(format!("has no node to run on: {why}")));
    }
    let containers = || status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    containers()
        .find_map(never_begun)
        .map(Words::Unstarted)
        .or_else(|| containers().find_map(last_words).map(Words::Last))
}

/// What keeps a container from its beginning. The kubelet tries again; its own words change with each try.
fn never_begun(container: &ContainerStatus) -> Option<String> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    match waiting.reason.as_deref()? {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            Some(format!("cannot start: its image {} cannot be pulled", container.image))
        }
        "CreateContainerConfigError" | "CreateContainerError" => {
            Some(format!("cannot start: {}", waiting.message.as_deref().unwrap_or_default()))
        }
        _ => None,
    }
}

/// What a container said when it last failed, if it has not come back since.
fn last_words(container: &ContainerStatus) -> Option<String> {
    // A container without probes counts as ready while it runs, however often it has failed.
    if container.ready && container.restart_count == 0 {
        return None;
    }
    let states = [container.state.as_ref(), container.last_state.as_ref()];
    let words = states.into_iter().flatten().find_map(|state| {
        let ended = state.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
        Some(summary(ended.message.as_deref().unwrap_or_default()))
    });
    words.filter(|words| !words.is_empty())
}

/// The message of the last log line, which is JSON, or the line itself.
pub fn summary(log: &str) -> String {
    let line = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let parsed: Option<serde_json::Value> = serde_json::from_str(line).ok();
    parsed.and_then(|value| Some(value.get("message")?.as_str()?.to_owned())).unwrap_or_else(|| line.to_owned())
}

fn partitions(facts: &Facts<'_>, last: Option<&ServiceStatus>) -> Vec<PartitionStatus> {
    let Some(identity) = facts.identity else { return Vec::new() };
    let slots = slots::of_partitions(facts, identity, last);
    let partition = |(shard, slots): (&ShardSource, _)| {
        let worker = facts.found.sets.get(&facts.names.worker(shard.partition));
        PartitionStatus {
            partition: shard.partition,
            worker: facts.names.worker_pod(shard.partition),
            shard: shard.name().to_owned(),
            slots: ranges(&slots),
            ready: worker.and_then(|worker| worker.status.as_ref()?.ready_replicas).unwrap_or(0) > 0,
        }
    };
    facts.shards.iter().zip(slots).map(partition).collect()
}

/// Something that changed, to be told as an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whether it is for the worse.
    pub warning: bool,
    /// The condition's reason.
    pub reason: String,
    /// What happened.
    pub note: String,
}

/// What to tell of a new status: whether the service is ready, and what else somebody should look at.
pub fn changes(last: Option<&ServiceStatus>, now: &ServiceStatus) -> Vec<Change> {
    let find = |status: &ServiceStatus, type_| status.conditions.iter().find(|c| c.type_ == type_).cloned();
    let reason = |type_| last.and_then(|last| find(last, type_)).map(|condition| condition.reason);
    let degraded = find(now, "Degraded").filter(|condition| condition.status == "True");
    let mut changes = Vec::new();
    if let Some(ready) = find(now, "Ready").filter(|ready| reason("Ready").as_ref() != Some(&ready.reason)) {
        let well = ready.status == "True";
        let broken = degraded.as_ref().is_some_and(|degraded| degraded.reason == ready.reason);
        changes.push(Change {
            warning: !well && (broken || now.phase == Phase::Degraded),
            note: if well { format!("{} partitions are ready", now.replicas) } else { ready.message },
            reason: ready.reason,
        });
    }
    if let Some(degraded) = degraded
        && reason("Degraded").as_ref() != Some(&degraded.reason)
        && changes.iter().all(|change| change.reason != degraded.reason)
    {
        changes.push(Change { warning: true, reason: degraded.reason, note: degraded.message });
    }
    changes.extend(reshard::change(last, now));
    changes
}

#[cfg(test)]
mod tests;
