//! The controller: one for each kind, all the same. Reads, decides, builds, applies, says what it found.

pub mod apply;
mod complaints;
pub mod dereference;
mod dispensable;
pub mod farewell;
mod reshard;
pub mod rollout;
mod slots;
pub mod status;
mod turn;
pub mod validate;
pub mod workers;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, DeserializeGuard};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::{self, ObjectRef};
use kube::runtime::watcher::Event as Told;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;

use crate::api::status::ServiceStatus;
use crate::build::cloud_native_pg::Cluster;
use crate::build::names::MANAGER;
use crate::build::{BuildError, strimzi, topics};
use crate::claims::{Claimant, Claims};
use crate::images::Images;
use crate::kind::ServiceKind;
use crate::secrets::Secrets;
use crate::telemetry::Telemetry;
use crate::watched::{Scope, ServiceKey, Streams, Watched};
use farewell::Step;
use status::{Change, changes};

/// How often a service that waits is looked at besides what watches tell: nothing tells of what workers say.
const WHILE_WAITING: Duration = Duration::from_secs(3);
/// How often a service is looked at when all is well.
///
/// Nothing tells when a worker halts a slot, so this is how long it may take until somebody is told.
const WHEN_SETTLED: Duration = Duration::from_secs(30);
/// Several changes that come together are one turn.
const TOGETHER: Duration = Duration::from_millis(50);
/// Services whose turns run at the same time.
const AT_ONCE: u16 = 32;
/// The most bytes that the API server takes as an event's note.
const LONGEST_NOTE: usize = 1024;

/// Types of the objects that services consist of.
pub fn types() -> Vec<ApiResource> {
    vec![
        ApiResource::erase::<StatefulSet>(&()),
        ApiResource::erase::<Deployment>(&()),
        ApiResource::erase::<Job>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<ConfigMap>(&()),
        ApiResource::erase::<Pod>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
        ApiResource::erase::<NetworkPolicy>(&()),
        ApiResource::erase::<Cluster>(&()),
        strimzi::resource("KafkaTopic"),
        strimzi::resource("KafkaUser"),
    ]
}

/// What a controller needs.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// This release's images.
    pub images: Images,
    /// What the API server has told.
    pub watched: Arc<Watched>,
    /// Types of the objects that services consist of.
    pub types: Vec<ApiResource>,
    /// Secrets that services use.
    pub secrets: Arc<Secrets>,
    /// Who has which topics.
    pub claims: Claims,
    /// Asks workers.
    pub http: reqwest::Client,
    telemetry: Telemetry,
    recorder: Recorder,
    /// What was said of objects that no one can read.
    unreadable: Mutex<HashMap<ServiceKey, String>>,
}

impl Context {
    /// A context of this operator.
    pub fn new(client: Client, images: Images, telemetry: Telemetry) -> reqwest::Result<Self> {
        let reporter = Reporter { controller: "shardlane".to_owned(), instance: None };
        let watched = Arc::new(Watched::default());
        Ok(Self {
            recorder: Recorder::new(client.clone(), reporter),
            http: workers::client()?,
            secrets: Arc::new(Secrets::new(client.clone(), Arc::clone(&watched))),
            claims: Claims::default(),
            types: types(),
            watched,
            client,
            images,
            telemetry,
            unreadable: Mutex::default(),
        })
    }

    /// Begins to watch what all controllers need, for as long as the answer is held.
    pub fn watch(&self, scope: &Scope) -> (Streams, JoinSet<()>) {
        (Streams::start(&self.client, &self.watched, scope, &self.types), self.secrets.watch(scope))
    }
}

/// Why a turn failed; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The API server refused or did not answer.
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    /// An object could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// What was seen is no longer so; the watch tells.
    #[error("what was seen has changed meanwhile")]
    Stale,
    /// An object lacks what every object has.
    #[error("the resource has no {0}, which the API server always gives it")]
    Incomplete(&'static str),
}

impl ReconcileError {
    /// Whether somebody has changed what was seen.
    fn is_stale(&self) -> bool {
        matches!(self, Self::Stale) || matches!(self, Self::Api(kube::Error::Api(status)) if status.code == 409)
    }
}

