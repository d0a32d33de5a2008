//! What readers see while the cache is stopped, empty, full, gone, late or spoiled.

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join_all;
use serde_json::json;
use shardlane_e2e::posts::{Expected, Journal, Readers, Redis, version_in};
use shardlane_e2e::{same, setting, until};

use super::{Blog, PATIENCE, SHARD_READS, manager};

#[tokio::test]
async fn everything_is_read_while_redis_is_stopped_empty_full_or_gone() -> Result<()> {
    let mut redis = Redis::start().await?;
    let blog = Blog::start_on("redisless", 2, 4, redis.uri()).await?;
    let posts = blog.publish_all("redisless", 60).await?;
    let readers = Readers::begin(&blog.journal, &posts, 12);
    let more = async |result: &str, than: f64| {
        until(PATIENCE, async || {
            let now = blog.looks(result).await?;
            ensure!(now > than, "{now} {result}");
            Ok(())
        })
        .await
    };
    more("hit", 200.0).await?;
    // It holds the connections and answers nothing.
    redis.signal("STOP").await?;
    more("skipped", 100.0).await?;
    readers.go_on().await?;
    let mut late = Vec::new();
    for n in 0..40 {
        late.push(blog.journal.publish("redisless", "published meanwhile", &format!("late {n}")).await?);
    }
    for slug in &late {
        blog.journal.wait_for(slug).await?;
    }
    let waiting = until(PATIENCE, async || {
        let ready = blog.manager.probe("/readyz").await?;
        if ready.contains("Redis") {
            Ok(ready)
        } else {
            bail!("the cache manager does not say what it waits for: {ready}")
        }
    });
    waiting.await?;
    let hits = blog.looks("hit").await?;
    redis.signal("CONT").await?;
    more("hit", hits + 100.0).await?;
    for slug in &late {
        blog.cached(slug, 1).await?;
    }

    redis.ask::<()>(&["FLUSHALL"]).await?;
    readers.go_on().await?;
    for post in &posts {
        blog.cached(&post.slug, 1).await?;
    }
    blog.journal.wait_for(&late[0]).await?;
    blog.cached(&late[0], 1).await?;

    // So little that nothing fits, and nothing is thrown out that would make room.
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await?;
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "500kb"]).await?;
    let unseen = blog.journal.publish("redisless", "no room for it", "full").await?;
    blog.journal.wait_for(&unseen).await?;
    readers.go_on().await?;
    // What is there is not older than what has been told, though there is no room for what is newer.
    let text = json!({ "title": "redisless", "content": "edited while full" });
    same("an edit", blog.journal.edit(&late[0], 1, &text, "e").await?.status, 200)?;
    let seen = blog.journal.get(&format!("/post/{}", late[0])).await?.json()?;
    same("what is seen of it", &seen["content"], &json!("edited while full"))?;
    same("what Redis has of it", version_in(&blog.redis, &late[0]).await?, None)?;
    let no_room = blog.gateway.metric("shardlane_blog_cache_writes_total{result=\"no_room\"}").await?;
    ensure!(no_room > 0.0, "there was room");
    // Full as it is when nobody has set it up otherwise: some posts make room for others.
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lfu"]).await?;
    readers.go_on().await?;

    let misses = blog.looks("error").await?;
    redis.kill().await?;
    more("error", misses).await?;
    readers.go_on().await?;
    let hits = blog.looks("hit").await?;
    redis.start_again().await?;
    more("hit", hits + 100.0).await?;
    readers.go_on().await?;
    readers.end().await?;
    blog.manager.ready().await
}

#[tokio::test]
async fn two_hundred_readers_of_a_post_that_is_not_cached_read_the_shard_once() -> Result<()> {
    let redis = Redis::start().await?;
    let blog = Blog::start_on("crowd", 1, 2, redis.uri()).await?;
    let post = blog.publish_all("crowd", 1).await?.pop().context("no post")?;
    let crowd = async |path: &str, status: u16| {
        let before = blog.gateway.metric(SHARD_READS).await?;
        let read = (0..200).map(|_| async {
            let answer = blog.journal.get(path).await?;
            same("status", answer.status, status)
        });
        try_join_all(read).await?;
        Ok::<_, anyhow::Error>(blog.gateway.metric(SHARD_READS).await? - before)
    };
    let path = format!("/post/{}", post.slug);
    let there = blog.undisturbed(async || {
        blog.journal.find_all(std::slice::from_ref(&post)).await?;
        crowd(&path, 200).await
    });
    same("reads while it is there", there.await?, 0.0)?;
    let gone = blog.undisturbed(async || {
        redis.ask::<()>(&["FLUSHALL"]).await?;
        crowd(&path, 200).await
    });
    same("reads of the shard", gone.await?, 1.0)?;
    ensure!(blog.gateway.metric("shardlane_blog_flights_joined_total").await? >= 100.0, "they did not come at once");
    // One that is not there is remembered too, and for a short time only: it may be on its way.
    let missing = crowd("/post/nothing", 404).await?;
    ensure!((1.0..20.0).contains(&missing), "{missing} reads of what is not there");
    let kept: i64 = redis.ask(&["PTTL", "post:nothing"]).await?;
    ensure!(kept < 3_000, "it is remembered for {kept} ms");
    Ok(())
}

