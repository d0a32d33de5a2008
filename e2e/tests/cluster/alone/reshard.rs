//! Slots move while the operator, the mover and a shard's primary are lost.

use anyhow::Result;
use kube::Client;
use serde_json::Value;
use shardlane_e2e::cluster::ClusterService;
use shardlane_e2e::reshard::kinds::SignUps;
use shardlane_e2e::reshard::steady::Steady;
use shardlane_operator::api::signup_shard::SignupShard;

use crate::reshard::{Fault, NAMES, PATIENCE, SLOTS, STEPS, THINKING, Trial, moving};
use crate::services::{spec, unique};

#[tokio::test(flavor = "multi_thread")]
async fn sign_ups_go_on_while_slots_move_and_parts_are_lost() -> Result<()> {
    let _alone = crate::SHARED.write().await;
    let client = Client::try_default().await?;
    let name = unique("moving-signups");
    let spec = moving(spec(&name, STEPS[0], SLOTS, Value::Null), 2, "Delete")?;
    let mut service = ClusterService::start(&client, &name, spec).await?;
    service.whole(PATIENCE).await?;
    let people = SignUps::at(&service.gateway().await?, "steady")?;
    let mut shards = vec![service.shard(0).await?, service.shard(1).await?];
    people.fill(&service.config, NAMES, &mut shards).await?;
    drop(shards);
    let load = Steady::begin(people, 8, THINKING);
    let trial = Trial::<SignupShard, _> { client, service, load, retains: false };
    trial
        .through_all(|from, to| match (from, to) {
            (2, 3) => Some(Fault::Operator),
            (3, 5) => Some(Fault::Mover),
            (5, 3) => Some(Fault::Source),
            _ => None,
        })
        .await
}
