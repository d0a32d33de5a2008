//! What workers and loops without a shard ask a person for: pure, from their answers to one condition.

use super::status::Facts;
use super::validate::Obstacle;
use super::workers::WorkerStatus;
use crate::api::status::ServiceStatus;

/// Reason of slots that stand still until somebody acts.
pub const SLOT_HALTED: &str = "SlotHalted";
/// Reason of what a person should know and what stops nothing.
pub const NEEDS_ATTENTION: &str = "NeedsAttention";

/// The most urgent of what the workers say, or have said: one that does not answer just now has not taken it back.
pub fn complaint(facts: &Facts<'_>, last: Option<&ServiceStatus>) -> Option<Obstacle> {
    let workers = facts
        .shards
        .iter()
        .map(|shard| (format!("partition {}", shard.partition), facts.names.worker_pod(shard.partition)));
    let loops = facts.stateless_pods().map(|pod| (pod.clone(), pod));
    let answers: Vec<_> = workers.chain(loops).map(|(who, pod)| (who, facts.found.statuses.get(&pod))).collect();
    // A worker that is not ready may not have looked at its slots yet.
    let all_known = answers.iter().all(|(_, answer)| answer.is_some_and(|status| status.ready));
    let said_before = |reason| if all_known { None } else { repeated(last?, reason) };
    let known = || answers.iter().filter_map(|(who, answer)| Some((&**who, (*answer)?)));
    obstacle(SLOT_HALTED, known().flat_map(|(who, status)| halted(who, status)))
        .or_else(|| said_before(SLOT_HALTED))
        .or_else(|| obstacle(NEEDS_ATTENTION, known().flat_map(|(who, status)| notices(who, status))))
        .or_else(|| said_before(NEEDS_ATTENTION))
}

/// The first, and how many more there are: enough to begin with, and the same words as long as the state is the same.
fn obstacle(reason: &'static str, mut messages: impl Iterator<Item = String>) -> Option<Obstacle> {
    let mut message = messages.next()?;
    let more = messages.count();
    if more > 0 {
        message = format!("{message}; and {more} more, which the workers' /status shows");
    }
    Some(Obstacle { reason, message, passes: false })
}

fn halted(who: &str, status: &WorkerStatus) -> impl Iterator<Item = String> {
    let mut slots: Vec<_> = status.halted.iter().collect();
    slots.sort_unstable();
    slots.into_iter().map(move |slot| format!("{who}, slot {}: {}", slot.slot, slot.reason))
}

fn notices(who: &str, status: &WorkerStatus) -> impl Iterator<Item = String> {
    status.notices.iter().map(move |notice| format!("{who}: {notice}"))
}

fn repeated(last: &ServiceStatus, reason: &'static str) -> Option<Obstacle> {
    let degraded =
        last.conditions.iter().find(|c| c.type_ == "Degraded" && c.status == "True" && c.reason == reason)?;
    Some(Obstacle { reason, message: degraded.message.clone(), passes: false })
}
