//! Writing objects: one way for all types, and what is no longer wanted goes.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::ApiResource;
use kube::{Api, Client, ResourceExt};

use crate::build::Object;
use crate::build::names::{MANAGER, Names};

/// Applies objects, in order.
pub async fn apply(client: &Client, names: &Names, objects: &[Object]) -> kube::Result<()> {
    let params = PatchParams::apply(MANAGER).force();
    for Object { resource, object } in objects {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &names.namespace, resource);
        api.patch(&object.name_any(), &params, &Patch::Apply(object)).await?;
    }
    Ok(())
}

/// Deletes what the service owned and no longer has. Shards are never among it: they are data.
pub async fn delete_orphans(client: &Client, names: &Names, wanted: &[Object]) -> kube::Result<()> {
    let ours = ListParams::default().labels(&names.all());
    let types = [
        ApiResource::erase::<StatefulSet>(&()),
        ApiResource::erase::<Deployment>(&()),
        ApiResource::erase::<Job>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<ConfigMap>(&()),
    ];
    for resource in types {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &names.namespace, &resource);
        for found in api.list_metadata(&ours).await? {
            let owned = found.owner_references().iter().any(|owner| owner.uid == names.owner.uid);
            let name = found.name_any();
            let kept = wanted.iter().any(|object| {
                object.resource.kind == resource.kind && object.object.metadata.name.as_deref() == Some(&*name)
            });
            if owned && !kept {
                tracing::info!(
                    service = names.service,
                    object = format!("{}/{name}", resource.kind),
                    "deleting an orphan"
                );
                api.delete(&name, &DeleteParams::background()).await?;
            }
        }
    }
    Ok(())
}
