//! The blog's pages in a real browser that runs no scripts: a person reads and writes with what pages have had from the beginning.

use anyhow::{Result, ensure};
use serde_json::json;
use shardlane_e2e::browser::Browser;
use shardlane_e2e::plain::PlainService;
use shardlane_e2e::posts::Journal;
use shardlane_e2e::{same, setting};
use shardlane_operator::api::blog_pipeline::BlogPipeline;

const EVIL: &str = "<script>document.title = 'mine'</script><b>not bold</b>";

#[tokio::test]
async fn a_person_writes_reads_and_turns_pages_without_scripts() -> Result<()> {
    let spec = json!({
        "partitions": 1,
        "maxPartitions": 2,
        "topics": { "newPosts": "browsed.newPosts", "publishedPosts": "browsed.publishedPosts" },
    });
    let service = PlainService::prepare_as::<BlogPipeline>("browsed", spec).await?;
    let _workers = service.workers().await?;
    let gateway = service.gateway(&[("SHARDLANE_REDIS_URI", setting("SHARDLANE_TEST_REDIS")?)]).await?;
    let browser = Browser::start(false).await?;

    browser.open(&format!("{}/", gateway.url)).await?;
    browser.shows("Posts").await?;
    same("the title", &*browser.title().await?, "Posts")?;
    same("the language", browser.attribute("html", "lang").await?.as_deref(), Some("en"))?;
    same("the main part", browser.texts("main").await?.len(), 1)?;
    // The keyboard alone gets everywhere, in the order of reading, and one sees where it is.
    let stops = browser.tabs(5).await?;
    let order = ["a Skip to the content", "a All posts", "input title", "textarea content", "button Publish"];
    same("the way of the keyboard", stops, order.map(str::to_owned).to_vec())?;
    ensure!(browser.style("button", "outline-style").await? != "none", "one does not see what has the focus");

    browser.fill("Title", "A <i>first</i> one").await?;
    browser.fill("Content", EVIL).await?;
    browser.press("Publish").await?;
    browser.shows("A <i>first</i> one").await?;
    let path = browser.path().await?;
    ensure!(path.starts_with("/post/a-i-first-i-one-"), "{path}");
    same("its content, as it was written", browser.texts(".content").await?, vec![EVIL.to_owned()])?;
    same("the title", &*browser.title().await?, "A <i>first</i> one")?;
    same("scripts of the page", browser.texts("script").await?.len(), 0)?;

    // What is missing is asked for by the browser itself, before anything is sent.
    browser.follow("All posts").await?;
    browser.shows("Posts").await?;
    browser.press("Publish").await?;
    same("where it is", &*browser.path().await?, "/")?;

    let journal = Journal::at(&gateway.url)?;
    for n in 0..25 {
        let slug = journal.publish(&format!("Post {n}"), "text", &format!("post-{n}")).await?;
        journal.wait_for(&slug).await?;
    }
    let mut read = Vec::new();
    browser.open(&format!("{}/", gateway.url)).await?;
    read.extend(browser.texts("article h2").await?);
    browser.follow("Older posts").await?;
    browser.shows("Older posts").await?;
    read.extend(browser.texts("article h2").await?);
    same("posts, all of them and once each", read.len(), 26)?;
    same("the oldest", read.last().map(String::as_str), Some("A <i>first</i> one"))?;

    browser.open(&format!("{}/post/nothing-1", gateway.url)).await?;
    browser.shows("Not found").await?;
    browser.end().await
}
