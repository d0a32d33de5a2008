//! What is peculiar to BlogPipeline.

use crate::api::blog_pipeline::BlogPipeline;
use crate::api::common::ServiceSpec;
use crate::api::redis::RedisSpec;
use crate::api::status::ServiceStatus;
use crate::build::names::Component;
use crate::build::topics::{Flow, ServiceTopic, compacted, dead_letters, keyed};
use crate::images::Images;
use crate::kind::{ServiceKind, StatelessLoop, no_settings};

/// From workers to what fills the cache.
const PUBLISHED: Flow = Flow { writers: &[Component::Worker], readers: &[Component::Stateless] };

impl ServiceKind for BlogPipeline {
    const PROGRAM: &'static str = "blog";

    fn service(&self) -> &ServiceSpec {
        &self.spec.service
    }

    fn status(&self) -> Option<&ServiceStatus> {
        self.status.as_ref()
    }

    fn topics(&self) -> Vec<ServiceTopic> {
        let (slots, names) = (self.spec.service.max_partitions, &self.spec.topics);
        let new = keyed("new_posts", &names.new_posts, slots, Flow::IN);
        let published = compacted(keyed("published_posts", &names.published_posts, slots, PUBLISHED));
        let dead = [dead_letters(&new), dead_letters(&published)];
        [new, published].into_iter().chain(dead).collect()
    }

    fn settings(&self) -> serde_yaml::Result<serde_yaml::Value> {
        Ok(no_settings())
    }

    /// Readers find every post without it, if not as fast.
    fn stateless(&self) -> Option<StatelessLoop<'_>> {
        let manager = &self.spec.cache_manager;
        Some(StatelessLoop {
            name: "cache-manager",
            replicas: manager.replicas,
            resources: manager.resources.as_ref(),
            essential: false,
        })
    }

    fn redis(&self) -> Option<&RedisSpec> {
        Some(&self.spec.redis)
    }

    fn default_image(images: &Images) -> &str {
        &images.blog_image
    }
}
