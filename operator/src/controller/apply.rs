//! Writing objects: one way for all types, only what is not so already, and what is no longer wanted goes.

use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::ApiResource;
use kube::{Api, Client, ResourceExt};

use crate::build::names::{MANAGER, Names};
use crate::build::{BuildError, Object};
use crate::watched::{Applied, Fingerprint, ObjectKey, Objects, Seen, Watched};

use super::ReconcileError;

/// Applies objects, in order. One that was applied before, and that nobody has changed since, is left alone.
pub async fn apply(
    client: &Client,
    watched: &Watched,
    names: &Names,
    objects: &[Object],
) -> Result<(), ReconcileError> {
    let params = PatchParams::apply(MANAGER).force();
    let service = names.key();
    let there = watched.objects(&service);
    for Object { resource, object } in objects {
        let key = ObjectKey { kind: resource.kind.clone(), name: object.name_any() };
        let wanted = Fingerprint::of_text(&serde_json::to_string(object).map_err(BuildError::from)?);
        // What the watch does not know yet is as it was applied.
        let now = there.get(&key.kind, &key.name).map(|seen| seen.fingerprint);
        let same = |last: Applied| last.wanted == wanted && now.is_none_or(|now| now == last.became);
        if watched.applied(&service, &key).is_some_and(same) {
            continue;
        }
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &names.namespace, resource);
        let answer = api.patch(&key.name, &params, &Patch::Apply(object)).await?;
        tracing::debug!(service = names.service, object = format!("{}/{}", key.kind, key.name), "applied");
        watched.note(&service, key, Applied { wanted, became: Fingerprint::of(&answer) });
    }
    Ok(())
}

/// Deletes what the service owns and no longer has. What outlives a service is never among it.
pub async fn delete_orphans(
    client: &Client,
    types: &[ApiResource],
    names: &Names,
    there: &Objects,
    wanted: &[Object],
) -> kube::Result<()> {
    for (key, seen) in there.iter() {
        let kept = wanted.iter().any(|object| object.resource.kind == key.kind && object.object.name_any() == key.name);
        let Some(resource) = types.iter().find(|resource| resource.kind == key.kind) else { continue };
        if kept || !seen.is_owned_by(&names.owner.uid) || seen.metadata.deletion_timestamp.is_some() {
            continue;
        }
        tracing::info!(service = names.service, object = format!("{}/{}", key.kind, key.name), "deleting an orphan");
        delete(client, resource, names, seen).await?;
    }
    Ok(())
}

/// Deletes the very object that was seen, and not another that has its name by now.
pub async fn delete(client: &Client, resource: &ApiResource, names: &Names, seen: &Seen) -> kube::Result<()> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &names.namespace, resource);
    let this = Preconditions { uid: seen.metadata.uid.clone(), ..Preconditions::default() };
    let params = DeleteParams { preconditions: Some(this), ..DeleteParams::background() };
    match api.delete(seen.metadata.name.as_deref().unwrap_or_default(), &params).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        done => done.map(drop),
    }
}
