//! What is peculiar to CounterPool.

use serde::Serialize;

use crate::api::common::ServiceSpec;
use crate::api::counter_pool::CounterPool;
use crate::api::status::ServiceStatus;
use crate::build::topics::{Flow, ServiceTopic, dead_letters, keyed};
use crate::images::Images;
use crate::kind::{ServiceKind, no_settings};

/// What the workers read, in the workers' words.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Settings {
    flush_interval_ms: u32,
    max_pending_keys: u32,
    idempotency_window_hours: u32,
}

impl ServiceKind for CounterPool {
    const PROGRAM: &'static str = "counter";

    fn service(&self) -> &ServiceSpec {
        &self.spec.service
    }

    fn status(&self) -> Option<&ServiceStatus> {
        self.status.as_ref()
    }

    fn topics(&self) -> Vec<ServiceTopic> {
        let increments = keyed("increments", &self.spec.topics.increments, self.spec.service.max_partitions, Flow::IN);
        let dead = dead_letters(&increments);
        vec![increments, dead]
    }

    fn settings(&self) -> serde_yaml::Result<serde_yaml::Value> {
        serde_yaml::to_value(Settings {
            flush_interval_ms: self.spec.flush_interval.millis(),
            max_pending_keys: self.spec.max_pending_keys,
            idempotency_window_hours: self.spec.idempotency_window_hours,
        })
    }

    fn fixed_settings(&self) -> serde_yaml::Result<serde_yaml::Value> {
        Ok(no_settings())
    }

    fn default_image(images: &Images) -> &str {
        &images.counter_image
    }
}
