//! What other layers and requests from elsewhere do to spans that are entered.

use std::fmt;
use std::future::Future as _;
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

/// Tests of one process share its tracing.
fn init() {
    static TRACING: std::sync::Once = std::sync::Once::new();
    TRACING.call_once(|| std::mem::forget(spans::init()));
}

/// A request from another process, of that trace.
fn remote(trace: u128) -> opentelemetry::Context {
    let remote = SpanContext::new(trace.into(), 5.into(), TraceFlags::SAMPLED, true, Default::default());
    opentelemetry::Context::new().with_remote_span_context(remote)
}

#[test]
fn a_request_within_a_span_of_the_process_has_a_local_root_of_its_own_trace() {
    init();
    let _process = tracing::info_span!("process").entered();
    let (own, first, name) = now();
    assert!(own != 0 && first != 0 && name == "process");
    for trace in [0xabc_u128, 0xdef] {
        let request = tracing::info_span!("request");
        request.set_parent(remote(trace)).unwrap();
        let _request = request.entered();
        let root = (trace, TraceContext::current().span_id, "request".to_string());
        assert_eq!(now(), root);
        let _inner = tracing::info_span!("inner").entered();
        assert_eq!(now(), root);
    }
    assert_eq!(now(), (own, first, name));
}

/// What was created before its request was entered, in whatever order they are then, on whatever thread.
#[test]
fn a_span_that_was_created_before_its_request_was_entered_belongs_to_it() {
    init();
    let on_another_thread = |span: &tracing::Span| {
        let span = span.clone();
        std::thread::spawn(move || span.in_scope(now)).join().unwrap()
    };
    let _process = tracing::info_span!("process").entered();
    for trace in [0x111_u128, 0x222] {
        let request = tracing::info_span!("request");
        request.set_parent(remote(trace)).unwrap();
        let child = tracing::info_span!(parent: &request, "child");
        let grandchild = tracing::info_span!(parent: &child, "grandchild");
        if trace == 0x222 {
            // Nobody knows yet that the request is of that trace as well.
            let (of, root, name) = on_another_thread(&child);
            assert!(of == trace && root != 0 && name == "child");
        }
        let told = request.in_scope(now);
        let id = request.in_scope(|| TraceContext::current().span_id);
        assert_eq!(told, (trace, id, "request".to_string()));
        for _ in 0..2 {
            assert_eq!(on_another_thread(&grandchild), told);
            assert_eq!(child.in_scope(now), told);
            assert_eq!(request.in_scope(|| grandchild.in_scope(now)), told);
        }
    }
}

/// The first span that is entered is not the root, where that is known.
#[test]
fn the_local_root_is_the_outermost_span_once_it_was_entered() {
    init();
    let request = tracing::info_span!(parent: None, "request");
    let child = tracing::info_span!(parent: &request, "child");
    let (_, before, name) = child.in_scope(now);
    assert_eq!((before, name.as_str()), (child.in_scope(|| TraceContext::current().span_id), "request"));
    let (_, root, _) = request.in_scope(now);
    assert_eq!(root, request.in_scope(|| TraceContext::current().span_id));
    assert_eq!(child.in_scope(now).1, root);
}

/// One thread's end is no other one's, and the last owner closes the span where nobody has entered it.
#[test]
fn spans_are_entered_on_several_threads_and_closed_on_another() {
    init();
    let request = tracing::info_span!(parent: None, "request");
    let told = request.in_scope(now);
    let barrier = std::sync::Arc::new(std::sync::Barrier::new(3));
    let threads: Vec<_> = (0..2)
        .map(|order| {
            let (request, barrier) = (request.clone(), barrier.clone());
            std::thread::spawn(move || {
                let entered = request.entered();
                barrier.wait();
                let first = now();
                // The other one leaves first.
                if order == 1 {
                    std::thread::sleep(Duration::from_millis(50));
                }
                assert_eq!(now(), first);
                drop(entered);
                assert_eq!(now().2, "");
                first
            })
        })
        .collect();
    barrier.wait();
    std::thread::spawn(move || drop(request)).join().unwrap();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), told);
    }
}

/// A runtime that is shut down, a timeout, a client that hangs up: the future ends between two polls.
#[test]
fn a_future_that_is_dropped_in_its_middle_leaves_nothing_in_force() {
    use tracing::Instrument as _;
    init();
    struct Told(mpsc::Sender<(u128, u64, String)>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.send(now()).unwrap();
        }
    }
    let (sender, told) = mpsc::channel();
    let request = tracing::info_span!(parent: None, "request");
    let expected = request.in_scope(now);
    let mut future = Box::pin(
        async move {
            let _told = Told(sender);
            std::future::pending::<()>().await;
        }
        .instrument(request),
    );
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending());
    assert_eq!(now().2, "");
    std::thread::spawn(move || {
        drop(future);
        assert_eq!(now(), (0, 0, String::new()));
    })
    .join()
    .unwrap();
    assert_eq!(told.recv().unwrap(), expected, "what is dropped is still the request's");
}

