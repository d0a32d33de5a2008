//! The watches themselves, one task for each type and namespace.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::DynamicObject;
use kube::core::ApiResource;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as start};
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinSet;

use super::{ObjectKey, Seen, ServiceKey, Watch, Watched};
use crate::build::names;

/// Where the operator looks: some namespaces, or all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope(Vec<String>);

impl Scope {
    /// These; all if there are none.
    pub fn of(namespaces: Vec<String>) -> Self {
        Self(namespaces.into_iter().filter(|namespace| !namespace.is_empty()).collect())
    }

    /// Each of them; `None` stands for all.
    pub fn each(&self) -> Vec<Option<String>> {
        if self.0.is_empty() { vec![None] } else { self.0.iter().cloned().map(Some).collect() }
    }
}

/// Watches under way; they end when this is dropped.
pub struct Streams(#[allow(dead_code)] JoinSet<()>);

impl Streams {
    /// Begins to watch objects of these types that belong to services.
    pub fn start(client: &Client, watched: &Arc<Watched>, scope: &Scope, types: &[ApiResource]) -> Self {
        let mut tasks = JoinSet::new();
        for resource in types {
            for namespace in scope.each() {
                let api: Api<DynamicObject> = match &namespace {
                    Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
                    None => Api::all_with(client.clone(), resource),
                };
                let watch = Watch { kind: resource.kind.clone(), namespace };
                watched.expect(&watch);
                tasks.spawn(follow(api, watch, Arc::clone(watched)));
            }
        }
        Self(tasks)
    }
}

/// How often it is looked whether a type has come: an operator of others may be installed at any time.
const UNKNOWN: Duration = Duration::from_secs(10);

async fn follow(api: Api<DynamicObject>, watch: Watch, watched: Arc<Watched>) {
    let ours = watcher::Config::default().labels(&names::ours());
    let mut events = start(api, ours).default_backoff().boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => take(&watched, &watch, event),
            Err(error) if is_unknown(&error) => {
                tracing::debug!(kind = watch.kind, "the API server does not know this type");
                watched.is_unknown(&watch);
                // Each attempt begins well, so the stream's own waits never grow.
                tokio::time::sleep(UNKNOWN).await;
            }
            Err(error) => tracing::warn!(kind = watch.kind, %error, "watching again"),
        }
    }
}

fn take(watched: &Watched, watch: &Watch, event: Event<DynamicObject>) {
    match event {
        Event::Init => watched.begins(watch),
        Event::InitApply(object) | Event::Apply(object) => {
            if let Some((service, key)) = keys(watch, &object) {
                watched.seen(watch, service, key, Seen::of(object));
            }
        }
        Event::InitDone => watched.ends(watch),
        Event::Delete(object) => {
            if let Some((service, key)) = keys(watch, &object) {
                watched.gone(&service, &key);
            }
        }
    }
}

/// Whose it is: its labels say it, for what outlives a service has no owner.
fn keys(watch: &Watch, object: &DynamicObject) -> Option<(ServiceKey, ObjectKey)> {
    let labels = object.labels();
    let service = ServiceKey {
        namespace: object.namespace()?,
        kind: labels.get(names::KIND)?.clone(),
        name: labels.get(names::INSTANCE)?.clone(),
    };
    Some((service, ObjectKey { kind: watch.kind.clone(), name: object.name_any() }))
}

fn is_unknown(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) = error else {
        return false;
    };
    matches!(error, kube::Error::Api(status) if status.code == 404)
}
