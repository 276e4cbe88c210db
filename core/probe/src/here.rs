//! A sample of the calling thread, taken in a call and not in a signal: in an allocation, at a lock, where a future waits.
//!
//! Such code runs wherever the program does, in a handler of its own too, so it keeps the rules of handlers.

use core::ops::Range;

use crate::memory::StackMemory;
use crate::regs::Regs;
use crate::sample::{Header, Source};
use crate::thread::{self, Slot};
use crate::unwind::{self, Frames, Trail};
use crate::{stacks, thread_block};

/// The header of a sample of the calling thread, for which no timer asked. None where its id is not known.
pub fn header(source: Source, weight: u64, period: u32) -> Option<Header> {
    let tid = thread_block::tid();
    if tid == 0 {
        return None;
    }
    let slot = thread::find(tid);
    let (trace_id, span_id) = slot.map_or((0, 0), Slot::trace);
    Some(Header {
        source: source as u8,
        weight,
        period,
        tid,
        labels: slot.map_or(0, Slot::labels),
        generation: 0,
        trace_id: if span_id == 0 { 0 } else { trace_id },
        span_id,
    })
}

/// Walks the calling thread's stack from `regs` on, which [`Regs::here`] has read in a function that is not yet left, into
/// `words`. Returns how many words the stack has, and the generation of the modules that it is of.
pub fn walk(regs: &Regs, trail: &mut Trail<'_>, words: &mut [u64]) -> (usize, u32) {
    let taken = take(regs, trail, words, usize::MAX, 0);
    (taken.len, taken.generation)
}

/// A stack as [`take`] has written it.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Words that it takes.
    pub len: usize,
    /// The generation of the modules that it is of.
    pub generation: u32,
    /// Our thread is to walk on in it, as [`unwind::later`] says.
    pub is_unfinished: bool,
}

/// The same with up to `room` words of the stack itself, behind which there may be room for what is left to our thread where
/// the walk meets code without a table: a copy of up to `copied` words of the stack.
pub fn take(regs: &Regs, trail: &mut Trail<'_>, words: &mut [u64], room: usize, copied: usize) -> Taken {
    let own = thread_block::stack();
    let held = if own.contains(&regs.sp) { None } else { stacks::hold(regs.sp) };
    let stack = stack_of(regs.sp, own.clone(), held.as_ref().map(stacks::Held::range));
    let room = room.min(words.len());
    let mut frames = Frames::new(words.get_mut(..room).unwrap_or_default());
    let walked = unwind::walk_along(trail, regs, &stack, &mut frames);
    let len = frames.finish().len();
    // Other stacks may be told from here in another way than they are later.
    let stop = walked.stop.filter(|stop| copied > 0 && own.contains(&stop.sp()));
    let left = stop.and_then(|stop| {
        let frames = thread_block::frames_end(&own).saturating_sub(stop.sp()) / 8;
        unwind::later::leave(&stop, &stack, words, copied.min(frames as usize))
    });
    let is_unfinished = left.is_some();
    Taken { len: left.unwrap_or(len), generation: walked.generation, is_unfinished }
}

/// The memory that the calling thread's frames lie in, of which `sp` is one: its own stack, or a registered one.
fn stack_of(sp: u64, own: Range<u64>, held: Option<Range<u64>>) -> StackMemory {
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
