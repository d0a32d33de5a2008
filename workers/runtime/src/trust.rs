//! Whether what a batch brings is taken to be new, so that it is written without asking first.
//!
//! Where nothing is there already, asking first costs a fifth of the time; where something is, trying in vain costs as well.
//! Only the speed depends on it.

use std::sync::atomic::{AtomicU32, Ordering};

/// For how many batches the shard is asked first, once something was not new.
const WARY: u32 = 32;

/// What the last batches taught. Only a loop writes it, and there is one.
#[derive(Debug, Default)]
pub struct Trust {
    /// For how many more batches the shard is asked first.
    wary: AtomicU32,
}

impl Trust {
    /// Whether to write without asking.
    pub fn holds(&self) -> bool {
        self.wary.load(Ordering::Relaxed) == 0
    }

    /// Everything was new.
    pub fn kept(&self) {
        let _ = self.wary.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |wary| wary.checked_sub(1));
    }

    /// Something was not.
    pub fn broken(&self) {
        self.wary.store(WARY, Ordering::Relaxed);
    }
}
