//! The init Job: topics, tables and the first slot table.

use k8s_openapi::api::batch::v1::Job;

use super::mover::{self, argument, command};
use super::names::Component;
use super::{BuildError, Plan};
use crate::kind::ServiceKind;

/// The Job. It runs again, and finds everything as it should be, when anything changes that it depends on.
pub fn job<K: ServiceKind>(plan: &Plan<'_, K>) -> Result<Job, BuildError> {
    let mut command = command("init");
    command.push(argument("partitions", plan.identity.partitions));
    command.push(argument("plan-id", format!("init-{}", plan.identity.service_id)));
    let (mut job, hash) = mover::job(plan, Component::Init, command, None)?;
    job.metadata.name = Some(format!("{}-init-{hash}", plan.names.service));
    Ok(job)
}
