//! What samples cost the program's threads, in ticks of the processor's counter.
//!
//! The counter runs on while a thread waits for a processor, and that is where a sample may be interrupted as well as anywhere: the
//! fewer processors there are for those that want to run, the longer it seems to take. A thread's own clock would know, but
//! to ask it costs as much as half a sample. So no sample counts for longer than one ever takes by itself, which our
//! thread says in ticks once it knows how long they are; the few that were interrupted are then no more than the others.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::regs;

static LONGEST: AtomicU64 = AtomicU64::new(u64::MAX);

/// Says how many ticks a sample takes at the most. Our thread.
pub fn set_longest(ticks: u64) {
    LONGEST.store(ticks, Ordering::Relaxed);
}

/// The ticks since [`regs::ticks`] was `begin`, as the cost of a sample. For handlers.
#[inline]
pub fn since(begin: u64) -> u64 {
    regs::ticks().wrapping_sub(begin).min(LONGEST.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_that_was_interrupted_costs_no_more_than_one_ever_takes() {
        let begin = regs::ticks();
        std::thread::sleep(std::time::Duration::from_millis(5));
        let whole = since(begin);
        set_longest(whole / 100);
        assert_eq!(since(begin), whole / 100);
        set_longest(u64::MAX);
        assert!(since(begin) >= whole);
    }
}
