//! Spans of the crate `tracing`: what they use is told by their names and, with OpenTelemetry, by their IDs. Feature `tracing`.
//!
//! One line where subscribers are put together, behind the layer of `tracing-opentelemetry`:
//!
//! ```ignore
//! tracing_subscriber::registry()
//!     .with(tracing_opentelemetry::layer().with_tracer(tracer))
//!     .with(everprof::otel_layer!())
//!     .init();
//! ```
//!
//! From then on each sample that is taken within a span has the labels `trace_id`, `span_id` and `local_root_span_id`, on
//! whatever thread the span is entered, and `span_name`: the name of the local root, which is the first span of the request
//! in this process. Without OpenTelemetry ([`layer`]) it is the name alone, since an ID that no trace has leads nowhere.
//!
//! **IDs** are those of the OpenTelemetry context in force at the moment when a span is entered, so any version of
//! `tracing-opentelemetry` will do that puts it in force, as all do since 0.32 unless told otherwise; the macro asks the
//! program's own crate `opentelemetry`. Spans that are not sampled have none: nobody has their trace.
//!
//! **Scopes.** An entered span is a scope as a label's guard is, in whatever order they end; of scopes within each other on
//! one thread, those beyond the 64th are not told, and samples have what the 64th put in force.
//!
//! **What it costs.** A span's creation: one small allocation, and an interned label where it is a root. To enter and leave
//! it: a look at the registry and some stores, no allocation and no lock of ours.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing_core::Subscriber;
use tracing_core::span::{Attributes, Id};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::{LookupSpan, SpanRef};

use crate::labels::in_force::{self, Held};
use crate::labels::{Labels, TraceContext};

/// The key of the label that has the name of the local root span.
const SPAN_NAME: &str = "span_name";
/// Spans that are entered in each other on one thread beyond this are not kept; what is told is that of the first 64 scopes.
const DEEPEST: usize = 1024;

thread_local! {
    static ENTERED: RefCell<Vec<Entered>> = const { RefCell::new(Vec::new()) };
}

/// The layer of `tracing-opentelemetry`'s spans: [`tracing::layer`](crate::tracing::layer) with the IDs of the OpenTelemetry
/// context in force. The program needs the crate `opentelemetry`, of any version, with its feature `trace`.
#[cfg_attr(docsrs, doc(cfg(feature = "tracing")))]
#[macro_export]
macro_rules! otel_layer {
    () => {
        $crate::tracing::layer().ids(|| {
            ::opentelemetry::Context::map_current(|context| {
                let span = ::opentelemetry::trace::TraceContextExt::span(context);
                let span = span.span_context();
                let is_told = span.is_valid() && span.is_sampled() && !span.is_remote();
                is_told.then(|| {
                    let trace_id = u128::from_be_bytes(span.trace_id().to_bytes());
                    let span_id = u64::from_be_bytes(span.span_id().to_bytes());
                    $crate::TraceContext::new(trace_id, span_id).with_flags(span.trace_flags().to_u8())
                })
            })
        })
    };
}

/// A layer for `tracing_subscriber` by which what is measured has the name of the root span as its label `span_name`.
///
/// ```
/// use tracing_subscriber::layer::SubscriberExt;
/// let subscriber = tracing_subscriber::registry().with(everprof::tracing::layer());
/// # drop(subscriber);
/// ```
pub fn layer() -> Layer {
    Layer { ids: None, names: true }
}

/// Puts spans in force while they are entered. Made by [`layer`] and [`otel_layer!`](crate::otel_layer).
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    ids: Option<fn() -> Option<TraceContext>>,
    names: bool,
}

impl Layer {
    /// Asks `ids` for the trace and the span whenever a span was entered, on its thread; none takes away what is in force.
    /// The local root is found by the layer, as the first span of the tree that has an ID.
    ///
    /// ```
    /// use everprof::TraceContext;
    /// let layer = everprof::tracing::layer().ids(|| Some(TraceContext::new(7, 8)));
    /// # drop(layer);
    /// ```
    pub fn ids(self, ids: fn() -> Option<TraceContext>) -> Self {
        Self { ids: Some(ids), ..self }
    }

    /// Leaves the label `span_name` out, for programs whose root spans all have the same name.
    pub fn without_names(self) -> Self {
        Self { names: false, ..self }
    }
}

/// What the spans of one request have in common, in the extensions of each of them.
#[derive(Debug)]
struct Root {
    /// The trace of that span, folded; 0 where there is none yet.
    trace: AtomicU64,
    /// The first span that has an ID.
    first: AtomicU64,
    labels: Labels,
}

struct Of(Arc<Root>);

