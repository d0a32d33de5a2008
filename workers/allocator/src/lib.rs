//! The memory allocator of our programs: jemalloc. The memory of most records is got by one thread and given back by another,
//! which costs the C library's allocator a lock each time.

use std::ffi::c_char;

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// How jemalloc is told its settings (its manual, section TUNING).
#[repr(transparent)]
pub struct Settings(*const c_char);

// SAFETY: what it points to is a constant.
unsafe impl Sync for Settings {}

/// One arena, as a worker has few threads and each arena keeps memory of its own; what is free goes back to the system within
/// half a second.
// SAFETY: jemalloc declares this symbol, weakly, for programs to give it; nothing else has the name.
#[unsafe(export_name = "malloc_conf")]
pub static SETTINGS: Settings = Settings(c"narenas:1,dirty_decay_ms:500,muzzy_decay_ms:0,lg_tcache_max:12".as_ptr());
