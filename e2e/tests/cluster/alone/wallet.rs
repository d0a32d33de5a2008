//! A wallet on the cluster, while its workers, a shard's primary and the broker are lost: all money stays where it belongs.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::future::BoxFuture;
use kube::Client;
use serde_json::json;
use shardlane_e2e::cluster::{NAMESPACE, ServiceOf, broker, broker_selector};
use shardlane_e2e::faults::lose_pod;
use shardlane_e2e::transfers::{Bank, End, Watch, check_shards, expected, random};
use shardlane_operator::api::wallet_partition::WalletPartition;

use crate::services::{cloud_native_pg, unique};

const ACCOUNTS: usize = 200;
const TRANSFERS: usize = 20_000;
/// What each account has at first, in minor units: not enough for all that is asked of it.
const DEPOSITED: i64 = 20_000;
const CLIENTS: usize = 32;
const PATIENCE: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn money_stays_where_it_belongs_whatever_is_lost() -> Result<()> {
    let _alone = crate::SHARED.write().await;
    let client = Client::try_default().await?;
    let name = unique("wallet");
    let spec = json!({
        "partitions": 2,
        "maxPartitions": 6,
        "audit": { "intervalSeconds": 1 },
        "topics": { "transferRequest": format!("{name}.transfer_request"), "payment": format!("{name}.payment") },
        "postgres": cloud_native_pg(2)?,
    });
    let mut service = ServiceOf::<WalletPartition>::start(&client, &name, spec).await?;
    service.whole(PATIENCE).await?;
    let bank = Bank::at(&service.gateway().await?)?;
    bank.deposit_all(&name, ACCOUNTS, DEPOSITED).await?;

    let watch = Watch::begin(&bank);
    let transfers = random(&name, ACCOUNTS, TRANSFERS);
    let began = Instant::now();
    // A part of the load for each loss, which it meets in the middle.
    let parts: Vec<_> = transfers.chunks(TRANSFERS / 4).collect();
    let primary = service.primary(1);
    let selector = broker_selector();
    let lost: [(&str, BoxFuture<'_, Result<()>>); 4] = [
        ("worker 0", Box::pin(service.kill_worker(0))),
        ("primary 1", Box::pin(lose_pod(&client, NAMESPACE, &primary, PATIENCE))),
        ("worker 1", Box::pin(service.kill_worker(1))),
        ("broker", Box::pin(lose_pod(&client, broker().0, &selector, PATIENCE))),
    ];
    for ((what, loss), part) in lost.into_iter().zip(parts) {
        let begin = Instant::now();
        let (sent, lost) = tokio::join!(bank.transfer_all(part, CLIENTS), loss);
        sent?;
        lost?;
        println!("{what} lost: {} transfers acknowledged after {:.1?}", part.len(), begin.elapsed());
        service.whole(PATIENCE).await?;
    }
    let ends = bank.ends(transfers, CLIENTS).await?;
    println!("all settled or rejected after {:.1?}", began.elapsed());
    let settled = ends.iter().filter(|(_, end)| *end == End::Settled).count();
    let deposited = DEPOSITED * i64::try_from(ACCOUNTS)?;
    bank.audited(deposited).await?;
    let audits = watch.end()?;
    println!("{settled} settled; {} audits closed meanwhile, and all hold", audits.len());
    ensure!(audits.len() >= 3, "audits do not keep closing: {audits:?}");
    let mut shards = vec![service.shard(0).await?, service.shard(1).await?];
    check_shards(&service.config, &mut shards, &expected(&name, ACCOUNTS, DEPOSITED, &ends)).await?;
    drop(shards);
    service.remove().await
}
