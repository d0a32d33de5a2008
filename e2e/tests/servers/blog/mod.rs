//! A blog of plain processes: what its users rely on, whatever becomes of Redis and of those who fill it.

mod cache;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use reqwest::Method;
use serde_json::{Value, json};
use shardlane_e2e::plain::{PlainService, Process};
use shardlane_e2e::posts::{Expected, Journal, told, version_in};
use shardlane_e2e::{same, setting, topic, until};
use shardlane_operator::api::blog_pipeline::BlogPipeline;
use shardlane_runtime::intake::Keyspace;

const PATIENCE: Duration = Duration::from_secs(60);
const SHARD_READS: &str = "shardlane_blog_shard_reads_total";

fn spec(name: &str, partitions: u32, slots: u32) -> Value {
    json!({
        "partitions": partitions,
        "maxPartitions": slots,
        "topics": { "newPosts": format!("{name}.newPosts"), "publishedPosts": format!("{name}.publishedPosts") },
    })
}

/// A blog and all its processes.
struct Blog {
    service: PlainService,
    workers: Vec<Process>,
    manager: Process,
    gateway: Process,
    journal: Journal,
    redis: String,
}

impl Blog {
    /// On a Redis that others use too, and that nobody breaks.
    async fn start(name: &str, partitions: u32, slots: u32) -> Result<Self> {
        Self::start_on(name, partitions, slots, setting("SHARDLANE_TEST_REDIS")?).await
    }

    async fn start_on(name: &str, partitions: u32, slots: u32, redis: String) -> Result<Self> {
        let service = PlainService::prepare_as::<BlogPipeline>(name, spec(name, partitions, slots)).await?;
        let workers = service.workers().await?;
        let manager = manager(&service, &redis).await?;
        let gateway = service.gateway(&[("SHARDLANE_REDIS_URI", redis.clone())]).await?;
        let journal = Journal::at(&gateway.url)?;
        Ok(Self { service, workers, manager, gateway, journal, redis })
    }

    /// Waits until Redis has a version of a post, or a later one.
    async fn cached(&self, slug: &str, version: i64) -> Result<()> {
        until(PATIENCE, async || {
            let found = version_in(&self.redis, slug).await?;
            ensure!(found >= Some(version), "Redis has {found:?} of {slug}");
            Ok(())
        })
        .await
    }

    /// Publishes posts, and waits until Redis has them. Gives their slugs, each of which is the content too.
    async fn publish_all(&self, prefix: &str, posts: usize) -> Result<Vec<Expected>> {
        let published = futures::stream::iter(0..posts).map(async |n| {
            let content = format!("{prefix} {n}");
            let slug = self.journal.publish(prefix, &content, &content).await?;
            self.cached(&slug, 1).await?;
            Ok(Expected { slug, version: 1, content: Some(content) })
        });
        published.buffer_unordered(16).try_collect().await
    }

    async fn looks(&self, result: &str) -> Result<f64> {
        self.gateway.metric(&format!("shardlane_blog_cache_reads_total{{result=\"{result}\"}}")).await
    }

    /// Does something, again if Redis did not answer in time meanwhile: so it may be on a machine that has much to do.
    async fn undisturbed<T>(&self, act: impl AsyncFn() -> Result<T>) -> Result<T> {
        let trouble = async || Ok::<_, anyhow::Error>(self.looks("error").await? + self.looks("skipped").await?);
        for _ in 0..20 {
            let before = trouble().await?;
            let done = act().await?;
            if trouble().await? <= before {
                return Ok(done);
            }
        }
        bail!("Redis does not answer in time")
    }

    /// Puts a record into the topic of published posts, where it belongs.
    async fn tell(&self, slug: &str, record: &Value) -> Result<()> {
        let (kafka, published) = (setting("SHARDLANE_TEST_KAFKA")?, self.service.topic("published_posts")?);
        let slot = Keyspace::of(&self.service.config).slot_of(slug.as_bytes());
        let value = record.to_string();
        topic::put(&topic::producer(&kafka)?, published, slot, Some(slug.as_bytes()), Some(value.as_bytes())).await
    }

    /// Waits until the cache manager has done everything that is in the slot of this post.
    async fn managed(&self, slug: &str) -> Result<()> {
        let keyspace = Keyspace::of(&self.service.config);
        let slot = keyspace.slot_of(slug.as_bytes());
        let mark = (0..)
            .map(|_| format!("mark-{}", rand::random_range(0..u32::MAX)))
            .find(|mark| keyspace.slot_of(mark.as_bytes()) == slot);
        let mark = mark.context("no key")?;
        self.tell(&mark, &json!({ "slug": mark, "version": 1, "deleted": true })).await?;
        self.cached(&mark, 1).await
    }
}

