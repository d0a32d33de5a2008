//! An operator that is killed between any two of its writes leaves nothing that its successor does not mend.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;
use shardlane_e2e::control_plane::{DATABASE, Place, external_spec, settled};
use shardlane_e2e::crashes::{Crashes, When};
use shardlane_e2e::stand_in::StandIn;
use shardlane_e2e::{same, until};
use shardlane_operator::controller;

use crate::reshard::spec_of;

/// More writes than one service takes.
const MOST: u64 = 200;

/// What there is of a service, by kind and name, without its own. Contents are not compared: the identity differs from one to
/// another, and so do the hashes and the Job's name that follow from it.
async fn objects(place: &Place, name: &str) -> Result<Vec<String>> {
    let mut all = Vec::new();
    let of_kubernetes = |group: &str| !group.contains('.') || group.ends_with("k8s.io");
    for resource in controller::types().into_iter().filter(|resource| of_kubernetes(&resource.group)) {
        let api: Api<DynamicObject> = Api::namespaced_with(place.client.clone(), &place.name, &resource);
        let labelled = ListParams::default().labels(&format!("app.kubernetes.io/instance={name}"));
        for object in api.list(&labelled).await?.items {
            let called = format!("{}/{}", resource.kind, object.name_any().replace(name, "NAME"));
            let is_init = called.starts_with("Job/NAME-init-");
            all.push(if is_init { "Job/NAME-init".to_owned() } else { called });
        }
    }
    all.sort_unstable();
    Ok(all)
}

