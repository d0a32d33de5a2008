//! Where Kafka is, and who we are there.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::SecretName;

/// Where Kafka is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.strimzi) != has(self.external)")
    .message("exactly one of strimzi and external says where Kafka is"))]
pub struct KafkaSpec {
    /// A Kafka that Strimzi runs in the same namespace. Topics, a user for each part of the service, and what they may do are
    /// made as Strimzi's resources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strimzi: Option<StrimziKafka>,
    /// A Kafka that somebody else runs. Topics are made if they are missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalKafka>,
}

/// A Kafka that Strimzi runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StrimziKafka {
    /// Name of the Kafka resource, in the namespace of this one.
    #[schemars(length(min = 1, max = 253))]
    pub cluster: String,
    /// Name of its listener. If absent, the first internal one with TLS and SCRAM-SHA-512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 25))]
    pub listener: Option<String>,
    /// Copies of each topic; the Kafka's default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32767))]
    pub replicas: Option<u32>,
}

/// A Kafka that somebody else runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalKafka {
    /// `host:port`, several separated by commas, as the pods of the service reach them.
    #[schemars(length(min = 1))]
    pub bootstrap_servers: String,
    /// Encrypt the connections and know the brokers by their certificates; plain if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<KafkaTls>,
    /// Who we are; nobody if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<KafkaSasl>,
}

/// Encrypted connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaTls {
    /// A Secret whose key `ca.crt` has the certificates that the brokers' must be signed by, as PEM. If absent, the public
    /// authorities'.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretName>,
}

/// Who we are, with a password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaSasl {
    /// How it is shown that the password is known.
    #[serde(default)]
    pub mechanism: SaslMechanism,
    /// A Secret with the keys `username` and `password`.
    pub secret_ref: SecretName,
}

/// How it is shown that a password is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SaslMechanism {
    /// Without sending it, by SHA-512.
    #[default]
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
    /// Without sending it, by SHA-256.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// By sending it: only over TLS.
    #[serde(rename = "PLAIN")]
    Plain,
}

impl SaslMechanism {
    /// As Kafka calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::Plain => "PLAIN",
        }
    }
}
