//! What a user of the gateway relies on.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::StatusCode;
use serde_json::{Value, json};
use shardlane_e2e::plain::PlainService;
use shardlane_e2e::signups::{check_shards, requests, send_all, told_the_same};
use shardlane_e2e::{same, until};

use crate::spec;

async fn post(url: &str, body: &Value) -> Result<(StatusCode, Value)> {
    let answer = reqwest::Client::new().post(format!("{url}/api/v1/signups")).body(body.to_string()).send().await?;
    Ok((answer.status(), answer.json().await?))
}

#[tokio::test]
async fn a_name_is_given_once_and_found_again() -> Result<()> {
    let service = PlainService::prepare("users", spec("users", 2, 4)).await?;
    let _workers = service.workers().await?;
    let gateway = service.gateway(&[]).await?;

    let (status, body) = post(&gateway.url, &json!({ "request_id": "r1", "username": "Ada" })).await?;
    same("first", (status.as_u16(), body), (201, json!({ "request_id": "r1", "username": "ada", "success": true })))?;
    let (status, body) = post(&gateway.url, &json!({ "request_id": "r2", "username": "ADA" })).await?;
    same("second", (status.as_u16(), &body["request_id"], &body["success"]), (409, &json!("r2"), &json!(false)))?;
    let (status, _) = post(&gateway.url, &json!({ "request_id": "r1", "username": "ada" })).await?;
    same("retry of the winner", status.as_u16(), 201)?;

    let get = async |path: &str| {
        let answer = reqwest::get(format!("{}{path}", gateway.url)).await?;
        Ok::<_, anyhow::Error>((answer.status().as_u16(), answer.json::<Value>().await?))
    };
    let (status, account) = get("/api/v1/accounts/Ada").await?;
    same("account", (status, &account["username"]), (200, &json!("ada")))?;
    same("length of a KSUID", account["id"].as_str().map(str::len), Some(27))?;
    same("nobody's account", get("/api/v1/accounts/nobody").await?.0, 404)?;
    same("outcome of r1", get("/api/v1/signups/r1?username=ada").await?.1["success"].clone(), json!(true))?;
    same("outcome of r2", get("/api/v1/signups/r2?username=ada").await?.1["success"].clone(), json!(false))?;
    same("outcome of r3", get("/api/v1/signups/r3?username=ada").await?.0, 404)
}

#[tokio::test]
async fn bad_requests_are_told_what_to_do() -> Result<()> {
    let service = PlainService::prepare("badrequests", spec("badrequests", 1, 1)).await?;
    let _workers = service.workers().await?;
    let gateway = service.gateway(&[]).await?;
    for (body, word) in [
        (json!({}), "username"),
        (json!({ "username": "" }), "1 to 40"),
        (json!({ "username": "a\u{0}b" }), "control characters"),
        (json!({ "username": "a", "request_id": "x".repeat(200) }), "128"),
        (json!({ "username": "a", "nickname": "b" }), "nickname"),
    ] {
        let (status, problem) = post(&gateway.url, &body).await?;
        same(&body.to_string(), status.as_u16(), 400)?;
        let detail = problem["detail"].as_str().context("no detail")?;
        anyhow::ensure!(detail.contains(word), "{body}: {detail}");
    }
    let answer =
        reqwest::Client::new().post(format!("{}/api/v1/signups", gateway.url)).body("x".repeat(300_000)).send().await?;
    same("a body that is too large", answer.status().as_u16(), 413)?;
    let openapi: Value = reqwest::get(format!("{}/openapi.json", gateway.url)).await?.json().await?;
    same("documented path", openapi["paths"]["/api/v1/signups"]["post"].is_object(), true)
}

