//! An object, cut down.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use kube::api::{DynamicObject, ObjectMeta};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::build::names::{INSTANCE, identity_of};

/// Changes when an object does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u64);

impl Fingerprint {
    /// Of a text.
    pub fn of_text(text: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        Self(hasher.finish())
    }

    /// Of everything that somebody wrote into an object: not of its status, nor of what counts the writes.
    pub fn of(object: &DynamicObject) -> Self {
        let metadata =
            ObjectMeta { managed_fields: None, resource_version: None, generation: None, ..object.metadata.clone() };
        let mut data = object.data.clone();
        if let Some(fields) = data.as_object_mut() {
            fields.remove("status");
        }
        // In the order of the keys, so the same object gives the same text.
        Self::of_text(&json!({ "metadata": metadata, "data": data }).to_string())
    }
}

/// What is kept of an object.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Of the whole object.
    pub fingerprint: Fingerprint,
    /// Name, labels, owners and what a controller must know; our own annotations only. The version, of an identity alone.
    pub metadata: ObjectMeta,
    /// Its status, the data of an identity, and whether a Job is stopped.
    kept: Value,
}

impl Seen {
    /// Cuts an object down.
    pub fn of(object: DynamicObject) -> Self {
        let fingerprint = Fingerprint::of(&object);
        let DynamicObject { metadata, data, .. } = object;
        let service = metadata.labels.as_ref().and_then(|labels| labels.get(INSTANCE));
        let is_identity = service.is_some_and(|service| metadata.name == Some(identity_of(service)));
        let mut kept = json!({});
        for (field, value) in data.as_object().into_iter().flatten() {
            match &**field {
                "status" => kept["status"] = status(value),
                "data" if is_identity => kept["data"] = value.clone(),
                "spec" if value.get("suspend").is_some() => kept["spec"] = json!({ "suspend": value["suspend"] }),
                _ => {}
            }
        }
        // An identity is only ever changed from what it was seen to be.
        let resource_version = metadata.resource_version.clone().filter(|_| is_identity);
        Self { fingerprint, metadata: ObjectMeta { resource_version, ..cut(metadata) }, kept }
    }

    /// As an object of its type, without its spec.
    pub fn typed<K: DeserializeOwned>(&self) -> Option<K> {
        let mut value = self.kept.clone();
        value["metadata"] = serde_json::to_value(&self.metadata).ok()?;
        serde_json::from_value(value).ok()
    }

    /// Its status alone.
    pub fn status<S: DeserializeOwned>(&self) -> Option<S> {
        serde_json::from_value(self.kept.get("status")?.clone()).ok()
    }

    /// Whether it belongs to the resource with this uid.
    pub fn is_owned_by(&self, uid: &str) -> bool {
        self.metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid)
    }
}

fn cut(metadata: ObjectMeta) -> ObjectMeta {
    let ours = |(key, _): &(String, String)| key.starts_with("shardlane.dev/");
    let annotations: BTreeMap<_, _> = metadata.annotations.into_iter().flatten().filter(ours).collect();
    ObjectMeta {
        annotations: (!annotations.is_empty()).then_some(annotations),
        managed_fields: None,
        resource_version: None,
        ..metadata
    }
}

/// A pod's status is long, and little of it matters.
fn status(whole: &Value) -> Value {
    if whole.get("containerStatuses").is_none() && whole.get("podIP").is_none() {
        return whole.clone();
    }
    let fields = ["phase", "podIP", "containerStatuses", "initContainerStatuses"];
    let kept = |field: &str| Some((field.to_owned(), whole.get(field)?.clone()));
    let mut status: serde_json::Map<_, _> = fields.into_iter().filter_map(kept).collect();
    // Why it has no node.
    let mut conditions = whole.get("conditions").and_then(Value::as_array).into_iter().flatten();
    if let Some(scheduled) = conditions.find(|condition| condition["type"] == "PodScheduled") {
        status.insert("conditions".to_owned(), json!([scheduled]));
    }
    Value::Object(status)
}
