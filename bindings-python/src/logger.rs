//! everprof's messages on their way to Python's `logging`: kept here until Python comes for them.
//!
//! The core logs on threads of its own, at any moment, also while the interpreter shuts down or forks. To hand a message over
//! there and then would need the interpreter, and whoever waits for it may wait for ever; a pending call would run the host's
//! handlers in the middle of whatever its main thread does, perhaps inside of a queue whose lock they want. So messages wait in a
//! bounded queue, and calls from Python take them along (`_log.py`): on a thread that has the interpreter and holds nothing of ours.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// Messages that wait; of more, the oldest go.
const ROOM: usize = 256;
/// How often a lock that is held for less than a microsecond is tried. In a fork's child it may be held for ever.
const TRIES: usize = 1_000;

static WAITING: Mutex<VecDeque<(u32, String)>> = Mutex::new(VecDeque::new());
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

struct Keeper;

/// Once, before anything is logged. How much is said is for the option `log`.
pub(crate) fn install() {
    if log::set_logger(&Keeper).is_ok() {
        log::set_max_level(LevelFilter::Trace);
    }
}

/// The messages that have come since the last call.
pub(crate) fn take() -> Vec<(u32, String)> {
    let Some(mut waiting) = lock() else { return Vec::new() };
    let mut messages: Vec<_> = waiting.drain(..).collect();
    drop(waiting);
    let left_out = LEFT_OUT.swap(0, Ordering::Relaxed);
    if left_out > 0 {
        messages.push((number(Level::Warn), format!("{left_out} messages were left out")));
    }
    messages
}

impl Log for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "everprof"
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let message = (number(record.level()), record.args().to_string());
        let Some(mut waiting) = lock() else {
            LEFT_OUT.fetch_add(1, Ordering::Relaxed);
            return;
        };
        if waiting.len() >= ROOM {
            waiting.pop_front();
            LEFT_OUT.fetch_add(1, Ordering::Relaxed);
        }
        waiting.push_back(message);
    }

    fn flush(&self) {}
}

fn lock() -> Option<MutexGuard<'static, VecDeque<(u32, String)>>> {
    for _ in 0..TRIES {
        match WAITING.try_lock() {
            Ok(waiting) => return Some(waiting),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::yield_now(),
        }
    }
    None
}

/// The level as `logging` numbers it.
fn number(level: Level) -> u32 {
    match level {
        Level::Error => 40,
        Level::Warn => 30,
        Level::Info => 20,
        Level::Debug | Level::Trace => 10,
    }
}
