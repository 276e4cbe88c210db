//! A sample that a thread takes of itself, in a call and not in a signal: the sign that it does, and what is left of one that
//! never ends.
//!
//! A handler of the program's may come in the middle of a sample, and jump away out of it (`siglongjmp`). What the sample had
//! taken would then be taken for ever: its buffer, the record that it has reserved, behind which the reader waits, the tables
//! that it reads, the sign itself, with which the thread is never sampled again. So each of these has the thread's name, or is
//! noted in the thread's own numbers for as long as it is taken, which costs a store. The next hook that the thread comes by finds the sign, sees by its
//! place that the sample cannot be alive any more, and gives back what was taken.
//!
//! A sample is alive where the thread is still inside of it: deeper in the same stack, and the word that it has put there is
//! what it was. A handler may run elsewhere: on an alternate stack every sample is taken for alive, and on one that nobody knows
//! each whose word is still there. That tables are read, or a
//! registered stack, is noted after it begins, and no more before it ends, so that a jump in the one instruction between leaves
//! that taken, and never gives it back twice. What a thread has left that comes by no hook any more, or that ended, stays so.

use core::cell::Cell;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering, compiler_fence};

use crate::own::Own;
use crate::regs::{self, Regs};
use crate::ring::{Reserved, Ring};
use crate::sample::Header;
use crate::unwind::{self, Frames, Trail};
use crate::{here, os, scratch, stacks, thread_block};

/// The rings that samples of calls go to.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Which {
    Heap = 0,
    Locks = 1,
}

static RINGS: [AtomicPtr<Ring>; 2] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 2];
static TAKEN_OVER: AtomicU64 = AtomicU64::new(0);

/// How many samples were left by a jump, and cleared away, since the process began.
pub fn taken_over() -> u64 {
    TAKEN_OVER.load(Ordering::Relaxed)
}

/// In a fork's child, of which this is the only thread: a handler may have forked in the middle of a sample, that goes on here, and
/// whose tables, stack and record nobody counts any more.
pub fn after_fork() {
    let own = Own::of_this_thread();
    note(&own.is_walking, false);
    note(&own.held, 0);
    note(&own.reserved, 0);
}

/// A place on the stack of who takes a sample, for as long as it lasts.
pub(crate) struct Mark(Cell<u64>);

impl Mark {
    pub(crate) const fn new() -> Self {
        Self(Cell::new(0))
    }

    /// Says that what the thread is in the middle of lies here.
    fn set(&self, own: &Own) {
        let place = core::ptr::from_ref(self) as u64;
        // SAFETY: a word of the caller's that nobody else looks at but by its address.
        unsafe { self.0.as_ptr().write_volatile(mark_at(place)) };
        note(&own.sampling, place);
    }
}

/// What is at the place of a mark.
const fn mark_at(place: u64) -> u64 {
    place ^ 0x9e37_79b9_7f4a_7c15
}

/// A sample of the calling thread, which is over when this is dropped.
pub(crate) struct Sampling<'m> {
    own: &'m Own,
    _mark: &'m Mark,
}

/// Begins a sample of the calling thread; none where it is in the middle of another one.
pub(crate) fn begin<'m>(own: &'m Own, mark: &'m Mark) -> Option<Sampling<'m>> {
    let place = core::ptr::from_ref(mark) as u64;
    if own.sampling.get() != 0 && is_alive_seen_from(own, place) {
        return None;
    }
    mark.set(own);
    Some(Sampling { own, _mark: mark })
}

/// Whether the calling thread is in the middle of a sample, and so in a handler that has interrupted it.
#[inline]
pub(crate) fn is_under_way(own: &Own) -> bool {
    own.sampling.get() != 0 && is_alive_seen_from(own, (&raw const own).addr() as u64)
}

/// Whether the sample that has the sign is alive, as who has something on the stack at `here` sees it. Where it is not, it is
/// cleared away.
#[cold]
#[inline(never)]
fn is_alive_seen_from(own: &Own, here: u64) -> bool {
    let is_alive = may_be_alive(own.sampling.get(), here) || os::is_on_alternate_stack();
    if !is_alive {
        take_over(own);
    }
    is_alive
}

