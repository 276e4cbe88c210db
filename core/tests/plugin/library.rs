//! A library that carries everprof, as a plug-in of a program that knows nothing of it: `surroundings.rs` loads it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Mutex;

use everprof::Profiler;

static RUNNING: Mutex<Option<Profiler>> = Mutex::new(None);

/// Starts, and says with 0 that it did.
// SAFETY: no other function of the process has this name.
#[unsafe(no_mangle)]
pub extern "C" fn plugin_start() -> i32 {
    let started = Profiler::start().ok();
    let failed = started.is_none();
    *RUNNING.lock().unwrap() = started;
    failed.into()
}

// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn plugin_stop() {
    RUNNING.lock().unwrap().take();
}
