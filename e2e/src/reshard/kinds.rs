//! Steady load of each kind, and what must be true of it at any time and in the end.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::RngExt;
use rand::seq::IndexedRandom;
use reqwest::{Client, Method};
use serde_json::json;
use shardlane_runtime::config::ServiceConfig;
use shardlane_runtime::intake::Keyspace;
use shardlane_runtime::producer::Outgoing;
use sqlx::PgConnection;
use uuid::Uuid;

use super::steady::{Answer, Customer, Refusals};
use crate::cluster::{FORWARDED_KAFKA, kafka};
use crate::increments::{Pool, Sums};
use crate::posts::{Expected, Journal, told};
use crate::signups::{Outcomes, Told, client, send_all, told_the_same};
use crate::transfers::{Bank, End, Transfer, Watch, expected, money};
use crate::{increments, same, signups, topic, transfers, until};

/// How long what was acknowledged may take to be seen.
const PATIENCE: Duration = Duration::from_secs(120);
/// How many of what was asked before are asked for again.
const SAMPLE: usize = 300;

/// A load with an oracle.
pub trait Oracle: Customer {
    /// Answers that nobody should have got.
    fn refusals(&self) -> &Refusals;

    /// What must be true of the service at rest while the load goes on.
    fn check(&self, config: &ServiceConfig, shards: &mut [PgConnection]) -> impl Future<Output = Result<()>> + Send;

    /// What must be true after the load.
    fn end(&self, config: &ServiceConfig, shards: &mut [PgConnection]) -> impl Future<Output = Result<()>> + Send;
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn sample<T: Clone>(of: &[T]) -> Vec<T> {
    of.sample(&mut rand::rng(), SAMPLE).cloned().collect()
}

/// People who sign up, every fifth of them under a name that another has.
pub struct SignUps {
    http: Client,
    url: String,
    prefix: &'static str,
    told: Mutex<Outcomes>,
    refusals: Refusals,
}

impl SignUps {
    /// Through this gateway. `prefix` is unique to this load.
    pub fn at(url: &str, prefix: &'static str) -> Result<Self> {
        let (told, refusals) = (Mutex::default(), Refusals::default());
        Ok(Self { http: client()?, url: url.to_owned(), prefix, told, refusals })
    }

    async fn ask(&self, id: &str, name: &str) -> Result<Answer> {
        let body = json!({ "request_id": id, "username": name }).to_string();
        let answer = self.http.post(format!("{}/api/v1/signups", self.url)).body(body).send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    /// What was told so far.
    pub fn told(&self) -> Outcomes {
        locked(&self.told).clone()
    }

    /// Has as many names more signed up straight through Kafka, each once, and waits until the shards have them.
    pub async fn fill(&self, config: &ServiceConfig, names: usize, shards: &mut [PgConnection]) -> Result<()> {
        let _forward = kafka().await?;
        let (keyspace, topic) = (Keyspace::of(config), Arc::<str>::from(&*config.topic("request")?.name));
        let asked: Vec<_> = (0..names).map(|n| (format!("fill-{n}"), format!("name-{n}"))).collect();
        let record = |(id, name): &(String, String)| Outgoing {
            topic: Arc::clone(&topic),
            slot: keyspace.slot_of(name.as_bytes()),
            key: Some(name.clone().into_bytes()),
            value: Some(json!({ "request_id": id, "username": name }).to_string().into_bytes()),
            headers: Vec::new(),
        };
        let records: Vec<_> = asked.iter().map(record).collect();
        topic::producer(FORWARDED_KAFKA)?.publish_all(&records).await?;
        let shards = tokio::sync::Mutex::new(shards);
        until(PATIENCE, async || {
            let mut found = 0;
            for shard in shards.lock().await.iter_mut() {
                let count = "SELECT count(*) FROM account WHERE request_id LIKE 'fill-%'";
                found += sqlx::query_scalar::<_, i64>(count).fetch_one(shard).await?;
            }
            same("names that were filled in", found, i64::try_from(names)?)
        })
        .await?;
        let told = |(id, username): (String, String)| (id, Told { username, success: true });
        locked(&self.told).extend(asked.into_iter().map(told));
        Ok(())
    }
}

impl Customer for SignUps {
    async fn visit(&self, client: usize, time: usize) -> Result<()> {
        let (id, prefix) = (format!("{}-{client}-request-{time}", self.prefix), self.prefix);
        let name = format!("{prefix}-{client}-{}", time - time / 5 - usize::from(time % 5 == 4));
        // 202 says that it takes longer, and that the same is to be asked again.
        let (status, told) = self.refusals.insist(&id, &[201, 409], || self.ask(&id, &name)).await?;
        same("echoed request_id", &told["request_id"], &json!(id))?;
        locked(&self.told).insert(id, Told { username: name, success: status == 201 });
        Ok(())
    }
}

impl Oracle for SignUps {
    fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    async fn check(&self, config: &ServiceConfig, shards: &mut [PgConnection]) -> Result<()> {
        let told = self.told();
        signups::check_shards(config, shards, &told).await?;
        let all: Vec<_> = told.iter().map(|(id, told)| (id.clone(), told.username.clone())).collect();
        told_the_same(&told, &send_all(&self.url, sample(&all), 8).await?)
    }

