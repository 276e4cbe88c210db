//! The door for names of threads that only a runtime knows: the system keeps fifteen bytes of a name, and is seldom told it.
//!
//! Called on the runtime's own threads, when a thread begins or is renamed; the drain takes what has come together whenever it
//! empties the rings. It is for the drain to forget them when threads end, since a short life's samples come after it. While no
//! profiler runs nothing is kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::pairs;

/// Threads that may be told of between two looks of the drain; others keep the system's name.
const MOST: usize = 65_536;

/// What was told since the drain looked; `None` while nobody samples.
static TOLD: Mutex<Option<Names>> = Mutex::new(None);

/// Names by the ids of threads; an empty one is taken back.
pub(crate) type Names = HashMap<u32, Arc<str>>;

/// Says what thread `tid` of this process is called, by the number that `gettid` gives, instead of what the system calls it. It is made to
/// fit into a label (256 bytes, no control characters); empty, it is what the system says again. It holds until the thread ends or
/// the profiler stops, from the samples on that are read next, which are at most half a second old. Whoever names threads bounds how
/// many names there are: each makes rows of its own in profiles.
///
/// ```
/// let _profiler = everprof::Profiler::builder().set("push", "off").start()?;
/// // The first thread has the number of the process.
/// everprof::thread_names::tell(std::process::id(), "MainThread");
/// # Ok::<(), everprof::Error>(())
/// ```
pub fn tell(tid: u32, name: &str) {
    let name: Arc<str> = pairs::sanitised_value(name).into();
    if let Some(told) = lock().as_mut().filter(|told| told.len() < MOST || told.contains_key(&tid)) {
        told.insert(tid, name);
    }
}

/// Opens the door, or closes it and forgets what is behind it.
pub(crate) fn set_open(open: bool) {
    let mut told = lock();
    *told = open.then(|| told.take().unwrap_or_default());
}

/// Takes what was told; the door stays as it is.
pub(crate) fn take() -> Names {
    lock().as_mut().map(std::mem::take).unwrap_or_default()
}

/// In a fork's child, whose threads have other ids. The door stays open: its runtime may tell names before its drain has begun.
pub(crate) fn after_fork(mut told: MutexGuard<'static, Option<Names>>) {
    if let Some(names) = told.as_mut() {
        names.clear();
    }
}

/// Held for a look-up at a time. `fork` holds it too, so that a child finds it free; see the profiler.
pub(crate) fn lock() -> MutexGuard<'static, Option<Names>> {
    TOLD.lock().unwrap_or_else(PoisonError::into_inner)
}
