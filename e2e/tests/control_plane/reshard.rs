//! Another number of partitions: what the operator does, and in which order. Nobody moves anything here; that the mover is done is
//! said in its place.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use shardlane_e2e::control_plane::{DATABASE, Operator, Place, external_spec, run, settled};
use shardlane_e2e::stand_in::StandIn;
use shardlane_e2e::told::condition;
use shardlane_e2e::{same, until};
use shardlane_operator::api::status::{ReshardPhase, ServiceStatus};
use shardlane_operator::identity::Identity;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Everything runs at once but movers, which do as the test says.
const NO_MOVERS: &str = "app.kubernetes.io/component!=mover";

/// A spec of so many partitions, with room for four.
pub fn spec_of(topic: &str, partitions: u32) -> Value {
    let mut spec = external_spec(topic);
    spec["partitions"] = partitions.into();
    spec["postgres"]["external"]["shards"] = vec![json!({ "secretRef": { "name": "database" } }); 4].into();
    spec
}

/// A place with an operator and a settled service `demo` of so many partitions.
async fn with_demo(name: &str, partitions: u32) -> Result<(Place, Operator, StandIn)> {
    let place = Place::make(name).await?;
    place.secret("database", &DATABASE).await?;
    let operator = place.operator("one").await?;
    let stand_in = StandIn::for_those(&place.client, &place.name, NO_MOVERS);
    place.create("demo", spec_of(name, partitions)).await?;
    settled(&place, &["demo"]).await?;
    Ok((place, operator, stand_in))
}

fn jobs(place: &Place) -> Api<Job> {
    Api::namespaced(place.client.clone(), &place.name)
}

/// Jobs of movers, those that are just going too.
async fn movers(place: &Place) -> Result<Vec<Job>> {
    let labels = "app.kubernetes.io/component=mover,app.kubernetes.io/instance=demo";
    Ok(jobs(place).list(&ListParams::default().labels(labels)).await?.items)
}

/// Waits for a mover that is told to bring slots into so many partitions, of so many shards; its Job.
async fn mover(place: &Place, partitions: u32, shards: u32) -> Result<Job> {
    until(PATIENCE, async || {
        let all = movers(place).await?;
        ensure!(all.len() == 1, "{} movers", all.len());
        let job = all.into_iter().next().context("no mover")?;
        let container = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()?.containers.first());
        let said = container.and_then(|container| container.command.clone()).unwrap_or_default();
        for word in [format!("--partitions={partitions}"), format!("--shard-count={shards}")] {
            ensure!(said.contains(&word), "{word} is not among {said:?}");
        }
        ensure!(job.metadata.deletion_timestamp.is_none(), "it is just going");
        Ok(job)
    })
    .await
}

/// The mover has done its work.
async fn done(place: &Place, job: &Job) -> Result<()> {
    let status = Patch::Merge(json!({ "status": { "succeeded": 1 } }));
    jobs(place).patch_status(&job.name_any(), &PatchParams::default(), &status).await?;
    settled(place, &["demo"]).await?;
    until(PATIENCE, async || same("movers", movers(place).await?.len(), 0)).await
}

async fn change(place: &Place, spec: Value) -> Result<()> {
    let patch = Patch::Merge(json!({ "spec": spec }));
    place.services().patch("demo", &PatchParams::default(), &patch).await?;
    Ok(())
}

async fn status(place: &Place) -> Result<ServiceStatus> {
    place.services().get("demo").await?.status.context("no status")
}

fn holds(status: &ServiceStatus, type_: &str) -> bool {
    condition(status, type_).is_some_and(|condition| condition.status == "True")
}

async fn identity(place: &Place) -> Result<Identity> {
    let maps: Api<ConfigMap> = Api::namespaced(place.client.clone(), &place.name);
    Ok(Identity::read(&maps.get("demo-identity").await?)?)
}

/// How many shards there are, are to own slots, and which plan it is; and whether that is done.
async fn recorded(place: &Place, expected: (u32, u32, u32, bool)) -> Result<()> {
    let Identity { partitions, target, plan, settled, .. } = identity(place).await?;
    same("identity", (partitions, target, plan, settled), expected)
}

/// Workers that there are, each with how often it was changed.
async fn workers(place: &Place) -> Result<Vec<(String, Option<i64>)>> {
    let sets: Api<StatefulSet> = Api::namespaced(place.client.clone(), &place.name);
    let labelled = ListParams::default().labels("app.kubernetes.io/component=worker");
    let all = sets.list(&labelled).await?.items.into_iter();
    let mut all: Vec<_> = all.map(|set| (set.name_any(), set.metadata.generation)).collect();
    all.sort_unstable();
    Ok(all)
}

