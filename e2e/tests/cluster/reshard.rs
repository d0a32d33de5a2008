//! The number of partitions goes up and down under load: nothing is lost, doubled or refused, and workers that stay are left alone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::DeleteParams;
use kube::{Api, Client};
use serde_json::{Value, json};
use shardlane_e2e::cluster::{ClusterService, NAMESPACE, ServiceOf, change, change_as, create, services};
use shardlane_e2e::faults::lose_pod;
use shardlane_e2e::reshard::kinds::{Counts, Oracle, Payments, Posts, SignUps};
use shardlane_e2e::reshard::steady::Steady;
use shardlane_e2e::reshard::{Moves, resharded, scale, verify, workers};
use shardlane_e2e::told::says;
use shardlane_e2e::{same, setting, until};
use shardlane_operator::api::blog_pipeline::BlogPipeline;
use shardlane_operator::api::counter_pool::CounterPool;
use shardlane_operator::api::signup_shard::SignupShard;
use shardlane_operator::api::status::ReshardPhase;
use shardlane_operator::api::wallet_partition::WalletPartition;
use shardlane_operator::build::cloud_native_pg::Cluster;
use shardlane_operator::kind::ServiceKind;
use sqlx::{PgConnection, Row};

use crate::lives::{OPERATOR, SYSTEM, gone};
use crate::services::{Databases, cloud_native_pg, spec, unique};

pub const SLOTS: u32 = 12;
/// How many partitions there are to be, one after the other.
pub const STEPS: [u32; 6] = [2, 3, 5, 3, 1, 4];
/// How long a step may take: shards are made for it.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// Visits after a step, before it is checked.
const AFTER: usize = 60;
/// How long a client thinks between two visits: the load is to be steady, and leave the cluster room to start shards.
pub const THINKING: Duration = Duration::from_millis(200);
/// Names that are there before the first step, so that a move takes a while: some thousand for each slot.
pub const NAMES: usize = 36_000;
/// Rows a second of a mover that is to be met at its work.
const SLOWLY: u32 = 1_000;

/// What is lost in the middle of a step.
pub enum Fault {
    Operator,
    Mover,
    /// The primary of the shard that slots are leaving.
    Source,
}

/// A service under load.
pub struct Trial<K, C> {
    pub client: Client,
    pub service: ServiceOf<K>,
    pub load: Steady<C>,
    /// Whether the databases of partitions that go are kept.
    pub retains: bool,
}

impl<K: ServiceKind, C: Oracle> Trial<K, C> {
    pub async fn through_all(mut self, fault: impl Fn(u32, u32) -> Option<Fault>) -> Result<()> {
        self.load.more(AFTER).await?;
        for (from, to) in STEPS.into_iter().zip(STEPS.into_iter().skip(1)) {
            self.step(from, to, fault(from, to)).await.with_context(|| format!("{from} to {to} partitions"))?;
        }
        let rate = self.load.end().await?;
        println!("{}: {rate:.0} visits a second, and none was refused anything", self.service.name);
        let mut shards = self.shards(STEPS[STEPS.len() - 1]).await?;
        self.load.customer().end(&self.service.config, &mut shards).await?;
        self.load.customer().refusals().none()?;
        drop(shards);
        let (client, name) = (self.client.clone(), self.service.name.clone());
        self.service.remove().await?;
        if self.retains { forget_shards(&client, &name).await } else { Ok(()) }
    }

    async fn step(&mut self, from: u32, to: u32, fault: Option<Fault>) -> Result<()> {
        let (name, visits) = (self.service.name.clone(), self.load.visits());
        let stay = workers(&self.service, from.min(to)).await?;
        let moves = Moves::watch(&self.client, &self.service);
        let began = Instant::now();
        if from == 1 {
            scale::<K>(&self.client, &name, to).await?;
        } else {
            let pace = fault.as_ref().map(|_| SLOWLY);
            let spec = json!({ "partitions": to, "resharding": { "rowsPerSecond": pace } });
            change_as::<K>(&self.client, &name, &spec).await?;
        }
        if let Some(fault) = fault {
            self.lose(&fault, &moves).await?;
        }
        resharded::<K>(&self.client, &name, to, PATIENCE).await?;
        println!(
            "{name}, {from} to {to} partitions in {:.1?}: {}; {} visits meanwhile",
            began.elapsed(),
            moves.told(),
            self.load.visits() - visits
        );
        self.load.more(AFTER).await?;
        same("the workers that stay", workers(&self.service, from.min(to)).await?, stay)?;
        self.only_first(from, to).await?;
        let rows = verify(&name, to).await?;
        let mut shards = self.shards(to).await?;
        self.load.customer().check(&self.service.config, &mut shards).await?;
        self.load.customer().refusals().none()?;
        println!("{name}, {to} partitions: all of {rows} rows lie where they should, and all is as users were told");
        Ok(())
    }

