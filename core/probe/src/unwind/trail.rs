//! Where the last walk went, so that the next one finds its way in the processor's caches.
//!
//! A walk is a chain: a frame's rule says where the return address lies, and that says which rule is next. When a thread
//! has worked for ten milliseconds since its last sample, every link is a miss in the caches, one after the other, and
//! they are most of what a sample costs. But most of a stack is the same from one sample to the next. So a walk leaves
//! a trail of its frames, and the next one asks for all that lies along it at once, before it sets out. These are hints,
//! which cannot fault and of which nothing depends: where the stack has changed, the walk pays as it would have.

use super::snapshot::Snapshot;
use crate::regs::prefetch;

/// Words that a trail takes: two for each of the first 128 frames.
pub const TRAIL_WORDS: usize = 256;

/// Bytes to a cache line.
const LINE: u64 = 64;
/// Lines of a trail that are asked for before its length is known: 48 frames.
const FIRST_LINES: u64 = 12;

/// The frames of the last walk that left its trail in the same words, and room for those of the next. Words of any
/// content will do for a beginning.
///
/// ```
/// use everprof_probe::unwind::{TRAIL_WORDS, Trail};
/// let mut words = [0; TRAIL_WORDS];
/// let trail = Trail::new(&mut words);
/// ```
#[derive(Debug, Default)]
pub struct Trail<'a> {
    /// A frame's program counter, 0 behind the last; and where it ends, just above its return address.
    steps: &'a mut [[u64; 2]],
    len: usize,
}

impl<'a> Trail<'a> {
    /// Asks for the beginning of the trail in the words at `address`. A hint, for handlers.
    #[inline]
    pub fn prefetch(address: u64) {
        for line in 0..FIRST_LINES {
            prefetch(address.wrapping_add(line * LINE));
        }
    }

    /// The trail in `words`.
    pub fn new(words: &'a mut [u64]) -> Self {
        let (steps, _) = words.as_chunks_mut();
        Self { steps, len: 0 }
    }

    /// Asks for what the last walk needed: the rules of its frames in the cache of `snapshot`, and its stack.
    #[inline]
    pub(super) fn fetch(&self, snapshot: &Snapshot) {
        for [pc, cfa] in self.steps.iter() {
            if *pc == 0 {
                break;
            }
            snapshot.prefetch(*pc);
            prefetch(cfa.wrapping_sub(8));
        }
    }

    /// Leaves the mark of a frame.
    #[inline]
    pub(super) fn note(&mut self, pc: u64, cfa: u64) {
        if let Some(step) = self.steps.get_mut(self.len) {
            *step = [pc, cfa];
            self.len += 1;
        }
    }

    /// The walk is over.
    #[inline]
    pub(super) fn end(&mut self) {
        if let Some(step) = self.steps.get_mut(self.len) {
            *step = [0, 0];
        }
    }
}