/// So many workers, of which none was ever changed.
async fn untouched(place: &Place, count: usize) -> Result<()> {
    let expected: Vec<_> = (0..count).map(|partition| (format!("demo-{partition}"), Some(1))).collect();
    until(PATIENCE, async || same("workers", workers(place).await?, expected.clone())).await
}

#[tokio::test]
async fn partitions_are_added_before_slots_move_and_taken_away_after() -> Result<()> {
    let place = Place::make("scaling").await?;
    place.secret("database", &DATABASE).await?;
    let _operator = place.operator("one").await?;
    let _stand_in = StandIn::for_those(&place.client, &place.name, NO_MOVERS);
    let mut spec = spec_of("scaling", 2);
    spec["postgres"]["external"]["shards"][3]["secretRef"]["name"] = "late".into();
    place.create("demo", spec).await?;
    settled(&place, &["demo"]).await?;
    recorded(&place, (2, 2, 0, true)).await?;

    // Up, as an autoscaler would. A shard that is not there yet holds up nothing but the move.
    run("kubectl", &["scale", "signupshard/demo", "--replicas=4", "--namespace", &place.name]).await?;
    place.says("demo", "Progressing", "Resharding").await?;
    let said = place.says("demo", "Degraded", "SecretMissing").await?;
    ensure!(said.contains("late") && said.contains("partition 3"), "{said}");
    same("note", place.event("demo", "ReshardStarted").await?, "from 2 to 4 partitions".to_owned())?;
    let now = status(&place).await?;
    ensure!(holds(&now, "Ready") && !now.is_settled(), "{:?}", now.conditions);
    same("partitions", (now.replicas, now.ready_replicas), (4, 2))?;
    recorded(&place, (4, 4, 1, false)).await?;
    untouched(&place, 2).await?;
    // What the others need is mended meanwhile.
    let gateways: Api<k8s_openapi::api::apps::v1::Deployment> = Api::namespaced(place.client.clone(), &place.name);
    gateways.delete("demo-gateway", &DeleteParams::default()).await?;
    until(PATIENCE, async || gateways.get("demo-gateway").await.map(drop).map_err(Into::into)).await?;
    same("movers", movers(&place).await?.len(), 0)?;

    place.secret("late", &DATABASE).await?;
    let job = mover(&place, 4, 4).await?;
    untouched(&place, 4).await?;
    let now = status(&place).await?;
    let reshard = now.reshard.clone().context("nothing is said of the move")?;
    same("numbers", (reshard.from, reshard.to, now.is_settled()), (2, 4, false))?;
    done(&place, &job).await?;
    place.event("demo", "Resharded").await?;
    same("move", status(&place).await?.reshard, None)?;
    recorded(&place, (4, 4, 1, true)).await?;
    untouched(&place, 4).await?;

    // Down: everything stays until nothing is left to be moved.
    change(&place, json!({ "partitions": 1 })).await?;
    let job = mover(&place, 1, 4).await?;
    recorded(&place, (4, 1, 2, false)).await?;
    untouched(&place, 4).await?;
    done(&place, &job).await?;
    recorded(&place, (1, 1, 2, true)).await?;
    untouched(&place, 1).await?;
    let policies: Api<NetworkPolicy> = Api::namespaced(place.client.clone(), &place.name);
    until(PATIENCE, async || {
        let left = policies.get_opt("demo-3").await?;
        ensure!(left.is_none(), "a policy of a worker that is gone");
        Ok(())
    })
    .await?;
    ensure!(policies.get_opt("demo-0").await?.is_some());
    same("partitions", status(&place).await?.replicas, 1)
}

