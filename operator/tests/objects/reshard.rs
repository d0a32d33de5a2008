//! Changing the number of partitions: nobody who runs is restarted by it, and what moves slots is let in everywhere.

use shardlane_operator::build::reshard;

use super::*;

/// What the operator makes of a service, and the mover's Job, in a move from so many partitions to so many.
fn moving<K: ServiceKind>(service: &K, from: u32, to: u32) -> (Vec<Object>, Value) {
    let identity = Identity::first("an-id".to_owned(), from, 24, service.fixed().unwrap()).next(to, false);
    with_plan(service, identity.partitions, |plan| {
        let plan = Plan { identity, ..plan.clone() };
        let mut all = foundation(&plan).unwrap();
        all.extend(processes(&plan).unwrap());
        (all, serde_json::to_value(reshard::job(&plan).unwrap()).unwrap())
    })
}

/// The templates of all pods that run all the time, by what they belong to.
fn templates(all: &[Object]) -> BTreeMap<String, Value> {
    let runs = |object: &&Object| matches!(&*object.resource.kind, "StatefulSet" | "Deployment");
    let template = |object: &Object| (object.describe(), object.object.data["spec"]["template"].clone());
    all.iter().filter(runs).map(template).collect()
}

fn restarts_nobody<K: ServiceKind>(service: &K) {
    let settled = templates(&objects(service, 2));
    for (from, to) in [(2, 5), (5, 2), (2, 2), (2, 24)] {
        let now = templates(&moving(service, from, to).0);
        for (name, template) in &settled {
            assert_eq!(now.get(name), Some(template), "{name}, from {from} to {to}");
        }
    }
    let more = templates(&objects(service, 7));
    assert!(settled.iter().all(|(name, template)| more.get(name) == Some(template)));
}

#[test]
fn the_number_of_partitions_is_in_no_pod_that_runs() {
    restarts_nobody(&sample());
    restarts_nobody(&wallet());
    restarts_nobody(&applied::<shardlane_operator::api::counter_pool::CounterPool>(include_str!(
        "../../../docs/samples/counterpool.yaml"
    )));
    restarts_nobody(&applied::<shardlane_operator::api::blog_pipeline::BlogPipeline>(include_str!(
        "../../../docs/samples/blogpipeline.yaml"
    )));
}

