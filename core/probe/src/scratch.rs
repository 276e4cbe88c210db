//! Room for a stack while it is walked, and the sign that a handler is at work.
//!
//! A handler runs on whatever stack the thread has, which may be an alternate signal stack of a few KiB, so the words
//! of the walk go to one of a small pool of buffers. Only as many handlers run at once as there are processors, plus
//! those that lost the processor in the middle; a pool serves thousands of threads with little memory.
//!
//! A claimed buffer also tells our thread that a handler is at work: stopping waits until [`idle`] is true.

use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::os::Pages;
use crate::regs;
use crate::ring::MAX_STACK_WORDS;
use crate::unwind::{TRAIL_WORDS, Trail};

const BUFFERS: usize = 64;
/// Where threads begin to look: few places, so that few buffers are ever touched and those stay in the cache.
const STARTS: usize = 8;
/// Bytes of those that have memory from the start: the trail, and some 250 frames.
const TOUCHED: usize = 4096;
const BUFFER_WORDS: usize = TRAIL_WORDS + MAX_STACK_WORDS;

static POOL: [Claim; BUFFERS] = [const { Claim(AtomicU64::new(0)) }; BUFFERS];
static WORDS: AtomicPtr<u64> = AtomicPtr::new(core::ptr::null_mut());

/// Whose it is, by the thread pointer; 0: nobody's.
#[repr(align(64))]
struct Claim(AtomicU64);

/// A buffer of [`MAX_STACK_WORDS`] words with the trail of its last walk, given back on drop.
#[derive(Debug)]
pub struct Scratch {
    index: usize,
    owner: u64,
    words: *mut u64,
}

/// Maps the buffers, once for the life of the process; false where there is no memory. Our thread.
pub fn prepare() -> bool {
    if !WORDS.load(Ordering::Acquire).is_null() {
        return true;
    }
    let Some(pages) = Pages::new(BUFFERS * BUFFER_WORDS * size_of::<u64>()) else { return false };
    for index in 0..STARTS {
        let start = index * BUFFER_WORDS * size_of::<u64>();
        pages.touch(start..start + TOUCHED);
    }
    WORDS.store(pages.leak().as_ptr().cast(), Ordering::Release);
    true
}

/// Takes a free buffer, looking from `hint` on, so that threads seldom meet at the same one. For handlers.
pub fn claim(hint: usize) -> Option<Scratch> {
    let words = WORDS.load(Ordering::Acquire);
    if words.is_null() {
        return None;
    }
    let owner = regs::thread_pointer();
    for step in 0..BUFFERS {
        let index = (hint % STARTS + step) % BUFFERS;
        let claim = POOL.get(index)?;
        if claim.0.load(Ordering::Relaxed) == 0
            && claim.0.compare_exchange(0, owner, Ordering::SeqCst, Ordering::Relaxed).is_ok()
        {
            // SAFETY: index is below BUFFERS, for which the pages were made.
            let words = unsafe { words.add(index * BUFFER_WORDS) };
            return Some(Scratch { index, owner, words });
        }
    }
    None
}

/// Asks for the buffer that [`claim`] most likely gives for `hint`. A hint, for handlers.
#[inline]
pub fn prefetch(hint: usize) {
    let index = hint % STARTS;
    regs::prefetch((&raw const POOL).cast::<Claim>().wrapping_add(index) as u64);
    let buffer = WORDS.load(Ordering::Relaxed).wrapping_add(index * BUFFER_WORDS);
    Trail::prefetch(buffer as u64);
}

/// Whether each buffer was seen free: then no handler that began before this call still runs. Our thread.
pub fn idle() -> bool {
    POOL.iter().all(|claim| claim.0.load(Ordering::SeqCst) == 0)
}

/// Frees the buffers of threads that do not exist here. Only in a fork's child.
pub fn after_fork() {
    for claim in &POOL {
        claim.0.store(0, Ordering::SeqCst);
    }
}

/// Gives back the buffers that the calling thread has claimed and left behind: all that it has. Each is told before.
pub(crate) fn give_back(mut each: impl FnMut(usize)) {
    let owner = regs::thread_pointer();
    for (index, claim) in POOL.iter().enumerate() {
        if claim.0.load(Ordering::Relaxed) == owner {
            each(index);
            claim.0.store(0, Ordering::SeqCst);
        }
    }
}

impl Scratch {
    /// Which of the buffers it is: a number below 64.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The trail of the last walk into this buffer, and the buffer.
    pub fn parts(&mut self) -> (Trail<'_>, &mut [u64]) {
        // SAFETY: the words belong to this claim alone until it is dropped, and pages start zeroed.
        let all = unsafe { core::slice::from_raw_parts_mut(self.words, BUFFER_WORDS) };
        let (trail, words) = all.split_at_mut(TRAIL_WORDS);
        (Trail::new(trail), words)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(claim) = POOL.get(self.index) {
            // Unless it was given back before, and is somebody else's now.
            let _ = claim.0.compare_exchange(self.owner, 0, Ordering::SeqCst, Ordering::Relaxed);
        }
    }
}

/// The pool is the whole process's: who holds this in a test has it alone.
#[cfg(test)]
pub(crate) fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::vec::Vec;

    /// It was taken for one that was left, while its thread ran elsewhere, and the buffer claimed by another thread.
    #[test]
    fn what_was_given_back_already_is_not_given_back_again() {
        let _alone = alone();
        assert!(prepare());
        let claimed = claim(5).unwrap();
        let word = &POOL.get(claimed.index).unwrap().0;
        let another = regs::thread_pointer() + 4096;
        word.store(another, Ordering::Relaxed);
        drop(claimed);
        assert_eq!(word.swap(0, Ordering::Relaxed), another);
        drop(claim(5).unwrap());
        assert!(idle());
    }

    #[test]
    fn the_pool_gives_each_buffer_once_and_says_when_all_are_back() {
        let _alone = alone();
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
