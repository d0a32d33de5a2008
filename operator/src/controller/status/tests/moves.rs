//! What is said while slots are moved.

use super::*;
use crate::api::status::{ReshardPhase, ReshardStatus};
use crate::controller::workers::{MoveProblem, MoverReport, OwnSlot};

const MOVER: &str = "demo-reshard-1-abc";

fn with_slots(slots: impl IntoIterator<Item = u32>) -> Option<WorkerStatus> {
    let slots = slots.into_iter().map(|slot| OwnSlot { slot }).collect();
    Some(WorkerStatus { ready: true, slots, ..WorkerStatus::default() })
}

impl Scene {
    /// On its way from two partitions to so many; those that join have no worker yet.
    fn moving_to(mut self, target: u32) -> Self {
        self.says(0, with_slots(0..4));
        self.says(1, with_slots(4..8));
        self.identity = self.identity.next(target, false);
        for partition in 2..self.identity.partitions {
            let secret = format!("secret-{partition}");
            self.shards.push(ShardSource { partition, secret, cluster: None, version: None });
        }
        self.mover = Some(MOVER);
        self
    }

    /// The same, with all workers ready.
    fn ready_to_move_to(self, target: u32) -> Self {
        let mut scene = self.moving_to(target);
        for partition in 2..scene.identity.partitions {
            scene.worker(partition, 1);
            scene.says(partition, with_slots([]));
        }
        scene
    }

    /// What the mover says; it does not answer if `None`.
    fn mover_says(&mut self, status: Option<WorkerStatus>) {
        let pod = json!({
            "metadata": { "name": "m", "labels": {
                "app.kubernetes.io/component": "mover", "batch.kubernetes.io/job-name": MOVER,
            } },
            "status": { "phase": "Running" },
        });
        self.found.pods.retain(|pod| pod.name_any() != "m");
        self.found.pods.push(serde_json::from_value(pod).unwrap());
        self.found.statuses.remove("m");
        self.found.statuses.extend(status.map(|status| ("m".to_owned(), status)));
    }
}

fn report(phase: &str, moved: u32, total: u32) -> WorkerStatus {
    let (phase, problem) = (phase.to_owned(), None);
    let report = MoverReport { phase, slots_total: total, slots_moved: moved, problem };
    WorkerStatus { ready: true, reshard: Some(report), ..WorkerStatus::default() }
}

fn slots(status: &ServiceStatus) -> Vec<&str> {
    status.partitions.iter().map(|partition| &*partition.slots).collect()
}

fn told(last: Option<&ServiceStatus>, now: &ServiceStatus) -> Vec<(String, String)> {
    changes(last, now).into_iter().map(|change| (change.reason, change.note)).collect()
}

fn event(reason: &str, note: &str) -> Vec<(String, String)> {
    vec![(reason.to_owned(), note.to_owned())]
}

#[test]
fn slots_are_shown_as_workers_tell_them() {
    let mut scene = Scene::new();
    let first = scene.status(None);
    assert_eq!(slots(&first), ["0-3", "4-7"], "nobody has said anything yet");
    scene.says(0, with_slots([0, 1, 5, 8, 9]));
    let second = scene.status(Some(&first));
    assert_eq!(slots(&second), ["0-1,5", "4,6-7"], "no slot is another's at once, and strays are nobody's");
    scene.says(0, None);
    assert_eq!(slots(&scene.status(Some(&second))), ["0-1,5", "4,6-7"], "its silence takes nothing back");
    // What was moved at some time lies anywhere.
    scene.identity.plan = 1;
    scene.says(1, None);
    assert_eq!(slots(&scene.status(None)), ["", ""]);
}

