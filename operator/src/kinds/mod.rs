//! The kinds, one file each.

mod signup_shard;
mod wallet_partition;
