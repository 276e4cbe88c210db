//! What the spans of one request have in common: the labels by which samples know it, its endpoint, and its place in a trace.
//!
//! Names repeat, so those that came twice are kept for good and found without a lock and without an allocation
//! ([`crate::labels::fixed`]). What a trace says of a request is its own; where a request ended on this thread, its block
//! serves the next one.

use std::cell::RefCell;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::labels::fixed::{self, Fixed};
use crate::labels::{Labels, TraceContext, count_endpoint};

/// The key of the label that has the name of the local root span.
pub(super) const SPAN_NAME: &str = "span_name";
/// The key of the label that has the endpoint.
const ENDPOINT: &str = "endpoint";
/// Names that are found without a lock.
const KEPT: usize = 1024;
/// Blocks of requests that have ended, for each thread.
const SPARE: usize = 32;

static NAMES: Fixed<Known, KEPT> = Fixed::new();

thread_local! {
    static ENDED: RefCell<Vec<Arc<Trace>>> = const { RefCell::new(Vec::new()) };
}

/// A name of requests and their endpoint, each empty where there is none.
#[derive(Debug)]
pub(super) struct Known {
    span: &'static str,
    endpoint: Box<str>,
    pub(super) labels: Labels,
}

/// One of them.
#[derive(Clone, Debug)]
pub(super) enum Name {
    Kept(&'static Known),
    Own(Arc<Known>),
}

impl Deref for Name {
    type Target = Known;

    fn deref(&self) -> &Known {
        match self {
            Name::Kept(known) => known,
            Name::Own(known) => known,
        }
    }
}

impl Known {
    pub(super) fn has_endpoint(&self) -> bool {
        !self.endpoint.is_empty()
    }
}

impl Name {
    /// Of requests whose root span has that name, and of that endpoint.
    pub(super) fn of(span: &'static str, endpoint: &str) -> Self {
        let hash = fixed::hash([span, endpoint]);
        let is_it = |known: &Known| known.span == span && *known.endpoint == *endpoint;
        if let Some(known) = NAMES.find(hash, is_it) {
            return Name::Kept(known);
        }
        let labels = [(SPAN_NAME, span), (ENDPOINT, endpoint)];
        let labels = Labels::new(labels.into_iter().filter(|(_, value)| !value.is_empty()));
        let make = || Known { span, endpoint: endpoint.into(), labels: labels.clone() };
        // What stands for others in a full table is not to stay.
        let kept = (!labels.is_overflow() && NAMES.is_missed_again(hash))
            .then(|| NAMES.keep(hash, is_it, make))
            .flatten();
        kept.map_or_else(|| Name::Own(Arc::new(make())), Name::Kept)
    }
}

/// The place of a request in a trace.
#[derive(Debug, Default)]
pub(super) struct Trace {
    /// Its trace, folded; 0 where there is none yet.
    trace: AtomicU64,
    /// The ID of the local root.
    first: AtomicU64,
}

impl Trace {
    pub(super) fn fresh() -> Arc<Self> {
        let spare = ENDED.try_with(|ended| ended.try_borrow_mut().ok()?.pop());
        spare.ok().flatten().unwrap_or_default()
    }

    /// Whether its spans are of that trace, which from now on they are where they were of none.
    pub(super) fn is_of(&self, trace: &TraceContext) -> bool {
        let folded = folded(trace);
        match self.trace.compare_exchange(0, folded, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => true,
            Err(known) => known == folded,
        }
    }

    /// Whether they are known to be.
    pub(super) fn is_known_of(&self, trace: &TraceContext) -> bool {
        self.trace.load(Ordering::Relaxed) == folded(trace)
    }

    /// The ID of the local root: of the outermost span, or as long as that was not entered of the first one that was.
    pub(super) fn first(&self, span_id: u64, is_outermost: bool) -> u64 {
        if is_outermost {
            self.first.store(span_id, Ordering::Relaxed);
            return span_id;
        }
        match self.first.compare_exchange(0, span_id, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => span_id,
            Err(first) => first,
        }
    }
}

fn folded(trace: &TraceContext) -> u64 {
    (trace.trace_id as u64 ^ (trace.trace_id >> 64) as u64).max(1)
}

/// The root of a request, as each of its spans has it.
#[derive(Clone, Debug)]
pub(super) struct Root {
    pub(super) name: Name,
    /// None where nobody asks for IDs.
    pub(super) trace: Option<Arc<Trace>>,
}

impl Root {
    /// Whether both are of one request.
    pub(super) fn is_of_one_trace_with(&self, other: &Root) -> bool {
        match (&self.trace, &other.trace) {
            (Some(own), Some(others)) => Arc::ptr_eq(own, others),
            _ => false,
        }
    }
}

/// What is kept with a span.
#[derive(Debug)]
pub(super) struct Of {
    pub(super) root: Root,
    /// The method of the request, as far as it is known and its endpoint is not.
    pub(super) method: &'static str,
    /// The request began with this span, and ends with it.
    pub(super) is_root: bool,
    /// It is the outermost span of this process in its trace.
    pub(super) is_first: bool,
    /// It is of another trace than the spans around it were when it was created.
    pub(super) is_moved: bool,
}

impl Of {
    /// Of a span that a request begins with.
    pub(super) const fn new(root: Root, is_first: bool, method: &'static str) -> Self {
        Self { root, method, is_root: true, is_first, is_moved: false }
    }

    /// Of another one.
    pub(super) const fn within(root: Root, method: &'static str) -> Self {
        Self { root, method, is_root: false, is_first: false, is_moved: false }
    }

    /// Lets it go without an end of the request.
    pub(super) fn give_up(mut self) {
        self.is_root = false;
    }
}

/// With the span, on whatever thread that ends, also while it unwinds: nothing is asked of the registry then.
impl Drop for Of {
    fn drop(&mut self) {
        if !self.is_root {
            return;
        }
        count_endpoint(&self.root.name.endpoint);
        let Some(mut trace) = self.root.trace.take() else { return };
        if let Some(own) = Arc::get_mut(&mut trace) {
            *own = Trace::default();
            let _ = ENDED.try_with(|ended| match ended.try_borrow_mut() {
                Ok(mut ended) if ended.len() < SPARE => ended.push(trace),
                _ => {}
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_of_one_trace() {
        let root = Trace::default();
        let is_of = |trace| root.is_of(&TraceContext::new(trace, 1));
        assert_eq!([is_of(1 << 100 | 7), is_of(8), is_of(1 << 100 | 7)], [true, false, true]);
    }

    #[test]
    fn the_first_span_with_an_id_is_the_local_root_until_the_outermost_is_entered() {
        let root = Trace::default();
        assert_eq!([root.first(5, false), root.first(6, false), root.first(5, false)], [5, 5, 5]);
        assert_eq!([root.first(4, true), root.first(5, false)], [4, 4]);
    }

    #[test]
    fn names_that_come_again_are_kept_and_have_their_labels() {
        let told = |name: &Name| {
            name.labels.iter().map(|(key, value)| format!("{key}={value} ")).collect::<String>()
        };
        for (span, endpoint, labels) in [
            ("request", "", "span_name=request "),
            ("request", "GET /a", "endpoint=GET /a span_name=request "),
            ("", "GET /a", "endpoint=GET /a "),
            ("", "", ""),
        ] {
            // Other tests of this process ask for names meanwhile.
            let names: Vec<Name> = (0..10).map(|_| Name::of(span, endpoint)).collect();
            assert!(matches!(names[..], [Name::Own(_), .., Name::Kept(_)]), "{names:?}");
            assert!(names.iter().all(|name| told(name) == labels), "{names:?}");
        }
    }
}
