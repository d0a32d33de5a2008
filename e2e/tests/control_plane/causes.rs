//! What stands in a service's way is said, with what to do, and gone when its cause is.

use anyhow::{Result, ensure};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use shardlane_e2e::control_plane::{DATABASE, Place, external_spec, run, settled};
use shardlane_e2e::stand_in::StandIn;
use shardlane_e2e::{same, setting, until};
use std::time::Duration;

fn api(place: &Place, group: &str, version: &str, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Api::namespaced_with(place.client.clone(), &place.name, &resource)
}

#[tokio::test]
async fn a_missing_secret_or_key_is_named_and_enough_to_repair() -> Result<()> {
    let place = Place::make("secrets").await?;
    let _operator = place.operator("one").await?;
    let _stand_in = StandIn::start(&place.client, &place.name);
    let mut spec = external_spec("secrets");
    spec["kafka"]["external"]["sasl"] = json!({ "secretRef": { "name": "login" } });
    place.create("demo", spec).await?;

    let said = place.says("demo", "Degraded", "SecretMissing").await?;
    ensure!(said.contains("database") && said.contains("\"uri\""), "{said}");
    let told = place.event("demo", "SecretMissing").await?;
    same("the event's note", told, said)?;
    place.secret("database", &DATABASE).await?;
    let said = until(Duration::from_secs(30), async || {
        let said = place.says("demo", "Degraded", "SecretMissing").await?;
        ensure!(said.contains("login"), "{said}");
        Ok(said)
    })
    .await?;
    ensure!(said.contains("\"username\" and \"password\""), "{said}");
    place.secret("login", &[("username", "demo"), ("passwort", "x")]).await?;
    let said = place.says("demo", "Degraded", "SecretIncomplete").await?;
    ensure!(said.contains("login") && said.contains("\"password\""), "{said}");
    let secrets = api(&place, "", "v1", "Secret");
    let repaired = json!({ "stringData": { "password": "x" } });
    secrets.patch("login", &PatchParams::default(), &Patch::Merge(&repaired)).await?;
    settled(&place, &["demo"]).await?;

    // A password that changes makes new pods, of workers as of gateways.
    let hashes = async || {
        let mut hashes = Vec::new();
        for (kind, name) in [("StatefulSet", "demo-0"), ("Deployment", "demo-gateway")] {
            let object = api(&place, "apps", "v1", kind).get(name).await?;
            let hash = object.data.pointer("/spec/template/metadata/annotations/shardlane.dev~1config-hash").cloned();
            hashes.push(hash.unwrap_or_default());
        }
        Ok::<_, anyhow::Error>(hashes)
    };
    let before = hashes().await?;
    let changed = json!({ "stringData": { "password": "y" } });
    secrets.patch("login", &PatchParams::default(), &Patch::Merge(&changed)).await?;
    until(Duration::from_secs(30), async || {
        let now = hashes().await?;
        ensure!(now.iter().zip(&before).all(|(now, before)| now != before), "{now:?} and before {before:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_paused_service_is_left_as_it_is_and_mended_when_it_is_resumed() -> Result<()> {
    let place = Place::make("paused").await?;
    place.secret("database", &DATABASE).await?;
    let _operator = place.operator("one").await?;
    let _stand_in = StandIn::start(&place.client, &place.name);
    place.create("demo", external_spec("paused")).await?;
    settled(&place, &["demo"]).await?;
    let change = async |spec: Value| {
        let changed = Patch::Merge(json!({ "spec": spec }));
        let now = place.services().patch("demo", &PatchParams::default(), &changed).await?;
        until(Duration::from_secs(30), async || {
            let seen = place.services().get("demo").await?.status.and_then(|status| status.observed_generation);
            same("generation that was seen", seen, now.metadata.generation)
        })
        .await
    };
    change(json!({ "paused": true })).await?;
    place.says("demo", "Paused", "SpecPaused").await?;
    let gateways = api(&place, "apps", "v1", "Deployment");
    gateways.delete("demo-gateway", &DeleteParams::default()).await?;
    change(json!({ "gateway": { "replicas": 2 } })).await?;
    ensure!(gateways.get_opt("demo-gateway").await?.is_none(), "a gateway was made while the service was paused");
    place.says("demo", "Ready", "GatewayNotReady").await?;
    change(json!({ "paused": false })).await?;
    settled(&place, &["demo"]).await?;
    same("gateways", gateways.get("demo-gateway").await?.data["spec"]["replicas"].clone(), json!(2))
}

#[tokio::test]
async fn of_two_services_that_want_a_topic_the_elder_has_it() -> Result<()> {
    let place = Place::make("claims").await?;
    place.secret("database", &DATABASE).await?;
    let _operator = place.operator("one").await?;
    let _stand_in = StandIn::start(&place.client, &place.name);
    place.create("elder", external_spec("shared")).await?;
    settled(&place, &["elder"]).await?;
    place.create("younger", external_spec("shared")).await?;
    let said = place.says("younger", "Degraded", "TopicTaken").await?;
    ensure!(said.contains("shared.request") && said.contains("claims/elder"), "{said}");
    place.event("younger", "TopicTaken").await?;
    let of_younger = ListParams::default().labels("app.kubernetes.io/instance=younger");
    for (group, kind) in [("", "ConfigMap"), ("apps", "StatefulSet"), ("batch", "Job")] {
        same(kind, api(&place, group, "v1", kind).list(&of_younger).await?.items.len(), 0)?;
    }
    place.services().delete("elder", &DeleteParams::default()).await?;
    settled(&place, &["younger"]).await
}

#[tokio::test]
async fn a_stored_object_that_cannot_be_read_is_said_to_be_so_and_holds_nobody_up() -> Result<()> {
    let place = Place::make("malformed").await?;
    place.secret("database", &DATABASE).await?;
    // Such as an older or a newer version may have stored: no schema would let it in today.
    let mut newer = external_spec("newer");
    newer["partitioner"] = "sha1".into();
    let bad = [("newer", newer), ("worse", json!({ "partitions": 1, "kafka": "somewhere", "postgres": {} }))];
    let services = api(&place, "shardlane.dev", "v1alpha1", "SignupShard");
    with_any_spec(&place, async || {
        for (name, spec) in bad {
            let object = json!({
                "apiVersion": "shardlane.dev/v1alpha1", "kind": "SignupShard", "metadata": { "name": name }, "spec": spec,
            });
            services.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
        }
        Ok(())
    })
    .await?;
    let _operator = place.operator("one").await?;
    let _stand_in = StandIn::start(&place.client, &place.name);
    place.create("good", external_spec("malformed")).await?;
    settled(&place, &["good"]).await?;
    until(Duration::from_secs(30), async || {
        let status = services.get("newer").await?.data["status"].clone();
        let said = status.pointer("/conditions/0/message").and_then(Value::as_str).unwrap_or_default();
        ensure!(said.contains("sha1") && said.contains("kubectl edit"), "{status}");
        Ok(())
    })
    .await?;
    for (name, word) in [("newer", "sha1"), ("worse", "somewhere")] {
        let told = place.event(name, "Unreadable").await?;
        ensure!(told.contains(word), "{told}");
    }
    Ok(())
}

/// Does something while the API server takes any spec.
async fn with_any_spec(place: &Place, work: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    let resource =
        ApiResource::from_gvk(&GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition"));
    let crds: Api<DynamicObject> = Api::all_with(place.client.clone(), &resource);
    let name = "signupshards.shardlane.dev";
    let strict = crds.get(name).await?.data["spec"]["versions"][0]["schema"].clone();
    let anything = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
    let set = async |schema: &Value| {
        let path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec";
        let patch = json!([{ "op": "replace", "path": path, "value": schema }]).to_string();
        run("kubectl", &["patch", "crd", name, "--type=json", "-p", &patch]).await.map(drop)
    };
    set(&anything).await?;
    // The API server takes a moment to take it up.
    let done = until(Duration::from_secs(20), async || {
        let probe = api(place, "shardlane.dev", "v1alpha1", "SignupShard");
        let anything: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "shardlane.dev/v1alpha1", "kind": "SignupShard", "metadata": { "name": "probe" }, "spec": {},
        }))?;
        probe.create(&PostParams { dry_run: true, ..PostParams::default() }, &anything).await?;
        Ok(())
    })
    .await;
    let worked = if done.is_ok() { work().await } else { Ok(()) };
    set(&strict["openAPIV3Schema"]["properties"]["spec"]).await?;
    done.and(worked)
}

#[tokio::test]
async fn operators_of_others_may_come_later() -> Result<()> {
    let place = Place::make("later").await?;
    let _operator = place.operator("one").await?;
    let _stand_in = StandIn::start(&place.client, &place.name);
    place.secret("database", &DATABASE).await?;

    // CloudNativePG.
    let mut spec = external_spec("pg");
    spec["postgres"] = json!({ "cloudNativePG": { "storage": { "size": "1Gi" } } });
    place.create("pg", spec).await?;
    let said = place.says("pg", "Degraded", "CloudNativePGMissing").await?;
    ensure!(said.contains("install it"), "{said}");
    place.event("pg", "CloudNativePGMissing").await?;
    let crd = cloud_native_pg_crd().await?;
    run("kubectl", &["apply", "--server-side", "-f", &crd]).await?;
    place.says("pg", "Progressing", "ShardStarting").await?;
    let cluster = api(&place, "postgresql.cnpg.io", "v1", "Cluster").get("pg-shard-0").await?;
    same("instances", cluster.data["spec"]["instances"].clone(), json!(1))?;
    // As CloudNativePG makes it once the shard can be reached.
    place.secret("pg-shard-0-app", &DATABASE).await?;
    settled(&place, &["pg"]).await?;

    // Strimzi.
    let mut spec = external_spec("strimzi_topics");
    spec["kafka"] = json!({ "strimzi": { "cluster": "main" } });
    place.create("events", spec).await?;
    let said = place.says("events", "Degraded", "StrimziMissing").await?;
    ensure!(said.contains("install it"), "{said}");
    place.event("events", "StrimziMissing").await?;
    let crds = setting("SHARDLANE_TEST_STRIMZI_CRDS")?;
    run("kubectl", &["apply", "--server-side", "-f", &crds]).await?;
    place.says("events", "Degraded", "KafkaMissing").await?;
    strimzi(&place).await
}

/// A Kafka of Strimzi's, as far as its resources and their schemas go.
async fn strimzi(place: &Place) -> Result<()> {
    let kafka: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "kafka.strimzi.io/v1", "kind": "Kafka", "metadata": { "name": "main" },
        "spec": { "kafka": {
            "listeners": [{ "name": "tls", "port": 9093, "type": "internal", "tls": true,
                            "authentication": { "type": "scram-sha-512" } }],
            "authorization": { "type": "simple" },
        } },
    }))?;
    let kafkas = api(place, "kafka.strimzi.io", "v1", "Kafka");
    kafkas.create(&PostParams::default(), &kafka).await?;
    place.says("events", "Progressing", "KafkaStarting").await?;
    let status =
        json!({ "status": { "listeners": [{ "name": "tls", "bootstrapServers": "main-kafka-bootstrap:9093" }] } });
    kafkas.patch_status("main", &PatchParams::default(), &Patch::Merge(&status)).await?;

    // The real schemas take what is applied; Strimzi's word is waited for.
    let said = place.says("events", "Degraded", "SecretMissing").await?;
    ensure!(said.contains("main-cluster-ca-cert"), "{said}");
    place.secret("main-cluster-ca-cert", &[("ca.crt", "x")]).await?;
    let users = api(place, "kafka.strimzi.io", "v1", "KafkaUser");
    for user in ["events-worker", "events-gateway", "events-init"] {
        place.secret(user, &[("password", "x")]).await?;
    }
    let said = place.says("events", "Progressing", "StrimziNotReady").await?;
    ensure!(said.contains("KafkaTopic") || said.contains("KafkaUser"), "{said}");
    let topics = api(place, "kafka.strimzi.io", "v1", "KafkaTopic");
    let found = topics.list(&ListParams::default()).await?.items;
    let mut named: Vec<_> = found.iter().filter_map(|topic| topic.data["spec"]["topicName"].as_str()).collect();
    named.sort_unstable();
    let expected = ["events.slots", "strimzi_topics.request", "strimzi_topics.request.dlq", "strimzi_topics.response"];
    same("topics", named, expected.to_vec())?;
    // Of the definitions that came together, the operator may have seen the topics' first.
    let worker = until(Duration::from_secs(60), async || Ok(users.get("events-worker").await?)).await?;
    let may = |user: &DynamicObject, topic: &str, operation: &str| {
        let rules = user.data["spec"]["authorization"]["acls"].as_array().cloned().unwrap_or_default();
        rules.iter().any(|rule| {
            rule["resource"]["name"] == topic
                && rule["operations"].as_array().is_some_and(|all| all.iter().any(|found| found == operation))
        })
    };
    ensure!(may(&worker, "strimzi_topics.request", "Read") && !may(&worker, "strimzi_topics.request", "Write"));
    ensure!(may(&worker, "strimzi_topics.response", "Write"));
    let gateway = users.get("events-gateway").await?;
    ensure!(may(&gateway, "strimzi_topics.request", "Write") && may(&gateway, "events-", "Read"));
    let ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
    for topic in found {
        topics.patch_status(&topic.name_any(), &PatchParams::default(), &Patch::Merge(&ready)).await?;
    }
    for user in users.list(&ListParams::default()).await?.items {
        users.patch_status(&user.name_any(), &PatchParams::default(), &Patch::Merge(&ready)).await?;
    }
    settled(place, &["events"]).await
}

/// The CRD of CloudNativePG's Clusters alone, from its release.
async fn cloud_native_pg_crd() -> Result<String> {
    let all = std::fs::read_to_string(setting("SHARDLANE_TEST_CLOUDNATIVE_PG")?)?;
    let crd = all.split("\n---").find(|part| part.contains("name: clusters.postgresql.cnpg.io"));
    let file = std::env::temp_dir().join(format!("clusters-{}.yaml", std::process::id()));
    std::fs::write(&file, crd.unwrap_or_default())?;
    Ok(file.display().to_string())
}
