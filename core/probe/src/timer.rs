//! What makes a thread's handler run: a CPU timer or a perf event, one for each thread, made from our thread.

use crate::os::{Clock, CpuTimer};
use crate::perf::ThreadEvent;
use crate::thread::Slot;

/// Which clock drives the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockKind {
    /// POSIX CPU timers: need no permission, are looked at by the kernel at each scheduler tick.
    Timer,
    /// `perf_event_open`: not bound to the tick, often forbidden.
    PerfEvent,
}

/// The source of one thread's samples; ends on drop.
#[derive(Debug)]
pub struct ThreadTimer(Driver);

#[derive(Debug)]
enum Driver {
    Timer(CpuTimer),
    Event(ThreadEvent),
}

impl ThreadTimer {
    /// Starts sampling the slot's thread every `period` nanoseconds of its CPU time, the first time after `first` (a
    /// random part of the period, so that short work is met as often as it deserves). The error is the kernel's errno.
    pub fn start(
        slot: &'static Slot,
        kind: ClockKind,
        signal: i32,
        period: u32,
        first: u32,
    ) -> Result<ThreadTimer, i32> {
        slot.set_period(period);
        let driver = Self::driver(slot, kind, signal, period, first);
        if driver.is_err() {
            slot.set_period(0);
        }
        driver.map(ThreadTimer)
    }

    fn driver(
        slot: &'static Slot,
        kind: ClockKind,
        signal: i32,
        period: u32,
        first: u32,
    ) -> Result<Driver, i32> {
        Ok(match kind {
            ClockKind::PerfEvent => Driver::Event(ThreadEvent::new(slot, signal, period.into())?),
            ClockKind::Timer => {
                let timer = CpuTimer::new(Clock::Thread(slot.tid()), signal, slot.address())?;
                timer.arm(first.max(1).into(), period.into())?;
                Driver::Timer(timer)
            }
        })
    }

    /// Goes on with another period.
    pub fn set_period(&self, slot: &Slot, period: u32, first: u32) -> Result<(), i32> {
        slot.set_period(period);
        match &self.0 {
            Driver::Timer(timer) => timer.arm(first.max(1).into(), period.into()),
            Driver::Event(event) => event.set_period(period.into()),
        }
    }

    /// Whether it still follows a live thread. A thread id may be used again by a new thread; the timer of the old one
    /// does not follow it.
    pub fn is_alive(&self) -> bool {
        match &self.0 {
            Driver::Timer(timer) => timer.is_armed(),
            Driver::Event(_) => true,
        }
    }

    /// Whether it has ended though its thread goes on: the program has closed all descriptors, as daemons do.
    pub fn is_lost(&self) -> bool {
        match &self.0 {
            Driver::Timer(_) => false,
            Driver::Event(event) => event.is_lost(),
        }
    }

    /// Drops the value without touching the kernel's timer: in a fork's child the id names nothing of ours.
    pub fn forget(self) {
        match self.0 {
            Driver::Timer(timer) => timer.forget(),
            Driver::Event(event) => drop(event),
        }
    }
}
