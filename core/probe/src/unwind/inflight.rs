//! Which walks are under way, so that what they read is freed only when they are over.
//!
//! A walk enters one of a few counters, each on a cache line of its own, before it looks at anything shared, and leaves
//! it at the end. Whoever withdraws something shared may free it once each counter has been seen at zero afterwards: a
//! walk that started before is then over, and one that started later did not find it. Nobody waits: a handler never,
//! and everprof's thread looks again the next time it comes by.

use core::sync::atomic::{AtomicUsize, Ordering, fence};

use crate::regs;

/// A walk under way; leaves when dropped.
pub(crate) struct Entered {
    counter: &'static Counter,
}

/// Marks the beginning of a walk. `key` spreads threads over the counters: their thread pointer. Async-signal-safe.
#[inline]
pub(super) fn enter(key: u64) -> Entered {
    let counter = counter(key);
    // Sequentially consistent on both sides: either the walk sees that something was withdrawn, or whoever withdrew it
    // sees the walk.
    counter.0.fetch_add(1, Ordering::SeqCst);
    Entered { counter }
}

/// Asks for the counter that [`enter`] will take. A hint.
#[inline]
pub(super) fn prefetch(key: u64) {
    regs::prefetch(core::ptr::from_ref(counter(key)) as u64);
}

/// Marks the end of a walk that was entered with the same `key`, and that will never leave.
pub(super) fn leave_behind(key: u64) {
    counter(key).0.fetch_sub(1, Ordering::Release);
}

#[inline]
fn counter(key: u64) -> &'static Counter {
    let spread = (key >> 6).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
    let [first, ..] = &COUNTERS;
    COUNTERS.get(spread as usize).unwrap_or(first)
}

impl Drop for Entered {
    #[inline]
    fn drop(&mut self) {
        self.counter.0.fetch_sub(1, Ordering::Release);
    }
}

/// Which counters have yet to be seen at zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending(u16);

impl Pending {
    /// From now on, after something was withdrawn.
    pub(super) fn all() -> Self {
        fence(Ordering::SeqCst);
        Self(u16::MAX)
    }

    /// Looks at the counters once more, and says whether every walk is over that was under way at the start.
    pub(super) fn is_over(&mut self) -> bool {
        for (index, counter) in COUNTERS.iter().enumerate() {
            if counter.0.load(Ordering::SeqCst) == 0 {
                self.0 &= !(1 << index);
            }
        }
        self.0 == 0
    }
}

/// In the child of a fork: the walks of threads that do not exist there are over.
pub(super) fn forget() {
    for counter in &COUNTERS {
        counter.0.store(0, Ordering::SeqCst);
    }
}

#[repr(align(64))]
struct Counter(AtomicUsize);

static COUNTERS: [Counter; 16] = [const { Counter(AtomicUsize::new(0)) }; 16];

#[cfg(test)]
mod tests {
    use super::{Pending, enter};

    // One test, since the counters are the whole process's; other tests' walks end sooner or later.
    #[test]
    fn a_walk_holds_back_what_was_withdrawn_during_it_and_no_more() {
        let walk = enter(1 << 20);
        let mut pending = Pending::all();
        for _ in 0..100 {
            assert!(!pending.is_over());
        }
        drop(walk);
        while !pending.is_over() {
            std::thread::yield_now();
        }
        let _later = enter(1 << 20);
        assert!(pending.is_over());
    }
}
