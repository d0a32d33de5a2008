//! What the operator makes of a resource: the objects that a user relies on, and the files that are generated.

#![allow(clippy::unwrap_used, reason = "helpers of tests, where clippy does not see that")]

mod blog;
mod counter;
mod reshard;

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::apps::v1::StatefulSet;
use serde_json::{Value, json};
use shardlane_config::ServiceConfig;
use shardlane_operator::api::common::Durability;
use shardlane_operator::api::signup_shard::SignupShard;
use shardlane_operator::api::wallet_partition::WalletPartition;
use shardlane_operator::api::{crds, reference};
use shardlane_operator::build::kafka::{Kafka, User};
use shardlane_operator::build::names::Names;
use shardlane_operator::build::{Object, Plan, config, foundation, processes, shards};
use shardlane_operator::identity::Identity;
use shardlane_operator::images::Images;
use shardlane_operator::kind::ServiceKind;
use shardlane_signup::service::SignupSettings;

fn images() -> Images {
    Images {
        signup_image: "example/signup:1".to_owned(),
        wallet_image: "example/wallet:1".to_owned(),
        counter_image: "example/counter:1".to_owned(),
        blog_image: "example/blog:1".to_owned(),
        redis_image: "example/redis:1".to_owned(),
        mover_image: "example/mover:1".to_owned(),
    }
}

/// The sample that the README shows, as if it had been applied.
fn sample() -> SignupShard {
    applied(include_str!("../../../docs/samples/signupshard.yaml"))
}

fn wallet() -> WalletPartition {
    applied(include_str!("../../../docs/samples/walletpartition.yaml"))
}

fn applied<K: ServiceKind>(text: &str) -> K {
    let mut service: K = serde_yaml::from_str(text).unwrap();
    service.meta_mut().namespace = Some("shop".to_owned());
    service.meta_mut().uid = Some("3f6e0000-0000-4000-8000-000000000000".to_owned());
    service
}

/// A Kafka of Strimzi's, with a user for each part.
fn of_strimzi() -> Kafka {
    Kafka { bootstrap_servers: "k:9093".to_owned(), tls: true, ca: None, user: Some(User::OfEachPart) }
}