/// A span that is entered on this thread, and what was in force before.
struct Entered {
    span: u64,
    root: Arc<Root>,
    labels: Held<u32>,
    /// Keeps the set alive that is in force because of it.
    kept: Labels,
    /// None where it is not known whether it has IDs.
    trace: Option<Held<TraceContext>>,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Layer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        // A second panic would end the process.
        if std::thread::panicking() {
            return;
        }
        let Some(span) = context.span(id) else { return };
        let of_parent = span.parent().and_then(|parent| root_of(&parent));
        put(&span, of_parent.unwrap_or_else(|| self.root(attributes.metadata().name())));
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        let number = id.into_u64();
        if std::thread::panicking() {
            // One that is entered already is once more, since its exit ends the last; another one's exit finds none.
            if let Some(root) = entered_root(number) {
                enter(number, root, None);
            }
            return;
        }
        let Some(span) = context.span(id) else { return };
        let Some(mut root) = root_of(&span) else { return };
        let ids = self.ids.map(|ids| ids());
        if let Some(trace) = ids.flatten().filter(|trace| !root.is_of(trace)) {
            // A request from elsewhere, within a span of the process: those within this one are of its trace.
            root = self.root(span.name());
            root.is_of(&trace);
            put(&span, root.clone());
        }
        let ids = ids.map(|ids| ids.map(|trace| trace.with_local_root(root.first(trace.span_id))));
        enter(number, root, ids);
    }

    fn on_exit(&self, id: &Id, _context: Context<'_, S>) {
        exit(id.into_u64());
    }
}

impl Layer {
    fn root(&self, name: &str) -> Arc<Root> {
        Arc::new(Root::new(Labels::new(self.names.then_some((SPAN_NAME, name)))))
    }
}

fn put<'a, R: LookupSpan<'a>>(span: &SpanRef<'a, R>, root: Arc<Root>) {
    let put = || span.extensions_mut().replace(Of(root));
    let _ = catch_unwind(AssertUnwindSafe(put));
}

/// The root of a span, without a look into its extensions where the span is entered on this thread: another layer may hold
/// their lock while it formats what was recorded, and what is formatted may create and enter spans.
fn root_of<'a, R: LookupSpan<'a>>(span: &SpanRef<'a, R>) -> Option<Arc<Root>> {
    // Their lock is poisoned where another layer panicked with it, and then panics.
    let of = || span.extensions().get::<Of>().map(|of| of.0.clone());
    entered_root(span.id().into_u64()).or_else(|| catch_unwind(AssertUnwindSafe(of)).ok().flatten())
}

fn entered_root(span: u64) -> Option<Arc<Root>> {
    let found = ENTERED.try_with(|entered| {
        let entered = entered.try_borrow().ok()?;
        entered.iter().rev().find(|entered| entered.span == span).map(|entered| entered.root.clone())
    });
    found.ok().flatten()
}

impl Root {
    fn new(labels: Labels) -> Self {
        Self { trace: AtomicU64::new(0), first: AtomicU64::new(0), labels }
    }

    /// Whether its spans are of that trace, which from now on they are where they were of none.
    fn is_of(&self, trace: &TraceContext) -> bool {
        let folded = (trace.trace_id as u64 ^ (trace.trace_id >> 64) as u64).max(1);
        match self.trace.compare_exchange(0, folded, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => true,
            Err(known) => known == folded,
        }
    }

    /// The ID of the first span that has one, which is this one where none had.
    fn first(&self, span_id: u64) -> u64 {
        match self.first.compare_exchange(0, span_id, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => span_id,
            Err(first) => first,
        }
    }
}

/// Puts a span in force: its labels where its root is not yet, and its IDs where it is known whether it has some.
fn enter(span: u64, root: Arc<Root>, ids: Option<Option<TraceContext>>) {
    // Not while the thread's variables are destroyed.
    let _ = ENTERED.try_with(|entered| {
        let Ok(mut entered) = entered.try_borrow_mut() else { return };
        if entered.len() >= DEEPEST {
            return;
        }
        let is_in_force =
            entered.last().is_some_and(|outer| Arc::ptr_eq(&outer.root, &root) && outer.labels.is_open());
        let labels = Held::labels();
        let kept = if is_in_force || !labels.is_open() {
            Labels::default()
        } else {
            in_force::set_labels(&root.labels, labels.before())
        };
        let trace = ids.map(|ids| {
            let trace = Held::trace();
            if trace.is_open() {
                in_force::set_trace(ids.unwrap_or_default());
            }
            trace
        });
        entered.push(Entered { span, root, labels, kept, trace });
    });
}

