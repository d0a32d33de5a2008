//! How the parts of a service reach Kafka: addresses, certificates, and who each of them is.

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, KeyToPath, ProjectedVolumeSource, SecretProjection, Volume, VolumeProjection,
};
use shardlane_config::{KafkaConfig, SaslConfig, TlsConfig};

use super::names::{Component, Names};
use crate::api::kafka::{ExternalKafka, KafkaTls};
use crate::kind::ServiceKind;

/// Where certificates and credentials are mounted.
pub const FOLDER: &str = "/etc/shardlane-kafka";
/// The volume that they are in.
pub const VOLUME: &str = "kafka";

const CA: &str = "ca.crt";
const USERNAME: &str = "username";
const PASSWORD: &str = "password";

/// A Kafka as a service reaches it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kafka {
    /// `host:port`, several separated by commas.
    pub bootstrap_servers: String,
    /// Whether connections are encrypted.
    pub tls: bool,
    /// The Secret with the certificates that the brokers' must be signed by.
    pub ca: Option<String>,
    /// Who we are there.
    pub user: Option<User>,
}

/// Who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum User {
    /// Somebody's Secret says it, for all parts alike.
    Given {
        /// Its name.
        secret: String,
        /// As Kafka calls it.
        mechanism: &'static str,
    },
    /// Strimzi's user operator makes a user for each part.
    OfEachPart,
}

/// The parts of a service that speak to Kafka.
pub fn parts<K: ServiceKind>(service: &K) -> impl Iterator<Item = Component> + use<K> {
    let stateless = service.stateless().map(|_| Component::Stateless);
    [Component::Worker, Component::Gateway, Component::Init].into_iter().chain(stateless)
}

impl Kafka {
    /// One that somebody else runs.
    pub fn external(spec: &ExternalKafka) -> Self {
        let secret = |tls: &KafkaTls| Some(tls.ca_secret_ref.as_ref()?.name.clone());
        Self {
            bootstrap_servers: spec.bootstrap_servers.clone(),
            tls: spec.tls.is_some(),
            ca: spec.tls.as_ref().and_then(secret),
            user: spec
                .sasl
                .as_ref()
                .map(|sasl| User::Given { secret: sasl.secret_ref.name.clone(), mechanism: sasl.mechanism.name() }),
        }
    }

    /// What the processes are told.
    pub fn config(&self) -> KafkaConfig {
        let file = |name: &str| format!("{FOLDER}/{name}");
        let mechanism = self.user.as_ref().map(|user| match user {
            User::Given { mechanism, .. } => *mechanism,
            User::OfEachPart => "SCRAM-SHA-512",
        });
        KafkaConfig {
            bootstrap_servers: self.bootstrap_servers.clone(),
            tls: self.tls.then(|| TlsConfig { ca_file: self.ca.as_ref().map(|_| file(CA)) }),
            sasl: mechanism.map(|mechanism| SaslConfig {
                mechanism: mechanism.to_owned(),
                username_file: file(USERNAME),
                password_file: file(PASSWORD),
                ..SaslConfig::default()
            }),
        }
    }

    /// The Secrets that a part needs, and their keys.
    pub fn secrets(&self, names: &Names, part: Component) -> Vec<(String, Vec<&'static str>)> {
        let ca = self.ca.iter().map(|ca| (ca.clone(), vec![CA]));
        let user = self.user.iter().map(|user| match user {
            User::Given { secret, .. } => (secret.clone(), vec![USERNAME, PASSWORD]),
            User::OfEachPart => (names.kafka_user(part.in_kafka()), vec![PASSWORD]),
        });
        ca.chain(user).collect()
    }

    /// Certificates and credentials of a part, if it needs any.
    pub fn volume(&self, names: &Names, part: Component) -> Option<Volume> {
        let file = |key: &str, path: &str| KeyToPath { key: key.to_owned(), path: path.to_owned(), mode: None };
        let mut sources: Vec<_> = self
            .secrets(names, part)
            .into_iter()
            .map(|(secret, keys)| VolumeProjection {
                secret: Some(SecretProjection {
                    name: secret,
                    items: Some(keys.into_iter().map(|key| file(key, key)).collect()),
                    ..SecretProjection::default()
                }),
                ..VolumeProjection::default()
            })
            .collect();
        if self.user == Some(User::OfEachPart) {
            // Strimzi's Secrets hold no name: it is the user's own.
            sources.push(VolumeProjection {
                config_map: Some(ConfigMapProjection {
                    name: names.config(),
                    items: Some(vec![file(&user_key(part.in_kafka()), USERNAME)]),
                    ..ConfigMapProjection::default()
                }),
                ..VolumeProjection::default()
            });
        }
        (!sources.is_empty()).then(|| Volume {
            name: VOLUME.to_owned(),
            projected: Some(ProjectedVolumeSource { sources: Some(sources), ..ProjectedVolumeSource::default() }),
            ..Volume::default()
        })
    }
}

/// The key of the configuration under which a part finds its user's name.
pub fn user_key(part: Component) -> String {
    format!("kafka-user.{}", part.label())
}
