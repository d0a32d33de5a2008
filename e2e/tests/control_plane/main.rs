//! The operator against a real API server that runs no pods: what it says, what it survives, and what it costs.

#![allow(clippy::tests_outside_test_module, missing_docs)]

mod cache;
mod causes;
mod charts;
mod crashes;
mod leaders;
mod many;
mod reshard;
