//! Parts that a service is faster with and works without: pure. They have no say in whether it is ready.

use super::status::{Facts, STATELESS_NOT_READY, Words, stateless_waiting, words};
use super::validate::Obstacle;
use crate::api::status::{Phase, ServiceStatus};

/// Reason of a Redis that is not ready.
pub const CACHE_NOT_READY: &str = "CacheNotReady";

/// Which of them is not there, and why.
pub fn missing(facts: &Facts<'_>) -> Option<Obstacle> {
    cache(facts).or_else(|| stateless_waiting(facts, false))
}

/// The service's own Redis. Of one that somebody else runs, those that use it speak.
fn cache(facts: &Facts<'_>) -> Option<Obstacle> {
    let (name, pod) = (facts.names.redis(), facts.names.redis_pod());
    let ready = |name: &String| facts.found.sets.get(name)?.status.as_ref()?.ready_replicas;
    if !facts.redis || ready(&name).unwrap_or(0) > 0 {
        return None;
    }
    let (why, passes) = match words(facts, |found| found.metadata.name.as_ref() == Some(&pod)) {
        Some(Words::Unstarted(why)) => (why, false),
        Some(Words::Last(said)) => (format!("is not ready, and said: {said}; its log says more"), false),
        None => ("is not ready; its log says why".to_owned(), true),
    };
    let message = format!("the Redis {pod} {why}. Until it is, reads go to the shards");
    Some(Obstacle { reason: CACHE_NOT_READY, message, passes })
}

/// Whether a part that is not there has just not been there yet. One that was is a loss, and so is one that fails.
pub fn starts(missing: &Obstacle, last: Option<&ServiceStatus>) -> bool {
    let Some(last) = last else { return missing.passes };
    let of_these = |reason: &str| matches!(reason, CACHE_NOT_READY | STATELESS_NOT_READY);
    let still = last.conditions.iter().any(|c| c.type_ == "Progressing" && c.status == "True" && of_these(&c.reason));
    missing.passes && (still || matches!(last.phase, Phase::Pending | Phase::Preparing))
}
