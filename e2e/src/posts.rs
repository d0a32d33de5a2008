//! A blog's gateway as its clients use it, and a Redis that a test may do with as it likes.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use rand::RngExt;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::{free_ports, same, setting, signal, until};

/// How long one request is retried, and how long a post may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A blog's gateway.
#[derive(Clone, Debug)]
pub struct Journal {
    http: reqwest::Client,
    url: String,
}

/// What a client was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The status.
    pub status: u16,
    /// The headers, by name.
    pub headers: HashMap<String, String>,
    /// The body.
    pub text: String,
}

impl Told {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.text).with_context(|| format!("{}: {:.300}", self.status, self.text))
    }

    /// A header; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// A post that was acknowledged, as it must be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its slug.
    pub slug: String,
    /// Its version.
    pub version: i64,
    /// Its content; `None` if it was deleted.
    pub content: Option<String>,
}

impl Journal {
    /// At this address.
    pub fn at(url: &str) -> Result<Self> {
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        Ok(Self { http: http.timeout(Duration::from_secs(60)).build()?, url: url.to_owned() })
    }

    /// A request for a path.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// Asks once.
    pub async fn get(&self, path: &str) -> Result<Told> {
        told(self.request(Method::GET, path)).await
    }

    /// Publishes a post under a key, again until it is taken. Gives its slug.
    pub async fn publish(&self, title: &str, content: &str, key: &str) -> Result<String> {
        let body = json!({ "title": title, "content": content }).to_string();
        let told = until(PATIENCE, async || {
            let request = self.request(Method::POST, "/post").header("Idempotency-Key", key).body(body.clone());
            let answer = told(request).await?;
            ensure!(answer.status == 201, "{}: {}", answer.status, answer.text);
            Ok(answer)
        })
        .await?;
        Ok(told.json()?["slug"].as_str().context("no slug")?.to_owned())
    }

    /// Changes a post once.
    pub async fn edit(&self, slug: &str, version: i64, text: &Value, key: &str) -> Result<Told> {
        let request = self.request(Method::PUT, &format!("/post/{slug}")).body(text.to_string());
        told(request.header("If-Match", format!("\"{version}\"")).header("Idempotency-Key", key)).await
    }

    /// Changes a post of this version, again until it is done; a retry may hear that it was.
    pub async fn edit_until(&self, slug: &str, version: i64, text: &Value, key: &str) -> Result<()> {
        until(PATIENCE, async || {
            let answer = self.edit(slug, version, text, key).await?;
            ensure!(answer.status == 200, "{}: {}", answer.status, answer.text);
            same("its tag", answer.header("etag"), &*format!("\"{}\"", version + 1))
        })
        .await
        .with_context(|| format!("an edit of {slug}"))
    }

    /// Deletes a post once.
    pub async fn delete(&self, slug: &str, version: i64, key: &str) -> Result<Told> {
        let request = self.request(Method::DELETE, &format!("/post/{slug}"));
        told(request.header("If-Match", format!("\"{version}\"")).header("Idempotency-Key", key)).await
    }

    /// Waits until a post can be read. Gives it.
    pub async fn wait_for(&self, slug: &str) -> Result<Value> {
        until(PATIENCE, async || {
            let answer = self.get(&format!("/post/{slug}")).await?;
            ensure!(answer.status == 200, "{}: {}", answer.status, answer.text);
            answer.json()
        })
        .await
        .with_context(|| format!("the post {slug}"))
    }

    /// Checks that posts are found as they must be, sooner or later, by several readers.
    pub async fn find_all(&self, posts: &[Expected]) -> Result<()> {
        let found = futures::stream::iter(posts.to_vec()).map(async |expected: Expected| {
            until(PATIENCE, async || self.find(&expected).await).await.with_context(|| format!("{expected:?}"))
        });
        found.buffer_unordered(16).try_collect().await
    }

    async fn find(&self, expected: &Expected) -> Result<()> {
        let answer = self.get(&format!("/post/{}", expected.slug)).await?;
        let Some(content) = &expected.content else { return same("a deleted post", answer.status, 404) };
        same("its status", answer.status, 200)?;
        let post = answer.json()?;
        same("its content", post["content"].as_str(), Some(&**content))?;
        same("its version", post["version"].as_i64(), Some(expected.version))
    }
}

/// Sends a request.
pub async fn told(request: RequestBuilder) -> Result<Told> {
    let answer = request.send().await?;
    let text = |value: &reqwest::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = answer.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    Ok(Told { status: answer.status().as_u16(), headers, text: answer.text().await? })
}

/// Reads posts for as long as it lives, and minds every answer.
pub struct Readers {
    stop: Arc<AtomicBool>,
    read: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<Result<()>>>,
}

