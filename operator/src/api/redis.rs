//! A Redis beside a service: a cache, which nothing depends on.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::SecretName;
use super::resources::Resources;

/// Where Redis is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.external) || (!has(self.image) && !has(self.resources))")
    .message("image and resources are those of a Redis that the operator runs; leave them out, or leave out external"))]
pub struct RedisSpec {
    /// The image of the Redis that the operator runs. If absent, the one that was current when the resource was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub image: Option<String>,
    /// The most memory that it fills, in MiB. When it is full, what is asked for least makes room.
    #[serde(default = "default_memory_mib")]
    #[schemars(range(min = 16, max = 65536))]
    pub memory_mib: u32,
    /// Requests and limits. If absent, memory for `memoryMib` and for what Redis needs besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// A Redis that somebody else runs, instead of one that the operator does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalRedis>,
}

impl Default for RedisSpec {
    fn default() -> Self {
        Self { image: None, memory_mib: default_memory_mib(), resources: None, external: None }
    }
}

fn default_memory_mib() -> u32 {
    64
}

/// A Redis that somebody else runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalRedis {
    /// A Secret whose key `uri` is `redis://user:password@host:6379/0`, or `rediss://...` where connections are encrypted. Then
    /// its key `ca.crt`, if it has one, holds the certificates by which that of Redis must be signed.
    pub secret_ref: SecretName,
}
