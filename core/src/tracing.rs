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
//! program's own crate `opentelemetry`. Spans that are not sampled have none: nobody has their trace. The local root is the
//! outermost span, or until that was entered the first one that was. A span that is of another
//! trace than the spans around it is the local root of a request from elsewhere, and those within it belong to it, also where they
//! were created before it was entered; those that are entered before it, from then on.
//!
//! **Endpoints.** Where the root span has one of the fields `endpoint`, `http.route` and `route`, samples have the label
//! `endpoint`: a route with its method before it (`http.request.method`, `http.method` or `method`), as in `GET /cart/{id}`. When
//! the span ends, on whatever thread, a request of it is counted ([`count_endpoint`](crate::count_endpoint)). A route that
//! becomes known later, by `Span::record`, is told of the span from the next time on that it is entered, and of spans within it
//! that are created from then on. Within a root that has no endpoint, such as the
//! span of a connection, a span with `http.route` is the root of a request of its own, with the IDs of the outer one.
//!
//! **Scopes.** An entered span is a scope as a label's guard is, in whatever order they end. Of scopes within each other on
//! one thread, spans and guards together, 64 are told: what is entered beyond leaves in force what the 64th has put there,
//! and its end changes nothing. A span that a thread has entered and never leaves stays in force there until it is closed on
//! that thread, or a scope around it ends; so does one whose layer is taken away meanwhile (`reload`).
//!
//! **What it costs.** A span's creation: one small allocation, by the registry, which keeps there what is known of the span. A
//! root costs no more, and no lock of ours, where its name and endpoint came twice before (1,024 of them; others cost a lock for
//! a moment and some allocations), and with IDs where requests end on the threads on which they begin: else the place of
//! the request in its trace is a second allocation. To enter and leave a span: a look at the registry and some stores, no
//! allocation and no lock of ours, unless its labels come within other ones that they have not been within twice before.

mod endpoint;
mod entered;
mod request;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};

use tracing_core::span::{Attributes, Id, Record};
use tracing_core::{Metadata, Subscriber};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::{LookupSpan, SpanRef};

use crate::labels::TraceContext;
use endpoint::Named;
use entered::Number;
use request::{Name, Of, Root, Trace};

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
    Layer { ids: None, names: true, registry: 0 }
}

/// Puts spans in force while they are entered. Made by [`layer`] and [`otel_layer!`](crate::otel_layer).
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    ids: Option<fn() -> Option<TraceContext>>,
    names: bool,
    /// Tells spans of several registries apart, whose numbers are the same.
    registry: u32,
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

impl<S: Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Layer {
    fn on_layer(&mut self, _subscriber: &mut S) {
        static REGISTRIES: AtomicU32 = AtomicU32::new(0);
        self.registry = REGISTRIES.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        // A second panic would end the process.
        if std::thread::panicking() {
            return;
        }
        let Some(span) = context.span(id) else { return };
        let metadata = attributes.metadata();
        let outer = self.ancestors(&span).next();
        let begins = outer.as_ref().is_none_or(|outer| begins_within(outer, metadata));
        let mut named = (begins && endpoint::may_be_named(metadata))
            .then(|| Named::read(|visitor| attributes.record(visitor)));
        let method = named.as_ref().map_or("", |named| named.method);
        let found = named.as_mut().and_then(|named| named.endpoint(""));
        let of = match outer {
            Some(outer) if found.is_none() => Of::within(outer, method),
            outer => {
                let is_within = outer.is_some();
                let trace = outer.map_or_else(|| self.ids.map(|_| Trace::fresh()), |outer| outer.trace);
                let name = self.name(metadata, found.unwrap_or_default());
                Of::new(Root { name, trace }, !is_within, method)
            }
        };
        put(&span, of);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if std::thread::panicking() {
            return;
        }
        let Some(span) = context.span(id) else { return };
        if !endpoint::may_be_named(span.metadata()) {
            return;
        }
        let mut named = Named::read(|visitor| values.record(visitor));
        with_of(&span, |of| {
            let method = if named.method.is_empty() { of.method } else { named.method };
            of.method = method;
            if (of.is_root || begins_within(&of.root, span.metadata()))
                && let Some(endpoint) = named.endpoint(method)
            {
                of.root.name = self.name(span.metadata(), endpoint);
                of.is_root = true;
            }
        });
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        let number = self.number(id);
        if std::thread::panicking() {
            // One that is entered already is once more, since its exit ends the last; another one's exit finds none.
            if let Some(root) = entered::root(number) {
                entered::enter(number, root, None);
            }
            return;
        }
        let Some(span) = context.span(id) else { return };
        let Some(mut seen) = self.see(&span) else { return };
        let ids = self.ids.map(|ids| ids());
        if let Some(trace) = ids.flatten() {
            seen = self.in_trace(&span, seen, &trace);
        }
        let first = |id| seen.root.trace.as_ref().map_or(id, |trace| trace.first(id, seen.is_first));
        let ids = ids.map(|ids| ids.map(|trace| trace.with_local_root(first(trace.span_id))));
        entered::enter(number, seen.root, ids);
    }

