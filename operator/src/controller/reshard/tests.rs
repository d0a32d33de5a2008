use super::*;

const PRESENT: &str = "demo-reshard-1-abc";

fn identity(from: u32, target: u32) -> Identity {
    Identity::first("x".to_owned(), from, 8, String::new()).next(target, false)
}

fn names() -> Names {
    Names { service: "demo".to_owned(), namespace: "shop".to_owned(), kind: "X".to_owned(), owner: Default::default() }
}

fn jobs(all: &[(&str, &str, bool)]) -> BTreeMap<String, Job> {
    let job = |(name, part, goes): &(&str, &str, bool)| {
        let gone = goes.then_some("2026-01-01T00:00:00Z");
        let labels = json!({ "app.kubernetes.io/component": part });
        let job = json!({ "metadata": { "name": name, "labels": labels, "deletionTimestamp": gone } });
        ((*name).to_owned(), serde_json::from_value(job).unwrap())
    };
    all.iter().map(job).collect()
}

#[test]
fn the_mover_begins_when_everything_is_there() {
    let init = ("demo-init-1", "init", false);
    assert_eq!(step(Some(PRESENT), &jobs(&[init]), false), Step::Wait);
    assert_eq!(step(Some(PRESENT), &jobs(&[init]), true), Step::Run);
    // A worker that restarts does not end it.
    assert_eq!(step(Some(PRESENT), &jobs(&[init, (PRESENT, "mover", false)]), false), Step::Run);
}

#[test]
fn there_is_one_mover_at_a_time() {
    let old = "demo-reshard-0-abc";
    let clear = |names: &[&str]| Step::Clear(names.iter().map(|name| (*name).to_owned()).collect());
    assert_eq!(step(Some(PRESENT), &jobs(&[(old, "mover", false)]), true), clear(&[old]));
    assert_eq!(step(Some(PRESENT), &jobs(&[(old, "mover", true)]), true), clear(&[]), "it has not ended yet");
    assert_eq!(step(Some(PRESENT), &jobs(&[(PRESENT, "mover", true)]), true), clear(&[]), "somebody has deleted it");
}

#[test]
fn a_service_that_is_settled_has_none() {
    assert!(identity(2, 4).next(4, true).settled);
    assert_eq!(step(None, &jobs(&[]), true), Step::Wait);
    assert_eq!(step(None, &jobs(&[(PRESENT, "mover", false)]), true), Step::Clear(vec![PRESENT.to_owned()]));
}

#[test]
fn all_workers_have_to_work_before_slots_are_moved() {
    let set = |ready: i32| -> StatefulSet {
        let status = json!({ "replicas": 1, "readyReplicas": ready, "currentRevision": "1", "updateRevision": "1" });
        serde_json::from_value(json!({ "status": status })).unwrap()
    };
    let sets = |ready: &[i32]| ready.iter().enumerate().map(|(n, ready)| (format!("demo-{n}"), set(*ready))).collect();
    let up = |identity: &Identity, ready: &[i32]| all_up(identity, &names(), &sets(ready));
    assert!(up(&identity(2, 3), &[1, 1, 1]));
    assert!(!up(&identity(2, 3), &[1, 1]), "the third is not made yet");
    assert!(!up(&identity(2, 3), &[0, 1, 1]));
    assert!(!up(&identity(3, 2), &[1, 1, 0]), "it has to publish what it has not yet");
}

#[test]
fn shards_that_join_hold_up_nothing_but_what_needs_them() {
    let shard =
        |partition| ShardSource { partition, secret: format!("secret-{partition}"), cluster: None, version: None };
    let shards: Vec<_> = (0..4).map(shard).collect();
    let sizes = |identity: &Identity| {
        let (standing, joining) = split(identity, &shards);
        (standing.len(), joining.len())
    };
    assert_eq!(sizes(&identity(2, 4)), (2, 2));
    assert_eq!(sizes(&identity(2, 4).next(4, true)), (4, 0));
    assert_eq!(sizes(&identity(4, 2)), (4, 0), "those that go have slots");

    let object = |kind: &str, partition: Option<&str>| {
        let resource = ApiResource { kind: kind.to_owned(), ..ApiResource::erase::<Job>(&()) };
        let mut object = DynamicObject::new("x", &resource);
        object.metadata.labels =
            partition.map(|partition| BTreeMap::from([(PARTITION.to_owned(), partition.to_owned())]));
        Object { resource, object }
    };
    let all = [
        ("StatefulSet", Some("1")),
        ("StatefulSet", Some("2")),
        ("StatefulSet", None),
        ("Job", None),
        ("Service", None),
    ];
    let all: Vec<_> = all.into_iter().map(|(kind, partition)| object(kind, partition)).collect();
    let left = |identity: &Identity| without_joining(all.clone(), identity).len();
    assert_eq!(left(&identity(2, 4)), 3, "a worker, a loop without a shard, a Service");
    assert_eq!(left(&identity(1, 4)), 2);
}
