//! Reads that cannot fault.
//!
//! In the handler, [`StackMemory`] reads a word only from ranges that its owner knows to be mapped: two comparisons, no
//! system call. Asking the kernel about each word instead, as other unwinders do, costs 0.5 to 1 us a frame. Off the
//! handler, [`copy`] reads anything through the kernel; in it, [`is_readable`] asks about the rare word that nobody vouches for.

use core::ops::Range;

use crate::{os, regs, stacks};

/// The ranges of memory that a stack walk may read: the thread's stack, its alternate signal stack, and up to two more.
/// Beside them, the stacks that are registered in [`stacks`].
///
/// ```
/// use everprof_probe::memory::StackMemory;
/// let words = [1_u64, 2, 3];
/// let start = words.as_ptr() as u64;
/// let mut memory = StackMemory::new();
/// // SAFETY: `words` outlives `memory`.
/// unsafe { memory.add(start..start + 24) };
/// assert_eq!(memory.read(start + 8), Some(2));
/// assert_eq!(memory.read(start + 24), None);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct StackMemory {
    ranges: [Words; 4],
}

/// The addresses at which a whole word of a range begins: one subtraction and one comparison a read.
#[derive(Clone, Copy, Debug, Default)]
struct Words {
    start: u64,
    len: u64,
    /// To be added to an address: where the range is read from, if that is a copy of it.
    shift: u64,
}

const NO_WORDS: Words = Words { start: 0, len: 0, shift: 0 };

impl StackMemory {
    /// No range at all: every read is refused.
    pub const fn new() -> Self {
        Self { ranges: [NO_WORDS; 4] }
    }

    /// Adds a range; says false where there are four already. A range shorter than a word is accepted and holds none.
    /// Add the one that is read most first.
    ///
    /// # Safety
    ///
    /// The range must be readable for as long as `self` and its copies are read from. Memory that another thread writes
    /// meanwhile is no harm: a word is then old or new.
    pub unsafe fn add(&mut self, range: Range<u64>) -> bool {
        let from = range.start;
        // SAFETY: by the caller's promise the range can be read where it is.
        unsafe { self.add_copy(range, from) }
    }

    /// The same for a range of which there is a copy at `copy`: what is read is the copy.
    ///
    /// # Safety
    ///
    /// As many bytes as the range has must be readable from `copy` on for as long as `self` and its copies are read from.
    pub unsafe fn add_copy(&mut self, range: Range<u64>, copy: u64) -> bool {
        let len = range.end.saturating_sub(range.start).saturating_sub(7);
        let Some(free) = self.ranges.iter_mut().find(|words| words.len == 0) else { return len == 0 };
        *free = Words { start: range.start, len, shift: copy.wrapping_sub(range.start) };
        true
    }

    /// The word at `address`, which need not be aligned; `None` outside the ranges and of every registered stack.
    /// Async-signal-safe.
    #[inline]
    pub fn read(&self, address: u64) -> Option<u64> {
        let [first, others @ ..] = &self.ranges;
        let holds = |words: &&Words| words.holds(address);
        if let Some(words) = Some(first).filter(holds).or_else(|| others.iter().find(holds)) {
            // SAFETY: all eight bytes lie inside a range that was promised to be readable, there or as a copy.
            return Some(unsafe { regs::load(address.wrapping_add(words.shift)) });
        }
        // The stack that a coroutine was resumed from.
        stacks::read(address)
    }

    /// Which stack holds the word at `address`, by a number; two equal answers mean the same one. Async-signal-safe.
    pub fn range_of(&self, address: u64) -> Option<usize> {
        let known = self.ranges.iter().position(|words| words.holds(address));
        // A page's number is far above the few places here.
        known.or_else(|| stacks::hold(address).map(|held| (held.range().start >> 12) as usize))
    }
}

impl Words {
    #[inline]
    fn holds(&self, address: u64) -> bool {
        address.wrapping_sub(self.start) < self.len
    }
}

/// Whether the word at `address` can be read just now. Async-signal-safe, and leaves `errno` alone: one system call of a tenth
/// of a microsecond, which every sandbox allows, since every thread makes it. Another thread may unmap the word a moment
/// later, so it is for what would be there if it were what it seems.
///
/// Some emulators say of every address that it can be read.
///
/// ```
/// use everprof_probe::memory::is_readable;
/// let word = 7_u64;
/// assert!(is_readable(&raw const word as u64));
/// ```
#[inline]
pub fn is_readable(address: u64) -> bool {
    // The kernel reads the set before it looks at what is to be done with it, which is nothing that it knows.
    regs::impossible_mask(address) == -i64::from(libc::EINVAL)
}