#[tokio::test]
async fn a_gateway_can_want_a_token_and_limit_its_rate() -> Result<()> {
    let service = PlainService::prepare("door", spec("door", 1, 1)).await?;
    let _workers = service.workers().await?;
    let variables = [("SHARDLANE_TOKEN", "secret".to_owned()), ("SHARDLANE_RATE_LIMIT", "1".to_owned())];
    let gateway = service.gateway(&variables).await?;
    let ask = async |token: Option<&str>| {
        let mut request = reqwest::Client::new().get(format!("{}/api/v1/accounts/a", gateway.url));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await
    };
    same("without a token", ask(None).await?.status().as_u16(), 401)?;
    same("with a wrong one", ask(Some("wrong!")).await?.status().as_u16(), 401)?;
    same("with the right one", ask(Some("secret")).await?.status().as_u16(), 404)?;
    let limited = until(Duration::from_secs(10), async || {
        let answer = ask(Some("secret")).await?;
        anyhow::ensure!(answer.status().as_u16() == 429, "{}", answer.status());
        Ok(answer)
    })
    .await?;
    same("Retry-After", limited.headers().contains_key("retry-after"), true)
}

#[tokio::test]
async fn a_client_that_does_not_wait_is_told_where_to_look() -> Result<()> {
    let service = PlainService::prepare("async", spec("async", 1, 2)).await?;
    let gateway = service.gateway(&[]).await?;
    // Nobody works yet, and it is accepted all the same.
    let answer = reqwest::Client::new()
        .post(format!("{}/api/v1/signups", gateway.url))
        .header("Prefer", "respond-async")
        .body(r#"{"request_id":"r1","username":"Ada"}"#)
        .send()
        .await?;
    same("status", answer.status(), StatusCode::ACCEPTED)?;
    same("preference", answer.headers()["preference-applied"].to_str()?, "respond-async")?;
    let place = format!("{}{}", gateway.url, answer.headers()["location"].to_str()?);
    let _workers = service.workers().await?;
    until(Duration::from_secs(20), async || {
        let outcome = reqwest::get(&place).await?;
        same("status of the outcome", outcome.status(), StatusCode::OK)?;
        let outcome: Value = outcome.json().await?;
        same("outcome", &outcome, &json!({ "request_id": "r1", "username": "ada", "success": true }))
    })
    .await
}

#[tokio::test]
async fn many_clients_and_retries_agree() -> Result<()> {
    let service = PlainService::prepare("many", spec("many", 3, 24)).await?;
    let _workers = service.workers().await?;
    let gateway = service.gateway(&[]).await?;
    let all = requests("many", 1_600, 2_000);
    let outcomes = send_all(&gateway.url, all.clone(), 32).await?;
    told_the_same(&outcomes, &send_all(&gateway.url, all, 32).await?)?;
    check_shards(&service.config, &mut service.shards().await?, &outcomes).await
}

#[tokio::test]
async fn a_client_over_its_limit_takes_nothing_from_the_others() -> Result<()> {
    let service = PlainService::prepare("clients", spec("clients", 1, 1)).await?;
    let _workers = service.workers().await?;
    let variables = [("SHARDLANE_CLIENT_RATE_LIMIT", "1".to_owned()), ("SHARDLANE_BEHIND_PROXY", "true".to_owned())];
    let gateway = service.gateway(&variables).await?;
    let http = reqwest::Client::new();
    let ask = async |forwarded: &str| {
        let url = format!("{}/api/v1/accounts/a", gateway.url);
        http.get(url).header("X-Forwarded-For", forwarded).send().await
    };
    // Whoever they say they were before, the proxy saw one client.
    let said = AtomicU32::new(0);
    let refused = until(Duration::from_secs(10), async || {
        let answer = ask(&format!("10.0.1.{}, 10.0.0.1", said.fetch_add(1, Ordering::Relaxed))).await?;
        anyhow::ensure!(answer.status().as_u16() == 429, "{}", answer.status());
        Ok(answer)
    })
    .await?;
    same("Retry-After", refused.headers().contains_key("retry-after"), true)?;
    same("another client", ask("10.0.0.2").await?.status().as_u16(), 404)
}
