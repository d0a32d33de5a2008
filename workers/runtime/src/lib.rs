//! What all services share: the partition loop, its relay, Kafka and Postgres access, and the scaffolding of a gateway.
//!
//! A service is a [`service::Service`]; [`worker::run`] does the rest. The loop's parts, in the order in which a record
//! meets them: [`reader`], [`intake`], the service, [`shard`], [`relay`].

pub mod database;
pub mod gateway;
pub mod health;
pub mod hint;
pub mod intake;
pub mod kafka;
pub mod ksuid;
pub mod metrics;
pub mod partitioner;
pub mod process;
pub mod producer;
pub mod reader;
pub mod record;
pub mod relay;
pub mod service;
pub mod shard;
pub mod worker;

pub use shardlane_config as config;