    fn on_exit(&self, id: &Id, _context: Context<'_, S>) {
        entered::exit(self.number(id));
    }

    fn on_close(&self, id: Id, _context: Context<'_, S>) {
        entered::forget(self.number(&id));
    }
}

/// Whether a span within a request that has no endpoint may be the root of one that has.
fn begins_within(outer: &Root, metadata: &Metadata<'_>) -> bool {
    !outer.name.has_endpoint() && endpoint::is_of_server(metadata)
}

impl Layer {
    fn number(&self, id: &Id) -> Number {
        Number { registry: self.registry, span: id.into_u64() }
    }

    fn name(&self, metadata: &'static Metadata<'static>, endpoint: &str) -> Name {
        Name::of(if self.names { metadata.name() } else { "" }, endpoint)
    }

    /// The roots of the spans around one, the nearest first.
    fn ancestors<'a, R: LookupSpan<'a>>(&self, span: &SpanRef<'a, R>) -> impl Iterator<Item = Root> {
        let around = std::iter::successors(span.parent(), SpanRef::parent);
        around.filter_map(|outer| self.see(&outer)).map(|seen| seen.root)
    }

    /// What is kept with a span, without a look into its extensions where the span is entered on this thread: another layer may hold
    /// their lock while it formats what was recorded, and what is formatted may create and enter spans.
    fn see<'a, R: LookupSpan<'a>>(&self, span: &SpanRef<'a, R>) -> Option<Seen> {
        if let Some(root) = entered::root(self.number(&span.id())) {
            return Some(Seen { root, is_first: false, is_moved: false, is_entered: true });
        }
        // Their lock is poisoned where another layer panicked with it, and then panics.
        let see = || span.extensions().get::<Of>().map(Seen::of);
        catch_unwind(AssertUnwindSafe(see)).ok().flatten()
    }

    /// What is kept with a span once it is of that trace, where it was of another one.
    fn in_trace<'a, R: LookupSpan<'a>>(
        &self,
        span: &SpanRef<'a, R>,
        seen: Seen,
        trace: &TraceContext,
    ) -> Seen {
        let is_of = seen.root.trace.as_ref().is_none_or(|known| known.is_of(trace));
        if is_of && !seen.is_moved || seen.is_entered {
            return seen;
        }
        // Those around it may have been entered since it was created: the outermost of that trace is the root.
        let is_known_of = |outer: &Root| outer.trace.as_ref().is_some_and(|known| known.is_known_of(trace));
        let around = self.ancestors(span).filter(is_known_of).last();
        let is_first = around.is_none();
        if is_of && around.as_ref().is_none_or(|around| around.is_of_one_trace_with(&seen.root)) {
            return seen;
        }
        let put = with_of(span, |of| {
            let name = match &around {
                // A span that has an endpoint of its own is known by that.
                _ if of.is_root && of.root.name.has_endpoint() => of.root.name.clone(),
                Some(around) => around.name.clone(),
                None if of.is_root => of.root.name.clone(),
                None => self.name(span.metadata(), ""),
            };
            let own = || {
                let own = Trace::fresh();
                own.is_of(trace);
                own
            };
            let trace = around.as_ref().and_then(|around| around.trace.clone()).unwrap_or_else(own);
            of.is_root = is_first || of.is_root && of.root.name.has_endpoint();
            of.root = Root { name, trace: Some(trace) };
            (of.is_first, of.is_moved) = (is_first, true);
            Seen::of(of)
        });
        put.unwrap_or(seen)
    }
}

/// What is kept with a span, as far as it matters where it is entered.
struct Seen {
    root: Root,
    is_first: bool,
    is_moved: bool,
    /// It is entered on this thread already.
    is_entered: bool,
}

impl Seen {
    fn of(of: &Of) -> Self {
        Self { root: of.root.clone(), is_first: of.is_first, is_moved: of.is_moved, is_entered: false }
    }
}

fn put<'a, R: LookupSpan<'a>>(span: &SpanRef<'a, R>, of: Of) {
    let mut of = Some(of);
    let before = catch_unwind(AssertUnwindSafe(|| {
        let mut extensions = span.extensions_mut();
        of.take().and_then(|of| extensions.replace(of))
    }));
    // Where its lock is poisoned, it stays here; what it replaces is of a second layer. Neither is the end of a request.
    before.ok().flatten().into_iter().chain(of).for_each(Of::give_up);
}

/// Works on what is kept with a span, unless its lock is poisoned.
fn with_of<'a, R: LookupSpan<'a>, T>(span: &SpanRef<'a, R>, work: impl FnOnce(&mut Of) -> T) -> Option<T> {
    let work = || span.extensions_mut().get_mut::<Of>().map(work);
    catch_unwind(AssertUnwindSafe(work)).ok().flatten()
}
