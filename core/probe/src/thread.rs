//! One slot for each thread: what the handler must know of the thread it interrupted, without asking anyone.
//!
//! Slots lie in one mapping made at the first use and never given back, so a reference to a slot is good for ever. A
//! thread's timer carries the slot's address in its signal, so the handler finds it without thread-local storage
//! (which may allocate on first use in a dlopened library) and without a system call. Our thread makes slots for the
//! threads it discovers; a thread that sets labels makes its own. A slot is given back when its thread is gone.
//!
//! Slots are found by thread id: in the window of 64 slots from `tid % CAPACITY` on. Thread ids of a process
//! are nearly consecutive, so the window holds out until some 30,000 threads; a thread beyond that has no slot, and
//! its CPU time is told as that of threads without samples.

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, compiler_fence};

use crate::os::{self, Pages};
use crate::regs;

const CAPACITY: usize = 32 * 1024;
const WINDOW: usize = 64;

static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(core::ptr::null_mut());
static LOCK: AtomicBool = AtomicBool::new(false);

/// What is known of one thread.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct Slot {
    /// 0: free.
    tid: AtomicU32,
    labels: AtomicU32,
    span_id: AtomicU64,
    trace_high: AtomicU64,
    trace_low: AtomicU64,
    /// The period of the thread's timer in nanoseconds; 0 while it has none.
    period: AtomicU32,
    /// CPU nanoseconds that the thread's own timer has accounted for; written by its handler only.
    credited: AtomicU64,
}

/// The slot of the calling thread, made if need be; `None` where there is no memory or too many threads.
///
/// Costs a system call and a search: keep the reference. Not for handlers.
pub fn current() -> Option<&'static Slot> {
    claim(os::gettid())
}

/// The slot of thread `tid`, made if need be. Not for handlers.
pub fn claim(tid: u32) -> Option<&'static Slot> {
    let _guard = Guard::lock();
    if SLOTS.load(Ordering::Acquire).is_null() {
        let pages = Pages::new(CAPACITY * size_of::<Slot>())?;
        SLOTS.store(pages.leak().as_ptr().cast(), Ordering::Release);
    }
    if let Some(slot) = find(tid) {
        return Some(slot);
    }
    let slot = window(tid)?.iter().find(|slot| slot.tid.load(Ordering::Relaxed) == 0)?;
    slot.reset();
    slot.tid.store(tid, Ordering::Release);
    Some(slot)
}

/// The slot of thread `tid`, if it has one. For handlers.
pub fn find(tid: u32) -> Option<&'static Slot> {
    window(tid)?.iter().find(|slot| slot.tid.load(Ordering::Relaxed) == tid)
}

/// The slot at an address that came with a signal; `None` where it is not the address of a slot. For handlers.
pub fn at_address(address: usize) -> Option<&'static Slot> {
    let start = SLOTS.load(Ordering::Acquire);
    let offset = address.checked_sub(start as usize)?;
    if start.is_null() || offset >= CAPACITY * size_of::<Slot>() || !offset.is_multiple_of(size_of::<Slot>())
    {
        return None;
    }
    // SAFETY: a multiple of the slot's size inside the mapping of slots, which is never unmapped.
    Some(unsafe { &*(address as *const Slot) })
}

/// Asks for what [`at_address`] will look at. A hint, for handlers.
#[inline]
pub fn prefetch(address: usize) {
    regs::prefetch((&raw const SLOTS) as u64);
    regs::prefetch(address as u64);
}

/// Gives back the slots of threads that `lives` says are gone. Our thread, while it times no thread.
pub fn sweep(lives: impl Fn(u32) -> bool) {
    for slot in all() {
        let tid = slot.tid();
        if tid != 0 && !lives(tid) {
            slot.release();
        }
    }
}

/// Gives every slot back except that of the calling thread, which keeps its labels under its new id. Only in a fork's
/// child, where no other thread exists. Returns the calling thread's new slot.
pub fn after_fork(old_tid: u32) -> Option<&'static Slot> {
    LOCK.store(false, Ordering::Release);
    let (labels, trace) = find(old_tid).map(|slot| (slot.labels(), slot.trace())).unwrap_or_default();
    // Only those in use: a store to each would cost every child the memory of all of them.
    for slot in all().iter().filter(|slot| slot.tid() != 0) {
        slot.tid.store(0, Ordering::Release);
    }
    let slot = current()?;
    slot.set_labels(labels);
    slot.set_trace(trace.0, trace.1);
    Some(slot)
}

impl Slot {
    /// Kernel thread id.
    #[inline]
    pub fn tid(&self) -> u32 {
        self.tid.load(Ordering::Relaxed)
    }

    /// The address that a timer carries in its signal.
    pub fn address(&self) -> usize {
        core::ptr::from_ref(self) as usize
    }