    async fn lose(&self, fault: &Fault, moves: &Moves) -> Result<()> {
        match fault {
            Fault::Operator => {
                until(PATIENCE, async || {
                    ensure!(self.service.status().await?.reshard.is_some(), "the operator does not tell of a move");
                    Ok(())
                })
                .await?;
                lose_pod(&self.client, SYSTEM, OPERATOR, PATIENCE).await?;
                println!("the operator is lost");
            }
            Fault::Mover => {
                moves.lose().await?;
                println!("the mover is lost");
            }
            Fault::Source => {
                let (_, source) = moves.copies().await?;
                lose_pod(&self.client, NAMESPACE, &self.service.primary(source), PATIENCE).await?;
                println!("the primary of shard {source} is lost while slots leave it");
            }
        }
        Ok(())
    }

    /// Partitions that have gone have left nothing but, with `Retain`, their shards.
    async fn only_first(&self, from: u32, to: u32) -> Result<()> {
        let sets: Api<StatefulSet> = Api::namespaced(self.client.clone(), NAMESPACE);
        let clusters: Api<Cluster> = Api::namespaced(self.client.clone(), NAMESPACE);
        until(PATIENCE, async || {
            for partition in to..from {
                let (set, shard) = (self.name_of("", partition), self.name_of("shard-", partition));
                ensure!(sets.get_opt(&set).await?.is_none(), "{set} is still there");
                ensure!(self.service.worker(partition).await.is_err(), "the worker of {set} is still there");
                same(&shard, clusters.get_opt(&shard).await?.is_some(), self.retains)?;
            }
            Ok(())
        })
        .await
    }

    fn name_of(&self, part: &str, partition: u32) -> String {
        format!("{}-{part}{partition}", self.service.name)
    }

    async fn shards(&mut self, partitions: u32) -> Result<Vec<PgConnection>> {
        let mut shards = Vec::new();
        for partition in 0..partitions {
            shards.push(self.service.shard(partition).await?);
        }
        Ok(shards)
    }
}

/// Shards that were retained when their partitions went belong to nobody.
async fn forget_shards(client: &Client, name: &str) -> Result<()> {
    let clusters: Api<Cluster> = Api::namespaced(client.clone(), NAMESPACE);
    for partition in 0..SLOTS {
        let shard = format!("{name}-shard-{partition}");
        if clusters.get_opt(&shard).await?.is_some() {
            clusters.delete(&shard, &DeleteParams::background()).await?;
        }
    }
    Ok(())
}

pub fn moving(mut spec: Value, instances: u32, policy: &str) -> Result<Value> {
    spec["partitions"] = STEPS[0].into();
    spec["maxPartitions"] = SLOTS.into();
    spec["postgres"] = cloud_native_pg(instances)?;
    spec["resharding"] = json!({ "cleanAfterSeconds": 1 });
    spec["deletionPolicy"] = policy.into();
    Ok(spec)
}