/// Puts in force what was before the span was entered, or where another one that was entered later is entered still, leaves
/// that to its end. Where a guard that is outside of it has ended, that has been done.
fn exit(span: u64) {
    let _ = ENTERED.try_with(|entered| {
        let Ok(mut entered) = entered.try_borrow_mut() else { return };
        let Some(place) = entered.iter().rposition(|entered| entered.span == span) else { return };
        let ended = entered.remove(place);
        let mut later = entered.iter_mut().skip(place).find(|later| later.labels.is_open());
        if let Some(later) = later.as_mut().filter(|later| later.kept.is_empty()) {
            later.kept = ended.kept;
        }
        if let Some(labels) = ended.labels.close(later.map(|later| &mut later.labels)) {
            in_force::restore_labels(labels);
        }
        let mut later = entered.iter_mut().skip(place).filter_map(|later| later.trace.as_mut());
        let later = later.find(|later| later.is_open());
        if let Some(trace) = ended.trace.and_then(|trace| trace.close(later)) {
            in_force::set_trace(trace);
        }
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn root(name: &str) -> Arc<Root> {
        Arc::new(Root::new(Labels::new([(SPAN_NAME, name)])))
    }

    fn now() -> (Vec<String>, u64) {
        let labels = Labels::current();
        let labels = labels.iter().map(|(key, value)| format!("{key}={value}"));
        (labels.collect(), TraceContext::current().span_id)
    }

    #[test]
    fn what_was_in_force_comes_back_in_whatever_order_spans_end() {
        let told = |labels: &[&str], span| (labels.iter().map(|label| (*label).to_string()).collect(), span);
        let (a, b) = (root("a"), root("b"));
        let ids = |span| Some(Some(TraceContext::new(1, span)));
        let _outer = Labels::new([("tenant", "t")]).entered();
        enter(1, a.clone(), ids(11));
        assert_eq!(now(), told(&["span_name=a", "tenant=t"], 11));
        enter(2, a.clone(), ids(12));
        enter(3, b.clone(), ids(13));
        assert_eq!(now(), told(&["span_name=b", "tenant=t"], 13));
        exit(2);
        assert_eq!(now(), told(&["span_name=b", "tenant=t"], 13), "another one is entered still");
        enter(3, b.clone(), Some(None));
        assert_eq!(now().1, 0, "entered once more, not sampled");
        exit(3);
        exit(3);
        assert_eq!(now(), told(&["span_name=a", "tenant=t"], 11));
        exit(9);
        exit(1);
        assert_eq!(now(), told(&["tenant=t"], 0));
    }

    #[test]
    fn spans_and_guards_that_end_in_another_order_leave_nothing_in_force() {
        let ids = |span| Some(Some(TraceContext::new(1, span)));
        let nothing = (Vec::new(), 0);
        let tenant = || (Labels::new([("tenant", "t")]).entered(), TraceContext::new(9, 9).enter());
        // The guard is the outer one, and ends first.
        let guards = tenant();
        enter(1, root("a"), ids(11));
        drop(guards);
        assert_eq!(now(), nothing, "with it ends what is in it");
        enter(2, root("a"), ids(12));
        assert_eq!(now(), (vec!["span_name=a".to_string()], 12), "though another one of its root is entered");
        exit(1);
        assert_eq!(now().1, 12);
        exit(2);
        assert_eq!(now(), nothing);
        // The span is the outer one, and ends first.
        enter(1, root("a"), ids(11));
        let guards = tenant();
        exit(1);
        assert_eq!(now(), nothing);
        drop(guards);
        assert_eq!(now(), nothing);
        // A guard stands between two spans.
        enter(1, root("a"), ids(11));
        let guards = tenant();
        enter(2, root("b"), ids(12));
        exit(1);
        drop(guards);
        exit(2);
        assert_eq!(now(), nothing);
        // Within what was left to the second span, a guard is one of its own.
        enter(1, root("a"), ids(11));
        enter(2, root("b"), ids(12));
        exit(1);
        let guards = tenant();
        assert_eq!(now().1, 9);
        drop(guards);
        assert_eq!(now(), (vec!["span_name=b".to_string()], 12));
        exit(2);
        assert_eq!(now(), nothing);
    }

    #[test]
    fn a_root_is_of_one_trace() {
        let root = root("a");
        let is_of = |trace| root.is_of(&TraceContext::new(trace, 1));
        assert_eq!([is_of(1 << 100 | 7), is_of(8), is_of(1 << 100 | 7)], [true, false, true]);
    }

    #[test]
    fn the_first_span_with_an_id_is_the_local_root() {
        let root = root("a");
        assert_eq!([root.first(5), root.first(6), root.first(5)], [5, 5, 5]);
    }
}
