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
//!
//! Making slots takes no lock: a thread of the host, which may have the highest priority there is, never waits for
//! ours. Where it and our thread make one for the same thread at once, ours is tentative until it is sure to be alone.
//!
//! A thread that made its own slot, to set its first label, is new to us most likely. Its slot goes to a list and our
//! thread is woken, so that a timer follows it from then on, and so that the slot is given back should it end before.

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::os::{self, Pages};
use crate::record::{Record, is_published};
use crate::sample::Trace;
use crate::{bell, regs};

const CAPACITY: usize = 32 * 1024;
const WINDOW: usize = 64;

static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(core::ptr::null_mut());
/// The slots on the list, by [`Slot::next`].
static NEW: AtomicPtr<Slot> = AtomicPtr::new(core::ptr::null_mut());
/// Whether our thread wants to hear of new slots.
static WANTED: AtomicBool = AtomicBool::new(false);

/// In place of a thread's id: its slot is being given back. Ids have 22 bits.
const GOING: u32 = u32::MAX;
/// Added to a thread's id: our thread makes a slot for it, and does not know yet whether it does so itself.
const TENTATIVE: u32 = 1 << 31;
/// How often our thread tries again where it met another maker of the same slot.
const TRIES: u32 = 100;

/// What is known of one thread.
#[derive(Debug, Default)]
#[repr(C, align(128))]
pub struct Slot {
    /// 0: free.
    tid: AtomicU32,
    labels: AtomicU32,
    /// The trace and the span in force.
    record: Record,
    /// The period of the thread's timer in nanoseconds; 0 while it has none.
    period: AtomicU32,
    /// Microseconds that the next sample of the timer stands for, instead of a period; 0: a period.
    unclaimed: AtomicU32,
    /// CPU nanoseconds that the thread's own timer has accounted for; written by its handler only.
    credited: AtomicU64,
    /// On the list of new slots, perhaps still for a thread that had it before.
    listed: AtomicBool,
    next: AtomicPtr<Slot>,
}

/// The slot of the calling thread, made if need be; `None` where there is no memory or too many threads.
///
/// Costs a system call and a search, and a second system call where our thread sleeps and has no timer for this one yet:
/// keep the reference. Waits for nobody. Not for handlers.
pub fn current() -> Option<&'static Slot> {
    make_room()?;
    let slot = by_itself(os::gettid())?;
    if slot.period() == 0 && WANTED.load(Ordering::Relaxed) && !slot.listed.swap(true, Ordering::SeqCst) {
        list(slot);
        bell::ring();
    }
    Some(slot)
}

/// Says whether our thread wants to hear of slots that threads make for themselves. Our thread.
pub fn want_new(wanted: bool) {
    WANTED.store(wanted, Ordering::Relaxed);
}

/// Empties the list of slots that threads made for themselves, and hands out each that is somebody's. Our thread.
pub fn take_new(mut each: impl FnMut(&'static Slot)) {
    let mut next = NEW.swap(core::ptr::null_mut(), Ordering::Acquire);
    // SAFETY: null, or a slot, which is never unmapped.
    while let Some(slot) = unsafe { next.as_ref() } {
        next = slot.next.load(Ordering::Relaxed);
        // Read and not only written: who finds it still set leaves his slot to us, with his id in it by now.
        slot.listed.swap(false, Ordering::SeqCst);
        if slot.tid() != 0 && slot.tid() & TENTATIVE == 0 {
            each(slot);
        }
    }
}

/// The slot of another thread, made if need be. Our thread, and not for handlers.
pub fn claim(tid: u32) -> Option<&'static Slot> {
    make_room()?;
    for _ in 0..TRIES {
        if let Some(slot) = find(tid) {
            return Some(slot);
        }
        let slot = take_free(tid, tid | TENTATIVE)?;
        // A second look, now that the claim can be seen: whoever did not see it is seen here.
        let alone = rivals(tid, slot).all(|(_, there)| there & !TENTATIVE != tid);
        let last = if alone { tid } else { 0 };
        let ended = slot.tid.compare_exchange(tid | TENTATIVE, last, Ordering::SeqCst, Ordering::SeqCst);
        // Where that failed, the thread itself has found the slot and made it final.
        if alone || ended == Err(tid) {
            return Some(slot);
        }
    }
    None
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
        if tid != 0 && tid & TENTATIVE == 0 && !lives(tid) {
            slot.release();
        }
    }
}

