//! The controller: one for each kind, all the same. Reads, decides, builds, applies, says what it found.

pub mod apply;
mod complaints;
pub mod dereference;
pub mod status;
pub mod validate;
pub mod workers;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::api::status::{Phase, ServiceStatus};
use crate::build::names::{MANAGER, Names};
use crate::build::{self, BuildError, Plan, shards};
use crate::identity::Identity;
use crate::images::Images;
use crate::kind::ServiceKind;
use crate::telemetry::Telemetry;
use dereference::{Found, dereference};
use status::{Change, Facts, changes, status};
use validate::Obstacle;

/// How often a service that waits is looked at besides what watches tell: Clusters and Secrets are not watched.
const WHILE_WAITING: Duration = Duration::from_secs(3);
/// How often a service is looked at when all is well.
///
/// Nothing tells when a worker halts a slot, so this is how long it may take until somebody is told.
const WHEN_SETTLED: Duration = Duration::from_secs(30);
/// The most bytes that the API server takes as an event's note.
const LONGEST_NOTE: usize = 1024;

/// What a controller needs.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// This release's images.
    pub images: Images,
    /// Asks workers.
    http: reqwest::Client,
    telemetry: Telemetry,
    recorder: Recorder,
}

impl Context {
    /// A context of this operator.
    pub fn new(client: Client, images: Images, telemetry: Telemetry) -> reqwest::Result<Self> {
        let reporter = Reporter { controller: "shardlane".to_owned(), instance: None };
        let recorder = Recorder::new(client.clone(), reporter);
        Ok(Self { recorder, http: workers::client()?, client, images, telemetry })
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
    /// An object lacks what every object has.
    #[error("the resource has no {0}, which the API server always gives it")]
    Incomplete(&'static str),
}

/// Watches a kind until the shutdown.
pub async fn run<K: ServiceKind>(context: Arc<Context>) {
    let client = context.client.clone();
    let telemetry = context.telemetry.clone();
    let kind = K::kind(&());
    let all = || watcher::Config::default();
    Controller::new(Api::<K>::all(client.clone()), all())
        .owns(Api::<StatefulSet>::all(client.clone()), all())
        .owns(Api::<Deployment>::all(client.clone()), all())
        .owns(Api::<Job>::all(client.clone()), all())
        .owns(Api::<ConfigMap>::all(client), all())
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

fn on_error<K: ServiceKind>(service: Arc<K>, error: &ReconcileError, _: Arc<Context>) -> Action {
    tracing::warn!(service = service.name_any(), %error, "trying again");
    Action::requeue(WHILE_WAITING)
}

/// One turn for one service.
async fn reconcile<K: ServiceKind>(service: Arc<K>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    if service.meta().deletion_timestamp.is_some() {
        // What belongs to the service goes by its owner references, and what outlives it stays.
        return Ok(Action::await_change());
    }
    let names = names_of(&*service)?;
    let spec = service.service();
    let image = image_of(&*service, &context.images);
    let fixed = service.fixed().map_err(BuildError::from)?;
    let turn = match dereference::identity(&context.client, &names).await? {
        Some(Err(broken)) => {
            Turn::stopped(Obstacle { reason: "IdentityBroken", message: broken.to_string(), passes: false })
        }
        Some(Ok(identity)) => match validate::identity(spec, &fixed, &identity) {
            Ok(()) => run_turn(&context, &*service, &names, Identity { fixed, ..identity }, &image)
                .await
                .or_else(|error| refused(error).map(Turn::stopped))?,
            Err(obstacle) => Turn::stopped(obstacle),
        },
        None => {
            let identity = Identity {
                service_id: uuid::Uuid::new_v4().to_string(),
                partitions: spec.partitions,
                max_partitions: spec.max_partitions,
                fixed,
                placed: false,
            };
            // Created, never applied: of two operators at once, the second must find the first one's.
            dereference::record(&context.client, &names, &identity.first_config_map(&names)).await?;
            return Ok(Action::requeue(Duration::ZERO));
        }
    };
    let facts = Facts {
        generation: service.meta().generation,
        names: &names,
        identity: turn.identity.as_ref(),
        shards: &turn.shards,
        found: &turn.found,
        init_job: turn.init_job.as_deref(),
        gateways: spec.gateway.replicas,
        obstacle: turn.obstacle,
        unfulfilled: turn.identity.as_ref().and_then(|identity| validate::unfulfilled(spec, identity)),
        image: Some(default_image(&*service, &context.images)),
    };
    let now = status(&facts, service.status());
    let settled = now.phase == Phase::Running;
    report(&context, &*service, &names, now).await?;
    Ok(Action::requeue(if settled { WHEN_SETTLED } else { WHILE_WAITING }))
}

/// What a turn found and did.
#[derive(Default)]
struct Turn {
    identity: Option<Identity>,
    shards: Vec<shards::ShardSource>,
    found: Found,
    init_job: Option<String>,
    obstacle: Option<Obstacle>,
}

impl Turn {
    fn stopped(obstacle: Obstacle) -> Self {
        Self { obstacle: Some(obstacle), ..Self::default() }
    }
}

/// What the API server will refuse again until somebody acts is said in the status; everything else is tried again.
fn refused(error: ReconcileError) -> Result<Obstacle, ReconcileError> {
    match error {
        ReconcileError::Api(kube::Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => Ok(Obstacle {
            reason: "ApplyRefused",
            message: format!("the API server refuses an object of this service: {}", status.message),
            passes: false,
        }),
        error => Err(error),
    }
}

async fn run_turn<K: ServiceKind>(
    context: &Context,
    service: &K,
    names: &Names,
    identity: Identity,
    image: &str,
) -> Result<Turn, ReconcileError> {
    let client = &context.client;
    let mut identity = identity;
    let mut shards = shards::sources(names, &service.service().postgres, identity.partitions);
    let found = dereference(client, &context.http, names, &shards).await?;
    for shard in &mut shards {
        shard.version = found.secrets.get(&shard.secret).map(|secret| secret.version.clone());
    }
    // An init Job of this service has succeeded at some time: from now on, an empty shard is a lost one.
    identity.placed |= found.jobs.values().any(|job| job.status.as_ref().is_some_and(|s| s.succeeded > Some(0)));
    let plan = Plan {
        service,
        names: names.clone(),
        identity: identity.clone(),
        shards: shards.clone(),
        image: image.to_owned(),
        images: &context.images,
    };
    let mut turn = Turn { identity: Some(identity), shards, found, ..Turn::default() };
    let mut wanted = build::foundation(&plan)?;
    if let Err(obstacle) = validate::shards(&turn.shards, &turn.found) {
        // Without CloudNativePG's CRD its Clusters cannot be applied.
        wanted.retain(|object| turn.found.clusters.is_some() || object.resource.group != "postgresql.cnpg.io");
        apply::apply(client, names, &wanted).await?;
        turn.obstacle = Some(obstacle);
        return Ok(turn);
    }
    wanted.extend(build::processes(&plan)?);
    apply::apply(client, names, &wanted).await?;
    apply::delete_orphans(client, names, &wanted).await?;
    let job = wanted.iter().find(|object| object.resource.kind == "Job");
    turn.init_job = job.and_then(|job| job.object.metadata.name.clone());
    Ok(turn)
}

fn names_of<K: ServiceKind>(service: &K) -> Result<Names, ReconcileError> {
    Ok(Names {
        service: service.name_any(),
        namespace: service.namespace().ok_or(ReconcileError::Incomplete("namespace"))?,
        kind: K::kind(&()).into_owned(),
        owner: service.controller_owner_ref(&()).ok_or(ReconcileError::Incomplete("uid"))?,
    })
}

/// The image of workers that the spec does not name: the one that was current when the resource was made.
fn default_image<'a, K: ServiceKind>(service: &'a K, images: &'a Images) -> &'a str {
    let recorded = service.status().and_then(|status| status.image.as_deref());
    recorded.unwrap_or_else(|| K::default_image(images))
}

fn image_of<K: ServiceKind>(service: &K, images: &Images) -> String {
    let named = service.service().worker.image.clone();
    named.unwrap_or_else(|| default_image(service, images).to_owned())
}

/// Writes the status if it has changed, and tells of changes for better or worse.
async fn report<K: ServiceKind>(
    context: &Context,
    service: &K,
    names: &Names,
    now: ServiceStatus,
) -> Result<(), ReconcileError> {
    if service.status() == Some(&now) {
        return Ok(());
    }
    let api: Api<K> = Api::namespaced(context.client.clone(), &names.namespace);
    let patch = json!({ "status": now });
    api.patch_status(&names.service, &PatchParams::apply(MANAGER), &Patch::Merge(&patch)).await?;
    for Change { warning, reason, note } in changes(service.status(), &now) {
        let note = note.get(..note.floor_char_boundary(LONGEST_NOTE)).map(str::to_owned);
        let type_ = if warning { EventType::Warning } else { EventType::Normal };
        let event = Event { type_, reason, note, action: "Reconcile".to_owned(), secondary: None };
        context.recorder.publish(&event, &service.object_ref(&())).await?;
    }
    Ok(())
}