/// Copies this process's memory at `address` into `into`, and returns how many bytes were readable from there on.
///
/// Cannot fault, whatever the address. Off the handler only: it is a system call of about a microsecond.
///
/// ```
/// let source = [1_u8, 2, 3, 4];
/// let mut into = [0; 4];
/// assert_eq!(everprof_probe::memory::copy(source.as_ptr() as u64, &mut into), 4);
/// assert_eq!(into, source);
/// assert_eq!(everprof_probe::memory::copy(0, &mut into), 0);
/// ```
pub fn copy(address: u64, into: &mut [u8]) -> usize {
    os::memory::copy(address, into)
}

/// The same for a caller that makes many copies: it knows the id of its own thread, or of another one that lives.
pub(crate) fn copy_as(own: u32, address: u64, into: &mut [u8]) -> usize {
    os::memory::copy_as(own, address, into)
}

/// Copies several pieces in one call, at most eight, up to the first that is not readable as a whole, and returns how many bytes
/// it were. Where a sandbox forbids the call, none. Off the handler only.
pub fn copy_pieces<'i>(pieces: impl Iterator<Item = (u64, &'i mut [u8])>) -> usize {
    copy_all(os::gettid(), pieces)
}

/// Copies several pieces in one call, up to the first that is not readable as a whole, and returns how many bytes it were.
pub(crate) fn copy_all<'i>(own: u32, pieces: impl Iterator<Item = (u64, &'i mut [u8])>) -> usize {
    os::memory::copy_all(own, pieces)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::print_stderr)]
mod tests {
    use super::StackMemory;

    #[test]
    fn reads_inside_and_refuses_outside() {
        let words = [0x1122_3344_5566_7788_u64, 2];
        let start = words.as_ptr() as u64;
        let mut memory = StackMemory::new();
        assert_eq!(memory.read(start), None);
        assert_eq!(memory.read(u64::MAX), None);
        // SAFETY: `words` outlives `memory`.
        assert!(unsafe { memory.add(start..start + 16) });
        assert_eq!(memory.read(start), Some(words[0]));
        assert_eq!(memory.read(start + 1), Some(0x0211_2233_4455_6677));
        for outside in [0, start - 1, start + 9, start + 16, u64::MAX] {
            assert_eq!(memory.read(outside), None, "{outside:#x}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_known_without_a_fault() {
        let pages = crate::os::Pages::new(2 * 4096).unwrap();
        let start = pages.as_ptr() as u64;
        let mut before = core::mem::MaybeUninit::<libc::sigset_t>::uninit();
        let mut after = before;
        // SAFETY: the place is there to be written to, and the mask stays as it is.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, core::ptr::null(), before.as_mut_ptr()) };
        crate::os::set_errno(77);
        assert!(super::is_readable(start) && super::is_readable(start + 4096));
        if super::is_readable(8) {
            std::eprintln!("!!! SKIPPED: this emulator says of every address that it can be read");
            return;
        }
        for nothing in [0, u64::MAX - 7, 1 << 63, (1 << 47) - 8] {
            assert!(!super::is_readable(nothing), "{nothing:#x}");
        }
        drop(pages);
        assert!(!super::is_readable(start));
        assert_eq!(crate::os::errno(), 77);
        // SAFETY: as above.
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, core::ptr::null(), after.as_mut_ptr()) };
        // SAFETY: both were written by the calls.
        let [before, after] = [before, after].map(|set| unsafe { set.assume_init() });
        let blocked = |set: &libc::sigset_t| {
            let one = |signal| {
                // SAFETY: a set that was written, and a number of a signal.
                unsafe { libc::sigismember(set, signal) }
            };
            (1..32).map(one).collect::<Vec<_>>()
        };
        assert_eq!(blocked(&before), blocked(&after));
    }

    #[test]
    fn holds_four_ranges_and_tells_them_apart() {
        let words = [7_u64; 5];
        let start = words.as_ptr() as u64;
        let mut memory = StackMemory::new();
        for index in 0..5 {
            let at = start + index * 8;
            // SAFETY: `words` outlives `memory`.
            assert_eq!(unsafe { memory.add(at..at + 8) }, index < 4);
        }
        assert_eq!(memory.range_of(start + 24), Some(3));
        assert_eq!(memory.range_of(start + 4), None);
        // SAFETY: an empty range holds no word that could be read.
        assert!(unsafe { StackMemory::new().add(start..start) });
    }
}
