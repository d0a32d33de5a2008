//! The identity of a service's data: a ConfigMap that outlives the custom resource, so that a re-created one takes up
//! its shards, and that fixes the first number of partitions before a slot is written.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ObjectMeta;

use crate::api::common::DeletionPolicy;
use crate::build::Plan;
use crate::build::names::{Component, Names};
use crate::kind::ServiceKind;

/// Identity and size of what is in the shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Written into every shard; a shard with another one is foreign.
    pub service_id: String,
    /// Number of partitions that own slots.
    pub partitions: u32,
    /// Number of slots.
    pub max_partitions: u32,
    /// What else of the spec the data depends on, as a text to compare: hash, topics, the kind's own. Empty: not recorded
    /// yet.
    pub fixed: String,
    /// Whether every slot was placed once: a shard that is empty after that is a lost one.
    pub placed: bool,
}

/// Why a ConfigMap is no identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ConfigMap {name} has no valid {key:?}; restore it from a backup, for it says whose the shards are")]
pub struct BrokenIdentity {
    name: String,
    key: &'static str,
}

const SERVICE_ID: &str = "serviceId";
const PARTITIONS: &str = "partitions";
const MAX_PARTITIONS: &str = "maxPartitions";
const FIXED: &str = "fixed";
const PLACED: &str = "placed";

impl Identity {
    /// Reads it from its ConfigMap.
    pub fn read(map: &ConfigMap) -> Result<Self, BrokenIdentity> {
        let broken = |key| BrokenIdentity { name: map.metadata.name.clone().unwrap_or_default(), key };
        let data = map.data.as_ref();
        let text = |key| data.and_then(|data| data.get(key)).filter(|text| !text.is_empty()).ok_or(broken(key));
        let number = |key| text(key)?.parse().map_err(|_| broken(key));
        Ok(Self {
            service_id: text(SERVICE_ID)?.clone(),
            partitions: number(PARTITIONS)?,
            max_partitions: number(MAX_PARTITIONS)?,
            fixed: data.and_then(|data| data.get(FIXED)).cloned().unwrap_or_default(),
            placed: data.is_some_and(|data| data.get(PLACED).is_some_and(|placed| placed == "true")),
        })
    }

    /// Its ConfigMap, as it is first written: it outlives the service until the policy has been applied.
    pub fn first_config_map(&self, names: &Names) -> ConfigMap {
        self.map(names.lasting_meta(names.identity(), names.labels(Component::Config)))
    }

    /// Its ConfigMap, as the policy wants it.
    pub fn config_map<K: ServiceKind>(&self, plan: &Plan<'_, K>) -> ConfigMap {
        let names = &plan.names;
        match plan.service.service().deletion_policy {
            DeletionPolicy::Retain => self.first_config_map(names),
            DeletionPolicy::Delete => self.map(names.meta(names.identity(), names.labels(Component::Config))),
        }
    }

    fn map(&self, metadata: ObjectMeta) -> ConfigMap {
        let data = BTreeMap::from([
            (SERVICE_ID.to_owned(), self.service_id.clone()),
            (PARTITIONS.to_owned(), self.partitions.to_string()),
            (MAX_PARTITIONS.to_owned(), self.max_partitions.to_string()),
            (FIXED.to_owned(), self.fixed.clone()),
            (PLACED.to_owned(), self.placed.to_string()),
        ]);
        ConfigMap { metadata, data: Some(data), ..ConfigMap::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> ConfigMap {
        let data = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let mut map = ConfigMap { data: Some(data), ..ConfigMap::default() };
        map.metadata.name = Some("demo-identity".to_owned());
        map
    }

    #[test]
    fn an_identity_is_read_back() {
        let pairs =
            [("serviceId", "x"), ("partitions", "3"), ("maxPartitions", "24"), ("fixed", "f"), ("placed", "true")];
        let found = Identity::read(&map(&pairs)).unwrap();
        let fixed = "f".to_owned();
        let expected = Identity { service_id: "x".to_owned(), partitions: 3, max_partitions: 24, fixed, placed: true };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_broken_one_says_which_map_and_what_to_do() {
        let error = Identity::read(&map(&[("serviceId", "x"), ("partitions", "three")])).unwrap_err().to_string();
        assert!(error.contains("demo-identity") && error.contains("partitions") && error.contains("backup"), "{error}");
    }
}