#[test]
fn the_service_is_ready_while_shards_and_workers_join() {
    let before = Scene::new().status(None);
    let mut scene = Scene::new().moving_to(4);
    scene.joining = Some(Obstacle {
        reason: "ShardStarting",
        message: "waiting for the Cluster demo-shard-2: Setting up primary".to_owned(),
        passes: true,
    });
    let first = scene.status(Some(&before));
    let expected = "from 2 to 4 partitions: waiting for the Cluster demo-shard-2: Setting up primary";
    assert_eq!(holds(&first, "Progressing"), Some(("Resharding", expected)));
    assert_eq!((holds(&first, "Ready").is_some(), holds(&first, "Degraded")), (true, None));
    assert_eq!((first.phase, &*first.ready, first.is_settled()), (Phase::Running, "2/4", false));
    assert_eq!(slots(&first), ["0-3", "4-7", "", ""]);
    assert_eq!((first.due(4), before.due(2)), ((2, 2), (2, 2)));
    assert_eq!(told(Some(&before), &first), event("ReshardStarted", "from 2 to 4 partitions"));
    assert_eq!(first.reshard.as_ref().unwrap().phase, ReshardPhase::Preparing);

    scene.joining = None;
    let second = scene.status(Some(&first));
    let expected = "from 2 to 4 partitions: the worker demo-2-0 is not ready; its /readyz and its log say why";
    assert_eq!(holds(&second, "Progressing"), Some(("Resharding", expected)));
    assert!(holds(&second, "Ready").is_some());
    scene.found.pods = vec![failed("demo-2-0", "no room")];
    let third = scene.status(Some(&second));
    assert_eq!(holds(&third, "Degraded").unwrap().0, "WorkerNotReady");
    assert!(holds(&third, "Ready").is_some(), "nobody misses it yet");
    // One that has slots is missed.
    scene.says(2, with_slots([4]));
    assert_eq!(holds(&scene.status(Some(&third)), "Ready"), None);
}

#[test]
fn what_a_joining_shard_lacks_is_told_as_degraded() {
    let mut scene = Scene::new().moving_to(3);
    let message = "the Secret third of partition 2 is not there; make it, with the key \"uri\"".to_owned();
    scene.joining = Some(Obstacle { reason: "SecretMissing", message: message.clone(), passes: false });
    let status = scene.status(None);
    assert_eq!(holds(&status, "Degraded"), Some(("SecretMissing", &*message)));
    assert!(holds(&status, "Ready").is_some() && holds(&status, "Progressing").is_some());
}

#[test]
fn the_movers_own_words_are_told() {
    let mut scene = Scene::new().ready_to_move_to(4);
    let message = |status: &ServiceStatus| holds(status, "Progressing").unwrap().1.to_owned();
    assert_eq!(message(&scene.status(None)), "from 2 to 4 partitions: the mover starts");
    scene.mover_says(Some(report("moving", 1, 4)));
    let status = scene.status(None);
    assert_eq!(message(&status), "from 2 to 4 partitions: 1 of 4 slots are moved");
    let expected = ReshardStatus {
        from: 2,
        to: 4,
        slots_total: 4,
        slots_moved: 1,
        phase: ReshardPhase::Moving,
        message: "1 of 4 slots are moved".to_owned(),
    };
    assert_eq!(status.reshard, Some(expected.clone()));
    assert_eq!(scene.status(Some(&status)), status, "the same state gives other words");
    scene.mover_says(None);
    assert_eq!(scene.status(Some(&status)).reshard, Some(expected), "its silence takes nothing back");
    scene.mover_says(Some(report("cleaning", 4, 4)));
    let status = scene.status(Some(&status));
    assert_eq!(status.reshard.as_ref().unwrap().phase, ReshardPhase::Cleaning);
    assert_eq!(holds(&status, "Degraded"), None);

    // Of another plan's mover nothing is believed.
    scene.mover = Some("demo-reshard-2-abc");
    assert_eq!(message(&scene.status(None)), "from 2 to 4 partitions: the mover starts");
}

#[test]
fn a_mover_that_waits_or_fails_is_told_and_holds_nobody_up() {
    let mut scene = Scene::new().ready_to_move_to(4);
    let waiting = |what: &str| WorkerStatus { waiting_for: Some(what.to_owned()), ..report("planning", 0, 0) };
    scene.mover_says(Some(waiting("moves: starting")));
    assert_eq!(holds(&scene.status(None), "Degraded"), None);
    scene.mover_says(Some(waiting("shard 2: connection refused")));
    let status = scene.status(None);
    let expected = "the mover waits for what fails: shard 2: connection refused";
    assert_eq!(holds(&status, "Degraded"), Some(("MoverWaiting", expected)));
    assert!(holds(&status, "Ready").is_some() && status.phase == Phase::Running);

    scene.mover_says(None);
    let mut pod = serde_json::to_value(failed("m", "shard 2 is foreign")).unwrap();
    pod["metadata"] = serde_json::to_value(&scene.found.pods[0].metadata).unwrap();
    scene.found.pods = vec![serde_json::from_value(pod).unwrap()];
    let status = scene.status(None);
    assert_eq!(holds(&status, "Degraded"), Some(("MoverFailed", "the mover says: shard 2 is foreign")));
    assert!(holds(&status, "Ready").is_some());
}

