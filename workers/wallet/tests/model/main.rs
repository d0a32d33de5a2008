//! The wallet's pure core against a plain model, and its audits in a simulated world.

#![allow(clippy::tests_outside_test_module, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod audits;
mod batches;
mod plain;
mod world;