async fn manager(service: &PlainService, redis: &str) -> Result<Process> {
    let variables = [("SHARDLANE_REDIS_URI", redis.to_owned())];
    service.stateless_with("cache-manager", "cache-manager-0", &variables).await
}

#[tokio::test]
async fn a_post_is_published_edited_and_deleted_and_every_retry_is_told_the_same() -> Result<()> {
    let blog = Blog::start("journal", 2, 4).await?;
    let journal = &blog.journal;
    let body = json!({ "title": "Hello, Wörld!", "content": "<b>not bold</b>" }).to_string();
    let post = async |key: &str| {
        told(journal.request(Method::POST, "/post").header("Idempotency-Key", key).body(body.clone())).await
    };
    let first = post("k1").await?;
    same("the answer", first.status, 201)?;
    let message = "We have received your post and it will be published sooner or later.";
    same("the message", &first.json()?["message"], &json!(message))?;
    let slug = first.json()?["slug"].as_str().context("no slug")?.to_owned();
    same("where it is", first.header("location"), &format!("/post/{slug}"))?;
    same("a retry", post("k1").await?.json()?, first.json()?)?;
    let other = post("k2").await?.json()?["slug"].as_str().context("no slug")?.to_owned();
    ensure!(other != slug, "another key, and the same post");

    let found = journal.wait_for(&slug).await?;
    same("its content", &found["content"], &json!("<b>not bold</b>"))?;
    same("its version", &found["version"], &json!(1))?;
    let answer = journal.get(&format!("/post/{slug}")).await?;
    same("its tag", answer.header("etag"), "\"1\"")?;
    let again = journal.request(Method::GET, &format!("/post/{slug}")).header("If-None-Match", "\"1\"");
    same("what the client has", told(again).await?.status, 304)?;

    let text = json!({ "title": "Hello", "content": "edited" });
    let path = format!("/post/{slug}");
    let blind = journal.request(Method::PUT, &path).body(text.to_string());
    same("an edit of no version", told(blind).await?.status, 428)?;
    for _ in 0..2 {
        let edited = journal.edit(&slug, 1, &text, "e1").await?;
        same("an edit", (edited.status, edited.header("etag")), (200, "\"2\""))?;
        let refused = journal.edit(&slug, 1, &text, "e2").await?;
        same(
            "an edit of an old version",
            (refused.status, &refused.json()?["reason"]),
            (412, &json!("other_version")),
        )?;
    }
    let elsewise = json!({ "title": "Hello", "content": "elsewise" });
    same("the id for another edit", journal.edit(&slug, 1, &elsewise, "e1").await?.status, 409)?;
    // Whoever was told that it is done sees it at once.
    let seen = journal.get(&path).await?.json()?;
    same("what is seen", (&seen["content"], &seen["version"]), (&json!("edited"), &json!(2)))?;
    let change = journal.get(&format!("{path}/changes/e2")).await?.json()?;
    same("what became of it", (&change["state"], &change["version"]), (&json!("refused"), &json!(2)))?;
    same(
        "what became of the post",
        &journal.get(&format!("{path}/changes/k1")).await?.json()?["state"],
        &json!("done"),
    )?;
    same("of nothing", journal.get(&format!("{path}/changes/nothing")).await?.status, 404)?;

    same("a deletion", journal.delete(&slug, 2, "d1").await?.status, 204)?;
    same("a deletion again", journal.delete(&slug, 2, "d1").await?.status, 204)?;
    let gone = journal.get(&path).await?;
    same("what is seen", (gone.status, &gone.json()?["detail"]), (404, &json!("not found")))?;
    same("an edit of it", journal.edit(&slug, 3, &text, "e3").await?.status, 404)?;
    same("the first request again", post("k1").await?.status, 201)?;
    same("an edit of nothing", journal.edit("nothing", 1, &text, "e4").await?.status, 404)?;
    // It stays deleted, also in the cache.
    blog.cached(&slug, 3).await?;
    blog.managed(&slug).await?;
    same("what is seen", journal.get(&path).await?.status, 404)?;
    same("the other one", journal.wait_for(&other).await?["version"].clone(), json!(1))?;
    same("nobody's", journal.get("/post/Not A Slug").await?.status, 404)?;

    let later = journal.request(Method::DELETE, &format!("/post/{other}")).header("If-Match", "\"1\"");
    let later = told(later.header("Prefer", "respond-async").header("Idempotency-Key", "a b")).await?;
    same(
        "who does not wait",
        (later.status, later.header("location")),
        (202, &*format!("/post/{other}/changes/a%20b")),
    )?;
    let done = until(PATIENCE, async || {
        let answer = journal.get(later.header("location")).await?;
        ensure!(answer.status == 200, "{}", answer.text);
        answer.json()
    });
    same("what became of it", done.await?["version"].clone(), json!(2))?;
    let openapi = journal.get("/openapi.json").await?.json()?;
    same("documented path", openapi["paths"]["/post/{slug}"]["put"].is_object(), true)
}

