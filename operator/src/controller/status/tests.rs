use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use serde_json::json;

use super::*;
mod moves;

use crate::controller::complaints::NEEDS_ATTENTION;
use crate::controller::workers::{HaltedSlot, WorkerStatus};

/// A service of two partitions and eight slots, of which everything is ready that need be.
struct Scene {
    names: Names,
    identity: Identity,
    shards: Vec<ShardSource>,
    stateless: Option<StatelessLoop<'static>>,
    redis: bool,
    found: Found,
    obstacle: Option<Obstacle>,
    joining: Option<Obstacle>,
    mover: Option<&'static str>,
    paused: bool,
}

impl Scene {
    fn new() -> Self {
        let names = Names {
            service: "demo".to_owned(),
            namespace: "shop".to_owned(),
            kind: "SignupShard".to_owned(),
            owner: serde_json::from_value(json!({ "apiVersion": "", "kind": "", "name": "", "uid": "" })).unwrap(),
        };
        let identity = Identity { placed: true, ..Identity::first("an-id".to_owned(), 2, 8, String::new()) };
        let shard =
            |partition| ShardSource { partition, secret: format!("secret-{partition}"), cluster: None, version: None };
        let ready = WorkerStatus { ready: true, ..WorkerStatus::default() };
        let gateway: Deployment = serde_json::from_value(json!({ "status": { "readyReplicas": 1 } })).unwrap();
        let (shards, found) = (vec![shard(0), shard(1)], Found::default());
        let (stateless, redis, obstacle, joining, mover, paused) = (None, false, None, None, None, false);
        let mut scene = Self { names, identity, shards, stateless, redis, found, obstacle, joining, mover, paused };
        scene.found.gateway = Some(gateway);
        let prepared: Job = serde_json::from_value(json!({ "status": { "succeeded": 1 } })).unwrap();
        scene.found.jobs.insert("demo-init".to_owned(), prepared);
        scene.found.statuses = BTreeMap::from([("demo-0-0".to_owned(), ready.clone()), ("demo-1-0".to_owned(), ready)]);
        scene.worker(0, 1);
        scene.worker(1, 1);
        scene
    }

    fn worker(&mut self, partition: u32, ready: i32) {
        let set = json!({ "status": { "replicas": 1, "readyReplicas": ready } });
        let set: StatefulSet = serde_json::from_value(set).unwrap();
        self.found.sets.insert(self.names.worker(partition), set);
    }

    /// What a worker says; nothing if `None`.
    fn says(&mut self, partition: u32, status: Option<WorkerStatus>) {
        let pod = self.names.worker_pod(partition);
        match status {
            Some(status) => self.found.statuses.insert(pod, status),
            None => self.found.statuses.remove(&pod),
        };
    }

    /// Two of a loop without a shard, of which so many are ready.
    fn with_loop(mut self, ready: i32) -> Self {
        self.stateless = Some(StatelessLoop { name: "paymentd", replicas: 2, resources: None, essential: true });
        let set = json!({ "status": { "replicas": 2, "readyReplicas": ready } });
        self.found.sets.insert("demo-paymentd".to_owned(), serde_json::from_value(set).unwrap());
        let works = WorkerStatus { ready: true, ..WorkerStatus::default() };
        for number in 0..u32::try_from(ready).unwrap() {
            self.found.statuses.insert(self.names.stateless_pod("paymentd", number), works.clone());
        }
        self
    }

    /// A Redis, and a loop without a shard that fills it; how many of each are ready.
    fn with_cache(mut self, redis: i32, managers: i32) -> Self {
        self.redis = true;
        self.stateless = Some(StatelessLoop { name: "cache-manager", replicas: 1, resources: None, essential: false });
        for (name, ready) in [("demo-redis", redis), ("demo-cache-manager", managers)] {
            let set = json!({ "status": { "replicas": 1, "readyReplicas": ready } });
            self.found.sets.insert(name.to_owned(), serde_json::from_value(set).unwrap());
        }
        self
    }

