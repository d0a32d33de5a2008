//! What a deleted service leaves outside the cluster: topics of a Kafka that is somebody else's. Everything else goes by its
//! owner references, without anybody's doing.

use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams};
use kube::core::ApiResource;
use serde_json::json;

use super::dereference::has_succeeded;
use super::{Context, ReconcileError, apply};
use crate::api::common::DeletionPolicy;
use crate::build::kafka::Kafka;
use crate::build::names::{MANAGER, Names};
use crate::build::{Object, Plan, retire};
use crate::identity::Identity;
use crate::kind::ServiceKind;
use crate::watched::{ObjectKey, Objects};

/// Holds up the resource's deletion until its topics are deleted, or cannot be.
pub const FINALIZER: &str = "shardlane.dev/topics";
/// How long each of the two may take: the service's processes to end, and the topics to be deleted. A Kafka that is gone for
/// good must not keep the resource for ever.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Whether something outside has to be released when the resource is deleted.
pub fn is_needed<K: ServiceKind>(service: &K) -> bool {
    let spec = service.service();
    spec.deletion_policy == DeletionPolicy::Delete && spec.kafka.external.is_some()
}

/// Whether the resource waits for us.
pub fn is_bound(meta: &ObjectMeta) -> bool {
    meta.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// Sets the finalizer, or takes it away.
pub async fn bind<K: ServiceKind>(context: &Context, meta: &ObjectMeta, bound: bool) -> kube::Result<()> {
    let (resource, name) = (ApiResource::erase::<K>(&()), meta.name.as_deref().unwrap_or_default());
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), namespace, &resource);
    let finalizers = if bound { vec![FINALIZER] } else { Vec::new() };
    // The very resource that was seen: another of that name is not ours to change.
    let patch = json!({
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": { "name": name, "uid": meta.uid, "finalizers": finalizers },
    });
    match api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&patch)).await {
        // It is gone, or another has its name by now.
        Err(kube::Error::Api(status)) if !bound && matches!(status.code, 404 | 409 | 422) => Ok(()),
        result => result.map(drop),
    }
}

/// What is to be done next for a service that is being deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// End what could write into a topic, or make it anew.
    Stop(Vec<ObjectKey>),
    /// Wait for this.
    Wait(&'static str),
    /// Have the topics deleted.
    Retire,
    /// Let the resource go.
    Release {
        /// Whether topics may be left.
        topics_left: bool,
    },
}

/// The next step: pure. `now` is only compared with what the API server has noted.
pub fn step(names: &Names, there: &Objects, deleted: Option<&Time>, now: Timestamp) -> Step {
    let late = |since: Option<&Time>| since.is_none_or(|since| now.duration_since(since.0).unsigned_abs() > PATIENCE);
    let retire = there.of::<Job>().remove(&names.retire());
    if let Some(job) = retire {
        return match (has_succeeded(&job), late(job.metadata.creation_timestamp.as_ref())) {
            (true, _) => Step::Release { topics_left: false },
            (false, true) => Step::Release { topics_left: true },
            (false, false) => Step::Wait("the topics to be deleted"),
        };
    }
    let of_processes = |key: &ObjectKey| matches!(&*key.kind, "StatefulSet" | "Deployment" | "Job");
    let running = there.iter().filter(|(key, seen)| of_processes(key) && seen.metadata.deletion_timestamp.is_none());
    let running: Vec<_> = running.map(|(key, _)| key.clone()).collect();
    if !running.is_empty() {
        return Step::Stop(running);
    }
    if there.iter().any(|(key, _)| key.kind == "Pod") && !late(deleted) {
        return Step::Wait("the service's pods to end");
    }
    Step::Retire
}

