//! What stands in a service's way: pure, from the spec and what was read to reasons that a person can act on.

use super::dereference::Found;
use crate::api::common::ServiceSpec;
use crate::build::shards::ShardSource;
use crate::identity::Identity;

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
                "data lies in {} shards, and postgres.external.shards has {}; list a Secret for each, in order",
                identity.partitions,
                external.shards.len()
            ),
        ));
    }
    Ok(())
}

/// What the spec asks for and this version cannot do; the service runs on as it is.
pub fn unfulfilled(spec: &ServiceSpec, identity: &Identity) -> Option<Obstacle> {
    (spec.partitions != identity.partitions).then(|| {
        Obstacle::new(
            "ReshardingUnavailable",
            format!(
                "spec.partitions is {}, and the service runs with {}; this version cannot change it yet, so set it back",
                spec.partitions, identity.partitions
            ),
        )
    })
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
            (_, Some(keys)) if keys.contains("uri") => {}
            (Some(cluster), _) => {
                let phase = found
                    .clusters
                    .as_ref()
                    .and_then(|clusters| clusters.get(cluster)?.status.as_ref()?.phase.clone())
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