    async fn end(&self, config: &ServiceConfig, shards: &mut [PgConnection]) -> Result<()> {
        println!("{} sign-ups", self.told().len());
        self.check(config, shards).await
    }
}

/// What each account has at first, in minor units: enough for everything.
const DEPOSITED: i64 = 100_000_000;
const ACCOUNTS: usize = 200;
/// Of so many transfers, one is sent twice.
const DOUBLED: usize = 10;

/// Transfers among accounts that have enough, watched by audits.
pub struct Payments {
    bank: Bank,
    prefix: String,
    sent: Mutex<Vec<Transfer>>,
    watch: Mutex<Option<Watch>>,
    refusals: Refusals,
}

impl Payments {
    /// Through this gateway; opens the accounts. `prefix` is unique to this load.
    pub async fn at(url: &str, prefix: &str) -> Result<Self> {
        let bank = Bank::at(url)?;
        bank.deposit_all(prefix, ACCOUNTS, DEPOSITED).await?;
        bank.audited(DEPOSITED * i64::try_from(ACCOUNTS)?).await?;
        let watch = Mutex::new(Some(Watch::begin(&bank)));
        Ok(Self { bank, prefix: prefix.to_owned(), sent: Mutex::default(), watch, refusals: Refusals::default() })
    }
}

impl Customer for Payments {
    async fn visit(&self, client: usize, time: usize) -> Result<()> {
        let prefix = &self.prefix;
        // Two different ones: a transfer to itself is rejected.
        let first = rand::rng().random_range(0..ACCOUNTS);
        let second = (first + rand::rng().random_range(1..ACCOUNTS)) % ACCOUNTS;
        let account = |number: usize| format!("{prefix}-{number}");
        let transfer = Transfer {
            request_id: format!("{prefix}-transfer-{client}-{time}"),
            from: account(first),
            to: account(second),
            amount: rand::rng().random_range(1..2_000),
        };
        let Transfer { request_id, from, to, amount } = &transfer;
        let body = json!({ "request_id": request_id, "from": from, "to": to, "amount": money(*amount) });
        for _ in 0..if time.is_multiple_of(DOUBLED) { 2 } else { 1 } {
            let (_, echo) = self.refusals.insist(request_id, &[201], || self.bank.post("transfers", &body)).await?;
            same("the echo of a transfer", &echo, &body)?;
        }
        if time % DOUBLED == 1 {
            let path = format!("accounts/{from}");
            self.refusals.insist(&path, &[200], || self.bank.get(&path)).await?;
        }
        locked(&self.sent).push(transfer);
        Ok(())
    }
}

impl Oracle for Payments {
    fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    async fn check(&self, _: &ServiceConfig, _: &mut [PgConnection]) -> Result<()> {
        // One whose cut lies after the move closes, and holds.
        let before = until(PATIENCE, || self.bank.audit()).await?;
        until(PATIENCE, async || {
            ensure!(self.bank.audit().await? >= before + 2, "no audit has closed since {before}");
            Ok(())
        })
        .await?;
        let sent = sample(&locked(&self.sent));
        let ends = self.bank.ends(sent, 8).await?;
        same("rejected", ends.into_iter().find(|(_, end)| *end != End::Settled), None)
    }

