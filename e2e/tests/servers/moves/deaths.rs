//! Movers that die at every step: another one takes up what they have left.

use anyhow::Result;
use shardlane_e2e::direct::Direct;
use shardlane_e2e::movers::{Moves, Point};
use shardlane_e2e::plain::PlainService;
use shardlane_e2e::{same, until};

use super::{PATIENCE, holds, killed_at, signup};

/// Has one mover after another die, each at the next step, the ones that undo or go through with what another has begun included;
/// then one finishes.
pub(super) async fn one_after_another(service: &PlainService, moves: &Moves) -> Result<()> {
    // Each of these finds slots that another one has left half way, and first has them go back.
    let back =
        ["undo", "give_up", "purge", "forget"].into_iter().flat_map(|step| [Point::before(step), Point::after(step)]);
    for point in std::iter::once(Point::after("catch_up")).chain(back.clone()) {
        killed_at(service, point, moves).await?;
    }
    killed_at(service, Point::after("fence"), moves).await?;
    for point in back {
        killed_at(service, point, moves).await?;
    }
    for point in Point::all() {
        // The one before it has handed the slots over, and this one asks where they stood.
        if point == Point::before("publish") {
            killed_at(service, Point::before("handed_over"), moves).await?;
            killed_at(service, Point::after("handed_over"), moves).await?;
        }
        killed_at(service, point, moves).await?;
    }
    service.reshard(moves).await.map(drop)
}

#[tokio::test]
async fn sign_ups_survive_movers_that_die_at_every_step_on_the_way_up_and_down() -> Result<()> {
    let (service, _workers) = signup("bereft", 2, 3, 6).await?;
    let mut direct = Direct::changing(&service, 50, 3)?;
    direct.send(2_000).await?;
    for partitions in [3, 2] {
        direct.meanwhile(one_after_another(&service, &Moves::to(partitions))).await?;
    }
    holds(&service, &direct).await
}

#[tokio::test]
async fn a_fence_whose_mover_is_gone_is_undone_and_the_service_goes_on() -> Result<()> {
    let (service, _workers) = signup("orphaned", 1, 2, 4).await?;
    let mut direct = Direct::changing(&service, 50, 3)?;
    direct.send(600).await?;
    direct.check(PATIENCE).await?;
    let moves = Moves { fence_seconds: 1, ..Moves::to(2) };
    killed_at(&service, Point::after("fence"), &moves).await?;
    let states = async || {
        let states = sqlx::query_scalar("SELECT DISTINCT state FROM slot ORDER BY 1");
        let states: Vec<String> = states.fetch_all(&mut service.shard(0).await?).await?;
        Ok::<_, anyhow::Error>(states)
    };
    same("states of the source's slots", states().await?, vec!["active".to_owned(), "fenced".to_owned()])?;
    // Nobody takes over, and these are answered all the same.
    direct.send(600).await?;
    direct.check(PATIENCE).await?;
    until(PATIENCE, async || same("states of the source's slots", states().await?, vec!["active".to_owned()])).await?;
    direct.meanwhile(service.reshard(&moves)).await?;
    holds(&service, &direct).await
}