#[tokio::test]
async fn entries_that_are_spoiled_or_of_another_version_are_never_served() -> Result<()> {
    let redis = Redis::start().await?;
    let blog = Blog::start_on("spoiled", 1, 2, redis.uri()).await?;
    let posts = blog.publish_all("spoiled", 2).await?;
    let (post, other) = (&posts[0], &posts[1]);
    let key = format!("post:{}", post.slug);
    let entry: String = redis.ask(&["HGET", &key, "entry"]).await?;
    let others: String = redis.ask(&["HGET", &format!("post:{}", other.slug), "entry"]).await?;
    // Each can be read and says something else.
    let forged = entry.replace(post.content.as_deref().unwrap_or_default(), "forged");
    let body = forged.splitn(3, ' ').last().context("no body")?;
    // As another version of the program would write it, whole.
    let foreign = "local digest = redis.sha1hex(KEYS[1] .. ' ' .. ARGV[1] .. ' 99 ' .. ARGV[2])
        return redis.call('HSET', KEYS[1], 'version', ARGV[1], 'entry', '99 ' .. digest .. ' ' .. ARGV[2])";
    let half = &entry[..entry.len() / 2];
    let spoils: [&[&str]; 10] = [
        &["SET", &key, "garbage"],
        &["RPUSH", &key, "garbage"],
        &["HSET", &key, "version", "1", "entry", "garbage"],
        &["HSET", &key, "version", "1", "entry", half],
        &["HSET", &key, "version", "1", "entry", &forged],
        &["HSET", &key, "version", "1", "entry", &others],
        &["HSET", &key, "version", "999", "entry", &entry],
        &["HSET", &key, "version", "inf", "entry", "\u{1}"],
        &["HSET", &key, "entry", &entry],
        &["EVAL", foreign, "1", &key, "1", body],
    ];
    for spoil in spoils {
        redis.ask::<()>(&["DEL", &key]).await?;
        redis.ask::<redis::Value>(spoil).await?;
        let before = blog.looks("spoiled").await?;
        // For a moment, what the shard has said is told again.
        until(PATIENCE, async || {
            blog.journal.find_all(std::slice::from_ref(post)).await?;
            ensure!(blog.looks("spoiled").await? > before, "it was not noticed");
            Ok(())
        })
        .await
        .with_context(|| format!("{spoil:?}"))?;
        // It is replaced, so that the next reader finds it again.
        until(PATIENCE, async || {
            same("the entry", redis.ask::<String>(&["HGET", &key, "entry"]).await?, entry.clone())
        })
        .await
        .with_context(|| format!("{spoil:?}"))?;
    }
    // A later version of another program's is not served either; and what is newer than that replaces it.
    redis.ask::<redis::Value>(&["EVAL", foreign, "1", &key, "2", "{}"]).await?;
    blog.journal.find_all(std::slice::from_ref(post)).await?;
    for version in [1, 2] {
        let text = json!({ "title": "spoiled", "content": format!("edit of {version}") });
        same("an edit", blog.journal.edit(&post.slug, version, &text, &format!("e{version}")).await?.status, 200)?;
        let expected = Expected { version: version + 1, content: Some(format!("edit of {version}")), ..post.clone() };
        blog.journal.find_all(&[expected]).await?;
    }
    blog.cached(&post.slug, 3).await
}

