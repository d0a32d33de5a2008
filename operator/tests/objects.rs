//! What the operator makes of a resource: the objects that a user relies on, and the files that are generated.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where clippy does not see that")]

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::Resource;
use serde_json::{Value, json};
use shardlane_config::ServiceConfig;
use shardlane_operator::api::common::Durability;
use shardlane_operator::api::signup_shard::SignupShard;
use shardlane_operator::api::{crds, reference};
use shardlane_operator::build::kafka::Kafka;
use shardlane_operator::build::names::Names;
use shardlane_operator::build::{Object, Plan, config, foundation, processes, shards};
use shardlane_operator::identity::Identity;
use shardlane_operator::images::Images;
use shardlane_operator::kind::ServiceKind;
use shardlane_signup::service::SignupSettings;

fn images() -> Images {
    Images { signup_image: "example/signup:1".to_owned(), mover_image: "example/mover:1".to_owned() }
}

/// The sample that the README shows, as if it had been applied.
fn sample() -> SignupShard {
    let text = include_str!("../../docs/samples/signupshard.yaml");
    let mut service: SignupShard = serde_yaml::from_str(text).unwrap();
    service.metadata.namespace = Some("shop".to_owned());
    service.metadata.uid = Some("3f6e0000-0000-4000-8000-000000000000".to_owned());
    service
}

fn with_plan<T>(service: &SignupShard, partitions: u32, read: impl FnOnce(&Plan<'_, SignupShard>) -> T) -> T {
    let images = images();
    let names = Names {
        service: service.metadata.name.clone().unwrap(),
        namespace: "shop".to_owned(),
        kind: "SignupShard".to_owned(),
        owner: service.controller_owner_ref(&()).unwrap(),
    };
    let identity = Identity {
        service_id: "an-id".to_owned(),
        partitions,
        max_partitions: 24,
        fixed: service.fixed().unwrap(),
        placed: false,
    };
    let shards = shards::sources(&names, &service.spec.service.postgres, partitions);
    read(&Plan {
        service,
        names,
        identity,
        shards,
        kafka: service.spec.service.kafka.external.as_ref().map(Kafka::external).unwrap_or_default(),
        acls: false,
        credentials: BTreeMap::new(),
        image: images.signup_image.clone(),
        images: &images,
    })
}

fn objects(service: &SignupShard, partitions: u32) -> Vec<Object> {
    with_plan(service, partitions, |plan| {
        let mut all = foundation(plan).unwrap();
        all.extend(processes(plan).unwrap());
        all
    })
}

#[test]
fn generated_crds_are_committed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds");
    for (name, crd) in crds() {
        let committed = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        let fresh = serde_yaml::to_string(&crd).unwrap();
        assert!(committed.ends_with(&fresh), "crds/{name} is not what the types say: run `make crds` and commit it");
    }
}

#[test]
fn the_reference_is_committed() {
    let committed = include_str!("../../docs/api-reference.md");
    let crds: Vec<_> = crds().into_iter().map(|(_, crd)| crd).collect();
    assert_eq!(committed, reference::page(&crds).unwrap(), "run `make crds` and commit docs/api-reference.md");
}

#[test]
fn a_service_consists_of_what_is_promised() {
    let described: Vec<_> = objects(&sample(), 3).iter().map(Object::describe).collect();
    let expected = [
        "ConfigMap/demo-identity",
        "ConfigMap/demo-config",
        "Cluster/demo-shard-0",
        "Cluster/demo-shard-1",
        "Cluster/demo-shard-2",
        "Service/demo-workers",
        "StatefulSet/demo-0",
        "StatefulSet/demo-1",
        "StatefulSet/demo-2",
        "NetworkPolicy/demo-gateway",
        "NetworkPolicy/demo-init",
        "NetworkPolicy/demo-0",
        "NetworkPolicy/demo-1",
        "NetworkPolicy/demo-2",
        "NetworkPolicy/demo-shard-0",
        "NetworkPolicy/demo-shard-1",
        "NetworkPolicy/demo-shard-2",
        "PodDisruptionBudget/demo-workers",
        "PodDisruptionBudget/demo-gateway",
        "Service/demo-gateway",
        "Deployment/demo-gateway",
    ];
    for name in expected {
        assert!(described.iter().any(|found| found == name), "{name} is not among {described:?}");
    }
    assert_eq!(described.iter().filter(|name| name.starts_with("Job/demo-init-")).count(), 1);
    assert_eq!(described.len(), expected.len() + 1);
}

