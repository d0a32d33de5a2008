//! CounterPool: fast counters, batched into Postgres.
//!
//! An increment goes from the [`gateway`] to its key's slot. What comes within a flush is [folded](fold) in memory, so that a
//! counter costs one row a flush however often it is raised, and the offset is in the same transaction: a restart loses
//! and doubles nothing.

pub mod fold;
pub mod gateway;
pub mod reads;
pub mod service;
pub mod tables;
pub mod wire;
