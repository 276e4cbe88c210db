//! The bell that wakes our thread before its time: somebody has a command for it, or has set his first label.
//!
//! Any thread of the host rings; it waits for nobody, and pays a system call only where ours sleeps and has not been
//! woken yet. Not for handlers.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::os;

const QUIET: u32 = 0;
/// Our thread sleeps, or is about to.
const LISTENED: u32 = 1;
const RUNG: u32 = 2;

static BELL: AtomicU32 = AtomicU32::new(QUIET);

/// Wakes our thread now, or keeps it from falling asleep.
pub fn ring() {
    if BELL.swap(RUNG, Ordering::SeqCst) == LISTENED {
        os::wake(&BELL);
    }
}

/// Sleeps until somebody rings, for `nanos` at the most, or not at all where somebody rang since the last call. It may
/// return early for no reason. Our thread.
pub fn sleep(nanos: u64) {
    match BELL.compare_exchange(QUIET, LISTENED, Ordering::SeqCst, Ordering::SeqCst) {
        // Listened to already: by the thread of a profiler that is just being stopped.
        Ok(_) | Err(LISTENED) => os::wait(&BELL, LISTENED, nanos),
        Err(_) => {}
    }
    BELL.store(QUIET, Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn who_rings_is_heard_now_or_at_the_next_sleep() {
        let begin = Instant::now();
        ring();
        sleep(3_600_000_000_000);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while BELL.load(Ordering::SeqCst) != LISTENED {
                    std::thread::yield_now();
                }
                ring();
            });
            sleep(3_600_000_000_000);
        });
        assert_eq!(BELL.load(Ordering::SeqCst), QUIET);
        sleep(1_000_000);
        assert!(begin.elapsed() < Duration::from_secs(3_600));
    }
}
