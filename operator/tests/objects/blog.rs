//! What the operator makes of a BlogPipeline, and of the Redis beside it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shardlane_operator::api::blog_pipeline::BlogPipeline;
use shardlane_operator::build::{Object, Plan, config, processes};
use shardlane_operator::kind::ServiceKind;

use super::{allowed, applied, named, objects, sample, with_plan};

fn blog() -> BlogPipeline {
    applied(include_str!("../../../docs/samples/blogpipeline.yaml"))
}

fn with_spec(change: impl FnOnce(&mut Value)) -> BlogPipeline {
    let mut value = serde_json::to_value(blog()).unwrap();
    change(&mut value["spec"]);
    serde_json::from_value(value).unwrap()
}

/// With a Redis that somebody else runs.
fn with_external() -> BlogPipeline {
    with_spec(|spec| spec["redis"] = json!({ "external": { "secretRef": { "name": "cache" } } }))
}

fn described(all: &[Object]) -> Vec<String> {
    all.iter().map(Object::describe).collect()
}

fn container(all: &[Object], of: &str) -> Value {
    named(all, of)["spec"]["template"]["spec"]["containers"][0].clone()
}

/// A variable of the first container.
fn variable(all: &[Object], of: &str, name: &str) -> Value {
    let container = container(all, of);
    let found =
        container["env"].as_array().and_then(|all| all.iter().find(|variable| variable["name"] == name).cloned());
    found.unwrap_or_default()
}

const USERS: [&str; 2] = ["Deployment/journal-gateway", "StatefulSet/journal-cache-manager"];

#[test]
fn a_blog_has_a_cache_and_what_fills_it() {
    let all = objects(&blog(), 2);
    let more = [
        "StatefulSet/journal-cache-manager",
        "NetworkPolicy/journal-cache-manager",
        "PodDisruptionBudget/journal-cache-manager",
        "StatefulSet/journal-redis",
        "Service/journal-redis",
        "NetworkPolicy/journal-redis",
    ];
    let described = described(&all);
    for name in more {
        assert!(described.iter().any(|found| found == name), "{name} is not among {described:?}");
    }
    assert_eq!(described.len(), objects(&sample(), 2).len() + more.len());
    let manager = container(&all, "StatefulSet/journal-cache-manager");
    assert_eq!((&manager["command"], &manager["image"]), (&json!(["blog", "cache-manager"]), &json!("example/blog:1")));
    for user in USERS {
        let expected = json!({ "name": "SHARDLANE_REDIS_URI", "value": "redis://journal-redis:6379" });
        assert_eq!(variable(&all, user, "SHARDLANE_REDIS_URI"), expected, "{user}");
    }
    assert_eq!(variable(&all, "StatefulSet/journal-0", "SHARDLANE_REDIS_URI"), Value::Null, "workers know no cache");
}