fn may_be_alive(place: u64, here: u64) -> bool {
    let own = thread_block::stack();
    match (own.contains(&place), own.contains(&here)) {
        // SAFETY: the word lies in the part of the thread's stack that is in use.
        (true, true) => place > here && unsafe { regs::load(place) } == mark_at(place),
        (false, false) => match stacks::hold(here) {
            Some(held) if held.range().contains(&place) => place > here,
            _ => true,
        },
        // Who runs on another stack may have been switched there by a handler, in the middle of the sample.
        // SAFETY: a word of the thread's own stack that was written, which stays mapped.
        (true, false) => mark_at(place) == unsafe { regs::load(place) },
        // On another stack than the thread runs on now.
        (false, true) => false,
    }
}

/// Gives back what the sample had taken, which is over.
fn take_over(own: &Own) {
    // For as long as this lasts it has the sign itself: a handler in the middle must not give back the same things.
    let mark = Mark::new();
    mark.set(own);
    let reserved = Reserved::of(replace(&own.reserved, 0));
    let ring = RINGS.get(usize::from(own.ring.get())).map(|ring| ring.load(Ordering::Relaxed));
    // SAFETY: null or a ring that lives as long as the process.
    let ring = ring.and_then(|ring| unsafe { ring.as_ref() });
    if replace(&own.is_walking, false) {
        unwind::leave_behind();
    }
    if let Some(index) = replace(&own.held, 0).checked_sub(1) {
        stacks::give_back(index.into());
    }
    // Our signal's handler, which claims as well, cannot be left by a jump.
    scratch::give_back(|index| {
        if let (Some(ring), Some(reserved)) = (ring, reserved) {
            ring.close(tag(index), reserved);
        }
    });
    TAKEN_OVER.fetch_add(1, Ordering::Relaxed);
    note(&own.sampling, 0);
}

/// Writes, now and not later: who reads it is this thread, in a handler or after a jump.
#[inline]
fn note<T>(cell: &Cell<T>, value: T) {
    compiler_fence(Ordering::SeqCst);
    cell.set(value);
    compiler_fence(Ordering::SeqCst);
}

/// As [`note`], and what was noted before.
#[inline]
fn replace<T>(cell: &Cell<T>, value: T) -> T {
    compiler_fence(Ordering::SeqCst);
    let before = cell.replace(value);
    compiler_fence(Ordering::SeqCst);
    before
}

/// The tag of who has the buffer of this number: nobody else has it meanwhile.
fn tag(index: usize) -> usize {
    index + 1
}

/// A stack as [`Sampling::walk`] has written it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    /// Words that it takes.
    pub(crate) len: usize,
    /// The generation of the modules that it is of.
    pub(crate) generation: u32,
    /// Our thread is to walk on in it, as [`unwind::later`] says.
    pub(crate) is_unfinished: bool,
}

impl Sampling<'_> {
    /// Walks the thread's stack, as [`here::walk`] does, into up to `room` of the words. Behind them there may be place for what
    /// is left to our thread where the walk meets code without a table: a copy of up to `copied` words of the stack.
    pub(crate) fn walk(
        &self,
        regs: &Regs,
        trail: &mut Trail<'_>,
        words: &mut [u64],
        room: usize,
        copied: usize,
    ) -> Taken {
        let held = here::hold(regs.sp);
        note(&self.own.held, held.as_ref().map_or(0, |held| held.index() as u8 + 1));
        let stack = here::stack_of(regs.sp, held.as_ref());
        let room = room.min(words.len());
        let mut frames = Frames::new(words.get_mut(..room).unwrap_or_default());
        let entered = unwind::enter();
        note(&self.own.is_walking, true);
        let walked = unwind::walk_entered(&entered, trail, regs, &stack, &mut frames);
        // Where this was taken for a sample that was left, and goes on all the same, it was given back already.
        if replace(&self.own.is_walking, false) {
            drop(entered);
        } else {
            core::mem::forget(entered);
        }
        let len = frames.finish().len();
        let left = here::leave_rest(walked.stop, &stack, words, copied);
        if replace(&self.own.held, 0) == 0 {
            core::mem::forget(held);
        }
        Taken { len: left.unwrap_or(len), generation: walked.generation, is_unfinished: left.is_some() }
    }

    /// Adds it to a ring that lives as long as the process, as [`Ring::push`] does. `which` of the rings that is, and the
    /// number of the buffer that the sample has claimed.
    pub(crate) fn push(
        &self,
        which: Which,
        ring: &'static Ring,
        buffer: usize,
        header: &Header,
        words: &[u64],
    ) -> bool {
        if let Some(known) = RINGS.get(which as usize) {
            known.store(core::ptr::from_ref(ring).cast_mut(), Ordering::Relaxed);
        }
        note(&self.own.ring, which as u8);
        ring.push_telling(header, words, tag(buffer), |reserved| {
            note(&self.own.reserved, reserved.map_or(0, Reserved::word));
        })
    }
}