    fn status(&self, last: Option<&ServiceStatus>) -> ServiceStatus {
        let facts = Facts {
            generation: Some(1),
            names: &self.names,
            identity: Some(&self.identity),
            shards: &self.shards,
            found: &self.found,
            init_job: Some("demo-init"),
            gateways: 1,
            stateless: self.stateless,
            redis: self.redis,
            obstacle: self.obstacle.clone(),
            joining: self.joining.clone(),
            mover: self.mover,
            rolling: None,
            paused: self.paused,
            image: None,
            redis_image: None,
        };
        status(&facts, last)
    }
}

/// A condition, if it is true.
fn holds<'a>(status: &'a ServiceStatus, type_: &str) -> Option<(&'a str, &'a str)> {
    let found = status.conditions.iter().find(|c| c.type_ == type_ && c.status == "True")?;
    Some((&found.reason, &found.message))
}

fn halted(slots: &[u32]) -> Option<WorkerStatus> {
    let halted = slots.iter().map(|slot| HaltedSlot { slot: *slot, reason: format!("a hole; mend slot {slot}") });
    Some(WorkerStatus { ready: true, halted: halted.collect(), ..WorkerStatus::default() })
}

fn noticing(notice: &str) -> Option<WorkerStatus> {
    Some(WorkerStatus { ready: true, notices: vec![notice.to_owned()], ..WorkerStatus::default() })
}

fn waiting_for(reason: &str) -> Option<WorkerStatus> {
    Some(WorkerStatus { waiting_for: Some(reason.to_owned()), ..WorkerStatus::default() })
}

#[test]
fn all_is_well() {
    let status = Scene::new().status(None);
    assert_eq!(holds(&status, "Ready"), Some(("AllPartitionsReady", "")));
    assert_eq!((holds(&status, "Degraded"), status.phase), (None, Phase::Running));
}

#[test]
fn a_service_that_runs_is_not_settled_before_the_init_job_has_said_what_it_found() {
    let mut scene = Scene::new();
    scene.found.jobs.insert("demo-init".to_owned(), Job::default());
    let status = scene.status(None);
    assert_eq!(holds(&status, "Ready"), Some(("AllPartitionsReady", "")), "its users need not wait");
    assert_eq!(holds(&status, "Progressing").map(|(reason, _)| reason), Some("Preparing"));
    assert!(!status.is_settled());
    assert!(Scene::new().status(None).is_settled());
}

#[test]
fn a_service_is_ready_when_its_loop_without_a_shard_is() {
    assert_eq!(holds(&Scene::new().with_loop(2).status(None), "Ready"), Some(("AllPartitionsReady", "")));
    let mut scene = Scene::new().with_loop(1);
    let status = scene.status(None);
    let expected = "1 of 2 paymentd are ready; demo-paymentd-1 is not ready; its /readyz and its log say why";
    assert_eq!(holds(&status, "Progressing"), Some(("StatelessNotReady", expected)));
    assert_eq!((holds(&status, "Ready"), holds(&status, "Degraded")), (None, None));
    scene.found.statuses.insert("demo-paymentd-1".to_owned(), waiting_for("kafka: no broker").unwrap());
    let expected = "1 of 2 paymentd are ready; demo-paymentd-1 waits: kafka: no broker";
    assert_eq!(holds(&scene.status(None), "Progressing"), Some(("StatelessNotReady", expected)));
    scene.found.statuses.remove("demo-paymentd-1");
    scene.found.pods = vec![failed("demo-paymentd-1", "no such topic")];
    assert_eq!(holds(&scene.status(None), "Degraded").unwrap().0, "StatelessNotReady");
}

#[test]
fn a_service_is_ready_without_its_cache_and_says_what_it_lacks() {
    let well = Scene::new().with_cache(1, 1).status(None);
    assert_eq!((holds(&well, "Ready").is_some(), holds(&well, "Degraded")), (true, None));
    let lacks = |redis, managers| {
        let status = Scene::new().with_cache(redis, managers).status(Some(&well));
        assert_eq!(holds(&status, "Ready"), Some(("AllPartitionsReady", "")));
        assert_eq!((status.phase, holds(&status, "Progressing")), (Phase::Running, None));
        let (reason, message) = holds(&status, "Degraded").unwrap();
        (reason.to_owned(), message.to_owned())
    };
    let redis = "the Redis demo-redis-0 is not ready; its log says why. Until it is, reads go to the shards";
    assert_eq!(lacks(0, 0), ("CacheNotReady".to_owned(), redis.to_owned()), "the cause, not what follows from it");
    let manager = "0 of 1 cache-manager are ready; demo-cache-manager-0 is not ready; its /readyz and its log say why";
    assert_eq!(lacks(1, 0), ("StatelessNotReady".to_owned(), manager.to_owned()));
}