impl Readers {
    /// Begins to read these posts.
    pub fn begin(journal: &Journal, posts: &[Expected], readers: usize) -> Self {
        let (stop, read) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let reader = || {
            let (journal, posts) = (journal.clone(), posts.to_vec());
            let (stop, read) = (Arc::clone(&stop), Arc::clone(&read));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let post = &posts[rand::rng().random_range(0..posts.len())];
                    let answer = journal.get(&format!("/post/{}", post.slug)).await?;
                    ensure!(answer.status == 200, "a reader saw {}: {}", answer.status, answer.text);
                    same("what a reader saw", answer.json()?["content"].as_str(), post.content.as_deref())?;
                    read.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        };
        let tasks = (0..readers).map(|_| reader()).collect();
        Self { stop, read, tasks }
    }

    /// Waits until many more were answered.
    pub async fn go_on(&self) -> Result<()> {
        let enough = self.read.load(Ordering::Relaxed) + 500;
        until(PATIENCE, async || {
            let read = self.read.load(Ordering::Relaxed);
            ensure!(
                read >= enough || self.tasks.iter().any(tokio::task::JoinHandle::is_finished),
                "{read} of {enough}"
            );
            Ok(())
        })
        .await
    }

    /// Ends it; an error if a reader was told anything but the right post. Gives how many posts were read.
    pub async fn end(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await??;
        }
        Ok(self.read.load(Ordering::Relaxed))
    }
}

/// A Redis of one test.
pub struct Redis {
    child: Option<Child>,
    port: u16,
    /// What it is told besides.
    more: Vec<String>,
    password: Option<&'static str>,
}

impl Redis {
    /// Starts one, as the operator does.
    pub async fn start() -> Result<Self> {
        Self::started(free_ports()?, Vec::new(), None).await
    }

    /// Starts one that wants a password, and that also listens with TLS, with the certificate of the run's broker.
    pub async fn start_secured() -> Result<Self> {
        let (port, authority) = (free_ports()?, setting("SHARDLANE_TEST_KAFKA_CA")?);
        let file = |name: &str| Path::new(&authority).with_file_name(name).display().to_string();
        let tls = [("tls-port", (port + 1).to_string()), ("tls-cert-file", file("broker.crt"))];
        let tls =
            tls.into_iter().chain([("tls-key-file", file("broker.key")), ("tls-ca-cert-file", authority.clone())]);
        let tls = tls.chain([("tls-auth-clients", "no".to_owned()), ("requirepass", "hunter2".to_owned())]);
        let more = tls.flat_map(|(name, value)| [format!("--{name}"), value]).collect();
        Self::started(port, more, Some("hunter2")).await
    }

    async fn started(port: u16, more: Vec<String>, password: Option<&'static str>) -> Result<Self> {
        let mut redis = Self { child: None, port, more, password };
        redis.start_again().await?;
        Ok(redis)
    }

    /// Its address.
    pub fn uri(&self) -> String {
        let login = self.password.map(|password| format!(":{password}@")).unwrap_or_default();
        format!("redis://{login}127.0.0.1:{}", self.port)
    }

    /// Its address with TLS.
    pub fn secured_uri(&self) -> String {
        let login = self.password.map(|password| format!(":{password}@")).unwrap_or_default();
        format!("rediss://{login}127.0.0.1:{}", self.port + 1)
    }

    /// Starts it at its address, empty.
    pub async fn start_again(&mut self) -> Result<()> {
        let mut program = Command::new(setting("SHARDLANE_TEST_REDIS_SERVER")?);
        program.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        program.args(["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lfu"]).args(&self.more);
        let quiet = program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(quiet.kill_on_drop(true).spawn()?);
        until(Duration::from_secs(20), async || self.ask::<String>(&["PING"]).await).await.map(drop)
    }

    /// Ends it without a word.
    pub async fn kill(&mut self) -> Result<()> {
        self.child.take().context("it is not there")?.kill().await.map_err(Into::into)
    }

    /// Sends it a signal.
    pub async fn signal(&self, name: &str) -> Result<()> {
        signal(self.child.as_ref().and_then(Child::id), name).await
    }

    /// Has it do something.
    pub async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> Result<T> {
        ask(&self.uri(), words).await
    }
}

/// Has a Redis do something.
pub async fn ask<T: FromRedisValue>(uri: &str, words: &[&str]) -> Result<T> {
    let patience = Some(Duration::from_secs(10));
    let config = AsyncConnectionConfig::new().set_connection_timeout(patience).set_response_timeout(patience);
    let client = redis::Client::open(uri)?;
    let mut connection: MultiplexedConnection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let (name, arguments) = words.split_first().context("no command")?;
    Ok(redis::cmd(name).arg(arguments).query_async(&mut connection).await?)
}

/// The version of a post that a Redis has; `None` if it has none.
pub async fn version_in(uri: &str, slug: &str) -> Result<Option<i64>> {
    ask(uri, &["HGET", &format!("post:{slug}"), "version"]).await
}