    async fn end(&self, config: &ServiceConfig, shards: &mut [PgConnection]) -> Result<()> {
        let deposited = DEPOSITED * i64::try_from(ACCOUNTS)?;
        self.bank.audited(deposited).await?;
        let watch = locked(&self.watch).take();
        let audits = watch.context("the watch has ended")?.end()?;
        let sent = locked(&self.sent).clone();
        println!("{} transfers; {} audits closed meanwhile, and all hold", sent.len(), audits.len());
        let ends = sent.into_iter().map(|transfer| (transfer, End::Settled)).collect();
        transfers::check_shards(config, shards, &expected(&self.prefix, ACCOUNTS, DEPOSITED, &ends)).await
    }
}

const COUNTERS: usize = 2_000;
/// Increments of one request.
const EACH: usize = 5;

/// Counters that are raised, each request with keys and some twice, and read.
pub struct Counts {
    pool: Pool,
    keys: Vec<Uuid>,
    sums: Mutex<Sums>,
    /// The most that each counter has shown.
    shown: Mutex<Sums>,
    refusals: Refusals,
}

impl Counts {
    /// Through this gateway.
    pub fn at(url: &str) -> Result<Self> {
        let keys = (0..COUNTERS).map(|_| Uuid::new_v4()).collect();
        let (sums, shown) = (Mutex::default(), Mutex::default());
        Ok(Self { pool: Pool::at(url)?, keys, sums, shown, refusals: Refusals::default() })
    }

    fn key(&self) -> Uuid {
        self.keys[rand::rng().random_range(0..self.keys.len())]
    }

    /// Reads a counter, which never shows less than it once did.
    async fn look(&self, key: Uuid) -> Result<()> {
        let least = locked(&self.shown).get(&key).copied().unwrap_or_default();
        let path = format!("counters/{key}");
        let (_, counter) = self.refusals.insist(&path, &[200], || self.pool.get(&path)).await?;
        let value = counter["value"].as_i64().unwrap_or_default();
        ensure!(value >= least, "{key} has shown {least}, and then {counter}");
        let mut shown = locked(&self.shown);
        let most = shown.entry(key).or_default();
        *most = value.max(*most);
        Ok(())
    }
}

impl Customer for Counts {
    async fn visit(&self, client: usize, time: usize) -> Result<()> {
        let raised: Vec<_> = (0..EACH).map(|_| (self.key(), rand::rng().random_range(1..100_i64))).collect();
        let increment =
            |(key, value): &(Uuid, i64)| json!({ "key": key, "value": value, "idempotency_key": Uuid::new_v4() });
        let body = json!({ "increments": raised.iter().map(increment).collect::<Vec<_>>() }).to_string();
        let what = format!("increments {client}-{time}");
        for _ in 0..if time.is_multiple_of(DOUBLED) { 2 } else { 1 } {
            self.refusals.insist(&what, &[200], || self.pool.post("increments", &body, None)).await?;
        }
        {
            let mut sums = locked(&self.sums);
            raised.iter().for_each(|(key, value)| *sums.entry(*key).or_default() += value);
        }
        if time % DOUBLED == 1 { self.look(self.key()).await } else { Ok(()) }
    }
}

impl Oracle for Counts {
    fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    async fn check(&self, _: &ServiceConfig, _: &mut [PgConnection]) -> Result<()> {
        let sums = locked(&self.sums).clone();
        self.pool.reach(&sums).await
    }

    async fn end(&self, config: &ServiceConfig, shards: &mut [PgConnection]) -> Result<()> {
        let sums = locked(&self.sums).clone();
        self.pool.settle(&sums).await?;
        println!("{} counters show exactly what was acknowledged", sums.len());
        increments::check_shards(shards, config, &sums).await
    }
}

/// Posts that are written, edited and read.
pub struct Posts {
    journal: Journal,
    /// Of each client, those that nobody has read yet.
    unread: Mutex<HashMap<usize, VecDeque<Expected>>>,
    read: Mutex<Vec<Expected>>,
    refusals: Refusals,
}

impl Posts {
    /// Through this gateway.
    pub fn at(url: &str) -> Result<Self> {
        let (unread, read) = (Mutex::default(), Mutex::default());
        Ok(Self { journal: Journal::at(url)?, unread, read, refusals: Refusals::default() })
    }

