//! Moving slots from shard to shard while the service runs. [`plan`](plan::plan) says which, [`group`] moves some of them,
//! [`run`] does it all and takes up what another mover has left. They see shards and Kafka through [`edges`] alone.

pub mod arrays;
pub mod brief;
pub mod busy;
pub mod copy;
pub mod edges;
pub mod group;
pub mod pace;
pub mod plan;
pub mod postgres;
pub mod progress;
pub mod recover;
pub mod run;
pub mod statements;
pub mod traffic;
