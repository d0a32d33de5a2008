//! A thousand services: all are made, little memory is needed, and once all is well nothing is written but the Lease.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::Value;
use shardlane_e2e::control_plane::{DATABASE, Place, external_spec};
use shardlane_e2e::stand_in::StandIn;
use shardlane_e2e::told::is_settled;
use shardlane_e2e::{setting, until};

/// How many. `SHARDLANE_TEST_SERVICES` sets another number.
const SERVICES: usize = 1_000;
/// How long an idle operator is watched, in seconds; longer than it takes to look at every service anew.
/// `SHARDLANE_TEST_IDLE` sets another time.
const IDLE: u64 = 45;
/// Of an operator of a thousand services.
const MOST_MEMORY: u64 = 100 << 20;

fn number(name: &str, default: u64) -> Result<u64> {
    std::env::var(name).map_or(Ok(default), |text| Ok(text.parse()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_services_are_made_and_then_left_alone() -> Result<()> {
    let place = Place::make("many").await?;
    place.secret("database", &DATABASE).await?;
    let _stand_in = StandIn::start(&place.client, &place.name);
    let count = usize::try_from(number("SHARDLANE_TEST_SERVICES", SERVICES as u64)?)?;
    let operator = place.operator("one").await?;
    let began = Instant::now();
    let names = (0..count).map(|n| format!("s{n}"));
    let made = stream::iter(names).map(async |name| place.create(&name, external_spec(&name)).await);
    made.buffer_unordered(8).try_collect::<Vec<_>>().await?;
    let created = began.elapsed();
    until(Duration::from_secs(900), async || {
        let all = place.services().list(&ListParams::default()).await?.items;
        let waiting: Vec<_> = all.iter().filter(|service| !is_settled(*service)).map(ResourceExt::name_any).collect();
        ensure!(waiting.is_empty(), "{} are not settled, {:?} among them", waiting.len(), waiting.first());
        Ok(())
    })
    .await
    .with_context(|| operator.log().unwrap_or_default().lines().last().unwrap_or_default().to_owned())?;
    let settled = began.elapsed();
    let asked = requests(&place)?.len();
    println!("{count} services: created in {created:.0?}, all reconciled after {settled:.0?}, with {asked} requests");

    let idle = Duration::from_secs(number("SHARDLANE_TEST_IDLE", IDLE)?);
    tokio::time::sleep(idle).await;
    let since: Vec<_> = requests(&place)?.into_iter().skip(asked).collect();
    let writes = since.iter().filter(|request| !matches!(&*request.verb, "get" | "list" | "watch"));
    let mut other = BTreeMap::new();
    for write in writes.filter(|request| request.resource != "leases") {
        *other.entry(&write.resource).or_insert(0) += 1;
    }
    let memory = operator.peak_memory()?;
    println!(
        "idle for {} s: {:.2} requests a second; memory {} MiB at most",
        idle.as_secs(),
        f64::from(u32::try_from(since.len())?) / idle.as_secs_f64(),
        memory >> 20
    );
    ensure!(other.is_empty(), "an idle operator wrote {other:?}");
    ensure!(memory < MOST_MEMORY, "the operator needed {memory} bytes");
    Ok(())
}

/// A request to the API server.
struct Asked {
    verb: String,
    resource: String,
}

/// What operators of this place have asked for.
fn requests(place: &Place) -> Result<Vec<Asked>> {
    let log = std::fs::read_to_string(setting("SHARDLANE_TEST_AUDIT_LOG")?)?;
    let of_operator = format!("system:serviceaccount:{}:", place.name);
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let ours =
        events.filter(|event| event["user"]["username"].as_str().is_some_and(|user| user.starts_with(&of_operator)));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(ours
        .map(|event| Asked { verb: text(&event["verb"]), resource: text(&event["objectRef"]["resource"]) })
        .collect())
}