#[test]
fn data_outlives_the_resource_unless_it_says_otherwise() {
    let owned = |service: &SignupShard, kind: &str| {
        let all = objects(service, 1);
        let found = all.iter().find(|object| object.describe().starts_with(kind)).unwrap();
        found.object.metadata.owner_references.is_some()
    };
    let mut service = sample();
    for kind in ["Cluster/", "ConfigMap/demo-identity"] {
        assert!(!owned(&service, kind), "{kind} would go with a resource that retains");
    }
    assert!(owned(&service, "StatefulSet/"));
    service.spec.service.deletion_policy = shardlane_operator::api::common::DeletionPolicy::Delete;
    for kind in ["Cluster/", "ConfigMap/demo-identity"] {
        assert!(owned(&service, kind), "{kind} would stay");
    }
}

#[test]
fn commits_wait_for_a_standby_as_the_spec_says() {
    let cluster = |instances, durability| {
        let mut service = sample();
        let postgres = service.spec.service.postgres.cloud_native_pg.as_mut().unwrap();
        postgres.instances = instances;
        if let Some(durability) = durability {
            postgres.durability = durability;
        }
        let found = objects(&service, 1).into_iter().find(|object| object.describe() == "Cluster/demo-shard-0");
        let object = found.unwrap().object;
        let quorum = object.metadata.annotations.unwrap_or_default().contains_key("alpha.cnpg.io/failoverQuorum");
        (object.data["spec"]["postgresql"]["synchronous"].clone(), quorum)
    };
    let synchronous = |durability| json!({ "method": "any", "number": 1, "dataDurability": durability });
    assert_eq!(cluster(1, None), (Value::Null, false), "a primary alone would wait for ever");
    assert_eq!(cluster(2, None), (synchronous("required"), false));
    assert_eq!(cluster(3, None), (synchronous("required"), true));
    assert_eq!(cluster(3, Some(Durability::Preferred)), (synchronous("preferred"), false));
}

#[test]
fn a_workers_pod_does_not_change_with_the_number_of_partitions() {
    let template = |partitions| {
        let found = objects(&sample(), partitions).into_iter().find(|object| object.describe() == "StatefulSet/demo-0");
        let set: StatefulSet = found.unwrap().object.try_parse().unwrap();
        set.spec.unwrap().template
    };
    assert_eq!(template(1), template(5));
}

#[test]
fn a_pod_is_restricted_and_sees_its_own_shard_only() {
    let found = objects(&sample(), 3).into_iter().find(|object| object.describe() == "StatefulSet/demo-1").unwrap();
    let text = serde_json::to_string(&found.object).unwrap();
    assert!(text.contains("demo-shard-1-app"));
    assert!(!text.contains("demo-shard-0-app") && !text.contains("demo-shard-2-app"));
    let set: StatefulSet = found.object.try_parse().unwrap();
    let pod = set.spec.unwrap().template.spec.unwrap();
    assert_eq!(pod.automount_service_account_token, Some(false));
    assert_eq!(pod.security_context.unwrap().run_as_non_root, Some(true));
    let container = pod.containers[0].security_context.clone().unwrap();
    assert_eq!(container.read_only_root_filesystem, Some(true));
    assert_eq!(container.allow_privilege_escalation, Some(false));
}

#[test]
fn the_workers_understand_what_the_operator_tells_them() {
    let config: ServiceConfig = with_plan(&sample(), 3, |plan| {
        let text = serde_yaml::to_string(&config::service_config(plan).unwrap()).unwrap();
        serde_yaml::from_str(&text).unwrap()
    });
    assert_eq!(config.settings::<SignupSettings>().unwrap(), SignupSettings::default());
    assert_eq!(config.topic("request").unwrap().name, "account.signup_request");
    assert_eq!(config.topic("request.dlq").unwrap().name, "account.signup_request.dlq");
    assert_eq!(config.topic("slots").unwrap().name, "demo.slots");
    assert_eq!(config.worker_url(2), "http://demo-2-0.demo-workers.shop:8080");
}
