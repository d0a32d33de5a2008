//! Moving slots to where the spec's number of partitions wants them: what is to be done next, and what to say of it. The mover
//! does the work; who owns which slot is in the shards, and here is only how many there are to be.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::ApiResource;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::dereference::{Found, has_succeeded};
use super::status::{Change, Facts, Words, not_ready, unprepared, words};
use super::validate::Obstacle;
use super::workers::WorkerStatus;
use super::{Context, ReconcileError, apply, rollout};
use crate::api::status::{PartitionStatus, ReshardPhase, ReshardStatus, ServiceStatus};
use crate::build::names::{Component, MANAGER, Names, PARTITION};
use crate::build::shards::ShardSource;
use crate::build::{self, BuildError, Object, Plan};
use crate::identity::Identity;
use crate::kind::ServiceKind;
use crate::watched::Objects;

/// Reason of a service whose slots are being moved.
pub const RESHARDING: &str = "Resharding";
/// Reason of a group of slots that did not come over as it was, and is moved again.
pub const MOVE_UNDONE: &str = "MoveUndone";
/// The label by which Kubernetes tells whose a Job's pod is.
const JOB: &str = "batch.kubernetes.io/job-name";

/// The identity that follows from what the spec wants and from what the mover of the present plan has done.
pub fn next<K: ServiceKind>(plan: &Plan<'_, K>, found: &Found) -> Result<Identity, BuildError> {
    let wanted = plan.service.service().partitions;
    if plan.identity.settled {
        return Ok(plan.identity.next(wanted, false));
    }
    let job = build::reshard::job(plan)?.metadata.name.unwrap_or_default();
    Ok(plan.identity.next(wanted, found.jobs.get(&job).is_some_and(has_succeeded)))
}

/// Whether a partition of this number has yet to be filled for the first time.
fn joins(identity: &Identity, partition: u32) -> bool {
    !identity.settled && partition >= identity.from
}

/// The shards that the service has run on, and those that are yet to be filled.
pub fn split<'a>(identity: &Identity, shards: &'a [ShardSource]) -> (&'a [ShardSource], &'a [ShardSource]) {
    shards.split_at(shards.iter().position(|shard| joins(identity, shard.partition)).unwrap_or(shards.len()))
}

/// What can be applied while the shards that join cannot be reached: everything but their workers, and the Job that looks into
/// all shards. Whatever of it is there already stays.
pub fn without_joining(objects: Vec<Object>, identity: &Identity) -> Vec<Object> {
    let later = |object: &Object| match &*object.resource.kind {
        "Job" => true,
        "StatefulSet" => {
            let partition =
                object.object.metadata.labels.as_ref().and_then(|labels| labels.get(PARTITION)?.parse().ok());
            partition.is_some_and(|partition| joins(identity, partition))
        }
        _ => false,
    };
    objects.into_iter().filter(|object| !later(object)).collect()
}

/// What is to be done about the mover.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Its time has not come.
    Wait,
    /// These Jobs are of another plan and have to go before anything else, each with its pods.
    Clear(Vec<String>),
    /// The Job of the present plan should be there.
    Run,
}

/// The next step: pure. `job` is the present plan's, if there is anything to move, and `ready` says whether everything is there
/// that it needs.
fn step(job: Option<&str>, jobs: &BTreeMap<String, Job>, ready: bool) -> Step {
    let goes = |job: &Job| job.metadata.deletion_timestamp.is_some();
    let of_present = |name: &String, there: &Job| job == Some(name) && !goes(there);
    let others: Vec<_> = movers(jobs).filter(|(name, job)| !of_present(name, job)).collect();
    if !others.is_empty() {
        let to_delete = others.into_iter().filter(|(_, job)| !goes(job)).map(|(name, _)| name.clone());
        return Step::Clear(to_delete.collect());
    }
    // One that is there goes on whatever becomes of a worker: it waits for what it needs.
    if job.is_some_and(|job| ready || jobs.contains_key(job)) { Step::Run } else { Step::Wait }
}

fn movers(jobs: &BTreeMap<String, Job>) -> impl Iterator<Item = (&String, &Job)> {
    jobs.iter().filter(|(_, job)| Component::Mover.is_of(job.labels()))
}

/// Whether all workers work: each must follow what is done with its shard's slots, and publish what it has not yet.
fn all_up(identity: &Identity, names: &Names, sets: &BTreeMap<String, StatefulSet>) -> bool {
    (0..identity.partitions).all(|partition| sets.get(&names.worker(partition)).is_some_and(rollout::is_up))
}

