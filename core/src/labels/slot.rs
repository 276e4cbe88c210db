//! Where the labels and the trace of a thread lie for the handler to read: its slot in the probe.
//!
//! The slot is looked up once for each thread and then kept. It names its thread by id, so a thread that has become the
//! only one of a forked child sees that its slot is another one now. A thread without a slot (no memory, or tens of
//! thousands of threads) has its labels in a place of its own: scopes work as ever, only samples do not carry them.

use std::cell::Cell;

use everprof_probe::sample::Trace;
use everprof_probe::thread::{self, Slot};

use super::trace::TraceContext;

/// A thread that found no slot asks again after so many scopes: asking is a system call and a search.
const ASK_AGAIN: u32 = 1_000;

thread_local! {
    // Without a destructor, so that guards work while other thread-locals are destroyed, and access costs nothing.
    static KNOWN: Cell<Known> = const { Cell::new(Known { slot: None, tid: 0 }) };
    static WITHOUT: Without = const { Without::new() };
}

#[derive(Clone, Copy)]
struct Known {
    slot: Option<&'static Slot>,
    tid: u32,
}

/// What a thread keeps while it has no slot.
struct Without {
    labels: Cell<u32>,
    trace: Cell<TraceContext>,
    asking_after: Cell<u32>,
}

/// The id of the label set in force on this thread.
#[inline]
pub(crate) fn labels() -> u32 {
    match known() {
        Some(slot) => slot.labels(),
        None => WITHOUT.with(|here| here.labels.get()),
    }
}

/// Puts the label set of that id in force on this thread.
#[inline]
pub(crate) fn set_labels(id: u32) {
    match known() {
        Some(slot) => {
            slot.set_labels(id);
        }
        None => set_labels_elsewhere(id),
    }
}

/// The trace in force on this thread.
#[inline]
pub(crate) fn trace() -> TraceContext {
    match known() {
        Some(slot) => {
            let Trace { trace_id, span_id, local_root } = slot.trace();
            TraceContext { trace_id, span_id, local_root_span_id: local_root, flags: slot.trace_flags() }
        }
        None => WITHOUT.with(|here| here.trace.get()),
    }
}

/// Puts a trace in force on this thread.
#[inline]
pub(crate) fn set_trace(trace: TraceContext) {
    match known() {
        Some(slot) => {
            slot.set_trace(of(trace), trace.flags);
        }
        None => set_trace_elsewhere(trace),
    }
}

/// The slot that was looked up before, or after a fork the one it has become.
#[inline]
fn known() -> Option<&'static Slot> {
    let Known { slot, tid } = KNOWN.get();
    let slot = slot?;
    if slot.tid() == tid { Some(slot) } else { look_up() }
}

#[cold]
#[inline(never)]
fn set_labels_elsewhere(id: u32) {
    match found() {
        Some(slot) => {
            slot.set_labels(id);
        }
        None => WITHOUT.with(|here| here.labels.set(id)),
    }
}

#[cold]
#[inline(never)]
fn set_trace_elsewhere(trace: TraceContext) {
    match found() {
        Some(slot) => {
            slot.set_trace(of(trace), trace.flags);
        }
        None => WITHOUT.with(|here| here.trace.set(trace)),
    }
}

/// The slot, looked up for the first time, or again after a while where there was none.
fn found() -> Option<&'static Slot> {
    WITHOUT.with(|here| {
        let wait = here.asking_after.get();
        if wait > 0 {
            here.asking_after.set(wait - 1);
            return None;
        }
        let Some(slot) = look_up() else {
            here.asking_after.set(ASK_AGAIN);
            return None;
        };
        // What was put in force while there was no slot goes on.
        let trace = here.trace.take();
        slot.set_labels(here.labels.take());
        slot.set_trace(of(trace), trace.flags);
        Some(slot)
    })
}

#[cold]
#[inline(never)]
fn look_up() -> Option<&'static Slot> {
    let slot = thread::current();
    KNOWN.set(Known { slot, tid: slot.map_or(0, Slot::tid) });
    slot
}

/// As samples have it.
#[inline]
pub(super) fn of(trace: TraceContext) -> Trace {
    Trace { trace_id: trace.trace_id, span_id: trace.span_id, local_root: trace.local_root_span_id }
}

impl Without {
    const fn new() -> Self {
        Self {
            labels: Cell::new(0),
            trace: Cell::new(TraceContext::new(0, 0).with_flags(0)),
            asking_after: Cell::new(0),
        }
    }
}
