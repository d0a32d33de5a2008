//! How far the pod of the Job is: pure, from what Kubernetes says of it.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodStatus};
use shardlane_operator::controller::status::summary;

use super::job::MOVER;

/// How far it is.
#[derive(Debug, PartialEq, Eq)]
pub enum Stage {
    /// It starts or works.
    Works,
    /// Something keeps it from starting, which may pass.
    Unstarted(String),
    /// The mover has ended, well or not.
    Ended,
    /// The mover will never run to its end, and why.
    Failed(String),
}

/// How far a pod is.
pub fn stage(pod: &Pod) -> Stage {
    let Some(status) = &pod.status else { return Stage::Works };
    if ended(status).is_some() {
        return Stage::Ended;
    }
    if status.phase.as_deref() == Some("Failed") {
        return Stage::Failed(why(status));
    }
    let unscheduled = status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(unscheduled) = unscheduled {
        let message = unscheduled.message.as_deref().unwrap_or_default();
        return Stage::Unstarted(format!("it has no node to run on: {message}"));
    }
    containers(status).find_map(kept).map_or(Stage::Works, Stage::Unstarted)
}

/// With which code the mover ended, if it has.
pub fn code(pod: &Pod) -> Option<i32> {
    Some(ended(pod.status.as_ref()?)?.exit_code)
}

/// What a program said at the end of its log.
pub fn last_words(log: &str) -> String {
    let words = summary(log);
    if words.is_empty() { "it ended without a word".to_owned() } else { words }
}

fn ended(status: &PodStatus) -> Option<&ContainerStateTerminated> {
    let mover = status.container_statuses.iter().flatten().find(|container| container.name == MOVER)?;
    mover.state.as_ref()?.terminated.as_ref()
}

/// Why a pod has failed whose mover never ran: evicted, or what comes before the mover failed.
fn why(status: &PodStatus) -> String {
    let failed = containers(status).find_map(|container| {
        let ended = container.state.as_ref()?.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
        Some(format!("the container {} failed: {}", container.name, last_words(ended.message.as_deref()?)))
    });
    failed.unwrap_or_else(|| {
        let said = [status.reason.as_deref(), status.message.as_deref()];
        let said: Vec<_> = said.into_iter().flatten().collect();
        format!(
            "the Job's pod failed: {}",
            if said.is_empty() { "nothing says why".to_owned() } else { said.join(": ") }
        )
    })
}

fn containers(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status.init_container_statuses.iter().chain(&status.container_statuses).flatten()
}

/// What keeps a container from starting.
fn kept(container: &ContainerStatus) -> Option<String> {
    let ContainerState { waiting: Some(waiting), .. } = container.state.as_ref()? else { return None };
    let reason = waiting.reason.as_deref()?;
    if matches!(reason, "ContainerCreating" | "PodInitializing") {
        return None;
    }
    let message = waiting.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
    Some(format!("{reason} of the image {}{message}", container.image))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "demo-verify-x-y" }, "status": status })).unwrap()
    }

    fn container(name: &str, state: Value) -> Value {
        json!({ "name": name, "image": "shardlane/mover:9", "imageID": "", "ready": false, "restartCount": 0, "state": state })
    }

    #[test]
    fn a_pod_that_starts_is_waited_for() {
        assert_eq!(stage(&Pod::default()), Stage::Works);
        let creating = container(MOVER, json!({ "waiting": { "reason": "PodInitializing" } }));
        assert_eq!(stage(&pod(json!({ "phase": "Pending", "containerStatuses": [creating] }))), Stage::Works);
        let running = container(MOVER, json!({ "running": {} }));
        assert_eq!(stage(&pod(json!({ "phase": "Running", "containerStatuses": [running] }))), Stage::Works);
    }

    #[test]
    fn what_keeps_it_from_starting_is_in_kubernetes_words() {
        let waiting = json!({ "waiting": { "reason": "ImagePullBackOff", "message": "no such tag" } });
        let status = json!({ "phase": "Pending", "initContainerStatuses": [container("schema", waiting)] });
        let Stage::Unstarted(why) = stage(&pod(status)) else { panic!("it does not start") };
        assert_eq!(why, "ImagePullBackOff of the image shardlane/mover:9: no such tag");
        let condition = json!({ "type": "PodScheduled", "status": "False", "message": "0/1 nodes are available" });
        let Stage::Unstarted(why) = stage(&pod(json!({ "phase": "Pending", "conditions": [condition] }))) else {
            panic!("it has no node")
        };
        assert!(why.contains("0/1 nodes are available"), "{why}");
    }

    #[test]
    fn a_mover_that_has_ended_has_its_code_and_nothing_else_has() {
        let ended = container(MOVER, json!({ "terminated": { "exitCode": 3 } }));
        let ended = pod(json!({ "phase": "Failed", "containerStatuses": [ended] }));
        assert_eq!((stage(&ended), code(&ended)), (Stage::Ended, Some(3)));
        let words = json!({ "terminated": { "exitCode": 1, "message": "{\"level\":\"ERROR\",\"message\":\"no such table\"}\n" } });
        let status = json!({ "phase": "Failed", "initContainerStatuses": [container("schema", words)] });
        let failed = Stage::Failed("the container schema failed: no such table".to_owned());
        assert_eq!((stage(&pod(status.clone())), code(&pod(status))), (failed, None));
        let evicted = json!({ "phase": "Failed", "reason": "Evicted", "message": "no memory" });
        assert_eq!(stage(&pod(evicted)), Stage::Failed("the Job's pod failed: Evicted: no memory".to_owned()));
    }
}