#[tokio::test(flavor = "multi_thread")]
async fn money_stays_where_it_belongs_while_slots_move() -> Result<()> {
    let _shared = crate::SHARED.read().await;
    let client = Client::try_default().await?;
    let name = unique("moving-wallet");
    let topics = json!({ "transferRequest": format!("{name}.transfer_request"), "payment": format!("{name}.payment") });
    let spec = moving(json!({ "audit": { "intervalSeconds": 1 }, "topics": topics }), 1, "Retain")?;
    let mut service = ServiceOf::<WalletPartition>::start(&client, &name, spec).await?;
    let payments = Payments::at(&service.gateway().await?, "steady").await?;
    let load = Steady::begin(payments, 6, THINKING);
    Trial { client, service, load, retains: true }.through_all(|_, _| None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_are_exact_while_slots_move() -> Result<()> {
    let _shared = crate::SHARED.read().await;
    let client = Client::try_default().await?;
    let name = unique("moving-counter");
    let topics = json!({ "increments": format!("{name}.increments") });
    let spec = moving(json!({ "topics": topics }), 1, "Delete")?;
    let mut service = ServiceOf::<CounterPool>::start(&client, &name, spec).await?;
    let counts = Counts::at(&service.gateway().await?)?;
    let load = Steady::begin(counts, 6, THINKING);
    Trial { client, service, load, retains: false }.through_all(|_, _| None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_posts_are_read_while_slots_move() -> Result<()> {
    let _shared = crate::SHARED.read().await;
    let client = Client::try_default().await?;
    let name = unique("moving-blog");
    let topics = json!({ "newPosts": format!("{name}.newPosts"), "publishedPosts": format!("{name}.publishedPosts") });
    let redis = json!({ "image": setting("SHARDLANE_TEST_REDIS_IMAGE")? });
    let spec = moving(json!({ "redis": redis, "topics": topics }), 1, "Retain")?;
    let mut service = ServiceOf::<BlogPipeline>::start(&client, &name, spec).await?;
    let posts = Posts::at(&service.gateway().await?)?;
    let load = Steady::begin(posts, 4, THINKING);
    Trial { client, service, load, retains: true }.through_all(|_, _| None).await
}

/// A service on small databases whose owner changes his mind.
struct Doubt {
    client: Client,
    name: String,
    databases: Databases,
    load: Steady<SignUps>,
    service: ClusterService,
}

impl Doubt {
    async fn edit(&self, spec: Value) -> Result<()> {
        change(&self.client, &self.name, &spec).await
    }

    /// Everything is as it should be, with so many partitions.
    async fn settles(&self, what: &str, partitions: u32) -> Result<()> {
        let began = Instant::now();
        resharded::<SignupShard>(&self.client, &self.name, partitions, PATIENCE).await.context(what.to_owned())?;
        verify(&self.name, partitions).await.context(what.to_owned())?;
        let mut shards = self.databases.connect().await?;
        let people = self.load.customer();
        people.check(&self.service.config, &mut shards[..partitions as usize]).await.context(what.to_owned())?;
        people.refusals().none()?;
        println!("{what}: {partitions} partitions {:.1?} later, and all is well", began.elapsed());
        Ok(())
    }

    /// Every slot, its shard and its state there.
    async fn slots(&self) -> Result<Vec<(i32, usize, String)>> {
        let mut all = Vec::new();
        for (partition, mut shard) in self.databases.connect().await?.into_iter().enumerate() {
            let rows = sqlx::query("SELECT slot, state FROM slot").fetch_all(&mut shard).await?;
            all.extend(rows.iter().map(|row| (row.get(0), partition, row.get(1))));
        }
        all.sort();
        Ok(all)
    }

    /// The mover stops, nothing moves while users are answered, and then it goes on.
    async fn pauses(&self, moves: &Moves) -> Result<()> {
        self.edit(json!({ "paused": true })).await?;
        moves.none().await?;
        says(&services(&self.client), &self.name, "Paused", "SpecPaused", &[]).await?;
        until(PATIENCE, async || {
            let phase = self.service.status().await?.reshard.map(|reshard| reshard.phase);
            same("the move's phase", phase, Some(ReshardPhase::Paused))
        })
        .await?;
        let before = self.slots().await?;
        let owned = before.iter().filter(|(_, _, state)| state == "active").count();
        same("slots that are worked on", owned, SLOTS as usize)?;
        self.load.more(AFTER).await?;
        moves.none().await?;
        same("the slots after a while", self.slots().await?, before)?;
        self.edit(json!({ "paused": false })).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_may_be_changed_taken_back_paused_and_left_by_its_owner() -> Result<()> {
    let _shared = crate::SHARED.read().await;
    let client = Client::try_default().await?;
    let name = unique("doubt");
    let databases = Databases::make(&client, &name, 4).await?;
    let mut spec = spec(&name, 2, SLOTS, json!({ "external": { "shards": databases.references() } }));
    spec["resharding"] = json!({ "cleanAfterSeconds": 1, "rowsPerSecond": SLOWLY });
    let mut service = ClusterService::start(&client, &name, spec.clone()).await?;
    let people = SignUps::at(&service.gateway().await?, "steady")?;
    people.fill(&service.config, NAMES, &mut databases.connect().await?[..2]).await?;
    let load = Steady::begin(people, 4, THINKING);
    let moves = Moves::watch(&client, &service);
    let mut doubt = Doubt { client, name, databases, load, service };

    doubt.edit(json!({ "partitions": 4 })).await?;
    moves.copies().await?;
    doubt.edit(json!({ "partitions": 3 })).await?;
    doubt.settles("from 2 to 4, and to 3 on the way", 3).await?;

    doubt.edit(json!({ "partitions": 1 })).await?;
    moves.copies().await?;
    doubt.edit(json!({ "partitions": 3 })).await?;
    doubt.settles("from 3 to 1, and back on the way", 3).await?;

    doubt.edit(json!({ "partitions": 4 })).await?;
    moves.copies().await?;
    doubt.pauses(&moves).await?;
    doubt.settles("from 3 to 4, with a pause on the way", 4).await?;

    doubt.edit(json!({ "partitions": 2 })).await?;
    moves.copies().await?;
    // Nobody answers while the gateways are gone.
    doubt.load.end().await?;
    services(&doubt.client).delete(&doubt.name, &DeleteParams::default()).await?;
    gone(&doubt.client, &doubt.name).await?;
    moves.none().await?;
    spec["partitions"] = 3.into();
    create(&doubt.client, &doubt.name, spec).await?;
    doubt.settles("from 4 to 2, deleted on the way and made again with 3", 3).await?;
    doubt.service.remove().await
}