#[test]
fn a_panic_through_a_hundred_spans_leaves_nothing_in_force() {
    fn deeper(depth: u32) {
        let _entered = tracing::info_span!(parent: None, "deep", depth).entered();
        if depth == 100 {
            panic!("deep enough");
        }
        deeper(depth + 1);
    }
    with_layers(|| {
        let outer = tracing::info_span!("outer").entered();
        assert!(std::panic::catch_unwind(|| deeper(0)).is_err());
        assert_eq!(now().2, "outer");
        drop(outer);
        assert_eq!(now().2, "");
    });
}

/// A layer that does not see the span of a request begins with the next one; what it has not entered it does not leave.
#[test]
fn a_filtered_layer_follows_what_it_sees() {
    use tracing_subscriber::filter::filter_fn;
    let ours = everprof::tracing::layer().with_filter(filter_fn(|metadata| metadata.name() != "request"));
    let registry = tracing_subscriber::registry().with(Formats).with(ours);
    tracing::subscriber::with_default(registry, || {
        let request = tracing::info_span!("request").entered();
        assert_eq!(now().2, "");
        let handler = tracing::info_span!("handler").entered();
        assert_eq!(now().2, "handler");
        let query = tracing::info_span!("query").entered();
        assert_eq!(now().2, "handler");
        drop(request);
        assert_eq!(now().2, "handler");
        drop(handler);
        drop(query);
        assert_eq!(now().2, "");
    });
}

/// Another one of its kind goes on where the one before was; one that is taken away is forgotten with the scope around.
#[test]
fn a_layer_that_is_loaded_anew_ends_what_the_one_before_has_begun() {
    use tracing_subscriber::reload;
    let (ours, handle) = reload::Layer::new(Some(everprof::tracing::layer()));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(ours), || {
        let first = tracing::info_span!("first").entered();
        handle.reload(Some(everprof::tracing::layer())).unwrap();
        let second = tracing::info_span!(parent: None, "second").entered();
        assert_eq!(now().2, "second");
        drop(first);
        assert_eq!(now().2, "second");
        drop(second);
        assert_eq!(now().2, "");

        let guard = Labels::new([("tenant", "t")]).entered();
        let third = tracing::info_span!("third").entered();
        handle.reload(None).unwrap();
        drop(third);
        drop(guard);
        assert_eq!(now().2, "");
        let unseen = tracing::info_span!("unseen").entered();
        assert_eq!(now().2, "");
        handle.reload(Some(everprof::tracing::layer())).unwrap();
        let fourth = tracing::info_span!("fourth").entered();
        assert_eq!(now().2, "fourth");
        drop(unseen);
        drop(fourth);
        assert_eq!(now().2, "");
    });
}

/// Spans of two registries have the same numbers.
#[test]
fn registries_are_told_apart() {
    let registry = || tracing_subscriber::registry().with(everprof::tracing::layer());
    let (one, other) = (tracing::Dispatch::new(registry()), tracing::Dispatch::new(registry()));
    let span = |dispatch: &tracing::Dispatch, name: &str| {
        tracing::dispatcher::with_default(dispatch, || match name {
            "one" => tracing::info_span!("one"),
            _ => tracing::info_span!("other"),
        })
    };
    let (first, second) = (span(&one, "one"), span(&other, "other"));
    assert_eq!(first.id().unwrap().into_u64(), second.id().unwrap().into_u64());
    let first = first.entered();
    let second = second.entered();
    assert_eq!(now().2, "other");
    drop(first);
    assert_eq!(now().2, "other");
    drop(second);
    assert_eq!(now().2, "");
}

/// A guard that was forgotten, and a registry that hands out the number again: after some thousand spans it does.
#[test]
fn a_number_that_comes_again_is_another_span() {
    tracing::subscriber::with_default(
        tracing_subscriber::registry().with(everprof::tracing::layer()),
        || {
            let forgotten = tracing::info_span!("forgotten");
            std::mem::forget(forgotten.enter());
            let number = forgotten.id().unwrap().into_u64();
            assert_eq!(now().2, "forgotten");
            drop(forgotten);
            assert_eq!(now().2, "");
            let mut again = false;
            for _ in 0..100_000 {
                let next = tracing::info_span!(parent: None, "next");
                again |= next.id().unwrap().into_u64() == number;
                let _entered = next.enter();
                assert_eq!(now().2, "next");
            }
            println!("the number came again: {again}");
            assert_eq!(now().2, "");
        },
    );
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
