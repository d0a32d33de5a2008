//! `BlogPipeline`: posts, published, and read through a cache.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{ServiceSpec, StatelessSpec};
use super::redis::RedisSpec;
use super::rules;
use super::status::ServiceStatus;

/// Posts: received, published, and read through a cache.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "shardlane.dev",
    version = "v1alpha1",
    kind = "BlogPipeline",
    plural = "blogpipelines",
    shortname = "blogs",
    category = "shardlane",
    namespaced,
    status = "ServiceStatus",
    derive = "PartialEq",
    annotation("helm.sh/resource-policy", "keep"),
    doc = "Posts: received, published, and read through a cache.",
    scale(
        spec_replicas_path = ".spec.partitions",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Partitions", type_ = "integer", json_path = ".spec.partitions"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = rules::short_name(),
    validation = rules::plain_name(),
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.topics.newPosts != self.topics.publishedPosts")
        .message("topics.newPosts and topics.publishedPosts are two topics: what is published is not received again"),
    validation = rules::same_topics(),
)]
pub struct BlogPipelineSpec {
    /// What every kind has.
    #[serde(flatten)]
    pub service: ServiceSpec,
    /// What writes published posts into Redis: `cache-manager`.
    #[serde(default)]
    pub cache_manager: StatelessSpec,
    /// The cache. Without it, reads go to the shards.
    #[serde(default)]
    pub redis: RedisSpec,
    /// Names of the topics.
    #[serde(default)]
    pub topics: BlogTopics,
}

/// Names of the topics. Each consumed topic has a dead-letter topic of its name and `.dlq`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlogTopics {
    /// Posts as they are received, keyed by slug.
    #[serde(default = "default_new_posts")]
    #[schemars(length(max = 200), regex(pattern = r"^[a-zA-Z0-9._-]{1,200}$"))]
    pub new_posts: String,
    /// Posts as they are published, keyed by slug: the last of each is kept.
    #[serde(default = "default_published_posts")]
    #[schemars(length(max = 200), regex(pattern = r"^[a-zA-Z0-9._-]{1,200}$"))]
    pub published_posts: String,
}

impl Default for BlogTopics {
    fn default() -> Self {
        Self { new_posts: default_new_posts(), published_posts: default_published_posts() }
    }
}

fn default_new_posts() -> String {
    "app.newPosts".to_owned()
}

fn default_published_posts() -> String {
    "app.publishedPosts".to_owned()
}
