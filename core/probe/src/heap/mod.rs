//! Allocations: each byte that a thread asks for has the same chance to be sampled, and the blocks that were are known
//! until they are given back.
//!
//! Called on the program's threads by whatever stands in the way of its allocations (`alloc`, `malloc`). The way of nearly
//! all of them is short: [`count`] takes the bytes off a number of the thread's own, and [`may_hold`] reads one byte.
//! When the number is used up a sample is taken: the stack by the tables of `unwind`, which goes into a ring. No heap, no
//! lock, and no system call but to wake our thread in a burst; a thread that ends, one that has not begun, a handler of the program's and a fork's child come
//! through here like any other.
//!
//! What is refused: to sample an allocation that is made while one is being sampled on the same thread, by a handler of the
//! program's say. Those that are lost, for that or for want of room, are counted with their bytes.

mod live;
mod pace;
pub mod passing;

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

pub use live::{Handle, ROOM, after_fork, count as count_live, forget, let_go, lives, may_hold};

use crate::own::Own;
use crate::regs::{self, Regs};
use crate::ring::Ring;
use crate::sample::{ALLOC_WORDS, Header, Source, UNFINISHED, is_native};
use crate::sampling::{self, Mark, Sampling, Which};
use crate::{bell, cost, here, os, scratch, unwind};

/// How full of samples the ring may get, in per cent, before our thread is woken.
const CROWDED: u64 = 25;

static RING: AtomicPtr<Ring> = AtomicPtr::new(core::ptr::null_mut());
static MAX_WORDS: AtomicUsize = AtomicUsize::new(1024);
/// Numbers events, so that our thread knows what came first.
static EVENTS: AtomicU64 = AtomicU64::new(0);
/// Samples that were lost, and the objects and bytes that they stood for.
static LOST: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static TICKS: AtomicU64 = AtomicU64::new(0);

/// How often after a start our thread is woken because a stack met code without a table: many of a program's allocations come
/// in its first moments. Code that has none for ever, such as a JIT's, is not to keep it busy.
const EAGER: u32 = 32;
static EAGER_LEFT: AtomicU32 = AtomicU32::new(0);
/// Whether Rust's allocations come by hooked functions of C's.
static COUNTED_BELOW: AtomicBool = AtomicBool::new(false);

/// Begins to take samples, one in `interval` bytes on the average, with stacks of up to `max_words` words, which go to
/// `ring`. Our thread, after `scratch::prepare`.
pub fn start(interval: u64, max_words: usize, ring: &'static Ring) {
    RING.store(core::ptr::from_ref(ring).cast_mut(), Ordering::Release);
    MAX_WORDS.store(max_words, Ordering::Relaxed);
    EAGER_LEFT.store(EAGER, Ordering::Relaxed);
    pace::set_interval(interval.max(1));
}

/// Takes samples of another mean distance in bytes from now on, or with 0 none. Each thread follows within 64 KiB of its
/// allocations; blocks that were sampled are known on.
pub fn set_interval(bytes: u64) {
    pace::set_interval(bytes);
}

/// The mean distance of samples in bytes; 0 where there are none.
pub fn interval() -> u64 {
    pace::interval()
}

/// A number that changes with each allocation of the calling thread that comes by us.
pub fn left() -> i64 {
    Own::of_this_thread().countdown.get()
}

/// Makes the distances that the calling thread draws a sequence that is known. For tests.
#[doc(hidden)]
pub fn seed(seed: u64) {
    pace::seed(Own::of_this_thread(), seed);
}

/// Takes how many samples were lost since the last call, and the objects and bytes that they stood for. Our thread.
pub fn take_lost() -> [u64; 3] {
    LOST.each_ref().map(|count| count.swap(0, Ordering::Relaxed))
}

/// The ticks of [`regs::ticks`] that were spent on taking samples since the process began.
pub fn cost() -> u64 {
    TICKS.load(Ordering::Relaxed)
}

/// Counts an allocation of so many bytes. Where it says true, [`allocated`] is to be told of the block.
#[inline(always)]
pub fn count(bytes: usize) -> bool {
    pace::count(Own::of_this_thread(), bytes)
}

/// A number of the calling thread's that changes whenever an allocation is counted where a function of C's is called: of an
/// allocation that came by one on its way, who stands before that has nothing to count.
#[inline(always)]
pub fn mark() -> u32 {
    Own::of_this_thread().counted.get()
}

/// Changes the mark.
#[inline(always)]
pub fn counted() {
    let counted = &Own::of_this_thread().counted;
    counted.set(counted.get().wrapping_add(1));
}

/// Whether Rust's allocations are counted where C's functions are called, and not before.
#[inline(always)]
pub fn is_counted_below() -> bool {
    COUNTED_BELOW.load(Ordering::Relaxed)
}

/// Says so. Our thread; allocations that are under way at that moment may count twice.
pub fn set_counted_below(below: bool) {
    COUNTED_BELOW.store(below, Ordering::Relaxed);
}

/// The block at `address`, of which [`may_hold`] has said true, is handed out anew. If it is known, it was given back in a way
/// that we did not see.
#[cold]
#[inline(never)]
pub fn handed_out(address: u64) {
    if let Some(handle) = live::remove(address) {
        gone(handle);
    }
}

