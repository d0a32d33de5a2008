//! `SignupShard`: usernames unique across shards.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::ServiceSpec;
use super::rules;
use super::status::ServiceStatus;

/// Usernames, unique across shards: requests in, responses out.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "shardlane.dev",
    version = "v1alpha1",
    kind = "SignupShard",
    plural = "signupshards",
    shortname = "signups",
    category = "shardlane",
    namespaced,
    status = "ServiceStatus",
    derive = "PartialEq",
    annotation("helm.sh/resource-policy", "keep"),
    doc = "Usernames, unique across shards: requests in, responses out.",
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
    validation = Rule::new("self.usernames.canonicalForm == oldSelf.usernames.canonicalForm")
        .message("usernames.canonicalForm never changes: which names are one depends on it"),
    validation = rules::same_topics(),
)]
pub struct SignupShardSpec {
    /// What every kind has.
    #[serde(flatten)]
    pub service: ServiceSpec,
    /// Which usernames there are.
    #[serde(default)]
    pub usernames: UsernamesSpec,
    /// Names of the topics.
    #[serde(default)]
    pub topics: SignupTopics,
}

/// Which usernames there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsernamesSpec {
    /// Which spellings are one name. Never changes.
    #[serde(default)]
    pub canonical_form: CanonicalForm,
}

/// Which spellings are one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CanonicalForm {
    /// Unicode's NFKC_Casefold: `Alice` and `ALICE` are one.
    #[default]
    NfkcCasefold,
    /// Every spelling is a name of its own.
    Exact,
}

/// Names of the topics. Each consumed topic has a dead-letter topic of its name and `.dlq`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignupTopics {
    /// Requests, keyed by username.
    #[serde(default = "default_request")]
    #[schemars(regex(pattern = r"^[a-zA-Z0-9._-]{1,200}$"))]
    pub request: String,
    /// Responses, keyed by username.
    #[serde(default = "default_response")]
    #[schemars(regex(pattern = r"^[a-zA-Z0-9._-]{1,200}$"))]
    pub response: String,
}

impl Default for SignupTopics {
    fn default() -> Self {
        Self { request: default_request(), response: default_response() }
    }
}

fn default_request() -> String {
    "account.signup_request".to_owned()
}

fn default_response() -> String {
    "account.signup_response".to_owned()
}