/// Takes the next step. Gives the name of the present plan's Job, if there is anything to move.
pub async fn drive<K: ServiceKind>(
    context: &Context,
    plan: &Plan<'_, K>,
    there: &Objects,
    found: &Found,
    prepared: bool,
) -> Result<Option<String>, ReconcileError> {
    let (identity, names) = (&plan.identity, &plan.names);
    let job = (!identity.settled).then(|| Object::new(&build::reshard::job(plan)?)).transpose()?;
    let name = job.as_ref().map(|job| job.object.name_any());
    let ready = prepared && all_up(identity, names, &found.sets);
    match step(name.as_deref(), &found.jobs, ready) {
        Step::Wait => {}
        Step::Run => apply::apply(&context.client, &context.watched, names, job.as_slice()).await?,
        Step::Clear(jobs) => {
            let resource = ApiResource::erase::<Job>(&());
            for seen in jobs.iter().filter_map(|job| there.get("Job", job)) {
                // Gone is only what has no pod left: of two movers, one would wait for the other.
                apply::delete(&context.client, &resource, names, seen, DeleteParams::foreground()).await?;
            }
        }
    }
    Ok(name)
}

/// Stops movers that run, at a safe point; whoever applies them again lets them go on.
pub async fn hold(context: &Context, names: &Names, found: &Found) -> kube::Result<()> {
    let runs = |job: &Job| {
        let stopped = job.spec.as_ref().is_some_and(|spec| spec.suspend == Some(true));
        !stopped && !has_succeeded(job) && job.metadata.deletion_timestamp.is_none()
    };
    let resource = ApiResource::erase::<Job>(&());
    let jobs: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &names.namespace, &resource);
    for (name, job) in movers(&found.jobs).filter(|(_, job)| runs(job)) {
        // The very Job that was seen.
        let patch = json!({ "metadata": { "uid": job.metadata.uid }, "spec": { "suspend": true } });
        match jobs.patch(name, &PatchParams::apply(MANAGER), &Patch::Merge(&patch)).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            done => drop(done?),
        }
    }
    Ok(())
}

/// How far slots are moved, and what somebody should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is said of it.
    pub status: ReshardStatus,
    /// What does not pass by itself, or should not have happened.
    pub trouble: Option<Obstacle>,
}

impl Progress {
    /// That something is going on.
    pub fn obstacle(&self) -> Obstacle {
        let ReshardStatus { from, to, message, .. } = &self.status;
        let message = format!("{}: {message}", way(*from, *to));
        Obstacle { reason: RESHARDING, message, passes: true }
    }
}

fn way(from: u32, to: u32) -> String {
    if from == to { format!("back to {to} partitions") } else { format!("from {from} to {to} partitions") }
}

/// Whether a partition counts: one that has no slots yet, or none any more, is missed by nobody.
pub fn is_needed(identity: &Identity, partition: &PartitionStatus) -> bool {
    !joins(identity, partition.partition) || !partition.slots.is_empty()
}

/// How far slots are moved; `None` if none are.
pub fn progress(facts: &Facts<'_>, partitions: &[PartitionStatus], last: Option<&ServiceStatus>) -> Option<Progress> {
    let before = last.and_then(|last| last.reshard.clone());
    let Some(identity) = facts.identity else {
        // Nobody has looked.
        return before.map(|status| Progress { status, trouble: None });
    };
    if identity.settled {
        return None;
    }
    let (from, to) = (identity.from, identity.target);
    let mut status = before.filter(|before| (before.from, before.to) == (from, to)).unwrap_or_default();
    (status.from, status.to) = (from, to);
    let said = said(facts);
    if let Some(report) = said.and_then(|said| said.reshard.as_ref()) {
        (status.slots_total, status.slots_moved) = (report.slots_total, report.slots_moved);
    }
    let (phase, message, trouble) = step_of(facts, identity, partitions, said, &status);
    Some(Progress { status: ReshardStatus { phase, message, ..status }, trouble })
}

type Telling = (ReshardPhase, String, Option<Obstacle>);

