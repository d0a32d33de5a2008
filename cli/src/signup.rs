//! `signup`: usernames, through the service's gateway.

use std::process::ExitCode;

use serde_json::json;

use crate::access::{Access, Failure};
use crate::gateway::{Answer, Gateway};
use crate::table::{Mood, colours, paint};

/// Signs up, one after another. The exit code says whether all names were free.
pub async fn sign_up(access: &Access, name: &str, usernames: &[String]) -> Result<ExitCode, Failure> {
    let gateway = Gateway::of(access, name, "SignupShard").await?;
    let mut all = true;
    for username in usernames {
        let answer = gateway.ask("/api/v1/signups", Some(&json!({ "username": username }))).await?;
        let (text, mood) = outcome(&answer);
        all &= mood == Mood::Good;
        println!("{username}: {}", paint(&text, mood, colours()));
    }
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn outcome(answer: &Answer) -> (String, Mood) {
    match answer.value["success"].as_bool() {
        Some(true) => ("✅ yours".to_owned(), Mood::Good),
        Some(false) => ("❌ taken".to_owned(), Mood::Bad),
        None if answer.code == 200 => ("accepted; the outcome takes its time".to_owned(), Mood::Busy),
        None => (answer.problem(), Mood::Bad),
    }
}
