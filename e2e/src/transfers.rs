//! Transfers by several clients at once, and what must be true of them afterwards.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use rand::RngExt;
use serde_json::{Value, json};
use shardlane_runtime::config::ServiceConfig;
use shardlane_runtime::intake::Keyspace;
use sqlx::{PgConnection, Row};

use crate::{same, until};

/// How long one request is retried, and how long it may take until it is settled or rejected.
const PATIENCE: Duration = Duration::from_secs(120);

/// A transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Its id.
    pub request_id: String,
    /// Who pays.
    pub from: String,
    /// Who is paid.
    pub to: String,
    /// How much, in minor units.
    pub amount: i64,
}

/// Where a transfer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The receiver has it.
    Settled,
    /// The sender has what it had, and why.
    Rejected(String),
}

/// Transfers that were acknowledged, with their ends.
pub type Ends = Vec<(Transfer, End)>;

/// Random transfers among accounts `PREFIX-0`, `PREFIX-1` and so on.
pub fn random(prefix: &str, accounts: usize, transfers: usize) -> Vec<Transfer> {
    let mut random = rand::rng();
    let mut account = || format!("{prefix}-{}", random.random_range(0..accounts));
    let pairs: Vec<_> = (0..transfers).map(|_| (account(), account())).collect();
    let transfer = |(number, (from, to))| Transfer {
        request_id: format!("{prefix}-transfer-{number}"),
        from,
        to,
        amount: rand::rng().random_range(1..2_000),
    };
    pairs.into_iter().enumerate().map(transfer).collect()
}

/// Minor units as people write them.
pub fn money(minor: i64) -> String {
    format!("{}{}.{:02}", if minor < 0 { "-" } else { "" }, minor.abs() / 100, minor.abs() % 100)
}

/// A wallet's gateway, as its clients use it.
#[derive(Clone, Debug)]
pub struct Bank {
    http: reqwest::Client,
    url: String,
}

impl Bank {
    /// At this address.
    pub fn at(url: &str) -> Result<Self> {
        Ok(Self { http: crate::signups::client()?, url: url.to_owned() })
    }

