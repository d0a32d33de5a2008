//! What the operator makes of a CounterPool.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shardlane_operator::api::counter_pool::CounterPool;
use shardlane_operator::build::{Object, config};
use shardlane_operator::kind::ServiceKind;

use super::{allowed, applied, named, objects, sample, with_plan};

fn counters() -> CounterPool {
    applied(include_str!("../../../docs/samples/counterpool.yaml"))
}

fn with_spec(change: impl FnOnce(&mut Value)) -> Result<CounterPool, serde_json::Error> {
    let mut value = serde_json::to_value(counters()).unwrap();
    change(&mut value["spec"]);
    serde_json::from_value(value)
}

#[test]
fn counters_consist_of_what_every_service_does() {
    let described = |all: Vec<Object>, name: &str| -> Vec<_> {
        let of_init = |text: &String| !text.starts_with("Job/");
        all.iter().map(|object| object.describe().replace(name, "NAME")).filter(of_init).collect()
    };
    assert_eq!(described(objects(&counters(), 2), "hits"), described(objects(&sample(), 2), "demo"));
    let all = objects(&counters(), 2);
    for (what, command) in [("StatefulSet/hits-0", "worker"), ("Deployment/hits-gateway", "gateway")] {
        let container = named(&all, what)["spec"]["template"]["spec"]["containers"][0].clone();
        assert_eq!(
            (&container["command"], &container["image"]),
            (&json!(["counter", command]), &json!("example/counter:1"))
        );
    }
}

#[test]
fn the_processes_of_counters_are_told_what_the_spec_says() {
    let told = |service: &CounterPool| with_plan(service, 2, |plan| config::service_config(plan).unwrap());
    let settings = |service: &CounterPool| serde_json::to_value(told(service).settings).unwrap();
    let defaults = json!({ "flushIntervalMs": 1000, "maxPendingKeys": 100_000, "idempotencyWindowHours": 24 });
    assert_eq!(settings(&counters()), defaults);
    let changed = with_spec(|spec| {
        spec["flushInterval"] = json!("250ms");
        spec["maxPendingKeys"] = json!(1000);
        spec["idempotencyWindowHours"] = json!(1);
    });
    let expected = json!({ "flushIntervalMs": 250, "maxPendingKeys": 1000, "idempotencyWindowHours": 1 });
    assert_eq!(settings(&changed.unwrap()), expected);
    let topic = |role| told(&counters()).topic(role).unwrap().clone();
    assert_eq!((&*topic("increments").name, topic("increments").partitions), ("counter.increments", 24));
    assert_eq!(topic("increments.dlq").name, "counter.increments.dlq");
}

#[test]
fn an_interval_that_is_none_is_refused_with_what_may_stand_there() {
    let refused = with_spec(|spec| spec["flushInterval"] = json!("1m")).unwrap_err().to_string();
    assert!(refused.contains("from 10ms to 5s") && refused.contains("1m"), "{refused}");
}

#[test]
fn no_setting_of_counters_is_for_ever_but_the_topic_is() {
    let fixed = |change: fn(&mut Value)| with_spec(change).unwrap().fixed().unwrap();
    let made_with = fixed(|_| {});
    let settings = fixed(|spec| {
        spec["flushInterval"] = json!("5s");
        spec["maxPendingKeys"] = json!(5000);
        spec["idempotencyWindowHours"] = json!(2);
    });
    assert_eq!(settings, made_with);
    assert_ne!(fixed(|spec| spec["topics"]["increments"] = json!("another")), made_with);
}

#[test]
fn the_parts_of_counters_may_do_with_kafka_what_they_have_to_and_no_more() {
    let all = objects(&with_spec(|spec| spec["kafka"] = json!({ "strimzi": { "cluster": "k" } })).unwrap(), 2);
    let (topic, dead, slots) = ("counter.increments", "counter.increments.dlq", "hits.slots");
    let expected = |topics: &[(&str, &str)]| -> BTreeMap<String, Vec<String>> {
        topics.iter().map(|(topic, may)| ((*topic).to_owned(), vec![(*may).to_owned()])).collect()
    };
    assert_eq!(allowed(&all, "hits-worker"), expected(&[(topic, "Read"), (dead, "Write"), (slots, "Read")]));
    assert_eq!(allowed(&all, "hits-gateway"), expected(&[(topic, "Write"), (slots, "Read")]));
}

#[test]
fn a_gateway_is_told_whom_to_let_in() {
    let limits =
        json!({ "rateLimit": 100, "clientRateLimit": 5, "behindProxy": true, "tokenSecretRef": { "name": "t" } });
    let environment = |service: &CounterPool| {
        named(&objects(service, 2), "Deployment/hits-gateway")["spec"]["template"]["spec"]["containers"][0]["env"]
            .clone()
    };
    let limited = with_spec(|spec| spec["gateway"] = limits).unwrap();
    let expected = json!([
        { "name": "SHARDLANE_RATE_LIMIT", "value": "100" },
        { "name": "SHARDLANE_CLIENT_RATE_LIMIT", "value": "5" },
        { "name": "SHARDLANE_BEHIND_PROXY", "value": "true" },
        { "name": "SHARDLANE_TOKEN", "valueFrom": { "secretKeyRef": { "name": "t", "key": "token" } } },
    ]);
    assert_eq!(environment(&limited), expected);
    assert_eq!(environment(&counters()), Value::Null);
}
