//! The Shardlane operator: custom resources in, workers, shards and topics out. It knows nothing of records.

pub mod api;
pub mod build;
pub mod claims;
pub mod controller;
pub mod identity;
pub mod images;
pub mod kind;
mod kinds;
pub mod leader;
pub mod secrets;
pub mod telemetry;
pub mod watched;
