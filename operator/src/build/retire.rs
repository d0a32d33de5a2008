//! The retire Job: deletes a service's topics from a Kafka that is somebody else's.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, DownwardAPIVolumeSource, ObjectFieldSelector, Volume};

use super::names::Component;
use super::pods::{CONFIG_VOLUME, container, pod, template};
use super::{BuildError, Plan, config};
use crate::kind::ServiceKind;

/// Annotation of the pod with what it is told: the service's ConfigMap may be gone before it.
const CONFIG: &str = "shardlane.dev/config";

/// The Job. Nobody owns it: what a resource owns may be deleted before the resource is, and this must not be.
pub fn job<K: ServiceKind>(plan: &Plan<'_, K>) -> Result<Job, BuildError> {
    let names = &plan.names;
    let labels = names.labels(Component::Retire);
    let command = ["mover", "retire"].map(str::to_owned).to_vec();
    let mut spec = pod(plan, Component::Retire, container("mover", &plan.images.mover_image, command));
    spec.restart_policy = Some("OnFailure".to_owned());
    for volume in spec.volumes.iter_mut().flatten().filter(|volume| volume.name == CONFIG_VOLUME) {
        *volume = told();
    }
    let mut template = template(labels.clone(), "", spec);
    let annotations = BTreeMap::from([(CONFIG.to_owned(), config::text(plan)?)]);
    template.metadata.get_or_insert_default().annotations = Some(annotations);
    Ok(Job {
        metadata: names.lasting_meta(names.retire(), labels),
        spec: Some(JobSpec { template, backoff_limit: Some(1_000), ..JobSpec::default() }),
        ..Job::default()
    })
}

fn told() -> Volume {
    let field = ObjectFieldSelector {
        field_path: format!("metadata.annotations['{CONFIG}']"),
        ..ObjectFieldSelector::default()
    };
    let file = DownwardAPIVolumeFile {
        path: config::FILE.to_owned(),
        field_ref: Some(field),
        ..DownwardAPIVolumeFile::default()
    };
    let source = DownwardAPIVolumeSource { items: Some(vec![file]), ..DownwardAPIVolumeSource::default() };
    Volume { name: CONFIG_VOLUME.to_owned(), downward_api: Some(source), ..Volume::default() }
}