/// An operator through a way on which it dies; whether it came to that before the work was done.
async fn dies(place: &Place, at: u64, when: When, done: impl AsyncFn() -> Result<bool>) -> Result<bool> {
    let mut config = Config::infer().await?;
    config.auth_info = kube::config::AuthInfo { token: Some(place.token().await?.into()), ..Default::default() };
    let way = Crashes::at(Client::try_from(config)?, at, when).await?;
    let mut operator = place.operator_at("one", Some(&way.url)).await?;
    way.victim(operator.pid()?);
    until(Duration::from_secs(60), async || {
        if way.has_killed() || done().await? { Ok(()) } else { bail!("neither killed nor done") }
    })
    .await
    .with_context(|| operator.log().unwrap_or_default())?;
    if way.has_killed() {
        operator.ended().await?;
        return Ok(true);
    }
    // The same one starts again next, and need not wait for the Lease to run out.
    operator.kill().await?;
    Ok(false)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_becomes_the_same_wherever_the_operator_dies() -> Result<()> {
    let place = Place::make("crashes").await?;
    place.secret("database", &DATABASE).await?;
    let _stand_in = StandIn::start(&place.client, &place.name);
    let operator = place.operator("one").await?;
    place.create("reference", external_spec("reference")).await?;
    settled(&place, &["reference"]).await?;
    let expected = objects(&place, "reference").await?;
    drop(operator);

    let mut died = 0;
    for when in [When::Before, When::After] {
        for at in 1..MOST {
            let name = format!("s{at}-{when:?}").to_lowercase();
            place.create(&name, external_spec(&name)).await?;
            let done = async || {
                let service = place.services().get(&name).await?;
                Ok(shardlane_e2e::told::is_settled(&service))
            };
            let killed = dies(&place, at, when, done).await?;
            let operator = place.operator("one").await?;
            settled(&place, &[&name]).await.with_context(|| format!("killed {when:?} write {at}"))?;
            same(&format!("killed {when:?} write {at}"), objects(&place, &name).await?, expected.clone())?;
            // Gone, so that the next operator has nothing to do but the next service.
            place.services().delete(&name, &DeleteParams::foreground()).await?;
            gone(&place, &name).await?;
            drop(operator);
            if !killed {
                break;
            }
            died += 1;
        }
    }
    println!("the operator was killed at {died} points, before and after each of its writes");
    ensure!(died > 20, "it was killed at {died} points only");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_service_goes_wherever_the_operator_dies() -> Result<()> {
    let place = Place::make("farewells").await?;
    place.secret("database", &DATABASE).await?;
    let _stand_in = StandIn::start(&place.client, &place.name);
    let mut died = 0;
    for when in [When::Before, When::After] {
        for at in 1..MOST {
            let name = format!("s{at}-{when:?}").to_lowercase();
            let mut spec = external_spec(&name);
            spec["deletionPolicy"] = "Delete".into();
            place.create(&name, spec).await?;
            let operator = place.operator("one").await?;
            settled(&place, &[&name]).await?;
            let finalizers = place.services().get(&name).await?.metadata.finalizers.unwrap_or_default();
            same("finalizers", finalizers, vec!["shardlane.dev/topics".to_owned()])?;
            drop(operator);
            place.services().delete(&name, &DeleteParams::default()).await?;
            let done = async || Ok(place.services().get_opt(&name).await?.is_none());
            let killed = dies(&place, at, when, done).await?;
            let operator = place.operator("one").await?;
            gone(&place, &name).await.with_context(|| format!("killed {when:?} write {at}"))?;
            until(Duration::from_secs(60), async || {
                let left = objects(&place, &name).await?;
                ensure!(left.is_empty(), "killed {when:?} write {at}, left: {left:?}");
                Ok(())
            })
            .await?;
            drop(operator);
            if !killed {
                break;
            }
            died += 1;
        }
    }
    println!("the operator was killed at {died} points of a deletion");
    ensure!(died > 4, "it was killed at {died} points only");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_gets_another_size_wherever_the_operator_dies() -> Result<()> {
    let place = Place::make("resized").await?;
    place.secret("database", &DATABASE).await?;
    let _stand_in = StandIn::start(&place.client, &place.name);
    let operator = place.operator("one").await?;
    // What there is of services that were never anything else.
    let mut expected = Vec::new();
    for size in SIZES {
        let name = format!("of-{size}");
        place.create(&name, spec_of(&name, size)).await?;
        settled(&place, &[&name]).await?;
        expected.push(objects(&place, &name).await?);
    }
    place.create("demo", spec_of("demo", SIZES[0])).await?;
    settled(&place, &["demo"]).await?;
    drop(operator);

    let mut died = 0;
    // What is there after a write is what is there before the next.
    for at in 1..MOST {
        let mut killed = false;
        for (size, expected) in SIZES.iter().zip(&expected).rev() {
            let patch = Patch::Merge(json!({ "spec": { "partitions": size } }));
            place.services().patch("demo", &PatchParams::default(), &patch).await?;
            let done = async || Ok(shardlane_e2e::told::is_settled(&place.services().get("demo").await?));
            let this = dies(&place, at, When::After, done).await?;
            let operator = place.operator("one").await?;
            let point = || format!("killed after write {at} on the way to {size} partitions");
            settled(&place, &["demo"]).await.with_context(point)?;
            let found = async || same(&point(), objects(&place, "demo").await?, expected.clone());
            until(Duration::from_secs(60), found).await?;
            drop(operator);
            died += u32::from(this);
            killed |= this;
        }
        if !killed {
            break;
        }
    }
    println!("the operator was killed at {died} points of moves up and down");
    ensure!(died > 20, "it was killed at {died} points only");
    Ok(())
}

/// Numbers of partitions between which services go up and down.
const SIZES: [u32; 2] = [1, 3];

async fn gone(place: &Place, name: &str) -> Result<()> {
    until(Duration::from_secs(60), async || match place.services().get_opt(name).await? {
        None => Ok(()),
        Some(service) => bail!("{name} is still there: {:?}", service.metadata.finalizers),
    })
    .await
}

#[tokio::test]
async fn a_policy_that_changes_binds_and_frees_the_resource() -> Result<()> {
    let place = Place::make("policy").await?;
    place.secret("database", &DATABASE).await?;
    let _stand_in = StandIn::start(&place.client, &place.name);
    let _operator = place.operator("one").await?;
    place.create("demo", external_spec("policy")).await?;
    settled(&place, &["demo"]).await?;
    for (policy, bound) in [("Delete", true), ("Retain", false)] {
        if !bound {
            // Also while something stands in the way of everything else.
            place.remove_secret("database").await?;
            place.says("demo", "Degraded", "SecretMissing").await?;
        }
        let patch = json!({ "spec": { "deletionPolicy": policy } });
        place.services().patch("demo", &PatchParams::default(), &Patch::Merge(&patch)).await?;
        until(Duration::from_secs(30), async || {
            let finalizers = place.services().get("demo").await?.metadata.finalizers.unwrap_or_default();
            same(policy, !finalizers.is_empty(), bound)
        })
        .await?;
    }
    Ok(())
}