#[test]
fn a_move_that_was_undone_is_told_until_it_succeeds() {
    let mut scene = Scene::new().ready_to_move_to(4);
    let mut undone = report("moving", 1, 4);
    let message = "slots 5-7 from 0 to 2: 3 rows of account differ".to_owned();
    undone.reshard.as_mut().unwrap().problem = Some(MoveProblem { message: message.clone() });
    scene.mover_says(Some(report("moving", 1, 4)));
    let before = scene.status(None);
    scene.mover_says(Some(undone));
    let status = scene.status(Some(&before));
    assert_eq!(holds(&status, "Degraded"), Some(("MoveUndone", &*message)));
    assert_eq!(told(Some(&before), &status), event("MoveUndone", &message));
    scene.mover_says(Some(report("moving", 2, 4)));
    assert_eq!(holds(&scene.status(Some(&status)), "Degraded"), None);
}

#[test]
fn another_target_and_the_end_are_told() {
    let mut scene = Scene::new().ready_to_move_to(4);
    scene.mover_says(Some(report("moving", 1, 4)));
    let first = scene.status(None);
    scene.identity = scene.identity.next(3, false);
    scene.mover = Some("demo-reshard-2-def");
    let second = scene.status(Some(&first));
    assert_eq!(told(Some(&first), &second), event("ReshardStarted", "from 2 to 3 partitions"));
    assert_eq!((second.replicas, second.reshard.as_ref().unwrap().slots_moved), (4, 0));
    // Nobody has looked at it for once.
    let mut blind = second.clone();
    blind.partitions.clear();
    assert_eq!(told(Some(&second), &blind), []);

    scene.identity = scene.identity.next(3, true);
    scene.shards.truncate(3);
    scene.mover = None;
    let done = scene.status(Some(&second));
    assert_eq!(told(Some(&second), &done), event("Resharded", "all slots lie in 3 partitions"));
    assert_eq!((done.replicas, &done.reshard, holds(&done, "Progressing")), (3, &None, None));
}

#[test]
fn a_pause_in_between_is_told() {
    let mut scene = Scene::new().ready_to_move_to(4);
    scene.mover_says(Some(report("moving", 1, 4)));
    let before = scene.status(None);
    (scene.paused, scene.mover) = (true, None);
    let status = scene.status(Some(&before));
    let reshard = status.reshard.as_ref().unwrap();
    assert_eq!((reshard.phase, reshard.slots_moved), (ReshardPhase::Paused, 1));
    let expected = "from 2 to 4 partitions: spec.paused is true; slots are moved on when the pause ends";
    assert_eq!(holds(&status, "Progressing"), Some(("Resharding", expected)));
    assert_eq!(told(Some(&before), &status), []);
}

#[test]
fn what_stands_in_the_way_of_all_is_told_once_and_the_move_is_not_forgotten() {
    let mut scene = Scene::new().ready_to_move_to(4);
    scene.mover_says(Some(report("moving", 1, 4)));
    let before = scene.status(None);
    let message = "the Secret login is not there; make it".to_owned();
    scene.obstacle = Some(Obstacle { reason: "SecretMissing", message: message.clone(), passes: false });
    scene.mover = None;
    let status = scene.status(Some(&before));
    assert_eq!(holds(&status, "Degraded"), Some(("SecretMissing", &*message)));
    assert_eq!(holds(&status, "Progressing"), Some(("Resharding", &*format!("from 2 to 4 partitions: {message}"))));
    assert_eq!(status.reshard.unwrap().slots_moved, 1);
}
