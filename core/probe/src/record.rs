//! The trace and the span in force on a thread, as OpenTelemetry's thread context (OTEP 4947) lays them out: our handler
//! reads them here, and where it is switched on, so does a profiler outside of the process.
//!
//! One record lies in each slot of [`crate::thread`], so what is published costs nothing to keep twice. Its first 28 bytes
//! are the specification's header: the trace and the span as their bytes go over the wire, a byte that is 1 while the rest
//! is true, the trace's flags, and how many bytes of attributes follow. The only attribute is the local root span, under the
//! key that the published key map ([`KEYS`]) begins with.
//!
//! **Who reads, and when.** The specification has outside readers look only while the thread is stopped, so here as in a
//! handler the order in which the compiler stores is all that matters. The byte goes to 0 before anything changes, and back
//! to 1 after; the span, which our handler goes by, likewise.

use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering, compiler_fence};

use crate::regs;
use crate::sample::Trace;

/// The names of the attributes that records may have, by their numbers: for the process's context.
pub const KEYS: [&str; 1] = ["datadog.local_root_span_id"];

/// Whether threads are to point outside readers to their records.
static PUBLISHED: AtomicBool = AtomicBool::new(false);

/// Bytes of the attribute: its number, its length, and 16 hexadecimal digits.
const ATTRIBUTE: u16 = 18;
const PAIRS: usize = 8;

/// The record of one thread. Zeros are a valid one: nothing is in force.
#[derive(Debug, Default)]
#[repr(C, align(8))]
pub struct Record {
    /// Big-endian, as are the next two.
    trace_high: AtomicU64,
    trace_low: AtomicU64,
    span_id: AtomicU64,
    /// Four bytes: whether the rest is valid, the flags, and two of the length of the attributes.
    state: AtomicU32,
    /// Number and length of the attribute.
    head: AtomicU16,
    /// Its digits, two by two.
    digits: [AtomicU16; PAIRS],
    /// Ours: the specification's record ends before.
    local_root: AtomicU64,
}

const _: () =
    assert!(core::mem::offset_of!(Record, state) == 24 && core::mem::offset_of!(Record, head) == 28);

/// Says whether threads point outside readers to their records: each does with the next trace that it sets, and clears its
/// record with the next end of one.
pub fn publish(published: bool) {
    PUBLISHED.store(published, Ordering::Relaxed);
}

/// Whether they do.
#[inline]
pub(crate) fn is_published() -> bool {
    PUBLISHED.load(Ordering::Relaxed)
}

impl Record {
    /// The trace and the span in force; a trace without a span is none. For handlers.
    #[inline]
    pub(crate) fn trace(&self) -> Trace {
        let span_id = u64::from_be(self.span_id.load(Ordering::Relaxed));
        if span_id == 0 {
            return Trace::default();
        }
        let high = u64::from_be(self.trace_high.load(Ordering::Relaxed));
        let low = u64::from_be(self.trace_low.load(Ordering::Relaxed));
        let trace_id = u128::from(high) << 64 | u128::from(low);
        Trace { trace_id, span_id, local_root: self.local_root.load(Ordering::Relaxed) }
    }

    /// The flags of the trace in force.
    #[inline]
    pub(crate) fn flags(&self) -> u8 {
        let [_, flags, ..] = self.state.load(Ordering::Relaxed).to_ne_bytes();
        flags
    }

