//! The kinds, one file each.

mod blog_pipeline;
mod counter_pool;
mod signup_shard;
mod wallet_partition;