    async fn get(&self, slug: &str) -> Result<Answer> {
        let answer = self.journal.get(&format!("/post/{slug}")).await?;
        Ok((answer.status, answer.json()?))
    }

    async fn publish(&self, client: usize, time: usize) -> Result<Expected> {
        let content = format!("post {time} of client {client}");
        let body = json!({ "title": "while slots move", "content": content }).to_string();
        let publish = async || {
            let request = self.journal.request(Method::POST, "/post").header("Idempotency-Key", &content);
            let answer = told(request.body(body.clone())).await?;
            Ok((answer.status, answer.json()?))
        };
        let (_, received) = self.refusals.insist(&content, &[201], publish).await?;
        let slug = received["slug"].as_str().context("no slug")?.to_owned();
        Ok(Expected { slug, version: 1, content: Some(content) })
    }

    /// A post that was seen is changed.
    async fn edit(&self, post: Expected) -> Result<Expected> {
        let content = format!("{}, edited", post.content.unwrap_or_default());
        let text = json!({ "title": "edited", "content": content });
        let edit = async || {
            let answer = self.journal.edit(&post.slug, 1, &text, "edit").await?;
            // 202, which takes longer, says nothing.
            Ok((answer.status, answer.json().unwrap_or_default()))
        };
        self.refusals.insist(&format!("edit of {}", post.slug), &[200], edit).await?;
        Ok(Expected { slug: post.slug, version: 2, content: Some(content) })
    }

    /// The client's oldest post that nobody has read is looked for.
    async fn look(&self, client: usize, time: usize) -> Result<()> {
        let oldest = locked(&self.unread).get_mut(&client).and_then(VecDeque::pop_front);
        let Some(post) = oldest else { return Ok(()) };
        let path = format!("/post/{}", post.slug);
        // It is acknowledged, and may not be there yet.
        let found = until(PATIENCE, async || {
            let answer = self.journal.get(&path).await?;
            ensure!(answer.status != 404, "{path} is not there");
            Ok((answer.status, answer.json()?))
        });
        let (status, told) = found.await?;
        if status != 200 {
            self.refusals.note(format!("{path}: {status}: {told}"));
        } else {
            same("its content", told["content"].as_str(), post.content.as_deref())?;
        }
        let post = if time.is_multiple_of(3) { self.edit(post).await? } else { post };
        locked(&self.read).push(post);
        Ok(())
    }
}

/// How many posts of a client may be unread.
const UNREAD: usize = 10;

impl Customer for Posts {
    async fn visit(&self, client: usize, time: usize) -> Result<()> {
        let post = self.publish(client, time).await?;
        let unread = {
            let mut unread = locked(&self.unread);
            let mine = unread.entry(client).or_default();
            mine.push_back(post);
            mine.len()
        };
        if unread > UNREAD {
            self.look(client, time).await?;
        }
        // Whatever was read once can be read for ever.
        let old = locked(&self.read).choose(&mut rand::rng()).cloned();
        let Some(old) = old else { return Ok(()) };
        self.refusals.insist(&old.slug, &[200], || self.get(&old.slug)).await.map(drop)
    }
}

impl Oracle for Posts {
    fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    async fn check(&self, _: &ServiceConfig, _: &mut [PgConnection]) -> Result<()> {
        let posts = sample(&locked(&self.read));
        self.journal.find_all(&posts).await
    }

    async fn end(&self, _: &ServiceConfig, _: &mut [PgConnection]) -> Result<()> {
        let mut posts = locked(&self.read).clone();
        posts.extend(locked(&self.unread).values().flatten().cloned());
        self.journal.find_all(&posts).await?;
        println!("all {} posts are read as they were written", posts.len());
        Ok(())
    }
}
