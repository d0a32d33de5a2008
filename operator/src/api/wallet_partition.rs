//! `WalletPartition`: accounts, and transfers between them.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{ServiceSpec, StatelessSpec};
use super::rules;
use super::status::ServiceStatus;

/// Accounts and transfers between them, wherever they lie; no money is ever made or lost.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "shardlane.dev",
    version = "v1alpha1",
    kind = "WalletPartition",
    plural = "walletpartitions",
    shortname = "wallets",
    category = "shardlane",
    namespaced,
    status = "ServiceStatus",
    derive = "PartialEq",
    annotation("helm.sh/resource-policy", "keep"),
    doc = "Accounts and transfers between them, wherever they lie; no money is ever made or lost.",
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
#[x_kube(validation = rules::same_topics())]
pub struct WalletPartitionSpec {
    /// What every kind has.
    #[serde(flatten)]
    pub service: ServiceSpec,
    /// What accounts are like when they are opened.
    #[serde(default)]
    pub accounts: AccountsSpec,
    /// What turns requests into payments: `paymentd`.
    #[serde(default)]
    pub payment: StatelessSpec,
    /// The proof that no money is made or lost.
    #[serde(default)]
    pub audit: AuditSpec,
    /// Names of the topics.
    #[serde(default)]
    pub topics: WalletTopics,
}

/// What accounts are like when they are opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.currency == oldSelf.currency")
        .message("accounts.currency never changes: it is what amounts without a currency were meant in"),
    validation = Rule::new("self.defaultLimit.startsWith('-') || self.defaultLimit.matches('^0+([.]0+)?$')")
        .message("accounts.defaultLimit is at most 0: a new account has nothing, and would be under it from the start"),
)]
pub struct AccountsSpec {
    /// The currency of an account that is opened without anybody saying one, and of an amount that comes without one.
    /// Never changes.
    #[serde(default = "default_currency")]
    #[schemars(regex(pattern = r"^[A-Z]{3}$"), length(max = 3))]
    pub currency: String,
    /// The lowest balance that a new account may have, e.g. `-100.00`: not above 0, with at most two places. Accounts
    /// that are open already keep theirs.
    #[serde(default = "default_limit")]
    #[schemars(regex(pattern = r"^-?[0-9]{1,13}(\.[0-9]{1,2})?$"), length(max = 17))]
    pub default_limit: String,
    /// Whether money that comes for an account that does not exist opens it; if not, it goes back.
    #[serde(default = "yes")]
    pub open_on_first_credit: bool,
}

impl Default for AccountsSpec {
    fn default() -> Self {
        Self { currency: default_currency(), default_limit: default_limit(), open_on_first_credit: yes() }
    }
}

fn default_currency() -> String {
    "EUR".to_owned()
}

fn default_limit() -> String {
    "0.00".to_owned()
}

fn yes() -> bool {
    true
}

/// The proof that no money is made or lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditSpec {
    /// Seconds from the end of one audit to the beginning of the next.
    #[serde(default = "default_interval")]
    #[schemars(range(min = 1, max = 3600))]
    pub interval_seconds: u32,
}

impl Default for AuditSpec {
    fn default() -> Self {
        Self { interval_seconds: default_interval() }
    }
}

fn default_interval() -> u32 {
    10
}

/// Names of the topics. Each consumed topic has a dead-letter topic of its name and `.dlq`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WalletTopics {
    /// Requests for transfers, keyed by their id.
    #[serde(default = "default_transfer_request")]
    #[schemars(regex(pattern = r"^[a-zA-Z0-9._-]{1,200}$"))]
    pub transfer_request: String,
    /// What is taken from and given to accounts, keyed by account.
    #[serde(default = "default_payment")]
    #[schemars(regex(pattern = r"^[a-zA-Z0-9._-]{1,200}$"))]
    pub payment: String,
}

impl Default for WalletTopics {
    fn default() -> Self {
        Self { transfer_request: default_transfer_request(), payment: default_payment() }
    }
}

fn default_transfer_request() -> String {
    "wallet.transfer_request".to_owned()
}

fn default_payment() -> String {
    "wallet.payment".to_owned()
}
