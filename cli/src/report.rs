//! `report`: all that somebody who helps would ask for, without secrets.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DynamicObject, ListParams, LogParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use shardlane_operator::build::names::Component;
use shardlane_operator::controller;

use crate::access::{Access, Failure, Service};

/// Lines of each container's log.
const LINES: i64 = 200;
/// What stands for a secret.
const HIDDEN: &str = "(hidden)";

/// Writes it.
pub async fn write(access: &Access, name: &str, file: Option<&Path>) -> Result<ExitCode, Failure> {
    let service = access.service(name).await?;
    let report = serde_yaml::to_string(&gather(access, &service).await?)?;
    match file {
        Some(file) => {
            std::fs::write(file, report)?;
            println!(
                "{} says how {} is. Secrets are not in it; look through it before you send it all the same.",
                file.display(),
                name
            );
        }
        None => std::io::stdout().write_all(report.as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn gather(access: &Access, service: &Service) -> Result<Value, Failure> {
    let (namespace, name) = (service.namespace(), service.object.name_any());
    let labels = format!("app.kubernetes.io/instance={name},shardlane.dev/kind={}", service.resource.kind);
    let labelled = ListParams::default().labels(&labels);
    let mut objects = Vec::new();
    for resource in controller::types() {
        let api: Api<DynamicObject> = Api::namespaced_with(access.client.clone(), &namespace, &resource);
        match api.list(&labelled).await {
            Ok(list) => objects.extend(list.items.into_iter().map(|object| shown(&resource, &object))),
            Err(kube::Error::Api(status)) => objects.push(json!({ "kind": resource.kind, "refused": status.message })),
            Err(error) => return Err(error.into()),
        }
    }
    let pods: Api<Pod> = Api::namespaced(access.client.clone(), &namespace);
    let (mut logs, mut statuses) = (json!({}), json!({}));
    for pod in pods.list(&labelled).await?.items {
        let pod_name = pod.name_any();
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod_name}:9090/proxy/status");
        if [Component::Worker, Component::Stateless, Component::Mover].iter().any(|part| part.is_of(pod.labels())) {
            let (code, text) = access.ask(&path, None).await?;
            statuses[&pod_name] = serde_json::from_str(&text).unwrap_or_else(|_| json!(format!("{code}: {text}")));
        }
        let params = LogParams { tail_lines: Some(LINES), timestamps: true, ..LogParams::default() };
        logs[&pod_name] = match pods.logs(&pod_name, &params).await {
            Ok(text) => text.lines().map(|line| redacted(line).into()).collect::<Vec<Value>>().into(),
            Err(error) => json!(error.to_string()),
        };
    }
    let version = access.client.apiserver_version().await?;
    Ok(json!({
        "plugin": env!("CARGO_PKG_VERSION"),
        "kubernetes": version.git_version,
        "service": shown(&service.resource, &service.object),
        "events": events(access, &namespace, &name).await?,
        "workers": statuses,
        "objects": objects,
        "logs": logs,
    }))
}

/// Events about the service and its parts, whose names begin with its own.
async fn events(access: &Access, namespace: &str, name: &str) -> Result<Vec<Value>, Failure> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Event"));
    let api: Api<DynamicObject> = Api::namespaced_with(access.client.clone(), namespace, &resource);
    let about = |event: &DynamicObject| {
        let of = event.data.pointer("/involvedObject/name").and_then(Value::as_str).unwrap_or_default();
        of == name || of.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
    };
    let found = api.list(&ListParams::default()).await?.items;
    let shown = |event: DynamicObject| {
        let field = |pointer| event.data.pointer(pointer).cloned().unwrap_or_default();
        json!({
            "about": format!("{}/{}", field("/involvedObject/kind").as_str().unwrap_or_default(),
                field("/involvedObject/name").as_str().unwrap_or_default()),
            "type": field("/type"), "reason": field("/reason"), "note": field("/message"),
            "last": field("/lastTimestamp"), "count": field("/count"),
        })
    };
    Ok(found.into_iter().filter(about).map(shown).collect())
}

/// An object as it may be shown.
fn shown(resource: &ApiResource, object: &DynamicObject) -> Value {
    let mut metadata = object.metadata.clone();
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    let mut value = json!({ "apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata });
    for (field, part) in object.data.as_object().into_iter().flatten() {
        value[field] = part.clone();
    }
    redact(&mut value);
    value
}

/// Hides what looks like a credential. None should be in what is reported: passwords live in Secrets, which are not read.
fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                let telling = ["password", "token", "secretkey"].iter().any(|word| key.to_lowercase().contains(word));
                match field {
                    Value::String(text) if telling => HIDDEN.clone_into(text),
                    other => redact(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::String(text) => *text = redacted(text),
        _ => {}
    }
}

/// Hides the password of every address in a text: `scheme://user:password@host`.
fn redacted(text: &str) -> String {
    let mut parts = text.split("://");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\'')).unwrap_or(part.len());
        let hidden = part[..end].rfind('@').and_then(|at| Some((part[..at].find(':')?, at)));
        shown += "://";
        match hidden {
            Some((colon, at)) => shown += &format!("{}:{HIDDEN}{}", &part[..colon], &part[at..]),
            None => shown += part,
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_hidden_wherever_they_stand() {
        let mut value = json!({
            "env": [{ "name": "X", "value": "postgresql://app:hunter2@db:5432/app" }],
            "saslPassword": "hunter2",
            "secretRef": { "name": "shown" },
            "note": "cannot reach postgresql://app:hun@ter2@db/app, nor http://host:80/path",
        });
        redact(&mut value);
        let text = value.to_string();
        assert!(!text.contains("hunter2") && !text.contains("ter2"), "{text}");
        assert!(text.contains("app:(hidden)@db:5432/app") && text.contains("shown"), "{text}");
        assert!(text.contains("http://host:80/path"), "{text}");
    }
}