/// Runs the controllers of a kind, one for each namespace of the scope, until a signal to stop.
pub async fn run<K: ServiceKind>(context: Arc<Context>, scope: &Scope) {
    let mut controllers = JoinSet::new();
    for namespace in scope.each() {
        controllers.spawn(control::<K>(Arc::clone(&context), namespace));
    }
    controllers.join_all().await;
}

async fn control<K: ServiceKind>(context: Arc<Context>, namespace: Option<String>) {
    let client = context.client.clone();
    let kind = K::kind(&()).into_owned();
    let api: Api<DeserializeGuard<K>> = match &namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let changed = context.watched.listen(&kind);
    let here = move |service: &ServiceKey| namespace.as_ref().is_none_or(|watched| *watched == service.namespace);
    let nudges = futures::stream::unfold(changed, async |mut changed| Some((changed.recv().await?, changed)))
        .filter(move |service| std::future::ready(here(service)))
        .map(|service| ObjectRef::<DeserializeGuard<K>>::new(&service.name).within(&service.namespace));
    let (reader, writer) = reflector::store();
    let noting = Arc::clone(&context);
    let services = watcher(api, watcher::Config::default())
        .default_backoff()
        .modify(|guarded: &mut DeserializeGuard<K>| guarded.meta_mut().managed_fields = None)
        .inspect_ok(move |told| note(&noting, told))
        .reflect(writer)
        .applied_objects();
    // Before everything is known, what is there would look as if it were not.
    context.watched.complete().await;
    let telemetry = context.telemetry.clone();
    Controller::for_stream(services, reader)
        .with_config(Config::default().concurrency(AT_ONCE).debounce(TOGETHER))
        .reconcile_on(nudges)
        .shutdown_on_signal()
        .run(reconcile::<K>, on_error::<K>, context)
        .for_each(async |result| {
            telemetry.turned(&kind, result.is_ok());
            if let Err(error) = result {
                tracing::debug!(%error, "a turn did not come to its end");
            }
        })
        .await;
}

/// Who wants which topics is known before the first turn.
fn note<K: ServiceKind>(context: &Context, told: &Told<DeserializeGuard<K>>) {
    match told {
        Told::InitApply(guarded) | Told::Apply(guarded) => {
            let (Some(key), Ok(service)) = (key_of::<K>(guarded.meta()), &guarded.0) else { return };
            let topics = topics::claimed(&key.namespace, &service.service().kafka, &topics::all(service, &key.name));
            let claimant = Claimant {
                since: guarded.meta().creation_timestamp.as_ref().map(|time| time.0),
                runs: service.status().is_some_and(|status| !status.partitions.is_empty()),
                uid: guarded.meta().uid.as_deref().unwrap_or_default(),
            };
            context.claims.note(key, claimant, topics);
        }
        Told::Delete(guarded) => {
            if let Some(key) = key_of::<K>(guarded.meta()) {
                context.claims.forget(&key);
                context.secrets.forget(&key);
                context.telemetry.forget(&key);
                context.unreadable.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            }
        }
        Told::Init | Told::InitDone => {}
    }
}

fn key_of<K: ServiceKind>(meta: &kube::api::ObjectMeta) -> Option<ServiceKey> {
    Some(ServiceKey { namespace: meta.namespace.clone()?, kind: K::kind(&()).into_owned(), name: meta.name.clone()? })
}

fn on_error<K: ServiceKind>(service: Arc<DeserializeGuard<K>>, error: &ReconcileError, _: Arc<Context>) -> Action {
    tracing::warn!(service = service.name_any(), %error, "trying again");
    Action::requeue(WHILE_WAITING)
}

/// One turn for one service.
async fn reconcile<K: ServiceKind>(
    guarded: Arc<DeserializeGuard<K>>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    if guarded.meta().deletion_timestamp.is_some() {
        return leave(&context, &guarded).await;
    }
    let service = match &guarded.0 {
        Ok(service) => service,
        Err(unreadable) => {
            let key = key_of::<K>(&unreadable.metadata).ok_or(ReconcileError::Incomplete("namespace"))?;
            return say_unreadable::<K>(&context, &key, unreadable).await;
        }
    };
    let now = match turn::turn(&context, service).await {
        Err(stale) if stale.is_stale() => {
            tracing::debug!(service = service.name_any(), %stale, "looking again");
            return Ok(Action::requeue(WHILE_WAITING));
        }
        done => done?,
    };
    let settled = now.is_settled();
    if let Some(key) = key_of::<K>(guarded.meta()) {
        context.telemetry.fares(&key, service.service().partitions, &now);
    }
    report(&context, service, now).await?;
    Ok(Action::requeue(if settled { WHEN_SETTLED } else { WHILE_WAITING }))
}

