//! What the operator tells of services: conditions and events.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ListParams;
use kube::{Api, Client};
use shardlane_operator::api::status::ServiceStatus;
use shardlane_operator::kind::ServiceKind;

use crate::until;

/// How long anything may take to be told.
const PATIENCE: Duration = Duration::from_secs(120);

/// A condition, if it is there.
pub fn condition<'a>(status: &'a ServiceStatus, type_: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether a service is as its spec wants it, seen by the operator as it is now.
pub fn is_settled<K: ServiceKind>(service: &K) -> bool {
    let status = service.status();
    let current = status.is_some_and(|status| status.observed_generation == service.meta().generation);
    current && status.is_some_and(ServiceStatus::is_settled)
}

/// Waits until a condition has a reason, and its message these words; the message.
pub async fn says<K: ServiceKind>(
    services: &Api<K>,
    name: &str,
    type_: &str,
    reason: &str,
    words: &[&str],
) -> Result<String> {
    until(PATIENCE, async || {
        let status = services.get(name).await?.status().cloned().unwrap_or_default();
        match condition(&status, type_) {
            Some(found) if found.reason == reason && words.iter().all(|word| found.message.contains(word)) => {
                Ok(found.message.clone())
            }
            _ => bail!("{name} does not say {reason} with {words:?}: {:?}", status.conditions),
        }
    })
    .await
}

/// Waits for an event of this reason about a service; its note.
pub async fn event(client: &Client, namespace: &str, name: &str, reason: &str) -> Result<String> {
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    until(PATIENCE, async || {
        let all = events.list(&ListParams::default()).await?.items;
        let about = |event: &&Event| event.involved_object.name.as_deref() == Some(name);
        let found = all.iter().filter(about).find(|event| event.reason.as_deref() == Some(reason));
        found.and_then(|event| event.message.clone()).with_context(|| format!("no event {reason} about {name}"))
    })
    .await
}