    /// The label set in force; 0 is the empty set.
    #[inline]
    pub fn labels(&self) -> u32 {
        self.labels.load(Ordering::Relaxed)
    }

    /// Sets the label set in force and returns the one before. Only by the slot's own thread.
    #[inline]
    pub fn set_labels(&self, labels: u32) -> u32 {
        // Not a swap: only this thread writes, and its own handler only reads, so no locked instruction is needed.
        let before = self.labels.load(Ordering::Relaxed);
        self.labels.store(labels, Ordering::Relaxed);
        before
    }

    /// The trace and span in force; zeros where there are none.
    #[inline]
    pub fn trace(&self) -> (u128, u64) {
        let high = u128::from(self.trace_high.load(Ordering::Relaxed));
        let low = u128::from(self.trace_low.load(Ordering::Relaxed));
        (high << 64 | low, self.span_id.load(Ordering::Relaxed))
    }

    /// Sets the trace and span in force and returns those before. Only by the slot's own thread.
    #[inline]
    pub fn set_trace(&self, trace_id: u128, span_id: u64) -> (u128, u64) {
        let before = self.trace();
        // A handler in the middle must not see one trace's span with another's id: no span means no trace.
        self.span_id.store(0, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        self.trace_high.store((trace_id >> 64) as u64, Ordering::Relaxed);
        self.trace_low.store(trace_id as u64, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        self.span_id.store(span_id, Ordering::Relaxed);
        before
    }

    /// The period of the thread's timer in nanoseconds; 0 while it has none.
    pub fn period(&self) -> u32 {
        self.period.load(Ordering::Relaxed)
    }

    /// Says that the thread has a timer of that period, or with 0 none. Our thread.
    pub fn set_period(&self, nanos: u32) {
        self.period.store(nanos, Ordering::Relaxed);
    }

    /// CPU nanoseconds that the thread's timers have accounted for since the slot was made.
    pub fn credited(&self) -> u64 {
        self.credited.load(Ordering::Relaxed)
    }

    /// Adds to what the thread's timer has accounted for. Only by the thread's own handler.
    pub fn credit(&self, nanos: u64) {
        self.credited.store(self.credited.load(Ordering::Relaxed).wrapping_add(nanos), Ordering::Relaxed);
    }

    /// Gives the slot back. Our thread, once the thread and its timer are gone.
    pub fn release(&self) {
        let _guard = Guard::lock();
        self.reset();
        self.tid.store(0, Ordering::Release);
    }

    fn reset(&self) {
        self.labels.store(0, Ordering::Relaxed);
        self.set_trace(0, 0);
        self.period.store(0, Ordering::Relaxed);
        self.credited.store(0, Ordering::Relaxed);
    }
}

fn window(tid: u32) -> Option<&'static [Slot]> {
    let start = tid as usize % (CAPACITY - WINDOW);
    all().get(start..start + WINDOW)
}

fn all() -> &'static [Slot] {
    let start = SLOTS.load(Ordering::Acquire);
    if start.is_null() {
        return &[];
    }
    // SAFETY: CAPACITY slots were mapped at the start, zeroed, which is a valid slot, and are never unmapped.
    unsafe { core::slice::from_raw_parts(start, CAPACITY) }
}

/// A spin lock for the few threads that make slots; held for a search of one window, never by a handler.
struct Guard;

impl Guard {
    fn lock() -> Guard {
        while LOCK.swap(true, Ordering::Acquire) {
            os::yield_now();
        }
        Guard
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        LOCK.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn a_thread_has_one_slot_and_loses_it_on_release() {
        let slot = claim(4_000_001).unwrap();
        assert!(core::ptr::eq(slot, claim(4_000_001).unwrap()));
        assert!(core::ptr::eq(slot, at_address(slot.address()).unwrap()));
        assert!(at_address(slot.address() + 8).is_none());
        assert!(at_address(0).is_none());
        assert_eq!((slot.set_labels(5), slot.set_labels(0)), (0, 5));
        assert_eq!(slot.set_trace(7 << 70 | 3, 9), (0, 0));
        assert_eq!(slot.trace(), (7 << 70 | 3, 9));
        slot.release();
        assert!(find(4_000_001).is_none());
        assert_eq!(claim(4_000_001).unwrap().trace(), (0, 0));
    }

    #[test]
    fn a_window_full_of_threads_refuses_one_more() {
        let same_window = |n: u32| 8_000_000 + n * (CAPACITY - WINDOW) as u32;
        assert!((0..WINDOW as u32).all(|n| claim(same_window(n)).is_some()));
        assert!(claim(same_window(WINDOW as u32)).is_none());
        (0..WINDOW as u32).for_each(|n| find(same_window(n)).unwrap().release());
        assert!(claim(same_window(WINDOW as u32)).is_some());
    }
}
