//! A sign-up service of plain processes on a real Kafka and a real Postgres.

#![allow(clippy::tests_outside_test_module, missing_docs)]

mod blog;
mod counter;
mod halts;
mod kills;
mod loop_and_fence;
mod moves;
mod original;
mod pages;
mod poison;
mod preparation;
mod retention;
mod secure;
mod stateless;
mod users;
mod wallet;

use serde_json::{Value, json};

/// A spec with topics of its own, so that tests do not meet.
fn spec(name: &str, partitions: u32, max_partitions: u32) -> Value {
    json!({
        "partitions": partitions,
        "maxPartitions": max_partitions,
        "topics": { "request": format!("{name}.request"), "response": format!("{name}.response") },
    })
}