#[test]
fn a_cache_that_has_not_been_there_yet_is_on_its_way_unless_it_fails() {
    let mut scene = Scene::new().with_cache(0, 0);
    let first = scene.status(None);
    assert_eq!(holds(&first, "Progressing").unwrap().0, "CacheNotReady");
    assert!(holds(&first, "Ready").is_some() && holds(&first, "Degraded").is_none());
    // Redis is there, what fills it is not yet.
    let second = Scene::new().with_cache(1, 0).status(Some(&first));
    assert_eq!(holds(&second, "Progressing").unwrap().0, "StatelessNotReady");
    assert_eq!(holds(&second, "Degraded"), None);
    let whole = Scene::new().with_cache(1, 1).status(Some(&second));
    assert_eq!((holds(&whole, "Progressing"), holds(&whole, "Degraded")), (None, None));
    scene.found.pods = vec![failed("demo-redis-0", "Can't set maxmemory")];
    let said = scene.status(Some(&first));
    let expected = "the Redis demo-redis-0 is not ready, and said: Can't set maxmemory; its log says more. \
                    Until it is, reads go to the shards";
    assert_eq!(holds(&said, "Degraded"), Some(("CacheNotReady", expected)));
}

#[test]
fn a_worker_that_is_down_is_told_before_a_cache_that_is() {
    let mut scene = Scene::new().with_cache(0, 0);
    let well = Scene::new().with_cache(1, 1).status(None);
    scene.worker(0, 0);
    let status = scene.status(Some(&well));
    assert_eq!(holds(&status, "Progressing").unwrap().0, "WorkerNotReady");
    assert_eq!((holds(&status, "Ready"), holds(&status, "Degraded")), (None, None));
}

#[test]
fn what_a_loop_without_a_shard_asks_for_is_said_as_a_workers_is() {
    let mut scene = Scene::new().with_loop(2);
    scene.found.statuses.insert("demo-paymentd-1".to_owned(), halted(&[3]).unwrap());
    let status = scene.status(None);
    let said = Some(("SlotHalted", "demo-paymentd-1, slot 3: a hole; mend slot 3"));
    assert_eq!(holds(&status, "Degraded"), said);
    scene.found.statuses.remove("demo-paymentd-1");
    assert_eq!(holds(&scene.status(Some(&status)), "Degraded"), said, "its silence takes nothing back");
}

#[test]
fn a_halted_slot_is_a_condition_while_the_others_go_on() {
    let mut scene = Scene::new();
    scene.says(1, halted(&[5]));
    let status = scene.status(None);
    assert_eq!(holds(&status, "Degraded"), Some(("SlotHalted", "partition 1, slot 5: a hole; mend slot 5")));
    assert!(holds(&status, "Ready").is_some());
    assert_eq!(status.phase, Phase::Degraded);
    assert_eq!(scene.status(Some(&status)), status, "the same state gives other words");
}

#[test]
fn of_several_halted_slots_the_first_is_named_and_the_rest_counted() {
    let mut scene = Scene::new();
    scene.says(1, halted(&[7, 4]));
    scene.says(0, halted(&[3, 2]));
    let status = scene.status(None);
    let expected = "partition 0, slot 2: a hole; mend slot 2; and 3 more, which the workers' /status shows";
    assert_eq!(holds(&status, "Degraded"), Some(("SlotHalted", expected)));
}

