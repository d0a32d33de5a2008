//! Where each partition's shard is.

use super::names::Names;
use crate::api::common::PostgresSpec;

/// The shard of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardSource {
    /// The partition.
    pub partition: u32,
    /// The Secret whose key `uri` leads there.
    pub secret: String,
    /// The CloudNativePG Cluster, if it is one.
    pub cluster: Option<String>,
    /// Changes when what is in the Secret does.
    pub version: Option<String>,
}

impl ShardSource {
    /// What a person calls it.
    pub fn name(&self) -> &str {
        self.cluster.as_deref().unwrap_or(&self.secret)
    }
}

/// The shards of the first `partitions` partitions; fewer if the spec has fewer.
pub fn sources(names: &Names, postgres: &PostgresSpec, partitions: u32) -> Vec<ShardSource> {
    (0..partitions)
        .filter_map(|partition| match &postgres.external {
            Some(external) => {
                let shard = external.shards.get(usize::try_from(partition).ok()?)?;
                Some(ShardSource { partition, secret: shard.secret_ref.name.clone(), cluster: None, version: None })
            }
            None => {
                let cluster = names.shard(partition);
                // CloudNativePG's Secret for the owner of the application's database.
                Some(ShardSource { partition, secret: format!("{cluster}-app"), cluster: Some(cluster), version: None })
            }
        })
        .collect()
}