/// Takes the next step. Gives what is to be said of it.
pub async fn part<K: ServiceKind>(context: &Context, service: &K, names: &Names) -> Result<Step, ReconcileError> {
    let there = context.watched.objects(&names.key());
    if !is_needed(service) {
        bind::<K>(context, service.meta(), false).await?;
        return Ok(Step::Release { topics_left: false });
    }
    let step = step(names, &there, service.meta().deletion_timestamp.as_ref(), Timestamp::now());
    match &step {
        Step::Wait(_) => {}
        Step::Stop(running) => {
            for key in running {
                delete(context, names, key, &there).await?;
            }
        }
        Step::Retire => retire_topics(context, service, names).await?,
        Step::Release { .. } => {
            let job = ObjectKey { kind: "Job".to_owned(), name: names.retire() };
            delete(context, names, &job, &there).await?;
            bind::<K>(context, service.meta(), false).await?;
        }
    }
    Ok(step)
}

async fn retire_topics<K: ServiceKind>(context: &Context, service: &K, names: &Names) -> Result<(), ReconcileError> {
    // The recorded one may be gone already, and topics do not depend on it.
    let identity = Identity { max_partitions: service.service().max_partitions, placed: true, ..Identity::default() };
    let plan = Plan {
        service,
        names: names.clone(),
        identity,
        shards: Vec::new(),
        kafka: service.service().kafka.external.as_ref().map(Kafka::external).unwrap_or_default(),
        acls: false,
        credentials: Default::default(),
        image: String::new(),
        redis_image: String::new(),
        images: &context.images,
    };
    apply::apply(&context.client, &context.watched, names, &[Object::new(&retire::job(&plan)?)?]).await
}

async fn delete(context: &Context, names: &Names, key: &ObjectKey, there: &Objects) -> kube::Result<()> {
    let resource = context.types.iter().find(|resource| resource.kind == key.kind);
    match resource.zip(there.get(&key.kind, &key.name)) {
        Some((resource, seen)) => {
            apply::delete(&context.client, resource, names, seen, DeleteParams::background()).await
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watched::Seen;

    fn names() -> Names {
        Names {
            service: "demo".to_owned(),
            namespace: "shop".to_owned(),
            kind: "X".to_owned(),
            owner: Default::default(),
        }
    }

    fn there(objects: &[(&str, &str, serde_json::Value)]) -> Objects {
        let seen = |(kind, name, rest): &(&str, &str, serde_json::Value)| {
            let mut object = json!({ "metadata": { "name": name, "creationTimestamp": "2026-01-01T00:00:00Z" } });
            if let (Some(object), Some(rest)) = (object.as_object_mut(), rest.as_object()) {
                object.extend(rest.clone());
            }
            let key = ObjectKey { kind: (*kind).to_owned(), name: (*name).to_owned() };
            (key, Seen::of(serde_json::from_value(object).unwrap()))
        };
        objects.iter().map(seen).collect()
    }

    fn after(seconds: i64, objects: &[(&str, &str, serde_json::Value)]) -> Step {
        let deleted: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let now = Timestamp::from_second(deleted.as_second() + seconds).unwrap();
        step(&names(), &there(objects), Some(&Time(deleted)), now)
    }

    #[test]
    fn processes_end_before_topics_are_deleted() {
        let set = ("StatefulSet", "demo-0", json!({}));
        let pod = ("Pod", "demo-0-0", json!({}));
        let key = ObjectKey { kind: "StatefulSet".to_owned(), name: "demo-0".to_owned() };
        assert_eq!(after(1, &[set, pod.clone()]), Step::Stop(vec![key]));
        assert!(matches!(after(1, &[pod]), Step::Wait(_)));
        assert_eq!(after(1, &[]), Step::Retire);
    }

    #[test]
    fn the_resource_goes_when_topics_are_deleted() {
        let job = |status| ("Job", "demo-retire", json!({ "status": status }));
        assert!(matches!(after(1, &[job(json!({}))]), Step::Wait(_)));
        assert_eq!(after(1, &[job(json!({ "succeeded": 1 }))]), Step::Release { topics_left: false });
    }

    #[test]
    fn nothing_holds_it_up_for_ever() {
        let pod = ("Pod", "demo-0-0", json!({}));
        assert_eq!(after(200, &[pod]), Step::Retire, "a node that is gone");
        let job = ("Job", "demo-retire", json!({ "status": { "failed": 3 } }));
        assert_eq!(after(200, &[job]), Step::Release { topics_left: true }, "a Kafka that is gone");
    }
}
