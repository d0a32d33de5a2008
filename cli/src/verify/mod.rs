//! `verify`: whether each slot has one owner and every row lies where its slot is, as a Job finds it in the shards.

mod job;
mod pod;
mod report;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DeleteParams, ListParams, LogParams, PostParams};
use kube::{Api, ResourceExt};

use crate::access::{Access, Failure, Service};
use crate::table::colours;
use job::MOVER;
use pod::Stage;
use report::Report;

/// How long between two looks at the Job's pod.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a pod may be kept from starting before that is told: an image may be pulled at the second try.
const UNSTARTED: Duration = Duration::from_secs(45);

/// The Job's place.
struct Place {
    jobs: Api<Job>,
    pods: Api<Pod>,
    events: Api<Event>,
}

/// Has a Job look, shows what it found, and deletes it. The exit code is 3 if something is wrong.
pub async fn verify(access: &Access, name: &str, seconds: u32, as_json: bool) -> Result<ExitCode, Failure> {
    let service = access.service(name).await?;
    let failure = |problem| Failure::Verify { name: name.to_owned(), problem };
    let place = Place::of(access, &service.namespace());
    let init = place.init(&service).await?.ok_or_else(|| {
        failure("it was never prepared: there is no init Job; kubectl shardlane status says why".to_owned())
    })?;
    let job = job::job(&init, i64::from(seconds)).map_err(|error| failure(error.to_string()))?;
    let job = place.jobs.create(&PostParams::default(), &job).await?.name_any();
    let found = tokio::select! {
        found = place.found(&job, Duration::from_secs(seconds.into())) => found,
        // The Job goes all the same.
        _ = tokio::signal::ctrl_c() => Ok(Err("it was interrupted".to_owned())),
    };
    if let Err(error) = place.jobs.delete(&job, &DeleteParams::background()).await {
        eprintln!("the Job {job} could not be deleted, and goes by itself in a while: {error}");
    }
    let (line, report) = found?.map_err(failure)?;
    if as_json {
        println!("{line}");
    } else {
        let called = format!("{} {}/{}", service.resource.kind, service.namespace(), service.object.name_any());
        print!("{}", report::text(&called, &report, colours()));
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

impl Place {
    fn of(access: &Access, namespace: &str) -> Self {
        let client = || access.client.clone();
        Self {
            jobs: Api::namespaced(client(), namespace),
            pods: Api::namespaced(client(), namespace),
            events: Api::namespaced(client(), namespace),
        }
    }

    /// The service's init Job; the newest, should there be two.
    async fn init(&self, service: &Service) -> Result<Option<Job>, Failure> {
        let labels = format!(
            "app.kubernetes.io/component=init,app.kubernetes.io/managed-by=shardlane,app.kubernetes.io/instance={},shardlane.dev/kind={}",
            service.object.name_any(),
            service.resource.kind
        );
        let found = self.jobs.list(&ListParams::default().labels(&labels)).await?.items;
        Ok(found.into_iter().max_by_key(|job| job.creation_timestamp().map(|time| time.0)))
    }

    /// What the Job found: the report as it came, and as it is understood. The inner error is for a person.
    async fn found(&self, job: &str, patience: Duration) -> Result<Result<(String, Report), String>, Failure> {
        let pod = match self.ended(job, patience).await? {
            Ok(pod) => pod,
            Err(problem) => return Ok(Err(problem)),
        };
        let params = LogParams { container: Some(MOVER.to_owned()), ..LogParams::default() };
        let log = self.pods.logs(&pod.name_any(), &params).await?;
        Ok(match (pod::code(&pod), report::find(&log)) {
            (Some(0), Some((line, found))) if found.ok => Ok((line, found)),
            (Some(3), Some((line, found))) if !found.ok => Ok((line, found)),
            (Some(0 | 3), _) => Err(
                "the mover's log has no report that fits its exit code; is its image of the version of this plugin?"
                    .to_owned(),
            ),
            (code, _) => Err(format!("{} (exit code {})", pod::last_words(&log), code.unwrap_or_default())),
        })
    }

    /// The Job's pod once its mover has ended. The inner error says why it did not come so far.
    async fn ended(&self, job: &str, patience: Duration) -> Result<Result<Pod, String>, Failure> {
        let selected = ListParams::default().labels(&format!("batch.kubernetes.io/job-name={job}"));
        let start = Instant::now();
        loop {
            let pod = self.pods.list(&selected).await?.items.pop();
            let name = pod.as_ref().map_or_else(|| job.to_owned(), ResourceExt::name_any);
            match (pod.as_ref().map(pod::stage), pod) {
                (Some(Stage::Ended), Some(pod)) => return Ok(Ok(pod)),
                (Some(Stage::Failed(why)), _) => return Ok(Err(why)),
                (Some(Stage::Unstarted(why)), _) if start.elapsed() > UNSTARTED => {
                    return Ok(Err(format!("the Job's pod does not start: {why}")));
                }
                // Quotas and admission refuse a pod, which only events tell.
                (None, _) if start.elapsed() > UNSTARTED => {
                    let why = self.complaint(&name).await?.unwrap_or_else(|| "nothing says why".to_owned());
                    return Ok(Err(format!("the Job {job} gets no pod: {why}")));
                }
                _ => {}
            }
            if start.elapsed() > patience {
                let why = self.complaint(&name).await?.map(|why| format!("; Kubernetes says: {why}"));
                let seconds = patience.as_secs();
                let why = why.unwrap_or_default();
                return Ok(Err(format!("it took longer than {seconds} seconds, which --timeout can raise{why}")));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The last warning about an object.
    async fn complaint(&self, of: &str) -> Result<Option<String>, Failure> {
        let about = ListParams::default().fields(&format!("involvedObject.name={of},type=Warning"));
        let last = self.events.list(&about).await?.items;
        let last = last.into_iter().max_by_key(|event| event.last_timestamp.as_ref().map(|time| time.0));
        Ok(last.and_then(|event| event.message))
    }
}