fn step_of(
    facts: &Facts<'_>,
    identity: &Identity,
    partitions: &[PartitionStatus],
    said: Option<&WorkerStatus>,
    status: &ReshardStatus,
) -> Telling {
    if facts.paused {
        let message = "spec.paused is true; slots are moved on when the pause ends".to_owned();
        return (ReshardPhase::Paused, message, None);
    }
    if let Some(said) = said {
        return by_mover(said, status);
    }
    if let Some(waits) = not_begun(facts, identity, partitions) {
        return (ReshardPhase::Preparing, waits.message.clone(), Some(waits).filter(|waits| !waits.passes));
    }
    match words(facts, |pod| is_present(facts, pod)) {
        Some(Words::Unstarted(why)) => failed(format!("the mover {why}")),
        Some(Words::Last(error)) => failed(format!("the mover says: {error}")),
        // One that does not answer just now has taken nothing back.
        None if runs(facts) && !matches!(status.phase, ReshardPhase::Preparing | ReshardPhase::Paused) => {
            (status.phase, status.message.clone(), None)
        }
        None => (ReshardPhase::Preparing, "the mover starts".to_owned(), None),
    }
}

fn runs(facts: &Facts<'_>) -> bool {
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    facts.found.pods.iter().any(|pod| is_present(facts, pod) && phase(pod))
}

/// What the mover does not begin without. What the whole service needs is told of as such besides.
fn not_begun(facts: &Facts<'_>, identity: &Identity, partitions: &[PartitionStatus]) -> Option<Obstacle> {
    let passing = |message| Obstacle { reason: RESHARDING, message, passes: true };
    let obstacle = || facts.obstacle.as_ref().map(|obstacle| passing(obstacle.message.clone()));
    let down = || {
        let PartitionStatus { partition, worker, .. } = partitions.iter().find(|partition| !partition.ready)?;
        Some(match joins(identity, *partition) {
            true => not_ready(facts, "WorkerNotReady", &format!("the worker {worker}"), worker),
            false => passing(format!("waiting for the worker {worker}")),
        })
    };
    facts.joining.clone().or_else(obstacle).or_else(|| unprepared(facts)).or_else(down)
}

fn failed(message: String) -> Telling {
    let trouble = Obstacle { reason: "MoverFailed", message: message.clone(), passes: false };
    (ReshardPhase::Preparing, message, Some(trouble))
}

fn by_mover(said: &WorkerStatus, status: &ReshardStatus) -> Telling {
    let report = said.reshard.clone().unwrap_or_default();
    let (phase, mut message) = match &*report.phase {
        "moving" => (ReshardPhase::Moving, format!("{} of {} slots are moved", status.slots_moved, status.slots_total)),
        "cleaning" => {
            (ReshardPhase::Cleaning, "every slot is moved; its rows are deleted where they were before".to_owned())
        }
        _ => (ReshardPhase::Planning, "the mover looks where every slot is".to_owned()),
    };
    let trouble = |reason, message: &String| Some(Obstacle { reason, message: message.clone(), passes: false });
    if let Some(problem) = &report.problem {
        return (phase, message, trouble(MOVE_UNDONE, &problem.message));
    }
    // It says so of every part that has not done anything yet.
    let waits = said.waiting_for.as_ref().filter(|waits| !waits.ends_with(": starting"));
    if let Some(waits) = waits {
        message = format!("the mover waits for what fails: {waits}");
        return (phase, message.clone(), trouble("MoverWaiting", &message));
    }
    (phase, message, None)
}

/// What the mover of the present plan says.
fn said<'a>(facts: &Facts<'a>) -> Option<&'a WorkerStatus> {
    let mut pods = facts.found.pods.iter().filter(|pod| is_present(facts, pod));
    pods.find_map(|pod| facts.found.statuses.get(&pod.name_any()))
}

/// Whether a pod is the mover's of the present plan, and not just going.
fn is_present(facts: &Facts<'_>, pod: &Pod) -> bool {
    let job = pod.labels().get(JOB).map(String::as_str);
    let present = facts.mover.is_some() && job == facts.mover;
    present && Component::Mover.is_of(pod.labels()) && pod.metadata.deletion_timestamp.is_none()
}

/// What to tell of a new status.
pub fn change(last: Option<&ServiceStatus>, now: &ServiceStatus) -> Option<Change> {
    let before = last.and_then(|last| last.reshard.as_ref());
    let same = |a: &ReshardStatus, b: &ReshardStatus| (a.from, a.to) == (b.from, b.to);
    let (reason, note) = match (before, &now.reshard) {
        (Some(before), Some(now)) if same(before, now) => return None,
        (_, Some(now)) => ("ReshardStarted", way(now.from, now.to)),
        (Some(before), None) => ("Resharded", format!("all slots lie in {} partitions", before.to)),
        (None, None) => return None,
    };
    Some(Change { warning: false, reason: reason.to_owned(), note })
}

#[cfg(test)]
mod tests;
