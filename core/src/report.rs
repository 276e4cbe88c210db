//! everprof's own messages, through the host's logger, under the target `everprof` and the option `log`.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

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

/// As [`warn`], unless the same was among the last few of these: for what a server may say of each profile.
pub(crate) fn warn_once(message: &str) {
    const KEPT: usize = 16;
    static SAID: [AtomicU64; KEPT] = [const { AtomicU64::new(0) }; KEPT];
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let hash = BuildHasherDefault::<DefaultHasher>::new().hash_one(message).max(1);
    if SAID.iter().any(|said| said.load(Ordering::Relaxed) == hash) {
        return;
    }
    if let Some(place) = SAID.get(NEXT.fetch_add(1, Ordering::Relaxed) % KEPT) {
        place.store(hash, Ordering::Relaxed);
    }
    warn(message);
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stdout)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    struct Kept(Mutex<Vec<String>>);

    impl log::Log for Kept {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }

        fn log(&self, record: &log::Record<'_>) {
            let said = record.args().to_string();
            if said.starts_with("test: ") {
                self.0.lock().unwrap().push(said);
            }
        }

        fn flush(&self) {}
    }

    #[test]
    fn what_was_said_is_not_said_again() {
        static KEPT: Kept = Kept(Mutex::new(Vec::new()));
        // Another test of this process may have a logger: then nothing can be seen here.
        if log::set_logger(&KEPT).is_err() {
            return println!("not run: this process has a logger already");
        }
        log::set_max_level(LevelFilter::Trace);
        ["test: a", "test: b", "test: a", "test: b", "test: c"].into_iter().for_each(warn_once);
        assert_eq!(*KEPT.0.lock().unwrap(), ["test: a", "test: b", "test: c"]);
    }
}
