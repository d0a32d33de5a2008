//! `transfer`: money from one account to another, through the service's gateway.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::access::{Access, Failure};
use crate::gateway::{Answer, Gateway, quoted};
use crate::table::{Mood, colours, paint};

/// How long it is asked for what becomes of a transfer, and how long between two questions.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);

/// A transfer, as it is asked for.
#[derive(clap::Args)]
pub struct Wanted {
    /// The account that pays.
    #[arg(long)]
    from: String,
    /// The account that is paid.
    #[arg(long)]
    to: String,
    /// How much, e.g. 0.50.
    #[arg(long)]
    amount: String,
    /// In which currency; the sender's own if absent.
    #[arg(long)]
    currency: Option<String>,
    /// Asks again for the transfer of this id, which is made once however often it is asked for.
    #[arg(long)]
    request_id: Option<String>,
}

/// Asks for it, and waits for what becomes of it. The exit code says whether it is settled.
pub async fn make(access: &Access, name: &str, wanted: &Wanted) -> Result<ExitCode, Failure> {
    let gateway = Gateway::of(access, name, "WalletPartition").await?;
    let answer = gateway.ask("/api/v1/transfers", Some(&body(wanted))).await?;
    let id = answer.value["request_id"].as_str().filter(|_| answer.code == 200);
    let Some(id) = id else {
        return Err(Failure::Gateway { name: name.to_owned(), problem: answer.problem() });
    };
    println!("request_id: {id}");
    let (text, mood) = outcome(&last(&gateway, id, &wanted.from).await?);
    println!("{}", paint(&text, mood, colours()));
    Ok(if mood == Mood::Good { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn body(wanted: &Wanted) -> Value {
    let Wanted { from, to, amount, currency, request_id } = wanted;
    let mut body = json!({ "from": from, "to": to, "amount": amount });
    for (field, value) in [("currency", currency), ("request_id", request_id)] {
        if let Some(value) = value {
            body[field] = value.clone().into();
        }
    }
    body
}

/// What is said of it when it is no longer pending, or when patience ends.
async fn last(gateway: &Gateway<'_>, id: &str, from: &str) -> Result<Answer, Failure> {
    let path = format!("/api/v1/transfers/{}?from={}", quoted(id), quoted(from));
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = gateway.ask(&path, None).await?;
        let state = answer.value["state"].as_str();
        // An answer without a state is one of a worker that is away for a moment.
        if state.is_some_and(|state| state != "pending") || Instant::now() >= end {
            return Ok(answer);
        }
        sleep(PAUSE).await;
    }
}

fn outcome(answer: &Answer) -> (String, Mood) {
    match answer.value["state"].as_str() {
        Some("settled") => ("settled".to_owned(), Mood::Good),
        Some("pending") => {
            let text = "pending; it takes its time: ask again with --request-id, and nothing is paid twice";
            (text.to_owned(), Mood::Busy)
        }
        Some(state) => match answer.value["reason"].as_str() {
            Some(reason) => (format!("{state}: {reason}"), Mood::Bad),
            None => (state.to_owned(), Mood::Bad),
        },
        None => (answer.problem(), Mood::Bad),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_said_is_asked_for() {
        let text = |text: &str| text.to_owned();
        let mut wanted =
            Wanted { from: text("A"), to: text("B"), amount: text("0.50"), currency: None, request_id: None };
        assert_eq!(body(&wanted), json!({ "from": "A", "to": "B", "amount": "0.50" }));
        wanted.currency = Some(text("EUR"));
        wanted.request_id = Some(text("id"));
        let whole = json!({ "from": "A", "to": "B", "amount": "0.50", "currency": "EUR", "request_id": "id" });
        assert_eq!(body(&wanted), whole);
    }

    #[test]
    fn only_what_is_settled_is_good() {
        let said = |code, value: Value| outcome(&Answer { code, text: String::new(), value });
        assert_eq!(said(200, json!({ "state": "settled" })), ("settled".to_owned(), Mood::Good));
        let rejected = json!({ "state": "rejected", "reason": "limit" });
        assert_eq!(said(200, rejected), ("rejected: limit".to_owned(), Mood::Bad));
        assert_eq!(said(200, json!({ "state": "pending" })).1, Mood::Busy);
        assert_eq!(said(503, json!({ "detail": "no worker" })), ("503: no worker".to_owned(), Mood::Bad));
    }
}