    /// Posts once.
    pub async fn post(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        let answer = self.http.post(format!("{}/api/v1/{path}", self.url)).body(body.to_string()).send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    /// Asks once.
    pub async fn get(&self, path: &str) -> Result<(u16, Value)> {
        let answer = self.http.get(format!("{}/api/v1/{path}", self.url)).send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    /// Sends another method's request once.
    pub async fn send(&self, method: reqwest::Method, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let mut request = self.http.request(method, format!("{}/api/v1/{path}", self.url));
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }

    /// Posts, again with the same id until it is taken.
    async fn insist(&self, path: &str, body: &Value) -> Result<Value> {
        until(PATIENCE, async || match self.post(path, body).await? {
            (201, answer) => Ok(answer),
            (status, answer) => bail!("{status}: {answer}"),
        })
        .await
        .with_context(|| format!("POST {path} {body}"))
    }

    /// Brings money to an account.
    pub async fn deposit(&self, account: &str, minor: i64, request_id: &str) -> Result<()> {
        let body = json!({ "account": account, "amount": money(minor), "request_id": request_id });
        self.insist("deposits", &body).await.map(drop)
    }

    /// Brings as much money to each of these accounts, several at once.
    pub async fn deposit_all(&self, prefix: &str, accounts: usize, minor: i64) -> Result<()> {
        let deposits = futures::stream::iter(0..accounts)
            .map(async |n| self.deposit(&format!("{prefix}-{n}"), minor, &format!("{prefix}-deposit-{n}")).await);
        deposits.buffer_unordered(16).try_collect().await
    }

    /// Sends a transfer until it is acknowledged.
    pub async fn transfer(&self, transfer: &Transfer) -> Result<()> {
        let Transfer { request_id, from, to, amount } = transfer;
        let body = json!({ "request_id": request_id, "from": from, "to": to, "amount": money(*amount) });
        let echo = self.insist("transfers", &body).await?;
        same("the echo of a transfer", echo, body)
    }

    /// Sends all transfers, some of them twice.
    pub async fn transfer_all(&self, transfers: &[Transfer], clients: usize) -> Result<()> {
        let sent = futures::stream::iter(transfers.to_vec()).map(async |transfer: Transfer| {
            self.transfer(&transfer).await?;
            if rand::random_bool(0.1) { self.transfer(&transfer).await } else { Ok(()) }
        });
        sent.buffer_unordered(clients).try_collect().await
    }

    /// Where a transfer stands; `None` while it is pending.
    pub async fn end(&self, request_id: &str, from: &str) -> Result<Option<End>> {
        let (status, state) = self.get(&format!("transfers/{request_id}?from={from}")).await?;
        ensure!(status == 200, "{status}: {state}");
        Ok(match state["state"].as_str() {
            Some("settled") => Some(End::Settled),
            Some("rejected") => Some(End::Rejected(state["reason"].as_str().context("no reason")?.to_owned())),
            _ => None,
        })
    }

    /// Waits for a transfer's end.
    pub async fn wait_for_end(&self, request_id: &str, from: &str) -> Result<End> {
        until(PATIENCE, async || self.end(request_id, from).await?.context("it is pending")).await
    }

    /// Waits for the ends of all transfers.
    pub async fn ends(&self, transfers: Vec<Transfer>, clients: usize) -> Result<Ends> {
        let ends = futures::stream::iter(transfers).map(async |transfer: Transfer| {
            let end = self.wait_for_end(&transfer.request_id, &transfer.from).await;
            Ok((transfer.clone(), end.with_context(|| format!("{transfer:?}"))?))
        });
        ends.buffer_unordered(clients).try_collect().await
    }

    /// An account's balance, in minor units.
    pub async fn balance(&self, account: &str) -> Result<i64> {
        let (status, told) = self.get(&format!("accounts/{account}")).await?;
        ensure!(status == 200, "{status}: {told}");
        let text = told["balance"].as_str().context("no balance")?.replace('.', "");
        Ok(text.parse()?)
    }

    /// The number of the last audit that has closed; an error if one did not hold.
    pub async fn audit(&self) -> Result<i64> {
        let (status, audit) = self.get("audit").await?;
        ensure!(status == 200, "{status}: {audit}");
        same("problems", &audit["problems"], &json!([]))?;
        for currency in audit["currencies"].as_array().context("no currencies")? {
            same("whether the cut holds", &currency["holds"], &json!(true))?;
        }
        audit["audit"].as_i64().with_context(|| format!("none has closed: {audit}"))
    }

    /// Waits until an audit closes whose cut is later than now, and which finds this much.
    pub async fn audited(&self, deposited: i64) -> Result<()> {
        let before = until(PATIENCE, || self.audit()).await?;
        until(PATIENCE, async || {
            // The next one may have begun before now.
            ensure!(self.audit().await? >= before + 2, "no later one has closed");
            let (_, audit) = self.get("audit").await?;
            let found = &audit["currencies"][0];
            same("deposited", found["deposited"].as_str(), Some(&*money(deposited)))?;
            same("in transit", found["in_transit"].as_str(), Some("0.00"))
        })
        .await
    }
}

/// Looks at audits for as long as it lives.
pub struct Watch {
    seen: Arc<Mutex<Result<Vec<i64>, String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    /// Begins to look.
    pub fn begin(bank: &Bank) -> Self {
        let seen = Arc::new(Mutex::new(Ok(Vec::new())));
        let (bank, noted) = (bank.clone(), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            loop {
                if let Ok((200, audit)) = bank.get("audit").await
                    && let Ok(mut noted) = noted.lock()
                {
                    note(&mut noted, &audit);
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        Self { seen, task }
    }

    /// Ends it. Gives the audits that have closed meanwhile; an error if one did not hold.
    pub fn end(self) -> Result<Vec<i64>> {
        self.task.abort();
        let seen = self.seen.lock().map_err(|_| anyhow::anyhow!("the watch has failed"))?.clone();
        seen.map_err(anyhow::Error::msg)
    }
}

fn note(seen: &mut Result<Vec<i64>, String>, audit: &Value) {
    let holds = audit["currencies"].as_array().is_some_and(|all| all.iter().all(|c| c["holds"] == json!(true)));
    if audit["problems"] != json!([]) || !holds {
        *seen = Err(audit.to_string());
    } else if let (Ok(seen), Some(number)) = (seen, audit["audit"].as_i64())
        && seen.last() != Some(&number)
    {
        seen.push(number);
    }
}

/// What accounts must hold, given what each had and which transfers ended how.
pub fn expected(prefix: &str, accounts: usize, deposited: i64, ends: &Ends) -> BTreeMap<String, i64> {
    let mut balances: BTreeMap<_, _> = (0..accounts).map(|n| (format!("{prefix}-{n}"), deposited)).collect();
    for (transfer, _) in ends.iter().filter(|(_, end)| *end == End::Settled) {
        *balances.entry(transfer.from.clone()).or_default() -= transfer.amount;
        *balances.entry(transfer.to.clone()).or_default() += transfer.amount;
    }
    balances
}

/// Checks all shards: each account once, where its slot says, at least at its limit, and holding what its entries come to and
/// what is expected; each payment once, and both sides of all of them nothing in sum.
pub async fn check_shards(
    config: &ServiceConfig,
    shards: &mut [PgConnection],
    expected: &BTreeMap<String, i64>,
) -> Result<()> {
    let keyspace = Keyspace::of(config);
    let (mut balances, mut payments) = (BTreeMap::new(), HashMap::new());
    for (partition, shard) in shards.iter_mut().enumerate() {
        let rows = sqlx::query(
            "SELECT a.id, a.slot, a.balance, a.lowest, COALESCE(sum(p.amount), 0)::bigint
             FROM account a LEFT JOIN posting p ON p.account = a.id GROUP BY a.id, a.slot, a.balance, a.lowest",
        );
        for row in rows.fetch_all(&mut *shard).await? {
            let (id, slot, balance): (String, i32, i64) = (row.get(0), row.get(1), row.get(2));
            same(&format!("slot of {id}"), slot.unsigned_abs(), keyspace.slot_of(id.as_bytes()))?;
            same(&format!("sum of the entries of {id}"), row.get(4), balance)?;
            ensure!(balance >= row.get::<i64, _>(3), "{id} is under its limit: {balance}");
            ensure!(balances.insert(id.clone(), balance).is_none(), "{id} is in two shards");
        }
        for row in sqlx::query("SELECT request_id, sender, leg FROM entry").fetch_all(&mut *shard).await? {
            let id: (String, String, String) = (row.get(0), row.get(1), row.get(2));
            if let Some(other) = payments.insert(id.clone(), partition) {
                bail!("{id:?} is in the shards of {other} and {partition}");
            }
        }
        let uneven = sqlx::query("SELECT slot FROM posting GROUP BY slot, currency HAVING sum(amount) <> 0");
        same("slots whose postings are not even", uneven.fetch_all(&mut *shard).await?.len(), 0)?;
    }
    for (account, balance) in expected {
        same(&format!("balance of {account}"), balances.get(account), Some(balance))?;
    }
    same("accounts", balances.len(), expected.len())
}
