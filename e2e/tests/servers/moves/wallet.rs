//! A wallet while its slots move: audits hold, and balances are exact.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Result, ensure};
use shardlane_e2e::movers::Moves;
use shardlane_e2e::plain::{PlainService, Process};
use shardlane_e2e::transfers::{Watch, check_shards, expected, random};
use shardlane_operator::api::wallet_partition::WalletPartition;

use super::deaths::one_after_another;
use super::harm::there_and_back_in_spite_of_all;
use crate::wallet::{Wallet, spec};

#[tokio::test]
async fn money_survives_movers_that_die_at_every_step_on_the_way_up_and_down() -> Result<()> {
    survives("widowed", 2, 0, async |service, _| {
        for partitions in [3, 2] {
            one_after_another(service, &Moves::to(partitions)).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn money_survives_workers_and_databases_that_are_lost_at_every_step() -> Result<()> {
    survives("bruised", 1, 2, async |service, workers| there_and_back_in_spite_of_all(service, workers).await).await
}

/// Has slots move between the shards of this many partitions and one more, while transfers go on; then every account holds what it
/// should, and audits have closed and held all the time. So many shards have servers of their own.
async fn survives(
    name: &str,
    partitions: u32,
    servers: u32,
    moving: impl AsyncFnOnce(&PlainService, &mut [Process]) -> Result<()>,
) -> Result<()> {
    let service = PlainService::prepare_apart::<WalletPartition>(name, spec(name, partitions, 6), servers).await?;
    let mut wallet = Wallet::of(service).await?;
    wallet.service.grow(partitions + 1).await?;
    let another = wallet.service.worker(partitions).await?;
    another.ready().await?;
    wallet.workers.push(another);
    wallet.bank.deposit_all(name, 30, 5_000).await?;
    let watch = Watch::begin(&wallet.bank);

    let all = random(name, 30, 40_000);
    let (over, sent) = (Cell::new(false), Cell::new(0));
    let (bank, service) = (&wallet.bank, &wallet.service);
    let load = async {
        for some in all.chunks(10) {
            if over.get() {
                break;
            }
            bank.transfer_all(some, 4).await?;
            sent.set(sent.get() + some.len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    };
    let workers = &mut wallet.workers;
    let moving = async {
        let moved = moving(service, workers).await;
        over.set(true);
        moved
    };
    let (loaded, moved) = futures::future::join(load, moving).await;
    loaded.and(moved)?;

    let transfers = all[..sent.get()].to_vec();
    println!("{} transfers while slots moved", transfers.len());
    let ends = wallet.bank.ends(transfers, 16).await?;
    let expected = expected(name, 30, 5_000, &ends);
    check_shards(&wallet.service.config, &mut wallet.service.shards().await?, &expected).await?;
    wallet.bank.audited(150_000).await?;
    let audits = watch.end()?;
    ensure!(audits.len() >= 2, "audits do not close: {audits:?}");
    Ok(())
}
