//! Reading posts: many that are in the cache, beside a handler that does nothing but ask Redis; and one that is not there, by many
//! readers at once.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use procfs::process::{LimitValue, Process as System};
use shardlane_e2e::plain::{PlainService, Process};
use shardlane_e2e::posts::{Journal, ask, version_in};
use shardlane_e2e::{same, setting, until};

use crate::bare;
use crate::fill::Post;
use crate::gateway::{ALONE, Fronts, host};
use crate::kind::{Kind, POSTS};
use crate::load::{self, Loaded, Rush};
use crate::report::{Row, Samples, Side, Target, Unit, percentile};
use crate::stage::{Given, PARTITION, Stage};

/// Posts that are published at once.
const AT_ONCE: usize = 16;
/// Longest that it may take until a post is in the cache.
const PATIENCE: Duration = Duration::from_secs(60);
/// What a post says, so many times over: two thousand characters.
const WORDS: (&str, usize) = ("a post is as long as people like to read ", 48);
/// Readers who want one post at once.
const READERS: usize = 10_000;
/// Files that a process opens besides connections.
const FILES: usize = 200;
/// The metric of posts that were read from a shard.
const SHARD_READS: &str = "shardlane_blog_shard_reads_total";

/// All runs with posts that are in the cache, as a row of the report.
pub async fn cached(stage: &Stage) -> Result<Row> {
    let fronts = Fronts::new(stage, Kind::Blog, "posts").await?;
    stage.progress.doing("publishing posts");
    publish(&fronts.service, POSTS).await?;
    let mut row = fronts.compare("Posts, read from the cache", false, ALONE).await?;
    row.beside = "handler that asks the same Redis for the whole answer".to_owned();
    Ok(row)
}

/// Publishes posts, and waits until all are in the cache, for us and for the bare front.
async fn publish(service: &PlainService, posts: u32) -> Result<()> {
    let (mut team, redis) = (Kind::Blog.start(service).await?, setting("SHARDLANE_TEST_REDIS")?);
    let mut gateway = service.gateway(&Kind::Blog.variables()?).await?;
    let (journal, content) = (Journal::at(&gateway.url)?, WORDS.0.repeat(WORDS.1));
    let published = stream::iter(0..posts).map(async |number| {
        let post = Post::number(number);
        let slug = journal.publish(&post.title, &content, &post.key).await?;
        same("the slug", &slug, &post.slug())?;
        let answer = journal.wait_for(&slug).await?.to_string();
        until(PATIENCE, async || same("its version in the cache", version_in(&redis, &slug).await?, Some(1))).await?;
        ask::<String>(&redis, &["SET", &bare::key(&slug), &answer]).await.map(drop)
    });
    published.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    gateway.kill().await?;
    for (_, process) in &mut team {
        process.kill().await?;
    }
    Ok(())
}

/// Fails if a post was not in the cache; says how many readers shared a look into it.
pub async fn all_cached(gateway: &Process) -> Result<Vec<String>> {
    let (reads, hits) = (gateway.metric(SHARD_READS).await?, of_cache(gateway, "reads", "hit").await?);
    if reads > 0. {
        bail!("{reads} reads of posts that are cached were reads of a shard");
    }
    let joined = gateway.metric("shardlane_blog_flights_joined_total").await?;
    let share = joined / (joined + hits) * 100.;
    Ok(vec![format!("{share:.0}% of the readers shared a look into Redis with others who wanted the same post")])
}

async fn of_cache(gateway: &Process, what: &str, result: &str) -> Result<f64> {
    gateway.metric(&format!("shardlane_blog_cache_{what}_total{{result=\"{result}\"}}")).await
}

/// What came of asking Redis: it explains how often a shard was read.
async fn asked_of_cache(gateway: &Process) -> Result<String> {
    let mut told = Vec::new();
    for (what, results) in
        [("reads", &["hit", "miss", "error", "skipped"]), ("writes", &["put", "older", "error", "skipped"])]
    {
        for result in results {
            told.push(format!("{what} {result} {}", of_cache(gateway, what, result).await?));
        }
    }
    Ok(format!("Redis, over all runs: {}", told.join(", ")))
}

/// All runs with one post that is not in the cache, as rows of the report.
pub async fn stampede(stage: &Stage) -> Result<[Row; 2]> {
    let service = stage.service(Kind::Blog, "stampede", Given::default()).await?;
    publish(&service, 1).await?;
    let mut worker = service.worker(PARTITION).await?;
    worker.ready().await?;
    let mut gateway = service.gateway(&Kind::Blog.variables()?).await?;
    let (connections, runs) = (connections()?, stage.options.runs());
    let rush = Rush {
        host: host(&gateway)?,
        path: format!("/post/{}", Post::number(0).slug()),
        readers: READERS,
        connections,
    };
    let (mut reads, mut slowest, mut middle) = (Vec::new(), Vec::new(), Vec::new());
    for run in 1..=runs {
        stage.settle().await?;
        let (read, loaded) = rush_in(&gateway, rush.clone()).await?;
        let of = |share| percentile(&loaded.times, share);
        let told = format!("p50/slowest answer in ms: {:.0}/{:.0}", of(0.5), of(1.));
        stage.progress.done(&format!("stampede {run}/{runs}, {read:.0} reads of the shard, {told}"));
        reads.push(read);
        slowest.push(of(1.));
        middle.push(of(0.5));
    }
    let asked = asked_of_cache(&gateway).await?;
    gateway.kill().await?;
    worker.kill().await?;
    let notes = vec![
        format!("{READERS} readers of one post over {connections} connections, all made before; Redis is empty"),
        format!("the answer in the middle takes {:.0} ms", Samples(middle).median()),
        asked,
    ];
    let row = |name: &str, unit, samples, target| Row {
        name: name.to_owned(),
        unit,
        ours: Side { samples: Samples(samples), usage: None, rate: None, waits: Vec::new() },
        bare: None,
        beside: String::new(),
        target,
        notes: notes.clone(),
    };
    Ok([
        row("Stampede, reads of the shard", Unit::Reads, reads, Some(Target::Never(1.))),
        row("Stampede, slowest answer", Unit::Milliseconds, slowest, None),
    ])
}

/// Empties Redis and lets the readers come. Gives how often the shard was read.
async fn rush_in(gateway: &Process, rush: Rush) -> Result<(f64, Loaded)> {
    ask::<String>(&setting("SHARDLANE_TEST_REDIS")?, &["FLUSHALL"]).await?;
    let before = gateway.metric(SHARD_READS).await?;
    let loaded = load::rush(rush).await?;
    loaded.check()?;
    ensure!(loaded.times.len() == READERS, "{} of {READERS} readers were answered", loaded.times.len());
    Ok((gateway.metric(SHARD_READS).await? - before, loaded))
}

/// One for each reader, if a process may have so many.
fn connections() -> Result<usize> {
    let most = match System::myself()?.limits()?.max_open_files.soft_limit {
        LimitValue::Value(files) => usize::try_from(files)?.saturating_sub(FILES).max(1),
        LimitValue::Unlimited => READERS,
    };
    Ok(most.min(READERS))
}
