//! The waker that a watched poll gets: it passes everything on, and notes the stack of whoever clones it.
//!
//! It lies on the poller's stack for as long as the poll lasts. A [`Waker`] is lent to a future, never given: to keep it,
//! the future has to clone it, and the clone is one of the real waker. So the spy need not count who has it, and its
//! `drop` does nothing. It is `Sync` like every waker: a future may hand it to other threads during the poll, which get
//! their clones, but no stack is taken of them.

use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

use super::{Claim, Registered};
use crate::regs::{self, Regs};
use crate::unwind::Trail;
use crate::{cost, here};

static TABLE: RawWakerVTable = RawWakerVTable::new(clone, wake_by_ref, wake_by_ref, do_nothing);

/// So many stacks of one poll are walked at most: a future may wait for hundreds of others at once.
const MOST_TAKEN: u32 = 16;

static TICKS: AtomicU64 = AtomicU64::new(0);

/// The ticks of [`regs::ticks`] that were spent on taking stacks since the process began.
pub fn cost() -> u64 {
    TICKS.load(Ordering::Relaxed)
}

/// What the waker of one poll needs.
pub(super) struct Spy<'a> {
    real: &'a Waker,
    claim: Claim,
    /// The polling thread, by [`regs::thread_pointer`].
    thread: u64,
    /// How many stacks were taken, all by the polling thread.
    taken: AtomicU32,
    woken: AtomicBool,
}

impl<'a> Spy<'a> {
    pub(super) fn new(real: &'a Waker, claim: Claim) -> Self {
        let (taken, woken) = (AtomicU32::new(0), AtomicBool::new(false));
        Self { real, claim, thread: regs::thread_pointer(), taken, woken }
    }

    /// Polls by `poll` with a waker that tells this of its clones.
    pub(super) fn poll<T>(&mut self, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let raw = RawWaker::new(core::ptr::from_ref::<Self>(self).cast(), &TABLE);
        // SAFETY: the functions of the table do as `RawWaker` asks, for as long as the spy is where it is; the waker and
        // all that borrow it end with this function. Nobody is given it to drop or to send away.
        let waker = ManuallyDrop::new(unsafe { Waker::from_raw(raw) });
        poll(&mut Context::from_waker(&waker))
    }

    /// The future has to wait: what was found out.
    pub(super) fn pending(self) -> Claim {
        if self.taken.load(Ordering::Relaxed) == 0 {
            unregistered(&self.claim);
        }
        if self.woken.load(Ordering::Relaxed) {
            self.claim.mark_woken();
        }
        self.claim
    }

    /// Takes the stack from `regs` on. Not every place where a waker is left is one that the future will wait in: some
    /// leave it before they see that they need not wait, and some wait in several places at once. Which it is, is found
    /// out from the functions' names, later.
    fn note(&self, regs: &Regs) {
        if regs::thread_pointer() == self.thread && self.taken.load(Ordering::Relaxed) < MOST_TAKEN {
            self.taken.fetch_add(1, Ordering::Relaxed);
            take(&self.claim, Registered::Cloned, regs);
        }
    }
}

unsafe fn clone(spy: *const ()) -> RawWaker {
    // SAFETY: the pointer is that of the spy, which lives while anybody can clone its waker.
    let spy = unsafe { &*spy.cast::<Spy<'_>>() };
    spy.note(&Regs::here());
    let clone = ManuallyDrop::new(spy.real.clone());
    RawWaker::new(clone.data(), clone.vtable())
}

unsafe fn wake_by_ref(spy: *const ()) {
    // SAFETY: as in `clone`.
    let spy = unsafe { &*spy.cast::<Spy<'_>>() };
    spy.note(&Regs::here());
    spy.woken.store(true, Ordering::Relaxed);
    spy.real.wake_by_ref();
}

unsafe fn do_nothing(_spy: *const ()) {}

/// Takes the stack of the poll itself: nobody has cloned the waker.
#[inline(never)]
fn unregistered(claim: &Claim) {
    take(claim, Registered::Nowhere, &Regs::here());
}

/// Takes the calling thread's stack from `regs` on, which are those of a function that is ours and left out.
fn take(claim: &Claim, registered: Registered, regs: &Regs) {
    let begin = regs::ticks();
    claim.write(registered, |words| here::walk(regs, &mut Trail::default(), words));
    TICKS.fetch_add(cost::since(begin), Ordering::Relaxed);
}
