//! Writing objects: one way for all types, only what is not so already, and what is no longer wanted goes.

use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::ApiResource;
use kube::{Api, Client, ResourceExt};

use crate::build::names::{Component, MANAGER, Names};
use crate::build::{BuildError, Object};
use crate::watched::{Applied, Fingerprint, ObjectKey, Objects, Seen, Watched};

use super::ReconcileError;

/// Applies objects, in order. One that was applied before, and that nobody has changed since, is left alone. One with a resource
/// version is only changed from that.
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
        let wanted = fingerprint(object).map_err(BuildError::from)?;
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

/// Of what is wanted, of which what counts the writes says nothing.
fn fingerprint(object: &DynamicObject) -> serde_json::Result<Fingerprint> {
    let text = match &object.metadata.resource_version {
        None => serde_json::to_string(object)?,
        Some(_) => {
            let mut lasting = object.clone();
            lasting.metadata.resource_version = None;
            serde_json::to_string(&lasting)?
        }
    };
    Ok(Fingerprint::of_text(&text))
}

/// What the service owns and no longer has. What outlives a service is never among it, nor is what moves its slots: that goes in
/// an order of its own.
pub fn orphans<'a>(names: &Names, there: &'a Objects, wanted: &[Object]) -> Vec<(&'a ObjectKey, &'a Seen)> {
    let kept = |key: &ObjectKey| {
        wanted.iter().any(|object| object.resource.kind == key.kind && object.object.name_any() == key.name)
    };
    let moves = |key: &ObjectKey, seen: &Seen| {
        key.kind == "Job" && seen.metadata.labels.as_ref().is_some_and(|labels| Component::Mover.is_of(labels))
    };
    let goes = |key: &ObjectKey, seen: &Seen| seen.metadata.deletion_timestamp.is_some() || moves(key, seen);
    let ours = there.iter().filter(|(_, seen)| seen.is_owned_by(&names.owner.uid));
    ours.filter(|(key, seen)| !kept(key) && !goes(key, seen)).collect()
}

/// Deletes objects of these types.
pub async fn delete_all(
    client: &Client,
    types: &[ApiResource],
    names: &Names,
    objects: &[(&ObjectKey, &Seen)],
) -> kube::Result<()> {
    for (key, seen) in objects {
        let Some(resource) = types.iter().find(|resource| resource.kind == key.kind) else { continue };
        tracing::info!(service = names.service, object = format!("{}/{}", key.kind, key.name), "deleting an orphan");
        delete(client, resource, names, seen, DeleteParams::background()).await?;
    }
    Ok(())
}

/// Deletes the very object that was seen, and not another that has its name by now.
pub async fn delete(
    client: &Client,
    resource: &ApiResource,
    names: &Names,
    seen: &Seen,
    how: DeleteParams,
) -> kube::Result<()> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &names.namespace, resource);
    let this = Preconditions { uid: seen.metadata.uid.clone(), ..Preconditions::default() };
    let params = DeleteParams { preconditions: Some(this), ..how };
    match api.delete(seen.metadata.name.as_deref().unwrap_or_default(), &params).await {
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        done => done.map(drop),
    }
}
