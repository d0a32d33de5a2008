//! Services on a real cluster, made and run by the operator.

#![allow(clippy::tests_outside_test_module, missing_docs)]

mod services;
mod specs;