fn with_plan<K: ServiceKind, T>(service: &K, partitions: u32, read: impl FnOnce(&Plan<'_, K>) -> T) -> T {
    let images = images();
    let names = Names {
        service: service.meta().name.clone().unwrap(),
        namespace: "shop".to_owned(),
        kind: K::kind(&()).into_owned(),
        owner: service.controller_owner_ref(&()).unwrap(),
    };
    let identity = Identity::first("an-id".to_owned(), partitions, 24, service.fixed().unwrap());
    let shards = shards::sources(&names, &service.service().postgres, partitions);
    read(&Plan {
        service,
        names,
        identity,
        shards,
        kafka: service.service().kafka.external.as_ref().map_or_else(of_strimzi, Kafka::external),
        acls: true,
        credentials: BTreeMap::new(),
        image: K::default_image(&images).to_owned(),
        redis_image: images.redis_image.clone(),
        images: &images,
    })
}

fn objects<K: ServiceKind>(service: &K, partitions: u32) -> Vec<Object> {
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
    let committed = include_str!("../../../docs/api-reference.md");
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
        "NetworkPolicy/demo-mover",
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

/// The one of this description.
fn named(all: &[Object], description: &str) -> Value {
    let found = all.iter().find(|object| object.describe() == description);
    assert!(found.is_some(), "there is no {description}");
    serde_json::to_value(&found.unwrap().object).unwrap()
}

#[test]
fn a_wallet_has_a_loop_without_a_shard_besides() {
    let described: Vec<_> = objects(&wallet(), 2).iter().map(Object::describe).collect();
    for name in ["StatefulSet/bank-paymentd", "NetworkPolicy/bank-paymentd", "PodDisruptionBudget/bank-paymentd"] {
        assert!(described.iter().any(|found| found == name), "{name} is not among {described:?}");
    }
    // What a sign-up of two partitions has, and these three.
    assert_eq!(described.len(), objects(&sample(), 2).len() + 3);
}

#[test]
fn the_pods_of_a_loop_without_a_shard_keep_their_names_and_see_no_shard() {
    let mut service = wallet();
    service.spec.payment.replicas = 3;
    let set = named(&objects(&service, 2), "StatefulSet/bank-paymentd");
    let spec = &set["spec"];
    assert_eq!((&spec["replicas"], &spec["podManagementPolicy"]), (&json!(3), &json!("Parallel")));
    assert_eq!(spec["serviceName"], Value::Null);
    let labels = &spec["template"]["metadata"]["labels"];
    assert_eq!(labels["app.kubernetes.io/component"], json!("stateless"));
    for (label, value) in spec["selector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(labels[label], *value);
    }
    let pod = &spec["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], json!(false));
    assert_eq!(pod["securityContext"]["runAsNonRoot"], json!(true));
    assert_eq!(pod["topologySpreadConstraints"][0]["labelSelector"], spec["selector"]);
    let container = &pod["containers"][0];
    assert_eq!(container["command"], json!(["wallet", "paymentd"]));
    assert_eq!(container["image"], json!("example/wallet:1"));
    let instance =
        json!({ "name": "SHARDLANE_INSTANCE", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } });
    assert_eq!(container["env"], json!([instance]));
    assert_eq!(container["ports"], json!([{ "name": "metrics", "containerPort": 9090 }]));
    assert!(!set.to_string().contains("bank-shard-"), "{set}");
}

#[test]
fn the_pods_of_a_loop_without_a_shard_change_with_what_they_read() {
    let hash = |service: &WalletPartition, credentials: &str| {
        with_plan(service, 2, |plan| {
            let credentials = BTreeMap::from([("stateless", credentials.to_owned())]);
            let all = processes(&Plan { credentials, ..plan.clone() }).unwrap();
            let template = named(&all, "StatefulSet/bank-paymentd")["spec"]["template"].clone();
            template["metadata"]["annotations"]["shardlane.dev/config-hash"].clone()
        })
    };
    let mut changed = wallet();
    changed.spec.audit.interval_seconds = 60;
    let first = hash(&wallet(), "a");
    assert_eq!(hash(&wallet(), "a"), first);
    assert_ne!(hash(&wallet(), "b"), first);
    assert_ne!(hash(&changed, "a"), first);
}

#[test]
fn a_loop_without_a_shard_hears_nobody_and_speaks_to_kafka_alone() {
    let mut service = wallet();
    service.spec.service.kafka = serde_yaml::from_str("strimzi: { cluster: k }").unwrap();
    let policy = named(&objects(&service, 2), "NetworkPolicy/bank-paymentd");
    let spec = &policy["spec"];
    assert_eq!(spec["podSelector"]["matchLabels"]["app.kubernetes.io/component"], json!("stateless"));
    assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(spec["ingress"], json!([{ "ports": [{ "port": 9090, "protocol": "TCP" }] }]));
    let egress = spec["egress"].as_array().unwrap();
    assert_eq!(egress.len(), 2);
    assert_eq!(egress[0]["ports"][0]["port"], json!(53));
    assert_eq!(egress[1]["to"][0]["podSelector"]["matchLabels"]["strimzi.io/name"], json!("k-kafka"));
}

/// What a user of Kafka's may do, by topic.
fn allowed(all: &[Object], user: &str) -> BTreeMap<String, Vec<String>> {
    let user = named(all, &format!("KafkaUser/{user}"));
    let rules = user["spec"]["authorization"]["acls"].as_array().unwrap();
    let of_topics = rules.iter().filter(|rule| rule["resource"]["type"] == "topic");
    let rule = |rule: &Value| {
        let operations = rule["operations"].as_array().unwrap().iter();
        let may = operations.map(|operation| operation.as_str().unwrap().to_owned());
        (
            rule["resource"]["name"].as_str().unwrap().to_owned(),
            may.filter(|may| !may.starts_with("Describe")).collect(),
        )
    };
    of_topics.map(rule).collect()
}

#[test]
fn every_part_may_do_with_kafka_what_it_has_to_and_no_more() {
    let expected = |topics: &[(&str, &[&str])]| -> BTreeMap<String, Vec<String>> {
        let owned = |may: &&[&str]| may.iter().map(|may| (*may).to_owned()).collect();
        topics.iter().map(|(topic, may)| ((*topic).to_owned(), owned(may))).collect()
    };
    let mut bank = wallet();
    bank.spec.service.kafka = serde_yaml::from_str("strimzi: { cluster: k }").unwrap();
    let all = objects(&bank, 2);
    let (requests, payments) = ("wallet.transfer_request", "wallet.payment");
    let (dead_requests, dead_payments) = ("wallet.transfer_request.dlq", "wallet.payment.dlq");
    let worker = expected(&[(payments, &["Read", "Write"]), (dead_payments, &["Write"]), ("bank.slots", &["Read"])]);
    assert_eq!(allowed(&all, "bank-worker"), worker);
    let stateless = expected(&[(requests, &["Read"]), (payments, &["Write"]), (dead_requests, &["Write"])]);
    assert_eq!(allowed(&all, "bank-stateless"), stateless);
    let gateway = expected(&[(requests, &["Write"]), (payments, &["Write"]), ("bank.slots", &["Read"])]);
    assert_eq!(allowed(&all, "bank-gateway"), gateway);
    let config = named(&all, "ConfigMap/bank-config");
    assert_eq!(config["data"]["kafka-user.stateless"], json!("bank-stateless"));

    let mut demo = sample();
    demo.spec.service.kafka = bank.spec.service.kafka.clone();
    let all = objects(&demo, 2);
    let (request, response, dead) = ("account.signup_request", "account.signup_response", "account.signup_request.dlq");
    let worker =
        expected(&[(request, &["Read"]), (response, &["Write"]), (dead, &["Write"]), ("demo.slots", &["Read"])]);
    assert_eq!(allowed(&all, "demo-worker"), worker);
    let gateway = expected(&[(request, &["Write"]), (response, &["Read"]), ("demo.slots", &["Read"])]);
    assert_eq!(allowed(&all, "demo-gateway"), gateway);
    let init = expected(&[(request, &[]), (response, &[]), (dead, &[]), ("demo.slots", &["Read", "Write"])]);
    assert_eq!(allowed(&all, "demo-init"), init);
    assert!(all.iter().all(|object| !object.describe().contains("stateless")), "a sign-up has no such part");
    assert_eq!(named(&all, "ConfigMap/demo-config")["data"]["kafka-user.stateless"], Value::Null);
}

#[test]
fn a_wallets_processes_are_told_what_its_spec_says() {
    let mut service = wallet();
    let told = |service: &WalletPartition| with_plan(service, 2, |plan| config::service_config(plan).unwrap());
    let settings = |service: &WalletPartition| serde_json::to_value(told(service).settings).unwrap();
    let defaults = json!({ "currency": "EUR", "defaultLimit": "0.00", "openOnFirstCredit": true });
    assert_eq!(settings(&service), json!({ "accounts": defaults, "audit": { "intervalSeconds": 10 } }));
    service.spec.accounts.default_limit = "-100.00".to_owned();
    service.spec.accounts.open_on_first_credit = false;
    service.spec.audit.interval_seconds = 60;
    let changed = json!({ "currency": "EUR", "defaultLimit": "-100.00", "openOnFirstCredit": false });
    assert_eq!(settings(&service), json!({ "accounts": changed, "audit": { "intervalSeconds": 60 } }));
    let topic = |role| told(&service).topic(role).unwrap().clone();
    assert_eq!((&*topic("payment").name, topic("payment").partitions), ("wallet.payment", 24));
    assert_eq!(topic("transfer_request").name, "wallet.transfer_request");
    assert_eq!(topic("transfer_request.dlq").name, "wallet.transfer_request.dlq");
}

#[test]
fn data_is_taken_up_again_unless_what_it_means_has_changed() {
    let fixed = |change: fn(&mut WalletPartition)| {
        let mut service = wallet();
        change(&mut service);
        service.fixed().unwrap()
    };
    let made_with = fixed(|_| {});
    let same = fixed(|service| {
        service.spec.accounts.default_limit = "-5.00".to_owned();
        service.spec.accounts.open_on_first_credit = false;
        service.spec.audit.interval_seconds = 60;
        service.spec.payment.replicas = 2;
    });
    assert_eq!(same, made_with);
    assert_ne!(fixed(|service| service.spec.accounts.currency = "USD".to_owned()), made_with);
    assert_ne!(fixed(|service| service.spec.topics.payment = "another".to_owned()), made_with);
    // What was recorded of sign-ups is compared with this for ever.
    let of_sign_up = "partitioner=Murmur2\nrequest=account.signup_request\nresponse=account.signup_response\n\
                      request.dlq=account.signup_request.dlq\nusernames:\n  canonicalForm: nfkcCasefold";
    assert_eq!(sample().fixed().unwrap(), of_sign_up);
}

#[test]
fn the_api_server_refuses_in_every_kind_what_no_kind_may_have() {
    for (name, crd) in crds() {
        let crd = serde_json::to_value(&crd).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let rules = format!(
            "{}{}",
            schema["x-kubernetes-validations"], schema["properties"]["spec"]["x-kubernetes-validations"]
        );
        for word in [
            "self.metadata.name) <= 40",
            "self.metadata.name.matches",
            "self.partitions <= self.maxPartitions",
            "self.maxPartitions == oldSelf.maxPartitions",
            "self.partitioner == oldSelf.partitioner",
            "self.topics == oldSelf.topics",
            "size(self.postgres.external.shards) >= self.partitions",
        ] {
            assert_eq!(rules.matches(word).count(), 1, "{name}: {word} in {rules}");
        }
    }
}