/// [`count`] has said true for this block of so many bytes, which nobody knows yet; 0 where there was no memory for it.
/// Takes a sample, if it is one to be sampled. Its stack begins `above` frames above the function that calls this one: what
/// stands in the way of the program's allocations is no part of it, also in a program that has no names.
#[cold]
#[inline(never)]
pub fn allocated(address: u64, bytes: usize, above: usize) {
    let own = Own::of_this_thread();
    let Some(interval) = pace::cross(own) else { return };
    if address == 0 {
        return;
    }
    let mark = Mark::new();
    let Some(sampling) = sampling::begin(own, &mark) else { return lose(bytes as u64, interval) };
    let begin = regs::ticks();
    // To wake our thread is a system call, of which the program is to see nothing.
    let errno = os::errno();
    // This function is a frame as well.
    if take(address, bytes as u64, interval, &Regs::here(), above + 1, &sampling).is_none() {
        lose(bytes as u64, interval);
    }
    os::set_errno(errno);
    TICKS.fetch_add(cost::since(begin), Ordering::Relaxed);
}

/// The block at `address`, of which [`may_hold`] has said true, is about to be given back or to be changed in size: from
/// now on it is not known any more. Whoever gives it back then says so by [`gone`].
#[cold]
#[inline(never)]
pub fn take_out(address: u64) -> Option<Handle> {
    live::remove(address)
}

/// A block that was taken out is given back.
pub fn gone(handle: Handle) {
    let header = Header { source: Source::Free as u8, weight: 1, ..Header::default() };
    let event = EVENTS.fetch_add(1, Ordering::Relaxed);
    // Where there is no room: that it does not live our thread can see, but not since when.
    let _ = ring().is_some_and(|ring| ring.push(&header, &[handle, event]));
}

/// A block that was taken out stays where and what it was. Where that cannot be told any more, it counts as gone.
pub fn put_back(address: u64, handle: Handle) {
    if !live::restore(address, handle) {
        gone(handle);
    }
}

fn take(
    address: u64,
    bytes: u64,
    interval: u64,
    regs: &Regs,
    ours: usize,
    sampling: &Sampling<'_>,
) -> Option<()> {
    let ring = ring()?;
    let mut header = here::header(Source::Alloc, 1, 0)?;
    let mut scratch = scratch::claim(header.tid as usize)?;
    let buffer = scratch.index();
    let (mut trail, words) = scratch.parts();
    let (_, rest) = words.split_at_mut_checked(ALLOC_WORDS)?;
    let room = MAX_WORDS.load(Ordering::Relaxed).saturating_add(ours).min(rest.len());
    let taken = sampling.walk(regs, &mut trail, rest, room, ring.copies());
    header.generation = taken.generation;
    let found = rest.get(..taken.len)?;
    let found = if taken.is_unfinished { unwind::later::before(found) } else { found };
    // The words about the allocation take the place of the frames that are ours, where the walk came beyond these.
    let is_known = found.get(..ours).is_some_and(|first| first.iter().all(|word| is_native(*word)));
    let is_beyond = taken.is_unfinished || found.get(ours).is_some_and(|word| is_native(*word));
    let start = if is_known && is_beyond { ours } else { 0 };
    if taken.is_unfinished {
        header.source |= UNFINISHED;
    }
    let record = words.get_mut(start..ALLOC_WORDS + taken.len)?;
    // Where there is no room for it, its allocation is told all the same.
    let handle = live::insert(address).unwrap_or_default();
    let event = EVENTS.fetch_add(1, Ordering::Relaxed);
    record.iter_mut().zip([bytes, handle, interval, event]).for_each(|(word, about)| *word = about);
    let is_told = sampling.push(Which::Heap, ring, buffer, &header, record);
    if !is_told {
        live::remove(address);
    }
    // A burst, or code of which there is no table yet: our thread would look in its own time only.
    if ring.percent_full() >= CROWDED || unwind::wanted() && is_eager() {
        bell::ring();
    }
    is_told.then_some(())
}

/// Counts a sample that was lost. What it stood for is `n / (1 - exp(-n / mean))` bytes, of which this is the beginning of
/// the series, and from two means on `n`: within a twentieth.
#[cold]
fn lose(bytes: u64, mean: u64) {
    // Both may be so large that their product is no number.
    let square = (bytes as f64 * bytes as f64 / mean as f64) as u64;
    let stood_for = if bytes / 2 < mean { mean + bytes / 2 + square / 12 } else { bytes };
    for (count, more) in LOST.iter().zip([1, stood_for / bytes.max(1), stood_for]) {
        count.fetch_add(more, Ordering::Relaxed);
    }
}

/// Whether our thread is to be woken for a table, which counts as once.
fn is_eager() -> bool {
    EAGER_LEFT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

/// Whether a thread may have woken ours for a table.
pub fn wants_table() -> bool {
    EAGER_LEFT.load(Ordering::Relaxed) != 0 && unwind::wanted()
}

/// Whether a thread may have woken ours for a burst.
pub fn is_crowded() -> bool {
    ring().is_some_and(|ring| ring.percent_full() >= CROWDED)
}

fn ring() -> Option<&'static Ring> {
    // SAFETY: null or a ring that lives as long as the process.
    unsafe { RING.load(Ordering::Acquire).as_ref() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;
