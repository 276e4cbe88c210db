//! The optional clock by `perf_event_open`: a software event on each thread's CPU time that is not bound to the
//! scheduler's tick, so rates above it are real. Where the kernel or a container forbids it, the caller falls back to
//! timers and says so.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::os::PerfEvent;
use crate::thread::{self, Slot};

/// The highest descriptor that can be told from a signal.
const DESCRIPTORS: usize = 64 * 1024;

/// Thread id by descriptor; 0: none.
static THREADS: [AtomicU32; DESCRIPTORS] = [const { AtomicU32::new(0) }; DESCRIPTORS];

/// A perf event of one thread, known to the handler by its descriptor.
#[derive(Debug)]
pub struct ThreadEvent(PerfEvent);

impl ThreadEvent {
    /// Opens the event for the slot's thread, with one signal for each `period` nanoseconds of its CPU time; the error
    /// is the kernel's errno. Our thread.
    pub fn new(slot: &Slot, signal: i32, period: u64) -> Result<ThreadEvent, i32> {
        let event = PerfEvent::open(slot.tid(), signal, period)?;
        let entry = THREADS.get(event.descriptor() as usize).ok_or(libc::EMFILE)?;
        entry.store(slot.tid(), Ordering::Release);
        event.enable()?;
        Ok(ThreadEvent(event))
    }

    /// Whether the program has closed it, which ends it. Our thread.
    pub fn is_lost(&self) -> bool {
        !self.0.is_open()
    }

    /// Changes the period. Our thread.
    pub fn set_period(&self, period: u64) -> Result<(), i32> {
        self.0.set_period(period)
    }
}

impl Drop for ThreadEvent {
    fn drop(&mut self) {
        if let Some(entry) = THREADS.get(self.0.descriptor() as usize) {
            entry.store(0, Ordering::Release);
        }
    }
}

/// The slot of the thread whose event has that descriptor. For handlers.
pub fn slot_of(descriptor: i32) -> Option<&'static Slot> {
    let tid = THREADS.get(usize::try_from(descriptor).ok()?)?.load(Ordering::Acquire);
    if tid == 0 { None } else { thread::find(tid) }
}
