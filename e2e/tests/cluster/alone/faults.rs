//! Shards, the broker and the network are lost under load: the service comes back by itself, and nothing is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kube::Client;
use shardlane_e2e::cluster::{ClusterService, NAMESPACE, broker, broker_selector, restarts_of};
use shardlane_e2e::faults::{cut_off, lose_pod, pod_of};
use shardlane_e2e::load::Load;
use shardlane_e2e::signups::{Outcomes, check_shards, send_all, told_the_same};
use shardlane_runtime::config::initial_owner;
use shardlane_runtime::intake::Keyspace;

use crate::services::{cloud_native_pg, spec, unique};

const PARTITIONS: u32 = 2;
const SLOTS: u32 = 4;
/// How long the network to something is cut.
const CUT: Duration = Duration::from_secs(30);
/// How long everything may take to come back.
const PATIENCE: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_comes_back_and_no_answer_with_it_is_lost() -> Result<()> {
    let _alone = crate::SHARED.write().await;
    let client = Client::try_default().await?;
    let name = unique("faults");
    let spec = spec(&name, PARTITIONS, SLOTS, cloud_native_pg(2)?);
    let began = Instant::now();
    let service = ClusterService::start(&client, &name, spec).await?;
    service.whole(PATIENCE).await?;
    println!("two partitions on shards of two instances: ready after {:.0?}", began.elapsed());
    let mut trial = Trial::new(service).await?;

    let primary = trial.service.primary(0);
    let lost = Box::pin(lose_pod(&client, NAMESPACE, &primary, PATIENCE));
    trial.under_load("primary-lost", lost, Duration::ZERO).await?;

    let selector = broker_selector();
    let lost = Box::pin(lose_pod(&client, broker().0, &selector, PATIENCE));
    trial.under_load("broker-lost", lost, Duration::ZERO).await?;

    let pod = pod_of(&client, NAMESPACE, &primary).await?;
    trial.under_load("primary-cut-off", cut_off(&pod, CUT), Duration::from_secs(1)).await?;

    let pod = pod_of(&client, broker().0, &selector).await?;
    // There is no other broker: nothing can be answered before this one is reached again.
    trial.under_load("broker-cut-off", cut_off(&pod, CUT), CUT - Duration::from_secs(5)).await?;

    trial.service.remove().await
}

/// A service, and everything that its users were ever told.
struct Trial {
    service: ClusterService,
    url: String,
    told: Outcomes,
}

impl Trial {
    async fn new(mut service: ClusterService) -> Result<Self> {
        let url = service.gateway().await?;
        Ok(Self { service, url, told: Outcomes::new() })
    }

    /// Makes a fault while clients sign up, waits until the service is whole again, and checks all that was ever told.
    /// A fault that stops nothing for `at_least` was none.
    async fn under_load(
        &mut self,
        what: &str,
        fault: impl Future<Output = Result<()>>,
        at_least: Duration,
    ) -> Result<()> {
        self.try_under_load(what, fault, at_least).await.with_context(|| what.to_owned())
    }

    async fn try_under_load(
        &mut self,
        what: &str,
        fault: impl Future<Output = Result<()>>,
        at_least: Duration,
    ) -> Result<()> {
        let restarts = self.restarts().await?;
        let keyspace = Keyspace::of(&self.service.config);
        let partition_of =
            Arc::new(move |name: &str| initial_owner(keyspace.slot_of(name.as_bytes()), PARTITIONS, SLOTS));
        let load = Load::start(&self.url, what, 16, PARTITIONS, partition_of)?;
        load.more(300, PATIENCE).await?;
        let began = Instant::now();
        fault.await?;
        let over = began.elapsed();
        self.service.whole(PATIENCE).await?;
        let whole = began.elapsed();
        load.more(300, PATIENCE).await?;
        let loaded = load.stop(began).await?;

        let outcomes = loaded.outcomes();
        let pauses: Vec<_> = (0..PARTITIONS).map(|partition| loaded.longest_pause(partition)).collect();
        println!(
            "{what}: {} sign-ups; the fault took {over:.1?}, all was whole after {whole:.1?}; the longest time without an \
             answer of each partition: {pauses:.1?}; restarts of workers: {}",
            outcomes.len(),
            self.restarts().await? - restarts,
        );
        self.told.extend(outcomes);
        told_the_same(&self.told, &send_all(&self.url, loaded.requests(), 32).await?)?;
        let mut shards = Vec::new();
        for partition in 0..PARTITIONS {
            shards.push(self.service.shard(partition).await?);
        }
        check_shards(&self.service.config, &mut shards, &self.told).await?;
        ensure!(pauses.iter().any(|pause| *pause >= at_least), "nothing stopped: pauses {pauses:?}");
        Ok(())
    }

    async fn restarts(&self) -> Result<i32> {
        let mut restarts = 0;
        for partition in 0..PARTITIONS {
            restarts += restarts_of(&self.service.worker(partition).await?);
        }
        Ok(restarts)
    }
}
