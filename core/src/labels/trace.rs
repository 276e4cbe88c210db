//! The trace and span that a sample belongs to, as W3C Trace Context has them.

use std::fmt;

use super::scope::{self, TraceGuard};
use super::slot;
use crate::error::{Error, ErrorKind, Result};

/// A trace id and a span id, and the span that the request began with in this process. Zero is none, as in W3C Trace
/// Context; a trace without a span is none either.
///
/// What is measured while it is in force has the labels `trace_id` (32 hexadecimal digits), `span_id` and
/// `local_root_span_id` (16). They are kept as numbers, apart from the table of label sets, and the option `trace_spans`
/// bounds how many spans a profile tells apart.
///
/// ```
/// use everprof::TraceContext;
/// let trace = TraceContext::from_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
/// assert_eq!(trace.span_id_hex(), "b7ad6b7169203331");
/// let _guard = trace.enter();
/// assert_eq!(TraceContext::current(), trace);
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// 16 bytes, big-endian in its text.
    pub trace_id: u128,
    /// 8 bytes, big-endian in its text.
    pub span_id: u64,
    /// The first span of the request in this process, 0 where that is not known; it may be the same as `span_id`.
    pub local_root_span_id: u64,
    /// The flags of W3C Trace Context: bit 0 says that the trace is recorded. For readers outside of the process; samples
    /// have the IDs whatever they say.
    pub flags: u8,
}

impl TraceContext {
    /// The trace and span of these numbers, of a trace that is recorded; without a local root.
    pub const fn new(trace_id: u128, span_id: u64) -> Self {
        Self { trace_id, span_id, local_root_span_id: 0, flags: 1 }
    }

    /// The same with the span that the request began with in this process. Datadog finds profiles of requests by it.
    ///
    /// ```
    /// use everprof::TraceContext;
    /// let trace = TraceContext::new(7, 9).with_local_root(8);
    /// let _guard = trace.enter();
    /// assert_eq!(TraceContext::current().local_root_span_id, 8);
    /// ```
    pub const fn with_local_root(self, span_id: u64) -> Self {
        Self { local_root_span_id: span_id, ..self }
    }

    /// The same with other flags of W3C Trace Context.
    pub const fn with_flags(self, flags: u8) -> Self {
        Self { flags, ..self }
    }

    /// Reads a `traceparent` header: `00-<32 hex>-<16 hex>-<2 hex>`, or a later version that starts so.
    pub fn from_traceparent(header: &str) -> Result<Self> {
        let wrong = || {
            bad("traceparent", header, "00-<32 hex digits>-<16 hex digits>-<2 hex digits>, none all zeros")
        };
        let mut fields = header.trim().split('-');
        let mut field = |digits| fields.next().and_then(|text| hex(text, digits));
        let (Some(version), Some(trace_id), Some(span_id), Some(flags)) =
            (field(2), field(32), field(16), field(2))
        else {
            return Err(wrong());
        };
        let whole = version != 0 || fields.next().is_none();
        if version == 0xff || trace_id == 0 || span_id == 0 || !whole {
            return Err(wrong());
        }
        Ok(Self::new(trace_id, span_id as u64).with_flags(flags as u8))
    }

    /// Reads a trace id of 32 hex digits, or 16 as older systems have it, and a span id of 16.
    pub fn from_hex(trace_id: &str, span_id: &str) -> Result<Self> {
        let trace = hex(trace_id, 32).or_else(|| hex(trace_id, 16)).filter(|id| *id != 0);
        let span = hex(span_id, 16).filter(|id| *id != 0);
        match (trace, span) {
            (None, _) => Err(bad("trace id", trace_id, "32 or 16 hex digits, not all zeros")),
            (_, None) => Err(bad("span id", span_id, "16 hex digits, not all zeros")),
            (Some(trace_id), Some(span_id)) => Ok(Self::new(trace_id, span_id as u64)),
        }
    }

    /// The trace and span in force on this thread; empty where there is no span.
    pub fn current() -> Self {
        slot::trace()
    }

    /// Puts the trace in force on this thread until the guard is dropped. Takes some nanoseconds.
    #[inline]
    #[must_use = "the trace is in force until the guard is dropped"]
    pub fn enter(self) -> TraceGuard {
        scope::enter_trace(self)
    }

    /// Whether there is neither a trace nor a span.
    pub const fn is_empty(self) -> bool {
        self.trace_id == 0 && self.span_id == 0
    }

    /// The value of the label `trace_id`: 32 hex digits.
    pub fn trace_id_hex(self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The value of the label `span_id`: 16 hex digits.
    pub fn span_id_hex(self) -> String {
        format!("{:016x}", self.span_id)
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceContext({:032x}-{:016x}", self.trace_id, self.span_id)?;
        if self.local_root_span_id != 0 {
            write!(f, " in {:016x}", self.local_root_span_id)?;
        }
        f.write_str(")")
    }
}

/// `from_str_radix` would take a sign.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let valid = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if valid { u128::from_str_radix(text, 16).ok() } else { None }
}

fn bad(what: &str, text: &str, right: &str) -> Error {
    let shown: String = text.chars().take(80).collect();
    Error::new(ErrorKind::InvalidData, format!("{what} is {shown:?}: it should be {right}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    #[test]
    fn traceparent_is_read_as_w3c_has_it() {
        let expected = TraceContext::from_hex(TRACE, SPAN).unwrap();
        assert_eq!((expected.trace_id_hex().as_str(), expected.span_id_hex().as_str()), (TRACE, SPAN));
        for header in [format!("00-{TRACE}-{SPAN}-01"), format!("cc-{TRACE}-{SPAN}-01-what-comes")] {
            assert_eq!(TraceContext::from_traceparent(&header).unwrap(), expected, "{header}");
        }
        let zeros = "0".repeat(32);
        for header in [
            String::new(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-+{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{}-{SPAN}-01", &TRACE[1..]),
        ] {
            let error = TraceContext::from_traceparent(&header).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{header}");
        }
    }

    #[test]
    fn short_trace_ids_are_the_low_half() {
        assert_eq!(
            TraceContext::from_hex(SPAN, SPAN).unwrap().trace_id_hex(),
            format!("{}{SPAN}", "0".repeat(16))
        );
        assert!(TraceContext::from_hex("xyz", SPAN).unwrap_err().to_string().contains("trace id is \"xyz\""));
        assert!(TraceContext::from_hex(TRACE, "0").unwrap_err().to_string().contains("span id is \"0\""));
    }

    #[test]
    fn traces_nest_and_end() {
        let (a, b) = (TraceContext::new(1, 1), TraceContext::new(1, 2));
        let outer = a.enter();
        let inner = b.enter();
        assert_eq!(TraceContext::current(), b);
        drop(outer);
        assert!(TraceContext::current().is_empty());
        drop(inner);
        assert!(TraceContext::current().is_empty());
    }
}
