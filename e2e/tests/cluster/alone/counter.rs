//! Counters on the cluster, while their workers and a shard's primary are lost: every sum is exact.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::future::BoxFuture;
use kube::Client;
use serde_json::json;
use shardlane_e2e::cluster::{NAMESPACE, ServiceOf};
use shardlane_e2e::faults::lose_pod;
use shardlane_e2e::increments::{Load, Pool, Sums, check_shards};
use shardlane_e2e::same;
use shardlane_operator::api::counter_pool::CounterPool;
use uuid::Uuid;

use crate::services::{cloud_native_pg, unique};

const COUNTERS: usize = 10_000;
const INCREMENTS: usize = 1_000_000;
/// Increments of one request.
const EACH: usize = 500;
const PATIENCE: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn a_million_increments_are_counted_exactly_whatever_is_lost() -> Result<()> {
    let _alone = crate::SHARED.write().await;
    let client = Client::try_default().await?;
    let name = unique("counter");
    let spec = json!({
        "partitions": 2,
        "maxPartitions": 6,
        "topics": { "increments": format!("{name}.increments") },
        "postgres": cloud_native_pg(2)?,
    });
    let mut service = ServiceOf::<CounterPool>::start(&client, &name, spec).await?;
    service.whole(PATIENCE).await?;
    let pool = Pool::at(&service.gateway().await?)?;

    let primary = service.primary(1);
    // A part of the load for each loss, which it meets in the middle.
    let lost: [(&str, BoxFuture<'_, Result<()>>); 4] = [
        ("worker 0", Box::pin(service.kill_worker(0))),
        ("primary 1", Box::pin(lose_pod(&client, NAMESPACE, &primary, PATIENCE))),
        ("worker 1", Box::pin(service.kill_worker(1))),
        ("worker 0 again", Box::pin(service.kill_worker(0))),
    ];
    let keys: Vec<Uuid> = (0..COUNTERS).map(|_| Uuid::new_v4()).collect();
    let load = Load { requests: INCREMENTS / EACH / lost.len(), each: EACH, clients: 4, doubled: 4 };
    let (mut sums, acknowledged) = (Sums::new(), AtomicUsize::new(0));
    for (what, loss) in lost {
        let begin = Instant::now();
        let (counted, lost) = tokio::join!(pool.count(&keys, load, &acknowledged), loss);
        lost?;
        counted?.into_iter().for_each(|(key, value)| *sums.entry(key).or_default() += value);
        println!("{what} lost: {} increments acknowledged {:.1?} later", load.requests * EACH, begin.elapsed());
        service.whole(PATIENCE).await?;
    }
    same("acknowledged increments", acknowledged.load(Ordering::Relaxed), INCREMENTS)?;
    let begin = Instant::now();
    pool.settle(&sums).await?;
    println!("all {} counters show exactly what was acknowledged, {:.1?} after the last", sums.len(), begin.elapsed());
    let mut shards = vec![service.shard(0).await?, service.shard(1).await?];
    check_shards(&mut shards, &service.config, &sums).await?;
    drop(shards);
    service.remove().await
}
