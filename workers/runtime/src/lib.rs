//! What all services share: the partition loop, its relay, Kafka and Postgres access, and the scaffolding of a gateway.
//!
//! A service is a [`service::Service`] and its [`service::Tables`]; [`worker::run`] does the rest. What a record meets, in
//! order: [`reader`], [`intake`], the service, [`shard`], [`relay`]. [`partition_loop`] and [`relay`] decide; they see
//! Kafka, Postgres and time through [`edges`] alone, so that a test can put a simulation in their place.

// For its effect alone.
use shardlane_allocator as _;

pub mod addresses;
mod apart;
pub mod behind;
pub mod cli;
pub mod column;
pub mod database;
pub mod edges;
mod fences;
pub mod fresh;
pub mod gateway;
pub mod gather;
pub mod health;
pub mod hint;
pub mod intake;
pub mod kafka;
pub mod ksuid;
mod lag;
pub mod metrics;
pub mod partition_loop;
pub mod partitioner;
pub mod postgres;
pub mod prepare;
pub mod process;
pub mod producer;
pub mod reader;
pub mod record;
pub mod relay;
pub mod resume;
pub mod retention;
pub mod service;
pub mod shard;
pub mod standing;
pub mod stateless;
pub mod trust;
pub mod worker;

pub use shardlane_config as config;