impl Drop for Sampling<'_> {
    fn drop(&mut self) {
        note(&self.own.sampling, 0);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::thread;

    /// A sample that is left as by a jump, `depth` frames below the caller.
    #[inline(never)]
    fn leave(depth: u32) {
        if depth > 0 {
            leave(depth - 1);
            std::hint::black_box(());
            return;
        }
        let mark = Mark::new();
        let sampling = begin(Own::of_this_thread(), &mark).unwrap();
        core::mem::forget(scratch::claim(3).unwrap());
        core::mem::forget(sampling);
    }

    #[inline(never)]
    fn deeper(depth: u32, see: &dyn Fn()) {
        let room = [u64::from(depth); 64];
        if depth == 0 {
            see()
        } else {
            deeper(depth - 1, see)
        }
        std::hint::black_box(&room);
    }

    fn learn_threads() {
        let (send, facts) = std::sync::mpsc::channel();
        let (done, until_done) = std::sync::mpsc::channel::<()>();
        let other = thread::spawn(move || {
            send.send(thread_block::Facts::here().unwrap()).unwrap();
            let _ = until_done.recv();
        });
        assert!(thread_block::learn(&thread_block::Facts::here().unwrap(), &facts.recv().unwrap()));
        drop(done);
        other.join().unwrap();
    }

    /// As a handler that has no alternate stack, as the kernel sees it, but runs elsewhere all the same: by a switch of its own, or
    /// on one that is not told of while it is in use (`SS_AUTODISARM`).
    #[test]
    fn a_sample_whose_word_is_there_lasts_also_for_who_runs_elsewhere() {
        learn_threads();
        thread::spawn(|| {
            let own = Own::of_this_thread();
            let elsewhere = Box::new(0_u64);
            let here = core::ptr::from_ref(&*elsewhere) as u64;
            let mark = Mark::new();
            let sampling = begin(own, &mark).unwrap();
            assert!(may_be_alive(own.sampling.get(), here));
            drop(sampling);
            mark.set(own);
            mark.0.set(1);
            assert!(!may_be_alive(own.sampling.get(), here));
            note(&own.sampling, 0);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_sample_that_was_left_is_taken_over_and_one_that_lasts_is_not() {
        let _alone = scratch::alone();
        learn_threads();
        assert!(scratch::prepare());
        thread::spawn(|| {
            let own = Own::of_this_thread();
            let mark = Mark::new();
            {
                let sampling = begin(own, &mark).unwrap();
                // In a handler, say.
                deeper(3, &|| assert!(is_under_way(own) && begin(own, &Mark::new()).is_none()));
                drop(sampling);
            }
            assert!(!is_under_way(own));
            // From above.
            leave(20);
            let claims = || {
                let mut count = 0;
                scratch::give_back(|_| count += 1);
                count
            };
            assert!(own.sampling.get() != 0);
            let before = taken_over();
            assert!(!is_under_way(own));
            assert_eq!((own.sampling.get(), claims(), taken_over()), (0, 0, before + 1));
            // From below, where other frames have been since.
            leave(0);
            deeper(20, &|| assert!(begin(own, &Mark::new()).is_some()));
            assert_eq!(taken_over(), before + 2);
        })
        .join()
        .unwrap();
    }
}
