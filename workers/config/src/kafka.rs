//! How to reach Kafka, and who we are there.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ConfigError;

/// How to reach Kafka.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port`, several separated by commas.
    pub bootstrap_servers: String,
    /// Encrypted connections; plain ones if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    /// Who we are; nobody if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<SaslConfig>,
}

/// Encrypted connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificates that the brokers' must be signed by, as a PEM file; the public authorities' if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
}

/// Who we are, with a password.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SaslConfig {
    /// As Kafka calls it, e.g. `SCRAM-SHA-512`.
    pub mechanism: String,
    /// The file with the name.
    pub username_file: String,
    /// The file with the password.
    pub password_file: String,
    /// What is in the first file.
    #[serde(skip)]
    pub username: String,
    /// What is in the second.
    #[serde(skip)]
    pub password: Password,
}

/// A password, which no log shows.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(hidden)")
    }
}

impl KafkaConfig {
    /// A Kafka without encryption or passwords.
    pub fn plain(bootstrap_servers: &str) -> Self {
        Self { bootstrap_servers: bootstrap_servers.to_owned(), ..Self::default() }
    }

    /// Reads the files that hold credentials.
    pub fn read_credentials(&mut self) -> Result<(), ConfigError> {
        if let Some(ca) = self.tls.as_ref().and_then(|tls| tls.ca_file.as_ref()) {
            // The library reads it itself, and says less if it cannot.
            read(ca)?;
        }
        if let Some(sasl) = &mut self.sasl {
            sasl.username = read(&sasl.username_file)?;
            sasl.password = Password(read(&sasl.password_file)?);
        }
        Ok(())
    }
}

fn read(path: &str) -> Result<String, ConfigError> {
    let bad = |reason: String| ConfigError::NoCredential { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    // Whoever makes a Secret from a file often leaves a line's end in it.
    let text = text.trim_end_matches(['\r', '\n']).to_owned();
    if text.is_empty() { Err(bad("it is empty".to_owned())) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_from_files_and_are_shown_to_nobody() {
        let folder = std::env::temp_dir().join(format!("shardlane-config-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let sasl = SaslConfig {
            mechanism: "SCRAM-SHA-512".to_owned(),
            username_file: file("username", "demo"),
            password_file: file("password", "hunter2\n"),
            ..SaslConfig::default()
        };
        let mut kafka = KafkaConfig { sasl: Some(sasl), ..KafkaConfig::plain("kafka:9092") };
        kafka.read_credentials().unwrap();
        let shown = format!("{kafka:?} {}", serde_yaml::to_string(&kafka).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
        let sasl = kafka.sasl.as_mut().unwrap();
        assert_eq!((&*sasl.username, &*sasl.password.0), ("demo", "hunter2"));

        sasl.password_file = file("empty", "\n");
        let refused = kafka.read_credentials().unwrap_err().to_string();
        assert!(refused.contains("empty: it is empty") && refused.contains("spec.kafka"), "{refused}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
