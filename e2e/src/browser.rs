//! A browser without a screen, as a person uses it: pages, links, fields by their labels, and buttons by what is on them.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fantoccini::key::Key;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;
use tokio::process::{Child, Command};

use crate::{free_ports, until};

const PATIENCE: Duration = Duration::from_secs(30);
/// It asks nobody on its own for anything, and root may run it.
const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
];

/// A browser with one page.
pub struct Browser {
    page: Client,
    // Ends with the browser, and the browser with it.
    _driver: Child,
}

impl Browser {
    /// Starts Chromium. `scripts`: whether pages may run any.
    pub async fn start(scripts: bool) -> Result<Self> {
        let port = free_ports()?;
        let mut driver = Command::new("chromedriver");
        let quiet = driver.arg(format!("--port={port}")).stdin(Stdio::null()).stdout(Stdio::null());
        let driver = quiet.stderr(Stdio::null()).kill_on_drop(true).spawn().context("chromedriver")?;
        let javascript = json!({ "profile.managed_default_content_settings.javascript": if scripts { 1 } else { 2 } });
        let options = json!({ "goog:chromeOptions": { "args": FLAGS, "prefs": javascript } });
        let options = options.as_object().cloned().unwrap_or_default();
        let page = until(PATIENCE, async || {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            Ok(builder.capabilities(options.clone()).connect(&format!("http://127.0.0.1:{port}")).await?)
        })
        .await?;
        Ok(Self { page, _driver: driver })
    }

    /// Opens a page.
    pub async fn open(&self, url: &str) -> Result<()> {
        Ok(self.page.goto(url).await?)
    }

    /// Where it is.
    pub async fn path(&self) -> Result<String> {
        Ok(self.page.current_url().await?.path().to_owned())
    }

    /// The title of the page.
    pub async fn title(&self) -> Result<String> {
        Ok(self.page.title().await?)
    }

    /// What a person reads in the elements of this kind, in order.
    pub async fn texts(&self, css: &str) -> Result<Vec<String>> {
        let mut texts = Vec::new();
        for element in self.page.find_all(Locator::Css(css)).await? {
            texts.push(element.text().await?);
        }
        Ok(texts)
    }

    /// Writes into the field that has this label.
    pub async fn fill(&self, label: &str, text: &str) -> Result<()> {
        let label = self.page.find(Locator::XPath(&format!("//label[normalize-space()='{label}']"))).await?;
        let field = label.attr("for").await?.context("the label is of no field")?;
        Ok(self.page.find(Locator::Id(&field)).await?.send_keys(text).await?)
    }

    /// Follows a link with this text.
    pub async fn follow(&self, text: &str) -> Result<()> {
        Ok(self.page.find(Locator::LinkText(text)).await?.click().await?)
    }

    /// Presses the button with this text.
    pub async fn press(&self, text: &str) -> Result<()> {
        let path = format!("//button[normalize-space()='{text}']");
        Ok(self.page.find(Locator::XPath(&path)).await?.click().await?)
    }

    /// What a key takes one to after another, as a reader of the screen says it: the name of the element, and its text.
    pub async fn tabs(&self, times: usize) -> Result<Vec<String>> {
        let mut stops = Vec::new();
        for _ in 0..times {
            self.page.active_element().await?.send_keys(&char::from(Key::Tab).to_string()).await?;
            let at = self.page.active_element().await?;
            let name = at.attr("name").await?.unwrap_or(at.text().await?);
            stops.push(format!("{} {name}", at.tag_name().await?));
        }
        Ok(stops)
    }

    /// What a style is computed to be of the first element of this kind.
    pub async fn style(&self, css: &str, property: &str) -> Result<String> {
        Ok(self.page.find(Locator::Css(css)).await?.css_value(property).await?)
    }

    /// An attribute of the first element of this kind.
    pub async fn attribute(&self, css: &str, name: &str) -> Result<Option<String>> {
        Ok(self.page.find(Locator::Css(css)).await?.attr(name).await?)
    }

    /// Waits until the first heading says this.
    pub async fn shows(&self, heading: &str) -> Result<()> {
        until(PATIENCE, async || {
            let texts = self.texts("h1").await?;
            ensure!(texts == [heading], "{}: {texts:?}", self.path().await?);
            Ok(())
        })
        .await
    }

    /// Ends it.
    pub async fn end(self) -> Result<()> {
        Ok(self.page.close().await?)
    }
}
