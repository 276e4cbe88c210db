//! What other layers and requests from elsewhere do to spans that are entered.

use std::fmt;
use std::sync::mpsc;
use std::time::Duration;

use everprof::{Labels, TraceContext};
use opentelemetry::trace::{SpanContext, TraceContextExt as _, TraceFlags};
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

fn now() -> (u128, u64, String) {
    let (trace, labels) = (TraceContext::current(), Labels::current());
    let name = labels.iter().map(|(_, name)| name.to_string()).collect();
    (trace.trace_id, trace.local_root_span_id, name)
}

#[test]
fn a_request_within_a_span_of_the_process_has_a_local_root_of_its_own_trace() {
    let (_provider, _exporter) = spans::init();
    let _process = tracing::info_span!("process").entered();
    let (own, first, name) = now();
    assert!(own != 0 && first != 0 && name == "process");
    for trace in [0xabc_u128, 0xdef] {
        let request = tracing::info_span!("request");
        let remote = SpanContext::new(trace.into(), 5.into(), TraceFlags::SAMPLED, true, Default::default());
        let remote = opentelemetry::Context::new().with_remote_span_context(remote);
        request.set_parent(remote).unwrap();
        let _request = request.entered();
        let root = (trace, TraceContext::current().span_id, "request".to_string());
        assert_eq!(now(), root);
        let _inner = tracing::info_span!("inner").entered();
        assert_eq!(now(), root);
    }
    assert_eq!(now(), (own, first, name));
}

/// Formats what is recorded while it holds the span's extensions, as the layers that print do.
struct Formats;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Formats {
    fn on_new_span(&self, _: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        context.span(id).unwrap().extensions_mut().insert(String::new());
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        struct Into<'t>(&'t mut String);
        impl Visit for Into<'_> {
            fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
                *self.0 = format!("{value:?}");
            }
        }
        let span = context.span(id).unwrap();
        let mut extensions = span.extensions_mut();
        values.record(&mut Into(extensions.get_mut().unwrap()));
    }
}

/// Creates a span when it is formatted, as an instrumented function that it calls does.
struct Value;

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _within = tracing::info_span!("format").entered();
        f.write_str("value")
    }
}

struct Panics;

impl fmt::Debug for Panics {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("a value that cannot be shown");
    }
}

fn with_layers(work: impl FnOnce()) {
    let registry = tracing_subscriber::registry().with(Formats).with(everprof::tracing::layer());
    tracing::subscriber::with_default(registry, work);
}

#[test]
fn a_span_that_is_created_while_its_parent_is_recorded_does_not_wait_for_it() {
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        with_layers(|| {
            let span = tracing::info_span!("span", field = tracing::field::Empty).entered();
            span.record("field", tracing::field::debug(Value));
        });
        done.send(()).unwrap();
    });
    ended.recv_timeout(Duration::from_secs(20)).expect("the thread waits for ever, or has panicked");
}

#[test]
fn a_span_whose_lock_is_poisoned_is_entered_while_unwinding() {
    /// Enters the span when it is dropped, as an instrumented future does.
    struct Enters(tracing::Span);
    impl Drop for Enters {
        fn drop(&mut self) {
            let _entered = self.0.enter();
        }
    }
    with_layers(|| {
        let span = tracing::info_span!("span", field = tracing::field::Empty);
        let other = tracing::info_span!("other");
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _entered = other.enter();
            let _again = Enters(other.clone());
            let _enters = Enters(span.clone());
            span.record("field", tracing::field::debug(Panics));
        }));
        assert!(unwound.is_err());
        assert_eq!(now().2, "");
        // Not while unwinding, it is entered without its name.
        let _entered = span.enter();
        assert_eq!(now().2, "");
    });
}