#[test]
fn redis_keeps_nothing_and_makes_room_by_itself() {
    let all = objects(&with_spec(|spec| spec["redis"] = json!({ "memoryMib": 200 })), 2);
    let redis = container(&all, "StatefulSet/journal-redis");
    let words: Vec<_> = redis["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(words[0], "redis-server");
    let value = |option: &str| words.iter().position(|word| *word == option).map(|at| words[at + 1]);
    assert_eq!((value("--maxmemory"), value("--maxmemory-policy")), (Some("200mb"), Some("allkeys-lfu")));
    assert_eq!((value("--save"), value("--appendonly")), (Some(""), Some("no")));
    let memory = |of: &str| redis["resources"][of]["memory"].clone();
    assert_eq!((memory("requests"), memory("limits")), (json!("232Mi"), json!("364Mi")));
    let wanted = json!({ "requests": { "memory": "1Gi" } });
    let all = objects(&with_spec(|spec| spec["redis"] = json!({ "resources": wanted })), 2);
    assert_eq!(container(&all, "StatefulSet/journal-redis")["resources"], wanted);
}

#[test]
fn redis_is_restricted_has_no_disk_and_is_asked_whether_it_answers() {
    let all = objects(&blog(), 2);
    let set = named(&all, "StatefulSet/journal-redis");
    assert_eq!(set["spec"]["replicas"], json!(1));
    assert_eq!(set["spec"]["volumeClaimTemplates"], Value::Null);
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!((&pod["volumes"], &pod["automountServiceAccountToken"]), (&Value::Null, &json!(false)));
    assert_eq!(pod["securityContext"]["runAsNonRoot"], json!(true));
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], json!("RuntimeDefault"));
    let redis = &pod["containers"][0];
    assert_eq!(redis["image"], json!("example/redis:1"));
    let restricted = json!({
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
    });
    assert_eq!(redis["securityContext"], restricted);
    for probe in ["livenessProbe", "readinessProbe"] {
        assert_eq!(redis[probe]["exec"]["command"], json!(["redis-cli", "-p", "6379", "ping"]));
    }
    let service = named(&all, "Service/journal-redis");
    assert_eq!(service["spec"]["ports"], json!([{ "name": "redis", "port": 6379, "targetPort": "redis" }]));
    let labels = set["spec"]["template"]["metadata"]["labels"].as_object().unwrap();
    for selector in [&service["spec"]["selector"], &set["spec"]["selector"]["matchLabels"]] {
        for (label, value) in selector.as_object().unwrap() {
            assert_eq!(labels[label], *value);
        }
    }
    assert_eq!(labels["app.kubernetes.io/component"], json!("cache"));
}

#[test]
fn redis_hears_gateways_and_cache_managers_alone() {
    let part = |component: &str| {
        json!({ "app.kubernetes.io/name": "shardlane", "app.kubernetes.io/instance": "journal",
        "app.kubernetes.io/component": component, "shardlane.dev/kind": "BlogPipeline" })
    };
    let peer = |component: &str| json!({ "podSelector": { "matchLabels": part(component) } });
    let ports = json!([{ "port": 6379, "protocol": "TCP" }]);
    let service = with_spec(|spec| spec["kafka"] = json!({ "strimzi": { "cluster": "k" } }));
    let all = objects(&service, 2);
    let spec = named(&all, "NetworkPolicy/journal-redis")["spec"].clone();
    assert_eq!(spec["podSelector"]["matchLabels"], part("cache"));
    assert_eq!(spec["ingress"], json!([{ "from": [peer("gateway"), peer("stateless")], "ports": ports }]));
    assert_eq!((&spec["egress"], &spec["policyTypes"]), (&json!([]), &json!(["Ingress", "Egress"])));
    let may_reach = |policy: &str| {
        let egress = named(&all, policy)["spec"]["egress"].as_array().unwrap().clone();
        egress.contains(&json!({ "to": [peer("cache")], "ports": ports }))
    };
    assert!(may_reach("NetworkPolicy/journal-gateway") && may_reach("NetworkPolicy/journal-cache-manager"));
    assert!(!may_reach("NetworkPolicy/journal-0") && !may_reach("NetworkPolicy/journal-init"));
}

#[test]
fn a_redis_of_somebody_elses_is_reached_by_its_secret_wherever_it_is() {
    let mut service = with_external();
    service.spec.service.kafka = serde_yaml::from_str("strimzi: { cluster: k }").unwrap();
    let all = objects(&service, 2);
    assert!(described(&all).iter().all(|name| !name.contains("redis")), "{:?}", described(&all));
    let expected = json!({ "name": "SHARDLANE_REDIS_URI",
        "valueFrom": { "secretKeyRef": { "name": "cache", "key": "uri" } } });
    for user in USERS {
        assert_eq!(variable(&all, user, "SHARDLANE_REDIS_URI"), expected, "{user}");
        let authority = &variable(&all, user, "SHARDLANE_REDIS_CA")["valueFrom"]["secretKeyRef"];
        assert_eq!(*authority, json!({ "name": "cache", "key": "ca.crt", "optional": true }), "{user}");
    }
    for policy in ["NetworkPolicy/journal-gateway", "NetworkPolicy/journal-cache-manager"] {
        let egress = named(&all, policy)["spec"]["egress"].as_array().unwrap().clone();
        assert!(egress.contains(&json!({})), "{policy}: {egress:?}");
    }
}

