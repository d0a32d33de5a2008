//! `retire`: deletes the topics of a service whose resource is being deleted. Running it again changes nothing.

use shardlane_runtime::config::ServiceConfig;

use crate::patience::patiently;
use crate::topics::{self, TopicError};

/// Deletes them; tries again for ever while the cause may pass by itself.
pub async fn retire(config: &ServiceConfig) -> Result<(), TopicError> {
    patiently(async || topics::delete(config).await, |_| {}).await
}