    /// Puts a trace in force. Only by the record's own thread.
    #[inline]
    pub(crate) fn set(&self, trace: Trace, flags: u8) {
        self.state.store(0, Ordering::Relaxed);
        self.span_id.store(0, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        self.trace_high.store(((trace.trace_id >> 64) as u64).to_be(), Ordering::Relaxed);
        self.trace_low.store((trace.trace_id as u64).to_be(), Ordering::Relaxed);
        self.local_root.store(trace.local_root, Ordering::Relaxed);
        let published = is_published() && trace.span_id != 0 && self.points_here();
        let attributes = if published { self.set_attribute(trace.local_root) } else { 0 };
        compiler_fence(Ordering::SeqCst);
        self.span_id.store(trace.span_id.to_be(), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        let is_valid = trace.span_id != 0 && trace.trace_id != 0;
        let [low, high] = attributes.to_ne_bytes();
        let state =
            u32::from_ne_bytes([u8::from(is_valid), if trace.span_id != 0 { flags } else { 0 }, low, high]);
        self.state.store(state, Ordering::Relaxed);
    }

    /// Makes the calling thread, which this record belongs to, point outside readers here. Another one of ours, which was
    /// the thread's before a fork, gives way; somebody else's stays.
    pub(crate) fn point_here(&self, is_ours: impl FnOnce(usize) -> bool) {
        let word = regs::thread_context();
        let before = word.load(Ordering::Relaxed);
        if before == 0 || before != self.address() && is_ours(before) {
            word.store(self.address(), Ordering::Relaxed);
        }
    }

    /// Whether the calling thread does.
    #[inline]
    fn points_here(&self) -> bool {
        regs::thread_context().load(Ordering::Relaxed) == self.address()
    }

    fn address(&self) -> usize {
        core::ptr::from_ref(self) as usize
    }

    /// Writes the attribute, and returns how many bytes it has.
    fn set_attribute(&self, local_root: u64) -> u16 {
        if local_root == 0 {
            return 0;
        }
        self.head.store(u16::from_ne_bytes([0, 16]), Ordering::Relaxed);
        for (pair, byte) in self.digits.iter().zip(local_root.to_be_bytes()) {
            let digits =
                [byte >> 4, byte & 15].map(|half| if half < 10 { b'0' + half } else { b'a' + half - 10 });
            pair.store(u16::from_ne_bytes(digits), Ordering::Relaxed);
        }
        ATTRIBUTE
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn bytes(record: &Record) -> [u8; 46] {
        let start: *const [u8; 46] = core::ptr::from_ref(record).cast();
        // SAFETY: the record is larger, and nobody changes it.
        unsafe { start.read() }
    }

    #[test]
    fn a_record_is_laid_out_as_the_specification_has_it() {
        let record = Record::default();
        let trace = Trace {
            trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
            span_id: 0xb7ad_6b71_6920_3331,
            local_root: 0xab,
        };
        record.set(trace, 1);
        assert_eq!((record.trace(), record.flags()), (trace, 1));
        let unpublished = bytes(&record);
        assert_eq!(unpublished[..4], [0x0a, 0xf7, 0x65, 0x19]);
        assert_eq!(unpublished[16..20], [0xb7, 0xad, 0x6b, 0x71]);
        assert_eq!(unpublished[24..28], [1, 1, 0, 0]);

        publish(true);
        record.point_here(|_| false);
        record.set(trace, 0);
        let published = bytes(&record);
        assert_eq!(published[24..30], [1, 0, 18, 0, 0, 16]);
        assert_eq!(&published[30..], b"00000000000000ab");
        record.set(Trace { local_root: 0, ..trace }, 0);
        assert_eq!(bytes(&record)[24..28], [1, 0, 0, 0]);
        record.set(Trace { trace_id: 0, ..trace }, 1);
        assert_eq!(bytes(&record)[24], 0, "both or none");
        assert_eq!(record.trace().span_id, trace.span_id, "but samples have the span");
        record.set(Trace { span_id: 0, ..trace }, 1);
        assert_eq!((bytes(&record)[24], record.trace()), (0, Trace::default()));

        let other = Record::default();
        other.point_here(|_| false);
        assert!(record.points_here(), "somebody's record stays");
        other.point_here(|address| address == record.address());
        assert!(other.points_here(), "one of ours gives way");
        regs::thread_context().store(0, Ordering::Relaxed);
        publish(false);
    }
}