/// One turn for a service that is being deleted. What belongs to it goes by its owner references, and what outlives it stays.
async fn leave<K: ServiceKind>(context: &Context, guarded: &DeserializeGuard<K>) -> Result<Action, ReconcileError> {
    if !farewell::is_bound(guarded.meta()) {
        return Ok(Action::await_change());
    }
    let Ok(service) = &guarded.0 else {
        // Nobody can say which topics it has.
        farewell::bind::<K>(context, guarded.meta(), false).await?;
        return Ok(Action::await_change());
    };
    let names = turn::names_of(service)?;
    match farewell::part(context, service, &names).await? {
        Step::Release { topics_left } => {
            if topics_left {
                let topics: Vec<_> =
                    topics::all(service, &names.service).into_iter().map(|topic| topic.config.name).collect();
                let note =
                    format!("Kafka did not delete these topics in time, and they may be left: {}", topics.join(", "));
                publish(context, &service.object_ref(&()), true, "TopicsLeft".to_owned(), &note).await?;
            }
            Ok(Action::await_change())
        }
        Step::Wait(what) => {
            report(context, service, status::leaving(service.status(), what)).await?;
            Ok(Action::requeue(WHILE_WAITING))
        }
        // The watch tells when that is so.
        Step::Stop(_) | Step::Retire => Ok(Action::requeue(WHILE_WAITING)),
    }
}

/// Of an object that is stored and cannot be read, that much is said.
async fn say_unreadable<K: ServiceKind>(
    context: &Context,
    key: &ServiceKey,
    unreadable: &kube::core::error_boundary::InvalidObject,
) -> Result<Action, ReconcileError> {
    let generation = unreadable.metadata.generation;
    let said = format!("{generation:?} {}", unreadable.error);
    let known = context.unreadable.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), said.clone());
    if known == Some(said) {
        return Ok(Action::await_change());
    }
    let resource = ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &key.namespace, &resource);
    let message = status::unreadable_message(&unreadable.error);
    let patch = json!({ "status": status::unreadable(generation, &message) });
    match api.patch_status(&key.name, &PatchParams::apply(MANAGER), &Patch::Merge(&patch)).await {
        // What no schema allows takes no status either; the event says it.
        Err(kube::Error::Api(refused)) if refused.code == 422 => {}
        result => drop(result?),
    }
    let mut reference = ObjectRef::<DynamicObject>::new_with(&key.name, resource).within(&key.namespace);
    reference.extra.uid.clone_from(&unreadable.metadata.uid);
    publish(context, &reference.into(), true, "Unreadable".to_owned(), &message).await?;
    Ok(Action::await_change())
}

/// Writes the status if it has changed, and tells of changes for better or worse.
async fn report<K: ServiceKind>(context: &Context, service: &K, now: ServiceStatus) -> Result<(), ReconcileError> {
    if service.status() == Some(&now) {
        return Ok(());
    }
    let namespace = service.namespace().ok_or(ReconcileError::Incomplete("namespace"))?;
    let api: Api<K> = Api::namespaced(context.client.clone(), &namespace);
    let mut patch = json!({ "status": now });
    if now.reshard.is_none() {
        // What a merge does not name stays.
        patch["status"]["reshard"] = serde_json::Value::Null;
    }
    api.patch_status(&service.name_any(), &PatchParams::apply(MANAGER), &Patch::Merge(&patch)).await?;
    for Change { warning, reason, note } in changes(service.status(), &now) {
        publish(context, &service.object_ref(&()), warning, reason, &note).await?;
    }
    Ok(())
}

/// An event.
async fn publish(
    context: &Context,
    about: &ObjectReference,
    warning: bool,
    reason: String,
    note: &str,
) -> kube::Result<()> {
    let note = note.get(..note.floor_char_boundary(LONGEST_NOTE)).map(str::to_owned);
    let type_ = if warning { EventType::Warning } else { EventType::Normal };
    let event = Event { type_, reason, note, action: "Reconcile".to_owned(), secondary: None };
    context.recorder.publish(&event, about).await
}