fn command(job: &Value) -> Vec<String> {
    let command = &job["spec"]["template"]["spec"]["containers"][0]["command"];
    command.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_mover_is_told_how_many_partitions_there_are_and_are_to_be() {
    let mut service = sample();
    let expected = [
        "mover",
        "reshard",
        "--schema=/schema/schema.json",
        "--shards=/shards",
        "--config=/etc/shardlane/service.yaml",
        "--partitions=2",
        "--shard-count=4",
        "--groups-at-once=1",
        "--fence-seconds=5",
        "--clean-after-seconds=30",
        "--status-port=9090",
    ];
    assert_eq!(command(&moving(&service, 4, 2).1), expected);
    let resharding = "{ groupsAtOnce: 4, rowsPerSecond: 5000, fenceSeconds: 2, cleanAfterSeconds: 0 }";
    service.spec.service.resharding = serde_yaml::from_str(resharding).unwrap();
    let said = command(&moving(&service, 2, 4).1);
    for word in [
        "--partitions=4",
        "--shard-count=4",
        "--groups-at-once=4",
        "--rows-per-second=5000",
        "--fence-seconds=2",
        "--clean-after-seconds=0",
    ] {
        assert!(said.iter().any(|said| said == word), "{word} is not among {said:?}");
    }
}

#[test]
fn the_movers_pod_sees_all_shards_and_has_time_to_stop() {
    let (all, job) = moving(&sample(), 4, 2);
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["terminationGracePeriodSeconds"], json!(60));
    assert_eq!((&pod["restartPolicy"], &job["spec"]["suspend"]), (&json!("OnFailure"), &json!(false)));
    assert_eq!(pod["securityContext"]["runAsNonRoot"], json!(true));
    assert_eq!(pod["automountServiceAccountToken"], json!(false));
    assert_eq!(pod["initContainers"][0]["command"][0], json!("signup"));
    let container = &pod["containers"][0];
    assert_eq!((&container["name"], &container["image"]), (&json!("mover"), &json!("example/mover:1")));
    let mounts: Vec<_> =
        container["volumeMounts"].as_array().unwrap().iter().map(|mount| &mount["mountPath"]).collect();
    for shard in 0..4 {
        assert!(mounts.contains(&&json!(format!("/shards/{shard}"))), "{mounts:?}");
    }
    let labels = &job["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels["app.kubernetes.io/component"], json!("mover"));
    assert_eq!(labels["app.kubernetes.io/instance"], json!("demo"));
    assert!(all.iter().all(|object| object.resource.kind != "Job" || object.describe().contains("-init-")));
}

fn name(job: &Value) -> &str {
    job["metadata"]["name"].as_str().unwrap()
}

#[test]
fn a_movers_job_has_the_name_of_its_plan_and_of_what_it_does() {
    let service = sample();
    let first = moving(&service, 2, 4).1;
    assert!(name(&first).starts_with("demo-reshard-1-"), "{}", name(&first));
    assert_eq!(name(&first), name(&moving(&service, 2, 4).1));
    let mut slower = service;
    slower.spec.service.resharding.rows_per_second = Some(100);
    assert_ne!(name(&first), name(&moving(&slower, 2, 4).1));

    // The longest name that a service may have, after more plans than anybody makes.
    slower.metadata.name = Some("x".repeat(40));
    let mut identity = Identity::first("an-id".to_owned(), 2, 24, String::new()).next(4, false);
    identity.plan = 9_999_999;
    let longest = with_plan(&slower, 4, |plan| reshard::job(&Plan { identity, ..plan.clone() }).unwrap());
    assert!(longest.metadata.name.unwrap().len() <= 63, "no label takes it");
}

#[test]
fn the_mover_reaches_kafka_and_every_shard_and_they_let_it_in() {
    let mut service = sample();
    service.spec.service.kafka = serde_yaml::from_str("strimzi: { cluster: k }").unwrap();
    let (all, _) = moving(&service, 2, 3);
    let policy = named(&all, "NetworkPolicy/demo-mover")["spec"].clone();
    assert_eq!(policy["podSelector"]["matchLabels"]["app.kubernetes.io/component"], json!("mover"));
    assert_eq!(policy["ingress"], json!([{ "ports": [{ "port": 9090, "protocol": "TCP" }] }]));
    let egress = policy["egress"].as_array().unwrap();
    assert_eq!(egress[0]["ports"][0]["port"], json!(53));
    assert_eq!(egress[1]["to"][0]["podSelector"]["matchLabels"]["strimzi.io/name"], json!("k-kafka"));
    let cluster = |partition: u32| json!({ "podSelector": { "matchLabels": { "cnpg.io/cluster": format!("demo-shard-{partition}") } } });
    assert_eq!(egress[2]["to"], json!([cluster(0), cluster(1), cluster(2)]));
    for partition in 0..3 {
        let database = named(&all, &format!("NetworkPolicy/demo-shard-{partition}"));
        let users = database["spec"]["ingress"][0]["from"].to_string();
        for part in ["worker", "init", "mover"] {
            assert!(users.contains(&format!("\"app.kubernetes.io/component\":\"{part}\"")), "{part}: {users}");
        }
    }
}

#[test]
fn the_mover_is_in_kafka_who_the_init_job_is() {
    let mut service = sample();
    service.spec.service.kafka = serde_yaml::from_str("strimzi: { cluster: k }").unwrap();
    let (all, job) = moving(&service, 2, 3);
    let volumes = job["spec"]["template"]["spec"]["volumes"].to_string();
    assert!(volumes.contains("\"name\":\"demo-init\"") && volumes.contains("kafka-user.init"), "{volumes}");
    assert!(all.iter().all(|object| object.describe() != "KafkaUser/demo-mover"));
    let credentials = |credentials: &str| {
        let credentials = BTreeMap::from([("init", credentials.to_owned())]);
        with_plan(&service, 3, |plan| {
            let job = reshard::job(&Plan { credentials, ..plan.clone() }).unwrap();
            job.metadata.name.unwrap()
        })
    };
    assert_ne!(credentials("a"), credentials("b"), "a new password is a new pod");
    let shards = |version: &str| {
        with_plan(&service, 3, |plan| {
            let mut plan = plan.clone();
            plan.shards[2].version = Some(version.to_owned());
            let all = processes(&plan).unwrap();
            let init = all.iter().find(|object| object.resource.kind == "Job").unwrap().describe();
            (reshard::job(&plan).unwrap().metadata.name.unwrap(), init)
        })
    };
    let (before, after) = (shards("a"), shards("b"));
    assert!(before.0 != after.0 && before.1 != after.1, "another database has to be prepared, and reached");
}
