//! The Job that looks: pure, from the service's init Job, which can reach all shards already.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use kube::ResourceExt;
use kube::api::ObjectMeta;
use shardlane_operator::build::names::INSTANCE;

/// The container that looks.
pub const MOVER: &str = "mover";
/// Who made the Job and its pod. The operator looks after what it made itself, and after nothing else.
const MANAGER: (&str, &str) = ("app.kubernetes.io/managed-by", "kubectl-shardlane");
/// How long, in seconds, a Job stays that nobody deletes.
const LEFTOVER: i32 = 300;

/// Why there is no such Job.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTemplate {
    /// It has no container that is called so.
    #[error("the Job {0} has no container {MOVER}; is the operator of the version of this plugin?")]
    Container(String),
    /// It does not say where the shards are.
    #[error("the Job {0} says nothing of {1}; is the operator of the version of this plugin?")]
    Argument(String, &'static str),
}

/// A Job that looks into the shards that the init Job prepared, for at most so many seconds.
pub fn job(init: &Job, seconds: i64) -> Result<Job, NoTemplate> {
    let name = init.name_any();
    let found = init.spec.as_ref().map(|spec| &spec.template);
    let mut template = found.cloned().ok_or_else(|| NoTemplate::Container(name.clone()))?;
    let mover = template.spec.iter_mut().flat_map(|spec| &mut spec.containers).find(|found| found.name == MOVER);
    let mover = mover.ok_or_else(|| NoTemplate::Container(name.clone()))?;
    mover.command = Some(command(mover, &name)?);
    // It serves nothing.
    mover.ports = None;
    if let Some(spec) = &mut template.spec {
        spec.restart_policy = Some("Never".to_owned());
    }
    template.metadata = Some(pods_metadata(&template));
    let service = init.labels().get(INSTANCE).cloned().unwrap_or(name);
    Ok(Job {
        metadata: ObjectMeta {
            generate_name: Some(format!("{service}-verify-")),
            namespace: init.namespace(),
            labels: Some(ours(init.labels().clone())),
            // It goes with the service.
            owner_references: init.metadata.owner_references.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            template,
            backoff_limit: Some(0),
            active_deadline_seconds: Some(seconds),
            ttl_seconds_after_finished: Some(LEFTOVER),
            ..JobSpec::default()
        }),
        ..Job::default()
    })
}

