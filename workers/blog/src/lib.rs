//! BlogPipeline: posts, published through their shards and read from a cache.
//!
//! What is asked for goes from [`gateway`] through a topic to the slot of the post's slug, whose worker decides what becomes of it
//! ([`posts`]) and publishes the post as it is then. [`manager`] brings that into the [`cache`]; what is not there, the gateway reads from
//! the shard ([`shelf`]).

pub mod cache;
pub mod flights;
pub mod fold;
pub mod gateway;
pub mod manager;
pub mod metrics;
pub mod posts;
pub mod reads;
pub mod rebuild;
pub mod service;
pub mod shelf;
pub mod slugs;
pub mod tables;
pub mod wire;
