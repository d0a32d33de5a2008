//! What stands in a service's way: pure, from the spec and what was read to reasons that a person can act on.

use super::dereference::Found;
use crate::api::common::ServiceSpec;
use crate::api::kafka::StrimziKafka;
use crate::api::kinds;
use crate::build::names::Names;
use crate::build::shards::ShardSource;
use crate::build::strimzi::Unusable;
use crate::identity::Identity;
use crate::watched::{Objects, ServiceKey};

/// Something that somebody has to do, or that takes its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// A word for the condition's reason.
    pub reason: &'static str,
    /// What is the matter, and what to do.
    pub message: String,
    /// Whether it passes without anybody doing anything.
    pub passes: bool,
}

impl Obstacle {
    fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message, passes: false }
    }
}

/// What is left of a resource that had this name before, and is just going.
pub fn remains(names: &Names, there: &Objects) -> Option<Obstacle> {
    let owner = |seen: &crate::watched::Seen| {
        let owners = seen.metadata.owner_references.iter().flatten();
        owners
            .filter(|owner| owner.kind == names.kind && owner.name == names.service)
            .map(|owner| owner.uid.clone())
            .next()
    };
    let (key, _) = there.iter().find(|(_, seen)| owner(seen).is_some_and(|uid| uid != names.owner.uid))?;
    let message = format!(
        "waiting for what is left of the {} that had this name before to be deleted: {}/{}",
        names.kind, key.kind, key.name
    );
    Some(Obstacle { reason: "PreviousGoing", message, passes: true })
}

/// A service of another kind that has this name, or had it and left its data: the parts of both would be named alike.
pub fn namesake(names: &Names, objects: impl Fn(&ServiceKey) -> Objects) -> Option<Obstacle> {
    let identity = names.identity();
    let others = kinds().into_iter().map(|resource| resource.kind).filter(|kind| *kind != names.kind);
    let has_it = |kind: &String| {
        let other = ServiceKey { kind: kind.clone(), ..names.key() };
        objects(&other).get("ConfigMap", &identity).is_some()
    };
    let kind = others.into_iter().find(has_it)?;
    let message = format!(
        "the name {} is that of a {kind} in this namespace, or of the data that one left (ConfigMap {identity}); \
         make this service anew under another name",
        names.service
    );
    Some(Obstacle::new("NameTaken", message))
}

/// A topic that an elder service has.
pub fn rival(rival: Option<(String, ServiceKey)>) -> Option<Obstacle> {
    let (topic, ServiceKey { namespace, kind, name }) = rival?;
    let message = format!(
        "the topic {topic} belongs to the {kind} {namespace}/{name}, which was there first; make this service anew with a \
         topic of its own, or delete the other one"
    );
    Some(Obstacle::new("TopicTaken", message))
}

/// Strimzi is not there.
pub fn no_strimzi() -> Obstacle {
    let message = "Strimzi is not installed (no CRD kafkatopics.kafka.strimzi.io); install it, or use kafka.external";
    Obstacle::new("StrimziMissing", message.to_owned())
}

/// The Kafka that the spec names is not there.
pub fn no_kafka(strimzi: &StrimziKafka, namespace: &str) -> Obstacle {
    let cluster = &strimzi.cluster;
    let message =
        format!("there is no Kafka {cluster} in the namespace {namespace}; make it, or name another in kafka.strimzi");
    Obstacle::new("KafkaMissing", message)
}

/// The Kafka that the spec names cannot be used.
pub fn unusable(why: &Unusable) -> Obstacle {
    let passes = matches!(why, Unusable::Starting { .. });
    let reason = if passes { "KafkaStarting" } else { "ListenerMissing" };
    Obstacle { reason, message: why.to_string(), passes }
}

/// What Strimzi has not made yet.
pub fn strimzi(found: &Found) -> Option<Obstacle> {
    let (what, why) = found.unready.first_key_value()?;
    let message = format!("waiting for Strimzi: {what}: {why}");
    Some(Obstacle { reason: "StrimziNotReady", message, passes: true })
}

/// Secrets that pods cannot start without, each with the keys that it needs.
pub fn secrets<'a>(
    found: &Found,
    wanted: impl Iterator<Item = &'a (String, Vec<&'static str>)>,
) -> Result<(), Obstacle> {
    for (name, keys) in wanted {
        let Some(secret) = found.secrets.get(name) else {
            let message = format!("the Secret {name} is not there; make it, with {}", listed(keys));
            return Err(Obstacle::new("SecretMissing", message));
        };
        if let Some(missing) = keys.iter().find(|key| !secret.keys.contains_key(**key)) {
            let message = format!("the Secret {name} has no key {missing:?}; it needs {}", listed(keys));
            return Err(Obstacle::new("SecretIncomplete", message));
        }
    }
    Ok(())
}

fn listed(keys: &[&str]) -> String {
    let quoted: Vec<_> = keys.iter().map(|key| format!("{key:?}")).collect();
    format!("the key{} {}", if keys.len() == 1 { "" } else { "s" }, quoted.join(" and "))
}