#[tokio::test]
async fn another_target_on_the_way_waits_until_the_first_mover_has_ended() -> Result<()> {
    let (place, _operator, _stand_in) = with_demo("retarget", 2).await?;
    change(&place, json!({ "partitions": 4 })).await?;
    let first = mover(&place, 4, 4).await?.name_any();
    // As pods that take their time to end hold up the deletion of a Job.
    let hold = async |finalizers: Value| {
        let patch = Patch::Merge(json!({ "metadata": { "finalizers": finalizers } }));
        jobs(&place).patch(&first, &PatchParams::default(), &patch).await
    };
    hold(json!(["shardlane.dev/test"])).await?;
    change(&place, json!({ "partitions": 3 })).await?;
    until(PATIENCE, async || {
        let job = jobs(&place).get(&first).await?;
        ensure!(job.metadata.deletion_timestamp.is_some(), "the first mover is not told to end");
        Ok(())
    })
    .await?;
    until(PATIENCE, async || recorded(&place, (4, 3, 2, false)).await).await?;
    until(PATIENCE, async || {
        let reshard = status(&place).await?.reshard.context("nothing is said of the move")?;
        same("numbers", (reshard.from, reshard.to), (2, 3))
    })
    .await?;
    same("movers", movers(&place).await?.iter().map(ResourceExt::name_any).collect(), vec![first.clone()])?;

    // What the first one did counts for nothing.
    let status = Patch::Merge(json!({ "status": { "succeeded": 1 } }));
    jobs(&place).patch_status(&first, &PatchParams::default(), &status).await?;
    until(PATIENCE, async || {
        let left = jobs(&place).get(&first).await?.metadata.finalizers.unwrap_or_default();
        let left: Vec<_> = left.into_iter().filter(|finalizer| finalizer != "shardlane.dev/test").collect();
        // Refused if somebody has taken another one away since.
        hold(json!(left)).await?;
        Ok(())
    })
    .await?;
    let second = mover(&place, 3, 4).await?;
    ensure!(second.name_any() != first, "the same Job");
    untouched(&place, 4).await?;
    done(&place, &second).await?;
    recorded(&place, (3, 3, 2, true)).await?;
    untouched(&place, 3).await
}

#[tokio::test]
async fn a_pause_stops_the_mover_and_its_end_lets_it_go_on() -> Result<()> {
    let (place, _operator, _stand_in) = with_demo("holding", 2).await?;
    change(&place, json!({ "partitions": 3 })).await?;
    let job = mover(&place, 3, 3).await?;
    let suspended = async |expected: bool| {
        until(PATIENCE, async || {
            let now = jobs(&place).get(&job.name_any()).await?;
            same("uid", now.metadata.uid.clone(), job.metadata.uid.clone())?;
            same("suspend", now.spec.and_then(|spec| spec.suspend).unwrap_or(false), expected)
        })
        .await
    };
    change(&place, json!({ "paused": true, "partitions": 4 })).await?;
    suspended(true).await?;
    until(PATIENCE, async || {
        let reshard = status(&place).await?.reshard.context("nothing is said of the move")?;
        same("phase", reshard.phase, ReshardPhase::Paused)
    })
    .await?;
    place.says("demo", "Paused", "SpecPaused").await?;
    recorded(&place, (3, 3, 1, false)).await?;
    change(&place, json!({ "paused": false, "partitions": 3 })).await?;
    suspended(false).await?;
    done(&place, &job).await?;
    recorded(&place, (3, 3, 1, true)).await
}

#[tokio::test]
async fn a_service_that_is_made_anew_in_a_move_goes_on_from_all_its_shards() -> Result<()> {
    let (place, mut operator, _stand_in) = with_demo("anew", 1).await?;
    change(&place, json!({ "partitions": 3 })).await?;
    mover(&place, 3, 3).await?;
    place.services().delete("demo", &DeleteParams::foreground()).await?;
    until(PATIENCE, async || {
        ensure!(place.services().get_opt("demo").await?.is_none(), "it is still there");
        Ok(())
    })
    .await?;
    until(PATIENCE, async || same("movers", movers(&place).await?.len(), 0)).await?;
    recorded(&place, (3, 3, 1, false)).await?;
    // And with an operator that knows nothing of it.
    operator.kill().await?;
    let _operator = place.operator("one").await?;

    // Of fewer databases than data may lie in nothing is made.
    let mut short = spec_of("anew", 2);
    short["postgres"]["external"]["shards"] = vec![json!({ "secretRef": { "name": "database" } }); 2].into();
    place.create("demo", short).await?;
    let said = place.says("demo", "Degraded", "ShardsMissing").await?;
    ensure!(said.contains("3 shards"), "{said}");
    same("workers", workers(&place).await?.len(), 0)?;
    change(&place, json!({ "postgres": spec_of("anew", 2)["postgres"] })).await?;
    let job = mover(&place, 2, 3).await?;
    untouched(&place, 3).await?;
    recorded(&place, (3, 2, 2, false)).await?;
    done(&place, &job).await?;
    recorded(&place, (2, 2, 2, true)).await?;
    untouched(&place, 2).await
}
