//! everprof's own messages, through the host's logger, under the target `everprof` and the option `log`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use log::{Level, LevelFilter};

static LEVEL: AtomicUsize = AtomicUsize::new(LevelFilter::Info as usize);

/// Sets the least important message that passes.
pub(crate) fn set_level(level: LevelFilter) {
    LEVEL.store(level as usize, Ordering::Relaxed);
}

/// Something works less well than it was asked to.
pub(crate) fn warn(message: &str) {
    say(Level::Warn, message);
}

/// Something worth knowing happened.
pub(crate) fn info(message: &str) {
    say(Level::Info, message);
}

fn say(level: Level, message: &str) {
    if level as usize <= LEVEL.load(Ordering::Relaxed) {
        // Code of the host's. Should it panic, the message is lost, and not the thread of ours that had something to say.
        let _ = catch_unwind(AssertUnwindSafe(|| log::log!(target: "everprof", level, "{message}")));
    }
}
