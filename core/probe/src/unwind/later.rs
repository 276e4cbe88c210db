//! Stacks that are walked later: where a walk in a hook meets code whose table is not built yet, a copy of the rest of the stack
//! is left in place of callers that nobody knows, and our thread goes on in it when the table is there.
//!
//! A program may make in its first moments what it never gives back, or in the first call of a library that it has just
//! loaded; to know then no callers would be to know nothing. The way not taken is to build all tables before: of a large
//! program that takes longer than all else of a start, and of what `dlopen` loads nobody knows before.
//!
//! What [`leave`] writes stands behind the frames that were found: the registers that a walk carries, what they are of, a copy of
//! the stack from the stack pointer on, and the number of its words. The first half runs where the walk does, and by its rules;
//! the second on our thread.

use super::frames::Frames;
use super::walk::{End, walk_on};
use crate::memory::StackMemory;

/// Words beside the copy: the registers, whether the program counter is exact, and how long the copy is.
const ABOUT: usize = 6;
/// Words that are worth a copy.
const LEAST: usize = 16;

/// The frame at which a walk has met code without a table, which may have one later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// How many words its callees have.
    pub(super) words: usize,
    pub(super) pc: u64,
    pub(super) sp: u64,
    pub(super) fp: u64,
    pub(super) base: u64,
    /// The program counter is the next instruction, not a return address.
    pub(super) exact: bool,
}

impl Stop {
    /// The stack pointer.
    pub fn sp(&self) -> u64 {
        self.sp
    }

    /// How many words stand before its frame.
    pub fn words(&self) -> usize {
        self.words
    }
}

/// What came of the second half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Words of the stack, which is whole as far as it is known.
    pub len: usize,
    /// It has met code without a table again: once that is there, it may be tried anew.
    pub lacks_table: bool,
}

/// Writes into `words`, behind those of the frames before `stop`, what is needed to go on, with up to `most` words of the
/// stack. Returns how many words there are then; `None` where there is no room for it, or not enough to be worth it, and then nothing
/// was written: behind `stop` too stand frames that were found. Async-signal-safe.
pub fn leave(stop: &Stop, stack: &StackMemory, words: &mut [u64], most: usize) -> Option<usize> {
    let (about, rest) = words.get_mut(stop.words..)?.split_at_mut_checked(ABOUT - 1)?;
    let room = most.min(rest.len().checked_sub(1)?);
    let read = |number: u64| stack.read(stop.sp.wrapping_add(8 * number));
    if room < LEAST || !(0..LEAST as u64).all(|number| read(number).is_some()) {
        return None;
    }
    about.copy_from_slice(&[stop.pc, stop.sp, stop.fp, stop.base, stop.exact.into()]);
    let mut len = 0;
    for (place, word) in rest.iter_mut().take(room).zip((0..).map_while(read)) {
        *place = word;
        len += 1;
    }
    *rest.get_mut(len)? = len as u64;
    Some(stop.words + ABOUT + len)
}

/// Goes on in what [`leave`] has left at the end of `words`, and writes the whole stack to `into`; without a change where it
/// makes no sense. Off the handler.
pub fn finish(words: &[u64], into: &mut [u64]) -> Option<Finished> {
    let (copied, before) = words.split_last()?;
    let (before, copy) =
        before.split_at_checked(before.len().checked_sub(usize::try_from(*copied).ok()?)?)?;
    let (frames, [pc, sp, fp, base, exact]) = before.split_last_chunk()?;
    let mut out = Frames::new(into);
    for frame in frames {
        out.push_native(*frame);
    }
    let mut stack = StackMemory::new();
    let range = *sp..sp.checked_add(8 * copied)?;
    // SAFETY: the copy has as many words, and lives longer than the memory that is read here.
    unsafe { stack.add_copy(range, copy.as_ptr() as u64) };
    let stop = Stop { words: 0, pc: *pc, sp: *sp, fp: *fp, base: *base, exact: *exact != 0 };
    let (end, again) = walk_on(&stop, &stack, &mut out);
    let lacks_table = again && end != End::Root;
    Some(Finished { len: out.finish().len(), lacks_table })
}

/// The frames that stand before what [`leave`] has left at the end of `words`.
pub fn before(words: &[u64]) -> &[u64] {
    let copied = words.last().map_or(0, |copied| *copied as usize);
    let len = words.len().saturating_sub(copied.saturating_add(ABOUT));
    words.get(..len).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn what_is_left_is_walked_on_in_the_copy_and_nonsense_is_refused() {
        crate::unwind::refresh();
        let stack: [u64; 100] = core::array::from_fn(|at| at as u64);
        let sp = stack.as_ptr() as u64;
        let mut memory = StackMemory::new();
        // SAFETY: the array outlives the memory.
        unsafe { memory.add(sp..sp + 800) };
        let stop = Stop { words: 2, pc: 0x10, sp, fp: sp + 8, base: 0, exact: false };
        let mut words = [7; 200];
        let len = leave(&stop, &memory, &mut words, 50).unwrap();
        assert_eq!(len, 2 + ABOUT + 50);
        assert_eq!(words[len - 2], 49);
        let mut into = [0; 20];
        let finished = finish(&words[..len], &mut into).unwrap();
        // The frame itself, which is no code, and that its caller is missing.
        assert_eq!((finished.len, &into[..3]), (4, &[7, 7, 0xf][..]));
        assert_eq!(before(&words[..len]), [7, 7]);
        // All of it, and too little of it; no room.
        assert_eq!(leave(&stop, &memory, &mut words, 1000), Some(2 + ABOUT + 100));
        let mut frames = [9; 200];
        assert_eq!(leave(&stop, &memory, &mut frames, LEAST - 1), None);
        let near_the_end = Stop { sp: sp + 800 - 8 * (LEAST as u64 - 1), ..stop };
        assert_eq!(leave(&near_the_end, &memory, &mut frames, 50), None);
        assert_eq!(leave(&stop, &memory, &mut frames[..7], 50), None);
        assert_eq!(leave(&stop, &memory, &mut frames[..8], 50), None);
        assert_eq!(frames, [9; 200], "the frames that were found stay");
        for nonsense in
            [&[][..], &[0], &[1], &[u64::MAX, u64::MAX], &[0, 0, 0, 0, 4], &[0; 5], &[u64::MAX; 9]]
        {
            assert_eq!(finish(nonsense, &mut into), None);
            assert!(before(nonsense).is_empty());
        }
    }
}
