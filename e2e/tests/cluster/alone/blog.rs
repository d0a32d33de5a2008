//! A blog on the cluster, while everything that it is made of is lost, one part after the other: every post that was acknowledged is
//! read in the end.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use kube::Client;
use serde_json::json;
use shardlane_e2e::cluster::{NAMESPACE, ServiceOf, broker, broker_selector};
use shardlane_e2e::faults::lose_pod;
use shardlane_e2e::posts::{Expected, Journal, Readers, ask};
use shardlane_e2e::{metric_of, setting};
use shardlane_operator::api::blog_pipeline::BlogPipeline;

use crate::services::{cloud_native_pg, unique};

/// Posts that are written around each loss.
const POSTS: usize = 200;
const CLIENTS: usize = 8;
const READERS: usize = 16;
/// How often the cache is emptied under its readers.
const FLUSHES: usize = 5;
const SHARD_READS: &str = "shardlane_blog_shard_reads_total";
const PATIENCE: Duration = Duration::from_secs(180);

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_post_is_read_whatever_is_lost() -> Result<()> {
    let _alone = crate::SHARED.write().await;
    let client = Client::try_default().await?;
    let name = unique("blog");
    let spec = json!({
        "partitions": 2,
        "maxPartitions": 6,
        "redis": { "image": setting("SHARDLANE_TEST_REDIS_IMAGE")? },
        "topics": { "newPosts": format!("{name}.newPosts"), "publishedPosts": format!("{name}.publishedPosts") },
        "postgres": cloud_native_pg(2)?,
    });
    let mut service = ServiceOf::<BlogPipeline>::start(&client, &name, spec).await?;
    service.whole(PATIENCE).await?;
    let journal = Journal::at(&service.gateway().await?)?;

    let (primary, cache, manager) = (service.primary(1), service.part("cache"), service.part("stateless"));
    let selector = broker_selector();
    let lost: [(&str, BoxFuture<'_, Result<()>>); 5] = [
        ("worker 0", Box::pin(service.kill_worker(0))),
        ("Redis", Box::pin(lose_pod(&client, NAMESPACE, &cache, PATIENCE))),
        ("the cache manager", Box::pin(lose_pod(&client, NAMESPACE, &manager, PATIENCE))),
        ("primary 1", Box::pin(lose_pod(&client, NAMESPACE, &primary, PATIENCE))),
        ("the broker", Box::pin(lose_pod(&client, broker().0, &selector, PATIENCE))),
    ];
    let mut posts = Vec::new();
    for (part, (what, loss)) in lost.into_iter().enumerate() {
        let begin = Instant::now();
        let (written, lost) = tokio::join!(write(&journal, part), loss);
        lost?;
        posts.extend(written?);
        println!("{what} lost: {POSTS} posts acknowledged {:.1?} later", begin.elapsed());
        service.whole(PATIENCE).await?;
    }
    let begin = Instant::now();
    journal.find_all(&posts).await?;
    println!("all {} posts are read as they were written, {:.1?} after the last", posts.len(), begin.elapsed());

    emptied_under_its_readers(&mut service, &journal, &posts).await?;
    service.remove().await
}

/// Posts, of which every third is edited.
async fn write(journal: &Journal, part: usize) -> Result<Vec<Expected>> {
    let written = futures::stream::iter(0..POSTS).map(async |number| {
        let content = format!("post {number} of part {part}");
        let slug = journal.publish("whatever is lost", &content, &content).await?;
        if number % 3 != 0 {
            return Ok(Expected { slug, version: 1, content: Some(content) });
        }
        let edited = format!("{content}, edited");
        journal.edit_until(&slug, 1, &json!({ "title": "edited", "content": edited }), "edit").await?;
        Ok(Expected { slug, version: 2, content: Some(edited) })
    });
    written.buffer_unordered(CLIENTS).try_collect().await
}

/// No reader sees an error, and the shards are read once for each post and flush at most.
async fn emptied_under_its_readers(
    service: &mut ServiceOf<BlogPipeline>,
    journal: &Journal,
    posts: &[Expected],
) -> Result<()> {
    let redis = format!("redis://{}", service.reach("cache", 6379).await?);
    let metrics = format!("http://{}/metrics", service.reach("gateway", 9090).await?);
    let shard_reads = async || metric_of(&reqwest::get(&metrics).await?.text().await?, SHARD_READS);
    let posts = &posts[..100];
    let before = shard_reads().await?;
    let readers = Readers::begin(journal, posts, READERS);
    for _ in 0..FLUSHES {
        readers.go_on().await?;
        ask::<()>(&redis, &["FLUSHALL"]).await?;
    }
    readers.go_on().await?;
    let read = readers.end().await?;
    let reached = shard_reads().await? - before;
    println!("{read} reads while the cache was emptied {FLUSHES} times: {reached} reached a shard, and none failed");
    #[allow(clippy::cast_precision_loss)]
    let most = (posts.len() * (FLUSHES + 1)) as f64;
    ensure!(reached <= most, "{reached} reads reached the shards, of {} posts and {FLUSHES} flushes", posts.len());
    Ok(())
}
