//! Which workers are to be changed now: pure. One partition at a time, and the next only when the last has come back.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::ResourceExt;

use crate::build::names::TEMPLATE;

/// What is to be done about a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It may be applied.
    Apply,
    /// Its pod would be made anew, and another's turn comes first.
    Wait,
}

/// What to do about each of the wanted StatefulSets, by name, given those that are there.
///
/// One that is there already and down may always change, for nothing is lost by it; so may one whose pods stay as they are. Of
/// those that are up, one at a time changes, only while all others are up, and only once the init Job of the change has
/// succeeded: what breaks there breaks no worker.
pub fn steps(
    wanted: &[(String, String)],
    there: &BTreeMap<String, StatefulSet>,
    prepared: bool,
) -> BTreeMap<String, Step> {
    let stale = |name: &str, hash: &str| there.get(name).is_some_and(|set| hash_of(set) != Some(hash));
    let up = |name: &str| there.get(name).is_some_and(is_up);
    // One that is not there yet has never been up: it takes nobody's turn.
    let mut turn_is_taken = !prepared || wanted.iter().any(|(name, _)| there.contains_key(name) && !up(name));
    let mut step = |name: &str, hash: &str| match stale(name, hash) && up(name) {
        true if std::mem::replace(&mut turn_is_taken, true) => Step::Wait,
        _ => Step::Apply,
    };
    wanted.iter().map(|(name, hash)| (name.clone(), step(name, hash))).collect()
}

fn hash_of(set: &StatefulSet) -> Option<&str> {
    set.annotations().get(TEMPLATE).map(String::as_str)
}

/// Whether its pod is the present template's, and ready.
pub fn is_up(set: &StatefulSet) -> bool {
    let Some(status) = &set.status else { return false };
    let seen = set.metadata.generation.is_none() || status.observed_generation >= set.metadata.generation;
    seen && status.current_revision == status.update_revision && status.ready_replicas.unwrap_or(0) > 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(hash: &str, ready: i32, settled: bool) -> StatefulSet {
        let update = if settled { "1" } else { "2" };
        serde_json::from_value(json!({
            "metadata": { "annotations": { TEMPLATE: hash }, "generation": 3 },
            "status": {
                "replicas": 1, "readyReplicas": ready, "observedGeneration": 3,
                "currentRevision": "1", "updateRevision": update,
            },
        }))
        .unwrap()
    }

    fn applied(there: &[StatefulSet], wanted: &[&str]) -> Vec<usize> {
        applied_when(true, there, wanted)
    }

    fn applied_when(prepared: bool, there: &[StatefulSet], wanted: &[&str]) -> Vec<usize> {
        let names: Vec<_> = (0..wanted.len()).map(|n| format!("demo-{n}")).collect();
        let there = names.iter().cloned().zip(there.iter().cloned()).collect();
        let wanted: Vec<_> = names.iter().cloned().zip(wanted.iter().map(|hash| (*hash).to_owned())).collect();
        let steps = steps(&wanted, &there, prepared);
        (0..names.len()).filter(|n| steps[&names[*n]] == Step::Apply).collect()
    }

    #[test]
    fn all_are_made_at_once() {
        assert_eq!(applied(&[], &["a", "a", "a"]), [0, 1, 2]);
    }

    #[test]
    fn one_changes_at_a_time_and_the_next_when_it_has_come_back() {
        let (old, new) = (set("a", 1, true), set("b", 1, true));
        let want = ["b", "b", "b"];
        assert_eq!(applied(&[old.clone(), old.clone(), old.clone()], &want), [0]);
        // On its way: the old pod is still ready, or none is.
        assert_eq!(applied(&[set("b", 1, false), old.clone(), old.clone()], &want), [0]);
        assert_eq!(applied(&[set("b", 0, true), old.clone(), old.clone()], &want), [0]);
        assert_eq!(applied(&[new.clone(), old.clone(), old.clone()], &want), [0, 1]);
        assert_eq!(applied(&[new.clone(), new.clone(), new], &want), [0, 1, 2]);
    }

    #[test]
    fn nothing_that_is_up_changes_before_the_init_job_has_succeeded() {
        let old = set("a", 1, true);
        assert_eq!(applied_when(false, &[old.clone(), old.clone()], &["b", "b"]), [0usize; 0]);
        assert_eq!(applied_when(false, &[old.clone(), old], &["a", "a"]), [0, 1]);
        assert_eq!(applied_when(false, &[], &["a", "a"]), [0, 1], "a new service is made all at once");
        assert_eq!(applied_when(false, &[set("a", 0, false)], &["b"]), [0]);
    }

    #[test]
    fn what_is_down_may_be_mended_at_once() {
        // The first was given something bad and has not come back; the spec is mended.
        let down = set("bad", 0, false);
        let old = set("a", 1, true);
        assert_eq!(applied(&[down.clone(), old.clone(), old.clone()], &["c", "c", "c"]), [0]);
        // Taken back: the others never had it.
        assert_eq!(applied(&[down, old.clone(), old], &["a", "a", "a"]), [0, 1, 2]);
    }
}
