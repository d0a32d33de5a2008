//! A wallet of plain processes: what its users rely on, and what must hold whatever is killed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use shardlane_e2e::plain::{PlainService, Process};
use shardlane_e2e::transfers::{Bank, End, Transfer, Watch, check_shards, expected, random};
use shardlane_e2e::{same, setting, topic, until};
use shardlane_operator::api::wallet_partition::WalletPartition;
use shardlane_runtime::intake::Keyspace;

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn spec(name: &str, partitions: u32, slots: u32) -> Value {
    json!({
        "partitions": partitions,
        "maxPartitions": slots,
        "audit": { "intervalSeconds": 1 },
        "topics": { "transferRequest": format!("{name}.transfer_request"), "payment": format!("{name}.payment") },
    })
}

/// A wallet and all its processes.
pub(crate) struct Wallet {
    pub(crate) service: PlainService,
    pub(crate) workers: Vec<Process>,
    paymentd: Process,
    gateway: Process,
    pub(crate) bank: Bank,
}

impl Wallet {
    pub(crate) async fn start(name: &str, spec: Value) -> Result<Self> {
        Self::of(PlainService::prepare_as::<WalletPartition>(name, spec).await?).await
    }

    /// Starts the processes of a service.
    pub(crate) async fn of(service: PlainService) -> Result<Self> {
        let workers = service.workers().await?;
        let paymentd = service.stateless("paymentd", "paymentd-0").await?;
        let gateway = service.gateway(&[]).await?;
        let bank = Bank::at(&gateway.url)?;
        Ok(Self { service, workers, paymentd, gateway, bank })
    }

    /// Sends a transfer and waits for its end.
    async fn pay(&self, request_id: &str, from: &str, to: &str, minor: i64) -> Result<End> {
        let (request_id, from, to) = (request_id.to_owned(), from.to_owned(), to.to_owned());
        let transfer = Transfer { request_id, from, to, amount: minor };
        self.bank.transfer(&transfer).await?;
        self.bank.wait_for_end(&transfer.request_id, &transfer.from).await
    }

    /// Accounts of which the first two lie in one partition, and the third in the other one of two.
    fn near_and_far(&self) -> [String; 3] {
        let keyspace = Keyspace::of(&self.service.config);
        let half = self.service.config.max_partitions / 2;
        let of = |first: bool| {
            let there = move |name: &String| (keyspace.slot_of(name.as_bytes()) < half) == first;
            (0..).map(|n| format!("account-{n}")).filter(there)
        };
        let mut near = of(true);
        [near.next(), near.next(), of(false).next()].map(Option::unwrap_or_default)
    }
}

fn rejected(reason: &str) -> End {
    End::Rejected(reason.to_owned())
}

#[tokio::test]
async fn a_transfer_of_the_original_client_is_settled_within_a_partition_and_across() -> Result<()> {
    let wallet = Wallet::start("wallet", spec("wallet", 2, 4)).await?;
    let bank = &wallet.bank;
    let [alice, near, far] = wallet.near_and_far();
    bank.deposit(&alice, 1_000, "d1").await?;
    for (id, to) in [("t1", &near), ("t2", &far)] {
        let asked = json!({ "from": alice, "to": to, "amount": "0.5", "request_id": id });
        let (status, echo) = bank.post("transfers", &asked).await?;
        let told = json!({ "request_id": id, "from": alice, "amount": "0.50", "to": to });
        same("the answer", (status, echo), (201, told))?;
        same("its end", bank.wait_for_end(id, &alice).await?, End::Settled)?;
        same("what the receiver has", bank.balance(to).await?, 50)?;
    }
    same("what the sender has", bank.balance(&alice).await?, 900)?;

    let (_, state) = bank.get("transfers/t2").await?;
    same("a transfer without its sender", (&state["from"], &state["state"]), (&json!(alice), &json!("settled")))?;
    same("nobody's", bank.get("transfers/nobody").await?.0, 404)?;
    let (_, first) = bank.get(&format!("accounts/{alice}/entries?limit=2")).await?;
    let (_, second) = bank.get(&format!("accounts/{alice}/entries?limit=2&before={}", first["next"])).await?;
    let told: Vec<_> = [&first, &second]
        .iter()
        .flat_map(|page| page["entries"].as_array().cloned().unwrap_or_default())
        .map(|entry| [entry["request_id"].clone(), entry["amount"].clone(), entry["balance"].clone()])
        .collect();
    let entry = |id: &str, amount: &str, balance: &str| [json!(id), json!(amount), json!(balance)];
    // The other end of a transfer in the same slot is no way into another's entries.
    let (_, others) = bank.get(&format!("accounts/{near}/entries?before={}", first["next"])).await?;
    same("entries before another's", &others["entries"], &json!([]))?;
    let entries = [entry("t2", "-0.50", "9.00"), entry("t1", "-0.50", "9.50"), entry("d1", "10.00", "10.00")];
    same("entries, newest first", told, entries.to_vec())?;
    same("a page after them", &second["next"], &Value::Null)?;
    bank.audited(1_000).await?;
    same("metric of audits", wallet.gateway.metric("shardlane_wallet_audit_holds").await?, 1.0)?;
    let openapi: Value = reqwest::get(format!("{}/openapi.json", wallet.gateway.url)).await?.json().await?;
    same("documented path", openapi["paths"]["/api/v1/transfers"]["post"].is_object(), true)
}