/// `mover verify`, told where everything is as the init Job was.
fn command(mover: &Container, name: &str) -> Result<Vec<String>, NoTemplate> {
    let given = mover.command.iter().chain(&mover.args).flatten();
    let argument = |wanted: &str| {
        let prefix = format!("--{wanted}=");
        given.clone().find(|argument| argument.starts_with(&prefix)).cloned()
    };
    let needed = |wanted| argument(wanted).ok_or_else(|| NoTemplate::Argument(name.to_owned(), wanted));
    let (schema, shards) = (needed("schema")?, needed("shards")?);
    let folder = shards.split_once('=').map_or("", |(_, folder)| folder);
    let is_shard = |path: &str| {
        let number = path.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let count = mover.volume_mounts.iter().flatten().filter(|mount| is_shard(&mount.mount_path)).count();
    if count == 0 {
        return Err(NoTemplate::Argument(name.to_owned(), "shards"));
    }
    let program = ["mover", "verify"].map(str::to_owned);
    let told = [argument("config"), Some(schema), Some(shards), Some(format!("--shard-count={count}"))];
    Ok(program.into_iter().chain(told.into_iter().flatten()).collect())
}

/// As the init Job's pod, so that NetworkPolicies let it through, without what Kubernetes wrote there.
fn pods_metadata(template: &PodTemplateSpec) -> ObjectMeta {
    let metadata = template.metadata.clone().unwrap_or_default();
    let written = |key: &str| key.starts_with("batch.kubernetes.io/") || key == "controller-uid" || key == "job-name";
    let labels = metadata.labels.unwrap_or_default().into_iter().filter(|(key, _)| !written(key)).collect();
    ObjectMeta { labels: Some(ours(labels)), annotations: metadata.annotations, ..ObjectMeta::default() }
}

fn ours(mut labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
    labels.insert(MANAGER.0.to_owned(), MANAGER.1.to_owned());
    labels
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use shardlane_operator::build::names::ours as operators;

    use super::*;

    /// An init Job as the API server gives it.
    fn init() -> Value {
        serde_json::from_str(include_str!("init-job.json")).unwrap()
    }

    fn made(init: Value) -> Value {
        serde_json::to_value(job(&serde_json::from_value(init).unwrap(), 120).unwrap()).unwrap()
    }

    #[test]
    fn the_mover_looks_and_everything_else_is_as_the_init_job_has_it() {
        let (init, job) = (init(), made(init()));
        let at = |pointer: &str| job.pointer(pointer).cloned().unwrap_or_default();
        let command =
            ["mover", "verify", "--schema=/schema/schema.json", "--shards=/shards", "--shard-count=2"].map(Value::from);
        assert_eq!(at("/spec/template/spec/containers/0/command"), Value::from(command.to_vec()));
        for same in [
            "/spec/template/spec/initContainers",
            "/spec/template/spec/volumes",
            "/spec/template/spec/securityContext",
            "/spec/template/spec/containers/0/image",
            "/spec/template/spec/containers/0/volumeMounts",
            "/spec/template/spec/containers/0/securityContext",
            "/metadata/ownerReferences",
        ] {
            assert_eq!(&at(same), init.pointer(same).unwrap(), "{same}");
        }
    }

    #[test]
    fn it_tries_once_ends_in_time_and_goes_by_itself() {
        let job = made(init());
        assert_eq!(job.pointer("/spec/template/spec/restartPolicy"), Some(&json!("Never")));
        assert_eq!(job.pointer("/spec/backoffLimit"), Some(&json!(0)));
        assert_eq!(job.pointer("/spec/activeDeadlineSeconds"), Some(&json!(120)));
        assert_eq!(job.pointer("/spec/ttlSecondsAfterFinished"), Some(&json!(LEFTOVER)));
    }

    #[test]
    fn the_operator_does_not_take_it_for_its_own_and_policies_do() {
        let job = made(init());
        let (key, operator) = operators().split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).unwrap();
        for labels in ["/metadata/labels", "/spec/template/metadata/labels"].map(|at| job.pointer(at).unwrap().clone())
        {
            assert_ne!(labels[&key], operator, "{labels}");
            assert_eq!(labels["app.kubernetes.io/component"], "init");
            assert_eq!(labels["app.kubernetes.io/instance"], "demo");
            assert_eq!(labels["shardlane.dev/kind"], "SignupShard");
        }
    }

    #[test]
    fn nothing_of_what_kubernetes_wrote_is_left() {
        let job = made(init());
        let text = job.to_string();
        for written in ["controller-uid", "job-name", "7c7c7c7c", "selector", "resourceVersion", "creationTimestamp"] {
            assert!(!text.contains(written), "{written} in {text}");
        }
        assert_eq!(job.pointer("/metadata/generateName"), Some(&json!("demo-verify-")));
        assert_eq!(job.pointer("/metadata/name"), None);
    }

    #[test]
    fn a_job_of_another_shape_is_refused() {
        let refused = |change: &dyn Fn(&mut Value)| {
            let mut init = init();
            change(&mut init);
            job(&serde_json::from_value(init).unwrap(), 120).unwrap_err()
        };
        let container = |init: &mut Value| init["spec"]["template"]["spec"]["containers"][0].take();
        let other = refused(&|init| {
            let mut mover = container(init);
            mover["name"] = "other".into();
            init["spec"]["template"]["spec"]["containers"][0] = mover;
        });
        assert_eq!(other, NoTemplate::Container("demo-init-0a1b2c3d".to_owned()));
        let silent = refused(&|init| init["spec"]["template"]["spec"]["containers"][0]["command"] = json!(["mover"]));
        assert_eq!(silent, NoTemplate::Argument("demo-init-0a1b2c3d".to_owned(), "schema"));
        let empty = refused(&|init| init["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = json!([]));
        assert_eq!(empty, NoTemplate::Argument("demo-init-0a1b2c3d".to_owned(), "shards"));
    }
}
