//! A wallet while its slots move: audits hold, and balances are exact.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Result, ensure};
use shardlane_e2e::movers::Moves;
use shardlane_e2e::transfers::{Watch, check_shards, expected, random};

use super::deaths::one_after_another;
use crate::wallet::{Wallet, spec};

#[tokio::test]
async fn money_survives_movers_that_die_at_every_step_on_the_way_up_and_down() -> Result<()> {
    let mut wallet = Wallet::start("widowed", spec("widowed", 2, 6)).await?;
    wallet.service.grow(3).await?;
    let third = wallet.service.worker(2).await?;
    third.ready().await?;
    wallet.workers.push(third);
    wallet.bank.deposit_all("widowed", 30, 5_000).await?;
    let watch = Watch::begin(&wallet.bank);

    let all = random("widowed", 30, 40_000);
    let (over, sent) = (Cell::new(false), Cell::new(0));
    let load = async {
        for some in all.chunks(10) {
            if over.get() {
                break;
            }
            wallet.bank.transfer_all(some, 4).await?;
            sent.set(sent.get() + some.len());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    };
    let moving = async {
        let mut moved = Ok(());
        for partitions in [3, 2] {
            if moved.is_ok() {
                moved = one_after_another(&wallet.service, &Moves::to(partitions)).await;
            }
        }
        over.set(true);
        moved
    };
    let (loaded, moved) = futures::future::join(load, moving).await;
    loaded.and(moved)?;

    let transfers = all[..sent.get()].to_vec();
    println!("{} transfers while slots moved", transfers.len());
    let ends = wallet.bank.ends(transfers, 16).await?;
    let expected = expected("widowed", 30, 5_000, &ends);
    check_shards(&wallet.service.config, &mut wallet.service.shards().await?, &expected).await?;
    wallet.bank.audited(150_000).await?;
    let audits = watch.end()?;
    ensure!(audits.len() >= 2, "audits do not close: {audits:?}");
    Ok(())
}