#[tokio::test]
async fn every_transfer_that_cannot_be_made_ends_with_its_reason_and_nothing_stays_on_the_way() -> Result<()> {
    let wallet = Wallet::start("reasons", spec("reasons", 2, 4)).await?;
    let bank = &wallet.bank;
    let [alice, bob, carol] = wallet.near_and_far();
    bank.deposit(&alice, 1_000, "d1").await?;
    let open = async |account: &str, more: Value| {
        let mut body = json!({ "account": account });
        body.as_object_mut().context("object")?.extend(more.as_object().context("object")?.clone());
        bank.post("accounts", &body).await
    };
    same("opening", open(&bob, json!({ "currency": "USD" })).await?.0, 201)?;
    same("opening", open(&carol, json!({ "request_id": "o1" })).await?.0, 201)?;
    same("opening once more with the id", open(&carol, json!({ "request_id": "o1" })).await?.0, 201)?;
    same("opening what is there", open(&carol, json!({})).await?.1["reason"].clone(), json!("exists"))?;

    same("to itself", wallet.pay("r1", &alice, &alice, 1).await?, rejected("to_itself"))?;
    same("over the limit", wallet.pay("r2", &alice, &carol, 1_001).await?, rejected("limit"))?;
    same("from nobody", wallet.pay("r3", "nobody", &carol, 1).await?, rejected("no_account"))?;
    same("to another currency", wallet.pay("r4", &alice, &bob, 1).await?, rejected("receiver_currency"))?;
    let dollars = json!({ "request_id": "r5", "from": alice, "to": carol, "amount": "1", "currency": "USD" });
    same("in another currency", bank.post("transfers", &dollars).await?.0, 201)?;
    same("in another currency", bank.wait_for_end("r5", &alice).await?, rejected("other_currency"))?;

    let close = async |account: &str| bank.send(Method::DELETE, &format!("accounts/{account}"), None).await;
    same("closing what is not empty", close(&alice).await?.1["reason"].clone(), json!("not_empty"))?;
    same("closing", close(&carol).await?.1["closed"].clone(), json!(true))?;
    same("closing nobody's", close("nobody").await?.0, 404)?;
    same("to a closed account", wallet.pay("r6", &alice, &carol, 1).await?, rejected("receiver_closed"))?;
    same("from a closed account", wallet.pay("r7", &carol, &alice, 1).await?, rejected("closed"))?;
    let deposit = json!({ "account": carol, "amount": "1" });
    same("a deposit to it", bank.post("deposits", &deposit).await?.1["reason"].clone(), json!("closed"))?;
    let deposit =
        |currency: &str| json!({ "account": alice, "amount": "10", "request_id": "d1", "currency": currency });
    same("a deposit again", bank.post("deposits", &deposit("EUR")).await?.0, 201)?;
    same("its id for another currency", bank.post("deposits", &deposit("USD")).await?.0, 409)?;
    same("opening it again", open(&carol, json!({})).await?.1["closed"].clone(), json!(false))?;

    let limit = async |limit: &str| {
        bank.send(Method::PUT, &format!("accounts/{carol}/limit"), Some(&json!({ "limit": limit }))).await
    };
    same("a limit above the balance", limit("1").await?.1["reason"].clone(), json!("limit_above_balance"))?;
    same("a limit below zero", limit("-5").await?.1["limit"].clone(), json!("-5.00"))?;
    same("on credit", wallet.pay("r8", &carol, &alice, 500).await?, End::Settled)?;
    same("beyond it", wallet.pay("r9", &carol, &alice, 1).await?, rejected("limit"))?;

    // An id means what its sender meant by it first; another sender's is another transfer.
    same("another sender's id", wallet.pay("r8", &alice, &carol, 100).await?, End::Settled)?;
    same("without a sender", bank.get("transfers/r8").await?.0, 409)?;
    same("the id for something else", wallet.pay("r8", &alice, &carol, 200).await?, End::Settled)?;
    let told = until(PATIENCE, async || {
        let (_, told) = bank.get(&format!("transfers/r8?from={alice}")).await?;
        ensure!(told["conflicts"] == json!(1), "{told}");
        Ok(told)
    })
    .await?;
    same("what it was first", &told["amount"], &json!("1.00"))?;
    same("what the accounts have", (bank.balance(&alice).await?, bank.balance(&carol).await?), (1_400, -400))?;
    bank.audited(1_000).await
}