/// Gives every slot back except that of the calling thread, which keeps its labels under its new id. Only in a fork's
/// child, where no other thread exists. Returns the calling thread's new slot.
pub fn after_fork(old_tid: u32) -> Option<&'static Slot> {
    let in_force = |slot: &Slot| (slot.labels(), slot.trace(), slot.trace_flags());
    let (labels, trace, flags) = find(old_tid).map(in_force).unwrap_or_default();
    // Also where one was half-way on the list.
    NEW.store(core::ptr::null_mut(), Ordering::Relaxed);
    // Only those in use: a store to each would cost every child the memory of all of them.
    for slot in all().iter().filter(|slot| slot.tid() != 0 || slot.listed.load(Ordering::Relaxed)) {
        slot.release();
        slot.listed.store(false, Ordering::Relaxed);
    }
    let slot = current()?;
    slot.set_labels(labels);
    slot.set_trace(trace, flags);
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

    /// The trace and span in force; zeros where there are none. A trace without a span is none.
    #[inline]
    pub fn trace(&self) -> Trace {
        self.record.trace()
    }

    /// The W3C flags of that trace.
    #[inline]
    pub fn trace_flags(&self) -> u8 {
        self.record.flags()
    }

    /// Sets the trace and span in force. Only by the slot's own thread.
    #[inline]
    pub fn set_trace(&self, trace: Trace, flags: u8) {
        if is_published() {
            let offset = core::mem::offset_of!(Slot, record);
            self.record.point_here(|address| at_address(address.wrapping_sub(offset)).is_some());
        }
        self.record.set(trace, flags);
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

    /// Says that the next expiry of the timer is no period's, but the first moment at which the thread runs: its sample
    /// stands for what the thread used before, in microseconds. Our thread, before it arms the timer.
    pub fn set_unclaimed(&self, micros: u32) {
        self.unclaimed.store(micros, Ordering::Relaxed);
    }

    /// What [`Slot::set_unclaimed`] has said, once. Only by the thread's own handler.
    #[inline]
    pub fn take_unclaimed(&self) -> u32 {
        let micros = self.unclaimed.load(Ordering::Relaxed);
        if micros != 0 {
            self.unclaimed.store(0, Ordering::Relaxed);
        }
        micros
    }

    /// Gives the slot back. Our thread, once the thread and its timer are gone.
    pub fn release(&self) {
        // First it ceases to be the thread's: a new thread of the same id may have found it.
        self.tid.store(GOING, Ordering::SeqCst);
        self.reset();
        self.tid.store(0, Ordering::Release);
    }

    fn reset(&self) {
        self.labels.store(0, Ordering::Relaxed);
        // Not by the thread itself, which is gone, and so is its pointer to the record.
        self.record.set(Trace::default(), 0);
        self.period.store(0, Ordering::Relaxed);
        self.unclaimed.store(0, Ordering::Relaxed);
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

/// Maps the slots, if that was not done yet.
fn make_room() -> Option<()> {
    if !SLOTS.load(Ordering::Acquire).is_null() {
        return Some(());
    }
    let pages = Pages::new(CAPACITY * size_of::<Slot>())?;
    let start = pages.as_ptr().cast();
    // Of two at once, one is first, and the other gives its pages back.
    if SLOTS.compare_exchange(core::ptr::null_mut(), start, Ordering::AcqRel, Ordering::Acquire).is_ok() {
        pages.leak();
    }
    Some(())
}

/// The slot of the calling thread, whose id is `tid`.
fn by_itself(tid: u32) -> Option<&'static Slot> {
    if let Some(slot) = find(tid) {
        return Some(slot);
    }
    let own = take_free(tid, tid)?;
    for (slot, there) in rivals(tid, own).filter(|(_, there)| there & !TENTATIVE == tid) {
        // Ours was first. Unless it is about to give way, which is all that can make this fail.
        let tentative = tid | TENTATIVE;
        let made_final = slot.tid.compare_exchange(tentative, tid, Ordering::SeqCst, Ordering::SeqCst);
        if there == tid || made_final.is_ok() || made_final == Err(tid) {
            own.tid.store(0, Ordering::Release);
            return Some(slot);
        }
    }
    Some(own)
}

/// Puts the calling thread's slot on the list.
fn list(slot: &'static Slot) {
    let own = core::ptr::from_ref(slot).cast_mut();
    let mut first = NEW.load(Ordering::Relaxed);
    loop {
        slot.next.store(first, Ordering::Relaxed);
        match NEW.compare_exchange_weak(first, own, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => return,
            Err(now) => first = now,
        }
    }
}

/// Puts `word` into a free slot where one for `tid` may lie. What is free is empty.
fn take_free(tid: u32, word: u32) -> Option<&'static Slot> {
    let is_taken =
        |slot: &&Slot| slot.tid.compare_exchange(0, word, Ordering::SeqCst, Ordering::Relaxed).is_ok();
    window(tid)?.iter().find(is_taken)
}