#[tokio::test]
async fn late_and_doubled_records_never_take_the_cache_back() -> Result<()> {
    let redis = Redis::start().await?;
    let mut blog = Blog::start_on("late", 1, 2, redis.uri()).await?;
    let posts = blog.publish_all("late", 2).await?;
    let [kept, gone] = [&posts[0].slug, &posts[1].slug];
    for version in [1, 2] {
        let text = json!({ "title": "late", "content": format!("edit of {version}") });
        same("an edit", blog.journal.edit(kept, version, &text, &format!("e{version}")).await?.status, 200)?;
    }
    same("a deletion", blog.journal.delete(gone, 1, "d").await?.status, 204)?;
    let expected = [
        Expected { slug: kept.clone(), version: 3, content: Some("edit of 2".to_owned()) },
        Expected { slug: gone.clone(), version: 2, content: None },
    ];
    let late = async |blog: &Blog| {
        for version in [1, 2, 1] {
            for slug in [kept, gone].into_iter().filter(|slug| *slug == kept || version == 1) {
                let old =
                    json!({ "slug": slug, "version": version, "title": "late", "content": "old", "published_at": 1 });
                blog.tell(slug, &old).await?;
            }
        }
        for slug in [kept, gone] {
            blog.managed(slug).await?;
        }
        blog.journal.find_all(&expected).await
    };
    for slug in [kept, gone] {
        blog.managed(slug).await?;
    }
    late(&blog).await?;
    // Who fills the cache begins anew, and Redis knows.
    blog.manager.kill().await?;
    blog.manager = manager(&blog.service, &blog.redis).await?;
    late(&blog).await?;
    same("the version in Redis", version_in(&blog.redis, kept).await?, Some(3))?;
    same("the version in Redis", version_in(&blog.redis, gone).await?, Some(2))?;
    // Redis has lost all, and who fills the cache knows: it has just seen what is newer.
    let text = json!({ "title": "late", "content": "edit of 3" });
    same("an edit", blog.journal.edit(kept, 3, &text, "e3").await?.status, 200)?;
    blog.managed(kept).await?;
    redis.ask::<()>(&["FLUSHALL"]).await?;
    blog.tell(kept, &json!({ "slug": kept, "version": 3, "title": "late", "content": "old", "published_at": 1 }))
        .await?;
    blog.managed(kept).await?;
    let now = [Expected { slug: kept.clone(), version: 4, content: Some("edit of 3".to_owned()) }];
    blog.journal.find_all(&now).await?;

    // From the topic as it is, with all that came late: what is read from its start is what is true.
    redis.ask::<()>(&["FLUSHALL"]).await?;
    let said = blog.service.once("rebuild", &[&format!("--redis-uri={}", blog.redis)]).await?;
    ensure!(said.contains("posts put into the cache"), "{said}");
    same("the version in Redis", version_in(&blog.redis, kept).await?, Some(4))?;
    same("the version in Redis", version_in(&blog.redis, gone).await?, Some(2))?;
    let read = blog.undisturbed(async || {
        let before = blog.gateway.metric(SHARD_READS).await?;
        blog.journal.find_all(&now).await?;
        Ok(blog.gateway.metric(SHARD_READS).await? - before)
    });
    same("reads of the shard after a rebuild", read.await?, 0.0)?;
    let said = blog.service.once("rebuild", &[&format!("--redis-uri={}", blog.redis)]).await?;
    ensure!(said.contains("records read"), "{said}");
    let refused = blog.service.once("rebuild", &["--redis-uri=http://:hunter2@redis"]).await;
    let refused = refused.err().context("it took an address that is none")?.to_string();
    ensure!(refused.contains("redis://host:6379") && !refused.contains("hunter2"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_redis_with_tls_and_a_password_is_used_and_one_that_nobody_vouches_for_is_not() -> Result<()> {
    let redis = Redis::start_secured().await?;
    let blog = Blog::start_on("vouched", 1, 2, redis.uri()).await?;
    let post = blog.publish_all("vouched", 1).await?.pop().context("no post")?;
    let authority = std::fs::read_to_string(setting("SHARDLANE_TEST_KAFKA_CA")?)?;
    let uri = ("SHARDLANE_REDIS_URI", redis.secured_uri());
    let (post, hits) = (std::slice::from_ref(&post), "shardlane_blog_cache_reads_total{result=\"hit\"}");
    let vouched = blog.service.gateway(&[uri.clone(), ("SHARDLANE_REDIS_CA", authority)]).await?;
    let journal = Journal::at(&vouched.url)?;
    // A reader does not wait for the cache when its answer takes long, as it may where much else goes on.
    until(PATIENCE, async || {
        journal.find_all(post).await?;
        ensure!(vouched.metric(hits).await? > 0.0, "the cache is not used: {}", vouched.log()?);
        Ok(())
    })
    .await?;
    let unknown = blog.service.gateway(&[uri]).await?;
    let journal = Journal::at(&unknown.url)?;
    for _ in 0..20 {
        journal.find_all(post).await?;
    }
    same("what is taken from a Redis that nobody vouches for", unknown.metric(hits).await?, 0.0)?;
    let log = unknown.log()?;
    ensure!(!log.contains("hunter2"), "the log tells the password");
    Ok(())
}