/// Whether the recorded identity and the spec are of one service.
pub fn identity(spec: &ServiceSpec, fixed: &str, identity: &Identity) -> Result<(), Obstacle> {
    if !identity.fixed.is_empty() && fixed != identity.fixed {
        let message = format!(
            "the retained data was made with other settings than the spec has; set these, or use another name: {}",
            identity.fixed.replace('\n', ", ")
        );
        return Err(Obstacle::new("FixedSettingsChanged", message));
    }
    if spec.max_partitions != identity.max_partitions {
        let (now, was) = (spec.max_partitions, identity.max_partitions);
        return Err(Obstacle::new(
            "MaxPartitionsChanged",
            format!(
                "the retained data has maxPartitions {was}, the spec {now}; set {was}, or delete the identity \
                 ConfigMap and the databases to begin anew"
            ),
        ));
    }
    if let Some(external) = &spec.postgres.external
        && external.shards.len() < identity.partitions as usize
    {
        return Err(Obstacle::new(
            "ShardsMissing",
            format!(
                "data lies in {} shards, and postgres.external.shards has {}; list a Secret for each, in order, until \
                 all slots have been moved to fewer",
                identity.partitions,
                external.shards.len()
            ),
        ));
    }
    Ok(())
}

/// Shards that are going, since all slots were once moved off them, and that are to come again.
pub fn going(shards: &[ShardSource], there: &Objects) -> Option<Obstacle> {
    let goes = |cluster: &&String| {
        there.get("Cluster", cluster).is_some_and(|seen| seen.metadata.deletion_timestamp.is_some())
    };
    let cluster = shards.iter().filter_map(|shard| shard.cluster.as_ref()).find(goes)?;
    let message = format!("waiting for the Cluster {cluster} of before to be gone");
    Some(Obstacle { reason: "ShardStarting", message, passes: true })
}

/// What the processes still wait for.
pub fn shards(shards: &[ShardSource], found: &Found) -> Result<(), Obstacle> {
    let managed = shards.iter().any(|shard| shard.cluster.is_some());
    if managed && found.clusters.is_none() {
        return Err(Obstacle::new(
            "CloudNativePGMissing",
            "CloudNativePG is not installed (no CRD clusters.postgresql.cnpg.io); install it, or use postgres.external"
                .to_owned(),
        ));
    }
    for shard in shards {
        let keys = found.secrets.get(&shard.secret).map(|secret| &secret.keys);
        match (&shard.cluster, keys) {
            (_, Some(keys)) if keys.contains_key("uri") => {}
            (Some(cluster), _) => {
                let phase = found
                    .clusters
                    .as_ref()
                    .and_then(|clusters| clusters.get(cluster)?.phase.clone())
                    .unwrap_or_else(|| "CloudNativePG has not begun".to_owned());
                let message = format!("waiting for the Cluster {cluster}: {phase}");
                return Err(Obstacle { reason: "ShardStarting", message, passes: true });
            }
            (None, None) => {
                return Err(Obstacle::new(
                    "SecretMissing",
                    format!(
                        "the Secret {} of partition {} is not there; make it, with the key \"uri\"",
                        shard.secret, shard.partition
                    ),
                ));
            }
            (None, Some(_)) => {
                return Err(Obstacle::new(
                    "SecretIncomplete",
                    format!(
                        "the Secret {} of partition {} has no key \"uri\"; set it to \
                         postgresql://user:password@host:5432/database",
                        shard.secret, shard.partition
                    ),
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::watched::{ObjectKey, Seen};

    #[test]
    fn a_shard_that_goes_is_not_taken_for_one_that_comes() {
        let cluster = |gone: Option<&str>| -> Objects {
            let key = ObjectKey { kind: "Cluster".to_owned(), name: "demo-shard-2".to_owned() };
            let object = json!({ "metadata": { "name": "demo-shard-2", "deletionTimestamp": gone } });
            [(key, Seen::of(serde_json::from_value(object).unwrap()))].into_iter().collect()
        };
        let cluster_of = |partition| Some(format!("demo-shard-{partition}"));
        let shard =
            |partition| ShardSource { partition, secret: String::new(), cluster: cluster_of(partition), version: None };
        let shards = [shard(1), shard(2)];
        assert_eq!(going(&shards, &cluster(None)), None);
        let found = going(&shards, &cluster(Some("2026-01-01T00:00:00Z"))).unwrap();
        assert!(found.passes && found.message.contains("demo-shard-2"), "{}", found.message);
    }

    #[test]
    fn services_of_two_kinds_do_not_share_a_name() {
        let names = |kind: &str| Names {
            service: "demo".to_owned(),
            namespace: "shop".to_owned(),
            kind: kind.to_owned(),
            owner: Default::default(),
        };
        let identity = || {
            let key = ObjectKey { kind: "ConfigMap".to_owned(), name: "demo-identity".to_owned() };
            (key, Seen::of(serde_json::from_value(json!({ "metadata": { "name": "demo-identity" } })).unwrap()))
        };
        let there = |service: &ServiceKey| match (&*service.kind, &*service.name) {
            ("SignupShard", "demo") => [identity()].into_iter().collect(),
            _ => Objects::default(),
        };
        assert_eq!(namesake(&names("SignupShard"), there), None);
        let taken = namesake(&names("WalletPartition"), there).unwrap();
        assert!(taken.message.contains("SignupShard") && taken.message.contains("demo-identity"), "{}", taken.message);
    }
}