/// The other slots where one for `tid` may lie, and what is there in place of an id.
fn rivals(tid: u32, slot: &Slot) -> impl Iterator<Item = (&'static Slot, u32)> {
    let others = window(tid).unwrap_or_default().iter().filter(move |other| !core::ptr::eq(*other, slot));
    others.map(|other| (other, other.tid.load(Ordering::SeqCst)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use std::vec::Vec;

    #[test]
    fn a_thread_has_one_slot_and_loses_it_on_release() {
        let slot = claim(4_000_001).unwrap();
        assert!(core::ptr::eq(slot, claim(4_000_001).unwrap()));
        assert!(core::ptr::eq(slot, at_address(slot.address()).unwrap()));
        assert!(at_address(slot.address() + 8).is_none());
        assert!(at_address(0).is_none());
        assert_eq!((slot.set_labels(5), slot.set_labels(0)), (0, 5));
        assert_eq!(slot.trace(), Trace::default());
        let trace = Trace { trace_id: 7 << 70 | 3, span_id: 9, local_root: 8 };
        slot.set_trace(trace, 1);
        assert_eq!((slot.trace(), slot.trace_flags()), (trace, 1));
        slot.release();
        assert!(find(4_000_001).is_none());
        assert_eq!(claim(4_000_001).unwrap().trace(), Trace::default());
    }

    #[test]
    fn a_window_full_of_threads_refuses_one_more() {
        let same_window = |n: u32| 8_000_000 + n * (CAPACITY - WINDOW) as u32;
        assert!((0..WINDOW as u32).all(|n| claim(same_window(n)).is_some()));
        assert!(claim(same_window(WINDOW as u32)).is_none());
        (0..WINDOW as u32).for_each(|n| find(same_window(n)).unwrap().release());
        assert!(claim(same_window(WINDOW as u32)).is_some());
    }

    #[test]
    fn a_thread_that_makes_its_own_slot_is_on_the_list_once() {
        want_new(true);
        let of_thread = || {
            let slot = current().unwrap();
            assert!(core::ptr::eq(slot, current().unwrap()));
            slot.tid()
        };
        let tids: Vec<u32> = (0..3).map(|_| std::thread::spawn(of_thread).join().unwrap()).collect();
        want_new(false);
        let mut listed = Vec::new();
        take_new(|slot| listed.push(slot.tid()));
        for tid in tids {
            assert_eq!(listed.iter().filter(|listed| **listed == tid).count(), 1);
            find(tid).unwrap().release();
        }
        take_new(|slot| assert!(slot.tid() == 0, "{slot:?} is there twice"));
    }

    /// The thread itself and ours make the same slot at the same time, over and over: it is one, and no other is left.
    #[test]
    fn two_makers_agree_on_one_slot() {
        const ROUNDS: u32 = 20_000;
        let (go, done) = (AtomicU32::new(0), AtomicU32::new(0));
        let found = AtomicPtr::new(core::ptr::null_mut());
        let tid_of = |round: u32| 3_000_000 + round % 7;
        let until = |word: &AtomicU32, round| {
            while word.load(Ordering::SeqCst) != round {
                std::thread::yield_now();
            }
        };
        make_room().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..=ROUNDS {
                    until(&go, round);
                    let slot = by_itself(tid_of(round)).unwrap();
                    slot.set_labels(round);
                    found.store(core::ptr::from_ref(slot).cast_mut(), Ordering::SeqCst);
                    done.store(round, Ordering::SeqCst);
                }
            });
            for round in 1..=ROUNDS {
                go.store(round, Ordering::SeqCst);
                (0..round % 50).for_each(|_| core::hint::spin_loop());
                let slot = claim(tid_of(round)).unwrap();
                until(&done, round);
                assert!(core::ptr::eq(slot, found.load(Ordering::SeqCst)), "round {round}");
                assert_eq!(slot.labels(), round);
                let tid = tid_of(round);
                let window = window(tid).unwrap();
                assert_eq!(window.iter().filter(|slot| slot.tid() & !TENTATIVE == tid).count(), 1);
                slot.release();
            }
        });
    }

    /// Our thread has lost the processor in the middle of making a slot: whoever makes another does not wait.
    #[test]
    fn nobody_waits_for_a_maker_that_does_not_run() {
        make_room().unwrap();
        let half_made = take_free(2_000_001, 2_000_001 | TENTATIVE).unwrap();
        let own = by_itself(2_000_002).unwrap();
        assert!(!core::ptr::eq(own, half_made));
        // The thread that it is made for takes it over, labels and all.
        assert!(core::ptr::eq(by_itself(2_000_001).unwrap(), half_made));
        assert!(core::ptr::eq(claim(2_000_001).unwrap(), half_made));
        [own, half_made].into_iter().for_each(Slot::release);
    }
}
