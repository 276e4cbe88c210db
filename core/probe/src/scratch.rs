//! Room for a stack while it is walked, and the sign that a handler is at work.
//!
//! A handler runs on whatever stack the thread has, which may be an alternate signal stack of a few KiB, so the words
//! of the walk go to one of a small pool of buffers. Only as many handlers run at once as there are processors, plus
//! those that lost the processor in the middle; a pool serves thousands of threads with little memory.
//!
//! A claimed buffer also tells our thread that a handler is at work: stopping waits until [`idle`] is true.

use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use crate::os::Pages;
use crate::ring::MAX_STACK_WORDS;

const BUFFERS: usize = 64;

static POOL: [Claim; BUFFERS] = [const { Claim(AtomicBool::new(false)) }; BUFFERS];
static WORDS: AtomicPtr<u64> = AtomicPtr::new(core::ptr::null_mut());

#[repr(align(64))]
struct Claim(AtomicBool);

/// A buffer of [`MAX_STACK_WORDS`] words, given back on drop.
#[derive(Debug)]
pub struct Scratch {
    index: usize,
    words: *mut u64,
}

/// Maps the buffers, once for the life of the process; false where there is no memory. Our thread.
pub fn prepare() -> bool {
    if !WORDS.load(Ordering::Acquire).is_null() {
        return true;
    }
    let Some(pages) = Pages::new(BUFFERS * MAX_STACK_WORDS * size_of::<u64>()) else { return false };
    WORDS.store(pages.leak().as_ptr().cast(), Ordering::Release);
    true
}

/// Takes a free buffer, looking from `hint` on, so that threads seldom meet at the same one. For handlers.
pub fn claim(hint: usize) -> Option<Scratch> {
    let words = WORDS.load(Ordering::Acquire);
    if words.is_null() {
        return None;
    }
    for step in 0..BUFFERS {
        // Few starting points, so that few buffers are ever touched and those stay in the cache.
        let index = (hint % 8 + step) % BUFFERS;
        let claim = POOL.get(index)?;
        if !claim.0.load(Ordering::Relaxed)
            && claim.0.compare_exchange(false, true, Ordering::SeqCst, Ordering::Relaxed).is_ok()
        {
            // SAFETY: index is below BUFFERS, for which the pages were made.
            let words = unsafe { words.add(index * MAX_STACK_WORDS) };
            return Some(Scratch { index, words });
        }
    }
    None
}

/// Whether each buffer was seen free: then no handler that began before this call still runs. Our thread.
pub fn idle() -> bool {
    POOL.iter().all(|claim| !claim.0.load(Ordering::SeqCst))
}

/// Frees the buffers of threads that do not exist here. Only in a fork's child.
pub fn after_fork() {
    for claim in &POOL {
        claim.0.store(false, Ordering::SeqCst);
    }
}

impl Scratch {
    /// The buffer.
    pub fn words(&mut self) -> &mut [u64] {
        // SAFETY: the words belong to this claim alone until it is dropped, and pages start zeroed.
        unsafe { core::slice::from_raw_parts_mut(self.words, MAX_STACK_WORDS) }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(claim) = POOL.get(self.index) {
            claim.0.store(false, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::vec::Vec;

    #[test]
    fn the_pool_gives_each_buffer_once_and_says_when_all_are_back() {
        assert!(prepare());
        let claimed: Vec<_> = core::iter::from_fn(|| claim(5)).collect();
        assert_eq!(claimed.len(), BUFFERS);
        let mut starts: Vec<_> = claimed.iter().map(|scratch| scratch.words as usize).collect();
        starts.sort_unstable();
        starts.dedup();
        assert_eq!(starts.len(), BUFFERS);
        assert!(!idle());
        drop(claimed);
        assert!(idle());
    }
}