#[test]
fn a_halt_comes_before_a_notice_and_a_broken_service_before_both() {
    let mut scene = Scene::new();
    scene.says(0, noticing("stray partitions"));
    let noticed = scene.status(None);
    assert_eq!(holds(&noticed, "Degraded"), Some((NEEDS_ATTENTION, "partition 0: stray partitions")));
    assert!(holds(&noticed, "Ready").is_some());
    assert_eq!(noticed.phase, Phase::Running);
    scene.says(1, halted(&[4]));
    assert_eq!(holds(&scene.status(Some(&noticed)), "Degraded").unwrap().0, SLOT_HALTED);
    scene.worker(0, 0);
    scene.says(0, None);
    scene.found.pods = vec![failed_worker(0)];
    assert_eq!(holds(&scene.status(Some(&noticed)), "Degraded").unwrap().0, "WorkerNotReady");
}

#[test]
fn a_worker_that_does_not_answer_has_taken_nothing_back() {
    let mut scene = Scene::new();
    scene.says(1, halted(&[5]));
    let before = scene.status(None);
    for silent in [None, waiting_for("loop: starting")] {
        scene.says(1, silent);
        assert_eq!(holds(&scene.status(Some(&before)), "Degraded"), holds(&before, "Degraded"));
    }
    scene.says(1, halted(&[]));
    assert_eq!(holds(&scene.status(Some(&before)), "Degraded"), None);
}

#[test]
fn a_waiting_worker_says_what_for() {
    let mut scene = Scene::new();
    scene.worker(1, 0);
    scene.says(1, waiting_for("loop: Postgres: connection refused"));
    // What it said before it last failed is of yesterday.
    scene.found.pods = vec![failed_worker(1)];
    let status = scene.status(None);
    let expected = "the worker demo-1-0 waits: loop: Postgres: connection refused";
    assert_eq!(holds(&status, "Progressing"), Some(("WorkerNotReady", expected)));
    assert_eq!((status.ready.as_str(), holds(&status, "Ready")), ("1/2", None));
}

#[test]
fn a_failed_worker_is_quoted_and_no_other() {
    let mut scene = Scene::new();
    scene.worker(0, 0);
    scene.says(0, None);
    scene.found.pods = vec![failed_worker(1), failed_worker(0)];
    let status = scene.status(None);
    let expected = "the worker demo-0-0 is not ready, and said: 0 is foreign; its log says more";
    assert_eq!(holds(&status, "Degraded"), Some(("WorkerNotReady", expected)));
}

fn failed_worker(partition: u32) -> Pod {
    failed(&format!("demo-{partition}-0"), &format!("{partition} is foreign"))
}

fn failed(pod: &str, why: &str) -> Pod {
    let message = json!({ "message": why }).to_string();
    serde_json::from_value(json!({
        "metadata": { "name": pod },
        "status": { "containerStatuses": [{
            "name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 1,
            "state": { "terminated": { "exitCode": 1, "message": message } },
        }] },
    }))
    .unwrap()
}

#[test]
fn an_event_tells_of_each_new_reason_once() {
    let mut scene = Scene::new();
    let well = scene.status(None);
    let reasons = |last, now: &ServiceStatus| {
        let told = changes(last, now).into_iter().map(|change| (change.warning, change.reason));
        told.collect::<Vec<_>>()
    };
    assert_eq!(reasons(None, &well), [(false, "AllPartitionsReady".to_owned())]);
    scene.says(1, halted(&[5]));
    let one = scene.status(Some(&well));
    assert_eq!(reasons(Some(&well), &one), [(true, "SlotHalted".to_owned())]);
    scene.says(1, halted(&[5, 6]));
    assert_eq!(reasons(Some(&one), &scene.status(Some(&one))), []);
    // One reason for two conditions is one event.
    scene.worker(0, 0);
    scene.found.pods = vec![failed_worker(0)];
    scene.says(0, None);
    assert_eq!(reasons(Some(&one), &scene.status(Some(&one))), [(true, "WorkerNotReady".to_owned())]);
}

#[test]
fn the_last_log_line_is_the_summary() {
    assert_eq!(summary("noise\n{\"message\":\"no such topic\",\"level\":\"ERROR\"}\n\n"), "no such topic");
    assert_eq!(summary("plain words"), "plain words");
}