#[tokio::test]
async fn where_a_credit_opens_no_account_the_money_comes_back() -> Result<()> {
    let mut spec = spec("bycall", 1, 2);
    spec["accounts"] = json!({ "openOnFirstCredit": false });
    let wallet = Wallet::start("bycall", spec).await?;
    wallet.bank.deposit("alice", 100, "d1").await?;
    same("to nobody", wallet.pay("t1", "alice", "bob", 100).await?, rejected("no_receiver"))?;
    same("what the sender has", wallet.bank.balance("alice").await?, 100)?;
    same("the receiver", wallet.bank.get("accounts/bob").await?.0, 404)?;
    wallet.bank.audited(100).await
}

#[tokio::test]
async fn what_is_no_amount_is_told_how_to_write_one() -> Result<()> {
    let wallet = Wallet::start("amounts", spec("amounts", 1, 1)).await?;
    let thirty = "123456789012345678901234567890";
    for amount in
        [json!("1e3"), json!("-1"), json!("0.001"), json!(thirty), json!("0"), json!(0.5), json!(""), Value::Null]
    {
        let body = json!({ "request_id": "r", "from": "alice", "to": "bob", "amount": amount });
        let (status, problem) = wallet.bank.post("transfers", &body).await?;
        same(&body.to_string(), status, 400)?;
        let detail = problem["detail"].as_str().context("no detail")?;
        ensure!(detail.contains("amount") || detail.contains("expected a string"), "{amount}: {detail}");
    }
    // Whoever writes into the topic is told by its dead letters.
    let (kafka, requests) = (setting("SHARDLANE_TEST_KAFKA")?, wallet.service.topic("transfer_request")?);
    let bad = br#"{"request_id":"r","from":"alice","to":"bob","amount":"1e3"}"#;
    topic::put(&topic::producer(&kafka)?, requests, 0, Some(b"r"), Some(bad)).await?;
    let dead = wallet.service.topic("transfer_request.dlq")?;
    let seen = topic::read_until(&kafka, dead, PATIENCE, |seen| !seen.is_empty()).await?;
    let reason = seen[0].header("shardlane.reason").context("no reason")?;
    ensure!(reason.contains(r#"like "0.50""#), "{reason}");
    same("the record as it was", seen[0].value.as_deref(), Some(&bad[..]))
}

#[tokio::test]
async fn a_request_sent_a_thousand_times_and_a_paymentd_that_begins_anew_change_balances_once() -> Result<()> {
    let mut wallet = Wallet::start("again", spec("again", 2, 4)).await?;
    wallet.bank.deposit_all("again", 20, 10_000).await?;
    let once = Transfer { request_id: "once".into(), from: "again-0".into(), to: "again-1".into(), amount: 100 };
    wallet.bank.transfer_all(&vec![once.clone(); 1_000], 16).await?;
    let mut transfers = random("again", 20, 500);
    wallet.bank.transfer_all(&transfers, 16).await?;
    transfers.push(once);
    let ends = wallet.bank.ends(transfers.clone(), 16).await?;
    let expected = expected("again", 20, 10_000, &ends);
    check_shards(&wallet.service.config, &mut wallet.service.shards().await?, &expected).await?;

    // Another group begins at the start of the topic, beside the first one: everything comes again.
    let paid = async |wallet: &Wallet| {
        let mut records = 0;
        for worker in &wallet.workers {
            let status = worker.status().await?;
            let slots = status["slots"].as_array().context("no slots")?;
            records += slots.iter().filter_map(|slot| slot["nextOffset"].as_i64()).sum::<i64>();
        }
        Ok::<_, anyhow::Error>(records)
    };
    let before = paid(&wallet).await?;
    let name = std::mem::replace(&mut wallet.service.config.name, "again-from-the-start".to_owned());
    wallet.service.write_config()?;
    let mut replaying = wallet.service.stateless("paymentd", "paymentd-1").await?;
    until(PATIENCE, async || {
        let now = paid(&wallet).await?;
        ensure!(now >= before + 1_500, "{now} of {before} + 1500 records");
        Ok(())
    })
    .await?;
    same("exit code", replaying.stop().await?, Some(0))?;
    same("exit code", wallet.paymentd.stop().await?, Some(0))?;
    wallet.service.config.name = name;
    same("ends", wallet.bank.ends(transfers, 16).await?.len(), ends.len())?;
    check_shards(&wallet.service.config, &mut wallet.service.shards().await?, &expected).await?;
    wallet.bank.audited(200_000).await
}

#[tokio::test]
async fn workers_and_paymentd_killed_under_load_lose_and_double_no_money() -> Result<()> {
    let mut wallet = Wallet::start("robbed", spec("robbed", 2, 6)).await?;
    wallet.bank.deposit_all("robbed", 30, 5_000).await?;
    let watch = Watch::begin(&wallet.bank);
    let transfers = random("robbed", 30, 4_000);
    let (bank, sending) = (wallet.bank.clone(), transfers.clone());
    let load = tokio::spawn(async move { bank.transfer_all(&sending, 16).await });
    while !load.is_finished() {
        for (partition, worker) in wallet.workers.iter_mut().enumerate() {
            worker.kill().await?;
            *worker = wallet.service.worker(u32::try_from(partition)?).await?;
            worker.ready().await?;
        }
        wallet.paymentd.kill().await?;
        wallet.paymentd = wallet.service.stateless("paymentd", "paymentd-0").await?;
    }
    load.await??;
    let ends = wallet.bank.ends(transfers, 16).await?;
    ensure!(ends.iter().any(|(_, end)| *end == rejected("limit")), "no account ever came to its limit");
    let expected = expected("robbed", 30, 5_000, &ends);
    check_shards(&wallet.service.config, &mut wallet.service.shards().await?, &expected).await?;
    wallet.bank.audited(150_000).await?;
    let audits = watch.end()?;
    ensure!(audits.len() >= 2, "audits do not close: {audits:?}");
    Ok(())
}

#[tokio::test]
async fn an_audit_finds_money_that_somebody_has_made() -> Result<()> {
    let wallet = Wallet::start("forged", spec("forged", 1, 2)).await?;
    wallet.bank.deposit("alice", 100, "d1").await?;
    wallet.bank.audited(100).await?;
    let forged = br#"{"request_id":"f","account":"alice","direction":"incoming","amount":"1.00","currency":"EUR","from":"eve","epoch":0,"debit":{"slot":0,"number":1}}"#;
    let keyspace = Keyspace::of(&wallet.service.config);
    let (kafka, payments) = (setting("SHARDLANE_TEST_KAFKA")?, wallet.service.topic("payment")?);
    topic::put(&topic::producer(&kafka)?, payments, keyspace.slot_of(b"alice"), Some(b"alice"), Some(forged)).await?;
    until(PATIENCE, async || {
        let (_, audit) = wallet.bank.get("audit").await?;
        same("holds", &audit["holds"], &json!(false))?;
        ensure!(audit["problems"].to_string().contains("1.00 EUR more were received than had been sent"), "{audit}");
        same("metric", wallet.gateway.metric("shardlane_wallet_audit_holds").await?, 0.0)
    })
    .await
}
