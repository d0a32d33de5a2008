//! Of several operators one works, and another takes over.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use shardlane_e2e::control_plane::{DATABASE, Place, external_spec, settled};
use shardlane_e2e::stand_in::StandIn;
use shardlane_e2e::{same, until};

async fn holder(place: &Place) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(place.client.clone(), &place.name);
    let lease = leases.get(&format!("{}-shardlane", place.name)).await?;
    lease.spec.and_then(|spec| spec.holder_identity).filter(|holder| !holder.is_empty()).context("nobody leads")
}

#[tokio::test]
async fn one_operator_works_and_another_takes_over() -> Result<()> {
    let place = Place::make("leaders").await?;
    place.secret("database", &DATABASE).await?;
    let _stand_in = StandIn::start(&place.client, &place.name);
    let mut first = place.operator("first").await?;
    until(Duration::from_secs(30), async || same("leader", holder(&place).await?, "first".to_owned())).await?;
    let mut second = place.operator("second").await?;
    place.create("one", external_spec("one")).await?;
    settled(&place, &["one"]).await?;
    ensure!(second.metric("shardlane_operator_reconciles_total").await? == 0., "the second works too");

    // Stopped in order, it gives the Lease back; who waits already looks again when it would have run out.
    first.stop().await?;
    until(Duration::from_secs(30), async || same("leader", holder(&place).await?, "second".to_owned())).await?;
    place.create("two", external_spec("two")).await?;
    settled(&place, &["two"]).await?;

    // Killed, its Lease runs out.
    let _third = place.operator("third").await?;
    second.kill().await?;
    until(Duration::from_secs(60), async || same("leader", holder(&place).await?, "third".to_owned())).await?;
    place.create("three", external_spec("three")).await?;
    settled(&place, &["three"]).await
}