#[test]
fn what_reads_a_secret_of_redis_is_made_anew_with_it() {
    let hash = |of: &str, version: &str| {
        with_plan(&with_external(), 2, |plan| {
            let credentials = ["gateway", "stateless"].map(|part| (part, version.to_owned())).into();
            let all = processes(&Plan { credentials, ..plan.clone() }).unwrap();
            named(&all, of)["spec"]["template"]["metadata"]["annotations"]["shardlane.dev/config-hash"].clone()
        })
    };
    for user in USERS {
        assert_eq!(hash(user, "a"), hash(user, "a"));
        assert_ne!(hash(user, "a"), hash(user, "b"), "{user}");
    }
    assert_eq!(hash("StatefulSet/journal-0", "a"), hash("StatefulSet/journal-0", "b"), "workers read no such Secret");
}

#[test]
fn the_topic_of_published_posts_keeps_the_last_of_each_and_dead_letters_are_all_kept() {
    let told = |service: &BlogPipeline| with_plan(service, 2, |plan| config::service_config(plan).unwrap());
    assert_eq!(serde_json::to_value(told(&blog()).settings).unwrap(), json!({}));
    let topic = |role: &str| {
        let topic = told(&blog()).topic(role).unwrap().clone();
        (topic.name, topic.partitions, topic.compacted)
    };
    assert_eq!(topic("new_posts"), ("app.newPosts".to_owned(), 24, false));
    assert_eq!(topic("new_posts.dlq"), ("app.newPosts.dlq".to_owned(), 24, false));
    assert_eq!(topic("published_posts"), ("app.publishedPosts".to_owned(), 24, true));
    assert_eq!(topic("published_posts.dlq"), ("app.publishedPosts.dlq".to_owned(), 24, false));
    let largest = |role: &str| told(&blog()).topic(role).unwrap().max_message_bytes.unwrap_or(1 << 20);
    assert!(largest("new_posts") < largest("published_posts"), "a post is published with more than it came with");
    assert!(largest("published_posts") < largest("published_posts.dlq"));
}

#[test]
fn a_blogs_data_is_taken_up_again_with_another_cache() {
    let made_with = blog().fixed().unwrap();
    assert_eq!(with_external().fixed().unwrap(), made_with);
    assert_eq!(with_spec(|spec| spec["cacheManager"] = json!({ "replicas": 3 })).fixed().unwrap(), made_with);
    assert_ne!(with_spec(|spec| spec["topics"]["newPosts"] = json!("another")).fixed().unwrap(), made_with);
}

#[test]
fn the_parts_of_a_blog_may_do_with_kafka_what_they_have_to_and_no_more() {
    let all = objects(&with_spec(|spec| spec["kafka"] = json!({ "strimzi": { "cluster": "k" } })), 2);
    let (new, published) = ("app.newPosts", "app.publishedPosts");
    let (dead_new, dead_published) = ("app.newPosts.dlq", "app.publishedPosts.dlq");
    let expected = |topics: &[(&str, &str)]| -> BTreeMap<String, Vec<String>> {
        topics.iter().map(|(topic, may)| ((*topic).to_owned(), vec![(*may).to_owned()])).collect()
    };
    let worker = expected(&[(new, "Read"), (published, "Write"), (dead_new, "Write"), ("journal.slots", "Read")]);
    assert_eq!(allowed(&all, "journal-worker"), worker);
    assert_eq!(allowed(&all, "journal-gateway"), expected(&[(new, "Write"), ("journal.slots", "Read")]));
    assert_eq!(allowed(&all, "journal-stateless"), expected(&[(published, "Read"), (dead_published, "Write")]));
}
