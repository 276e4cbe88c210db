//! What each thread has of ours, besides its slot: a few numbers in the thread's own block (`regs::own_block`), which is
//! there before the thread's first allocation and after its last one, in destructors of thread-local variables too.
//!
//! Nobody but the thread itself looks at them. Zeros are a valid beginning.

use core::cell::Cell;

use crate::poisson;
use crate::regs::{self, OWN_BLOCK};

/// The numbers of the calling thread.
#[repr(C)]
#[derive(Debug)]
pub struct Own {
    /// Of [`crate::heap`]: bytes until the end of a chunk; below 0, one was just passed by so many.
    pub(crate) countdown: Cell<i64>,
    /// Of [`crate::heap`]: bytes from the end of the chunk to the next sample.
    pub(crate) rest: Cell<u64>,
    random: Cell<u64>,
    /// Of [`crate::heap`]: the mean distance that `rest` was drawn by; 0 where it was not.
    pub(crate) mean: Cell<u64>,
    /// Of [`crate::sampling`]: where on its stack the sample lies that it takes, in a call and not in a signal; 0: none.
    pub(crate) sampling: Cell<u64>,
    is_ours: Cell<bool>,
    /// Of [`crate::sampling`]: what the sample has to give back.
    pub(crate) held: Cell<u8>,
    pub(crate) is_walking: Cell<bool>,
    pub(crate) ring: Cell<u8>,
    /// Of [`crate::heap`]: changes with each allocation that was counted where C's functions are called.
    pub(crate) counted: Cell<u32>,
    /// Of [`crate::lock`]: the address of the lock that the thread has waited for and not yet got, as far as is known.
    pub(crate) wanted: Cell<u64>,
    /// Of [`crate::sampling`]: the record that the sample is about to reserve in `ring`, or has, and has not yet written.
    pub(crate) reserved: Cell<u64>,
}

const _: () = assert!(size_of::<Own>() <= OWN_BLOCK);

impl Own {
    /// That of the calling thread. Not to be kept beyond the call at hand.
    #[inline(always)]
    pub fn of_this_thread<'a>() -> &'a Own {
        let block: *const Own = regs::own_block().cast();
        // SAFETY: the block is large enough and aligned for it, zeros are valid, and no other thread has a reference to it.
        unsafe { &*block }
    }

    /// Leaves the calling thread out of what is profiled, by hooks: it is one of ours.
    pub fn leave_out(&self) {
        self.is_ours.set(true);
        // Never used up.
        self.countdown.set(i64::MAX);
    }

    /// Whether it was left out.
    pub(crate) fn is_ours(&self) -> bool {
        self.is_ours.get()
    }

    /// 64 random bits, from a sequence of the thread's own.
    pub(crate) fn random(&self) -> u64 {
        let before = match self.random.get() {
            // Threads differ by their blocks' places, and by when they began.
            0 => poisson::bits(core::ptr::from_ref(self) as u64 ^ regs::ticks().rotate_left(32)),
            state => state,
        };
        let state = poisson::next(before);
        self.random.set(state);
        poisson::bits(state)
    }

    /// Makes the sequence one that is known. For tests.
    pub(crate) fn seed(&self, seed: u64) {
        self.random.set(seed | 1);
    }
}
