//! A sample of the calling thread, taken in a call and not in a signal: in an allocation, at a lock, where a future waits.
//!
//! Such code runs wherever the program does, in a handler of its own too, so it keeps the rules of handlers.

use crate::memory::StackMemory;
use crate::regs::Regs;
use crate::sample::{Header, Source};
use crate::stacks::{self, Held};
use crate::thread::{self, Slot};
use crate::thread_block;
use crate::unwind::later::Stop;
use crate::unwind::{self, Frames, Trail};

/// The header of a sample of the calling thread, for which no timer asked. None where its id is not known.
pub fn header(source: Source, weight: u64, period: u32) -> Option<Header> {
    let tid = thread_block::tid();
    if tid == 0 {
        return None;
    }
    let slot = thread::find(tid);
    Some(Header {
        source: source as u8,
        weight,
        period,
        tid,
        labels: unwind::labels_here(slot.map_or(0, Slot::labels)),
        generation: 0,
        trace: slot.map(Slot::trace).unwrap_or_default(),
    })
}

/// Walks the calling thread's stack from `regs` on, which [`Regs::here`] has read in a function that is not yet left, into
/// `words`. Returns how many words the stack has, and the generation of the modules that it is of.
pub fn walk(regs: &Regs, trail: &mut Trail<'_>, words: &mut [u64]) -> (usize, u32) {
    let held = hold(regs.sp);
    let stack = stack_of(regs.sp, held.as_ref());
    let mut frames = Frames::new(words);
    let walked = unwind::walk_along(trail, regs, &stack, &mut frames);
    (frames.finish().len(), walked.generation)
}

/// Leaves to our thread what is above the frame at which a walk has met code without a table: behind the frames in `words`, a
/// copy of up to `copied` words of the `stack`, as [`unwind::later`] says. Returns how many words there are then.
pub(crate) fn leave_rest(
    stop: Option<Stop>,
    stack: &StackMemory,
    words: &mut [u64],
    copied: usize,
) -> Option<usize> {
    let own = thread_block::stack();
    // Other stacks may be told from here in another way than they are later.
    let stop = stop.filter(|stop| copied > 0 && own.contains(&stop.sp()))?;
    let frames = thread_block::frames_end(&own).saturating_sub(stop.sp()) / 8;
    unwind::later::leave(&stop, stack, words, copied.min(frames as usize))
}

/// Holds the stack that `sp` lies in, where it is a registered one and not the calling thread's own.
pub(crate) fn hold(sp: u64) -> Option<Held> {
    if thread_block::stack().contains(&sp) { None } else { stacks::hold(sp) }
}

/// The memory that the calling thread's frames lie in, of which `sp` is one: its own stack, or a registered one, for as long
/// as it is `held`.
pub(crate) fn stack_of(sp: u64, held: Option<&Held>) -> StackMemory {
    let own = thread_block::stack();
    let held = held.map(Held::range);
    let mut stack = StackMemory::new();
    if own.contains(&sp) {
        // SAFETY: the thread runs on this stack now, so it is mapped from the stack pointer to its end.
        unsafe { stack.add(sp..own.end) };
    } else if let Some(held) = held {
        // SAFETY: the range is held until the walk is over.
        unsafe { stack.add(sp.max(held.start)..held.end) };
        // Where coroutines say who resumed them, the walk goes on there.
        // SAFETY: the stack is mapped from its guard on; the main thread's at least from any stack pointer it had.
        unsafe { stack.add(own) };
    }
    stack
}
