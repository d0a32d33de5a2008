//! `status`, `pause` and `resume`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use futures::future::join_all;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shardlane_operator::api::status::{PartitionStatus, Phase, ServiceStatus};

use crate::access::{Access, Failure, Service};
use crate::table::{Mood, colours, columns, paint};

/// A service and what is known of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    kind: String,
    namespace: String,
    name: String,
    /// Whether the operator has seen the spec as it is now.
    current: bool,
    status: ServiceStatus,
    /// Records that are not yet applied, by partition; of workers that answer.
    lag: BTreeMap<u32, u64>,
}

/// What a worker says of itself, of which only the lag is needed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WorkerStatus {
    slots: Vec<WorkerSlot>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WorkerSlot {
    lag: Option<u64>,
}

/// One service, or all.
pub async fn services(access: &Access, name: Option<&str>, everywhere: bool) -> Result<Vec<Told>, Failure> {
    let services = match name {
        Some(name) => vec![access.service(name).await?],
        None => access.services(everywhere).await?,
    };
    Ok(join_all(services.iter().map(|service| told(access, service))).await)
}

async fn told(access: &Access, service: &Service) -> Told {
    let status = service.object.data.get("status").cloned().unwrap_or_default();
    let status: ServiceStatus = serde_json::from_value(status).unwrap_or_default();
    let namespace = service.namespace();
    let lags = status.partitions.iter().map(async |partition| {
        // A worker that does not answer has its say in the conditions.
        let worker: WorkerStatus = access.says(&namespace, &partition.worker).await?;
        Some((partition.partition, worker.slots.iter().filter_map(|slot| slot.lag).sum()))
    });
    let lag = join_all(lags).await.into_iter().flatten().collect();
    Told {
        kind: service.resource.kind.clone(),
        current: status.observed_generation == service.object.metadata.generation,
        name: service.object.name_any(),
        namespace,
        status,
        lag,
    }
}

/// Prints them. The exit code says whether all are ready.
pub fn show(services: &[Told], as_json: bool) -> Result<ExitCode, Failure> {
    if as_json {
        println!("{}", serde_json::to_string_pretty(services)?);
    } else if services.is_empty() {
        println!("There are no services here. kubectl shardlane status -A looks in all namespaces.");
    } else {
        let texts: Vec<_> = services.iter().map(|service| text(service, colours())).collect();
        print!("{}", texts.join("\n"));
    }
    let ready = services.iter().all(|service| service.current && holds(&service.status, "Ready"));
    Ok(if ready { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

fn holds(status: &ServiceStatus, condition: &str) -> bool {
    status.conditions.iter().any(|found| found.type_ == condition && found.status == "True")
}

/// A service, for a person.
fn text(told: &Told, colours: bool) -> String {
    let Told { kind, namespace, name, status, .. } = told;
    let mood = match status.phase {
        Phase::Running => Mood::Good,
        Phase::Preparing | Phase::Pending => Mood::Busy,
        Phase::Degraded => Mood::Bad,
    };
    let phase = paint(&format!("{:?}", status.phase), mood, colours);
    let mut text = format!("{kind} {namespace}/{name}: {phase}, {} partitions ready\n", status.ready);
    if !told.current {
        text += "  The operator has not seen the last change of it yet.\n";
    }
    let shown = |condition: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
        condition.type_ == "Ready" || condition.status == "True"
    };
    let conditions: Vec<_> = status
        .conditions
        .iter()
        .filter(shown)
        .map(|condition| {
            let good = (condition.type_ == "Ready") == (condition.status == "True");
            let mood = match &*condition.type_ {
                _ if good && condition.type_ == "Ready" => Mood::Good,
                "Progressing" | "Paused" => Mood::Busy,
                _ => Mood::Bad,
            };
            let what = format!("{}={}", condition.type_, condition.status);
            vec![(what, mood), (condition.reason.clone(), Mood::Plain), (condition.message.clone(), Mood::Plain)]
        })
        .collect();
    text += &columns(&conditions, "  ", colours);
    if !status.partitions.is_empty() {
        let heads = ["PARTITION", "WORKER", "READY", "SHARD", "SLOTS", "LAG"];
        let mut rows = vec![heads.map(|head| (head.to_owned(), Mood::Plain)).to_vec()];
        rows.extend(status.partitions.iter().map(|partition| row(partition, told.lag.get(&partition.partition))));
        text += &columns(&rows, "  ", colours);
    }
    text
}

fn row(partition: &PartitionStatus, lag: Option<&u64>) -> Vec<(String, Mood)> {
    let (ready, mood) = if partition.ready { ("yes", Mood::Good) } else { ("no", Mood::Bad) };
    let plain = |text: &str| (text.to_owned(), Mood::Plain);
    vec![
        plain(&partition.partition.to_string()),
        plain(&partition.worker),
        (ready.to_owned(), mood),
        plain(&partition.shard),
        plain(&partition.slots),
        plain(&lag.map_or_else(|| "?".to_owned(), u64::to_string)),
    ]
}

/// Sets `spec.paused`.
pub async fn pause(access: &Access, name: &str, paused: bool) -> Result<ExitCode, Failure> {
    let service = access.service(name).await?;
    let was = service.object.data.pointer("/spec/paused").and_then(Value::as_bool).unwrap_or(false);
    let called = format!("{} {}", service.resource.kind, service.object.name_any());
    if was == paused {
        println!("{called} {}", if paused { "is paused already" } else { "is not paused" });
        return Ok(ExitCode::SUCCESS);
    }
    let api: Api<DynamicObject> = Api::namespaced_with(access.client.clone(), &service.namespace(), &service.resource);
    let patch = json!({ "spec": { "paused": paused } });
    api.patch(&service.object.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
    println!(
        "{called} {}",
        if paused { "is paused: it runs on, and the operator leaves it as it is" } else { "is looked after again" }
    );
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(value: Value) -> Told {
        let status: ServiceStatus = serde_json::from_value(value).unwrap();
        Told {
            kind: "SignupShard".to_owned(),
            namespace: "shop".to_owned(),
            name: "demo".to_owned(),
            current: true,
            status,
            lag: BTreeMap::from([(0, 12)]),
        }
    }

    #[test]
    fn a_service_is_shown_with_what_is_wrong_and_each_partition() {
        let condition = |type_: &str, status: &str, reason: &str, message: &str| {
            json!({ "type": type_, "status": status, "reason": reason, "message": message,
                    "lastTransitionTime": "2026-01-01T00:00:00Z" })
        };
        let partition = |n: u32, ready: bool| {
            json!({ "partition": n, "worker": format!("demo-{n}-0"), "shard": format!("demo-shard-{n}"),
                    "slots": format!("{n}"), "ready": ready })
        };
        let told = told(json!({
            "phase": "Degraded", "ready": "1/2",
            "conditions": [
                condition("Ready", "False", "WorkerNotReady", "the worker demo-1-0 waits"),
                condition("Progressing", "False", "Settled", ""),
                condition("Degraded", "True", "WorkerNotReady", "the worker demo-1-0 waits"),
            ],
            "partitions": [partition(0, true), partition(1, false)],
        }));
        let expected = "\
SignupShard shop/demo: Degraded, 1/2 partitions ready
  Ready=False    WorkerNotReady  the worker demo-1-0 waits
  Degraded=True  WorkerNotReady  the worker demo-1-0 waits
  PARTITION  WORKER    READY  SHARD         SLOTS  LAG
  0          demo-0-0  yes    demo-shard-0  0      12
  1          demo-1-0  no     demo-shard-1  1      ?
";
        assert_eq!(text(&told, false), expected);
    }
}
