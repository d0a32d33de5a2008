//! `signup`: usernames, through the service's gateway.

use std::process::ExitCode;

use kube::ResourceExt;
use serde_json::{Value, json};

use crate::access::{Access, Failure};
use crate::table::{Mood, colours, paint};

/// Signs up, one after another. The exit code says whether all names were free.
pub async fn sign_up(access: &Access, name: &str, usernames: &[String]) -> Result<ExitCode, Failure> {
    let service = access.service(name).await?;
    let (kind, name) = (service.resource.kind.clone(), service.object.name_any());
    if kind != "SignupShard" {
        return Err(Failure::Kind { name, kind, wanted: "SignupShard" });
    }
    let path = format!("/api/v1/namespaces/{}/services/{name}-gateway:http/proxy/api/v1/signups", service.namespace());
    let mut all = true;
    for username in usernames {
        let (code, answer) = access.ask(&path, Some(&json!({ "username": username }))).await?;
        let answer: Value = serde_json::from_str(&answer).unwrap_or(Value::String(answer));
        let (text, mood) = outcome(code, &answer);
        all &= mood == Mood::Good;
        println!("{username}: {}", paint(&text, mood, colours()));
    }
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn outcome(code: u16, answer: &Value) -> (String, Mood) {
    match answer["success"].as_bool() {
        Some(true) => ("✅ yours".to_owned(), Mood::Good),
        Some(false) => ("❌ taken".to_owned(), Mood::Bad),
        None if code == 200 => ("accepted; the outcome takes its time".to_owned(), Mood::Busy),
        None => {
            let detail = answer["detail"].as_str().or(answer["title"].as_str());
            (format!("{code}: {}", detail.map_or_else(|| answer.to_string(), str::to_owned)), Mood::Bad)
        }
    }
}
