//! The Job that moves slots until they lie as the present target wants.

use k8s_openapi::api::batch::v1::Job;
use shardlane_config::CONFIG_PATH;

use super::mover::{self, argument, command};
use super::names::Component;
use super::{BuildError, Plan};
use crate::kind::ServiceKind;

/// How long, in seconds, the mover may take to bring a group of slots to a safe point when it is stopped.
const GRACE: i64 = 60;
/// Digits of the hash in the name. With them, and with a plan's number of seven digits, the longest name that a service may have
/// still gives one that fits into a label, as a Job's name must.
const DIGITS: usize = 6;

/// The Job of the present plan. Its shards are all that there are, those that are to be left and those that are to be filled.
pub fn job<K: ServiceKind>(plan: &Plan<'_, K>) -> Result<Job, BuildError> {
    let (identity, spec) = (&plan.identity, &plan.service.service().resharding);
    let mut command = command("reshard");
    command.extend([
        argument("config", CONFIG_PATH),
        argument("partitions", identity.target),
        argument("shard-count", identity.partitions),
        argument("groups-at-once", spec.groups_at_once),
        argument("fence-seconds", spec.fence_seconds),
        argument("clean-after-seconds", spec.clean_after_seconds),
    ]);
    command.extend(spec.rows_per_second.map(|rows| argument("rows-per-second", rows)));
    let (mut job, hash) = mover::job(plan, Component::Mover, command, Some(GRACE))?;
    let hash = hash.get(..DIGITS).unwrap_or(&hash);
    job.metadata.name = Some(format!("{}-reshard-{}-{hash}", plan.names.service, identity.plan));
    // Said, so that a Job that a pause has stopped goes on when it is applied again.
    job.spec.get_or_insert_default().suspend = Some(false);
    Ok(job)
}
