//! Services on a real cluster, made and run by the operator.

#![allow(clippy::tests_outside_test_module, missing_docs)]

mod alone;
mod causes;
mod halts;
mod lives;
mod reshard;
mod services;
mod specs;

use tokio::sync::RwLock;

/// Held for writing by tests that break what all services share or see that nobody writes, and for reading by all others that make
/// a service.
static SHARED: RwLock<()> = RwLock::const_new(());