#[tokio::test]
async fn lists_and_pages_show_the_newest_first_and_nothing_of_them_is_markup() -> Result<()> {
    let blog = Blog::start("pages", 2, 4).await?;
    let journal = &blog.journal;
    let form = journal.request(Method::POST, "/post").header("Accept", "text/html,*/*;q=0.8");
    let form = form.header("Content-Type", "application/x-www-form-urlencoded");
    let posted =
        told(form.body("title=%3Cscript%3Ealert%281%29%3C%2Fscript%3E&content=a%0D%0A%3Cimg+src%3Dx%3E")).await?;
    same("what a browser is told", posted.status, 303)?;
    let place = posted.header("location").to_owned();
    let page = async |path: &str| told(journal.request(Method::GET, path).header("Accept", "text/html")).await;
    let shown = until(PATIENCE, async || {
        let shown = page(&place).await?;
        ensure!(shown.status == 200, "{}", shown.text);
        Ok(shown)
    })
    .await?;
    ensure!(shown.header("content-security-policy").starts_with("default-src 'none'"), "{:?}", shown.headers);
    ensure!(!shown.text.contains("<script") && shown.text.contains("&lt;script&gt;alert(1)"), "{}", shown.text);
    ensure!(shown.text.contains("&lt;img src=x&gt;") && shown.text.contains("<html lang=\"en\">"), "{}", shown.text);
    let tag = shown.header("etag").to_owned();
    let again = journal.request(Method::GET, &place).header("Accept", "text/html").header("If-None-Match", tag);
    same("what the browser has", told(again).await?.status, 304)?;
    same("a page that is not there", page("/post/nothing").await?.status, 404)?;
    same("its style", page("/style.css").await?.header("content-type"), "text/css; charset=utf-8")?;

    let mut slugs = vec![place.trim_start_matches("/post/").to_owned()];
    for n in 0..25 {
        let slug = journal.publish(&format!("post {n}"), "x", &format!("key {n}")).await?;
        // One after the other, so that their order is known.
        journal.wait_for(&slug).await?;
        slugs.push(slug);
    }
    journal.delete(&slugs.remove(10), 1, "d").await?;
    slugs.reverse();
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let list = journal.get(&format!("/posts?limit=7{after}")).await?.json()?;
        let posts = list["posts"].as_array().context("no posts")?;
        found.extend(posts.iter().filter_map(|post| post["slug"].as_str().map(str::to_owned)));
        let Some(next) = list["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    same("the list", &found, &slugs)?;
    let front = page("/").await?;
    ensure!(front.text.contains("post 24") && front.text.contains("<form method=\"post\""), "{}", front.text);
    let (_, further) = front.text.split_once("href=\"/?after=").context("no link to older posts")?;
    let further = page(&format!("/?after={}", further.split('"').next().unwrap_or_default())).await?;
    ensure!(further.text.contains("&lt;script&gt;") && !further.text.contains("post 24"), "{}", further.text);
    same("a list of too many", journal.get("/posts?limit=101").await?.status, 400)?;
    same("a list after nothing", journal.get("/posts?after=x").await?.status, 400)
}

#[tokio::test]
async fn what_is_no_post_is_told_what_to_do_and_what_lies_in_a_topic_becomes_a_dead_letter() -> Result<()> {
    let blog = Blog::start("noposts", 1, 2).await?;
    for (body, word) in [
        (json!({ "title": "A" }), "content"),
        (json!({ "title": "", "content": "" }), "1 to 200"),
        (json!({ "title": "a\nb", "content": "" }), "control characters"),
        (json!({ "title": "A", "content": "\u{0}" }), "NUL"),
        (json!({ "title": "A", "content": "x".repeat(100_001) }), "100000 bytes"),
        (json!({ "title": "A", "content": "", "slug": "mine" }), "slug"),
    ] {
        let answer = told(blog.journal.request(Method::POST, "/post").body(body.to_string())).await?;
        same(&format!("{body:.60}"), answer.status, 400)?;
        ensure!(answer.text.contains(word), "{}", answer.text);
    }
    // The largest that there is, in the form that takes most room.
    let largest = json!({ "title": "ä".repeat(200), "content": "\u{1}".repeat(100_000) }).to_string();
    let answer = told(blog.journal.request(Method::POST, "/post").body(largest)).await?;
    same("the largest post", answer.status, 201)?;
    let slug = answer.json()?["slug"].as_str().context("no slug")?.to_owned();
    same("its content", blog.journal.wait_for(&slug).await?["content"].as_str().map(str::len), Some(100_000))?;
    blog.cached(&slug, 1).await?;

    let kafka = setting("SHARDLANE_TEST_KAFKA")?;
    let keyspace = Keyspace::of(&blog.service.config);
    for (role, value, word) in [
        ("new_posts", r#"{"slug":"a","request_id":"r","title":"A"}"#, "a new post has title and content"),
        ("published_posts", r#"{"slug":"a","version":0}"#, "has a version"),
    ] {
        let name = blog.service.topic(role)?;
        let slot = keyspace.slot_of(b"a");
        topic::put(&topic::producer(&kafka)?, name, slot, Some(b"a"), Some(value.as_bytes())).await?;
        let dead = blog.service.topic(&format!("{role}.dlq"))?;
        let seen = topic::read_until(&kafka, dead, PATIENCE, |seen| !seen.is_empty()).await?;
        let reason = seen[0].header("shardlane.reason").context("no reason")?;
        ensure!(reason.contains(word), "{reason}");
    }
    Ok(())
}

#[tokio::test]
async fn workers_and_the_cache_manager_killed_under_load_lose_no_post_and_no_edit() -> Result<()> {
    let mut blog = Blog::start("stricken", 2, 6).await?;
    let journal = blog.journal.clone();
    let load = tokio::spawn(async move {
        let written = futures::stream::iter(0..600).map(|n| {
            let journal = journal.clone();
            async move { write(&journal, n).await }
        });
        written.buffer_unordered(16).try_collect::<Vec<_>>().await
    });
    while !load.is_finished() {
        for (partition, worker) in blog.workers.iter_mut().enumerate() {
            worker.kill().await?;
            *worker = blog.service.worker(u32::try_from(partition)?).await?;
            worker.ready().await?;
        }
        blog.manager.kill().await?;
        blog.manager = manager(&blog.service, &blog.redis).await?;
    }
    let expected = load.await??;
    blog.journal.find_all(&expected).await?;
    // They are in their shards, once each, and in the cache.
    let mut found = HashMap::new();
    for mut shard in blog.service.shards().await? {
        let rows = sqlx::query_as("SELECT slug, version FROM post").fetch_all(&mut shard).await?;
        for (slug, version) in rows {
            let (slug, version): (String, i64) = (slug, version);
            ensure!(found.insert(slug.clone(), version).is_none(), "{slug} is in two shards");
        }
    }
    same("posts", found.len(), expected.len())?;
    for post in &expected {
        same(&post.slug, found.get(&post.slug), Some(&post.version))?;
        blog.cached(&post.slug, post.version).await?;
        same("the version in Redis", version_in(&blog.redis, &post.slug).await?, Some(post.version))?;
    }
    Ok(())
}

/// Writes a post, and edits or deletes some; each as often as it takes.
async fn write(journal: &Journal, n: usize) -> Result<Expected> {
    let content = format!("content {n}");
    let slug = journal.publish("stricken", &content, &format!("stricken {n}")).await?;
    if n.is_multiple_of(3) {
        return Ok(Expected { slug, version: 1, content: Some(content) });
    }
    journal.wait_for(&slug).await?;
    let edited = format!("edited {n}");
    let text = json!({ "title": "stricken", "content": edited });
    journal.edit_until(&slug, 1, &text, "edit").await?;
    if n % 3 == 1 {
        return Ok(Expected { slug, version: 2, content: Some(edited) });
    }
    until(PATIENCE, async || {
        let answer = journal.delete(&slug, 2, "delete").await?;
        if answer.status == 204 { Ok(()) } else { bail!("{}", answer.text) }
    })
    .await?;
    Ok(Expected { slug, version: 3, content: None })
}
