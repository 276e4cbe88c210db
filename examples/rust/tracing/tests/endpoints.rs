//! Endpoints of requests: in the label of their samples, and each request counted once, when its root span ends.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use everprof::encode::{Set, pprof};
use everprof::export::Exporter;
use everprof::profile::LabelValue;
use everprof::{Labels, Profiler};
use spans::burn;
use tracing::Instrument as _;
use tracing::field::{Empty, display};
use tracing_subscriber::layer::SubscriberExt as _;

/// What a set counts, and the milliseconds of CPU time of each endpoint.
type Told = (BTreeMap<String, u64>, BTreeMap<String, i64>);

/// Keeps that of each set.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Told>>>);

impl Exporter for Kept {
    fn name(&self) -> String {
        "kept".to_string()
    }

    fn export(&mut self, set: &Set) -> everprof::Result<()> {
        let mut used = BTreeMap::new();
        for encoded in &set.profiles {
            let profile = pprof::decode(&encoded.bytes)?;
            for sample in profile.samples() {
                let labels = profile.get_labels(sample.labels).to_vec();
                if let Some(LabelValue::Text(endpoint)) =
                    labels.into_iter().find(|label| label.key == "endpoint").map(|label| label.value)
                {
                    *used.entry(endpoint).or_default() += sample.values[1] / 1_000_000;
                }
            }
        }
        self.0.lock().unwrap().push((set.endpoint_counts.clone(), used));
        Ok(())
    }
}

fn endpoint() -> String {
    Labels::current()
        .iter()
        .filter(|(key, _)| *key == "endpoint")
        .map(|(_, value)| value.to_string())
        .collect()
}

struct Panics;

impl fmt::Debug for Panics {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("a value that cannot be shown");
    }
}

/// Each kind of request, and what is in force within it.
fn requests() {
    // By hand, as a label is.
    tracing::info_span!("job", endpoint = "nightly").in_scope(|| assert_eq!(endpoint(), "nightly"));
    // As the conventions of OpenTelemetry have it, now and before.
    for method in ["GET", "POST"] {
        let method = display(method);
        let span = tracing::info_span!("request", http.request.method = method, http.route = "/cart/{id}");
        let child = tracing::info_span!(parent: &span, "query", endpoint = "SELECT");
        drop(span);
        child.in_scope(|| assert!(endpoint().ends_with(" /cart/{id}"), "{}", endpoint()));
    }
    let old = tracing::info_span!("request", http.method = ?display("get"), http.route = %display("/old"));
    old.in_scope(|| assert_eq!(endpoint(), "GET /old"));
    // The router knows the route later, and on a thread of its own.
    let late = tracing::info_span!("request", method = "PUT", route = Empty, http.status = 200);
    let known = late.clone();
    std::thread::spawn(move || {
        known.record("route", "/late");
    })
    .join()
    .unwrap();
    late.in_scope(|| assert_eq!(endpoint(), "PUT /late"));
    // A connection, and its requests within it.
    let connection = tracing::info_span!("connection").entered();
    for _ in 0..3 {
        let request = tracing::info_span!("request", method = "GET", http.route = "/of-connection").entered();
        assert_eq!(endpoint(), "GET /of-connection");
        tracing::info_span!("nested", http.route = "/no-other").in_scope(|| {
            assert_eq!(endpoint(), "GET /of-connection");
        });
        drop(request);
        assert_eq!(endpoint(), "");
    }
    drop(connection);
    // No endpoint at all, one that cannot be shown, a method that is none.
    drop(tracing::info_span!("nothing", method = "GET"));
    drop(tracing::info_span!("broken", http.route = ?Panics, method = "GET"));
    drop(tracing::info_span!("odd", http.route = "/odd", method = "<script>"));
}

/// Requests that end in other ways than by returning.
fn ends() {
    let span = || tracing::info_span!("request", http.route = "/panics");
    for _ in 0..2 {
        assert!(std::panic::catch_unwind(|| span().in_scope(|| panic!("of the handler"))).is_err());
    }
    let request = async { std::future::pending::<()>().await };
    let mut dropped = Box::pin(request.instrument(tracing::info_span!("request", http.route = "/dropped")));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(std::future::Future::poll(dropped.as_mut(), &mut context).is_pending());
    std::thread::spawn(|| drop(dropped)).join().unwrap();
    // What a request has left behind goes on without it, and is part of it until its own end.
    let request = tracing::info_span!("request", http.route = "/background");
    let background = tracing::info_span!(parent: &request, "background");
    drop(request);
    std::thread::spawn(move || {
        background.in_scope(|| assert_eq!(endpoint(), "/background"));
    })
    .join()
    .unwrap();
    // Not at its end yet.
    std::mem::forget(tracing::info_span!("request", http.route = "/endless"));
}

#[test]
fn requests_are_counted_by_endpoint_when_their_root_ends() {
    let kept = Kept::default();
    let to = kept.clone();
    // Two layers are a mistake that counts nothing twice.
    let registry = tracing_subscriber::registry().with(everprof::tracing::layer());
    // Of the whole process: spans that close others on a thread without it would leave those open.
    tracing::subscriber::set_global_default(registry.with(everprof::tracing::layer())).unwrap();
    requests();
    let builder = Profiler::builder()
        .set("period_s", "3600")
        .set("symbolize", "off")
        .set("rate_hz", "500")
        .set("kinds", "cpu");
    let profiler = builder.exporters(move || vec![Box::new(to.clone())]).start().unwrap();
    let work = tracing::info_span!("request", method = "GET", http.route = "/work");
    work.in_scope(|| burn(Duration::from_millis(200)));
    drop(work);
    requests();
    ends();
    assert!((0..30).any(|_| profiler.flush().is_ok()));
    requests();
    burn(Duration::from_millis(50));
    profiler.stop().unwrap();
    let sets = kept.0.lock().unwrap();
    let once = [
        ("GET /cart/{id}", 1),
        ("GET /of-connection", 3),
        ("GET /old", 1),
        ("POST /cart/{id}", 1),
        ("PUT /late", 1),
        ("/odd", 1),
        ("nightly", 1),
    ];
    let ends = [("/background", 1), ("/dropped", 1), ("/panics", 2), ("GET /work", 1)];
    let expected = |all: &[&[(&str, u64)]]| {
        all.iter().flat_map(|some| some.iter()).map(|(name, count)| (name.to_string(), *count)).collect()
    };
    // On a machine with other work a flush is tried again, and ends another period then.
    let counts = sets.iter().map(|(counts, _)| counts).filter(|counts| !counts.is_empty());
    let counts: Vec<&BTreeMap<String, u64>> = counts.collect();
    assert_eq!(counts, [&expected(&[&once, &ends]), &expected(&[&once])] as [&BTreeMap<String, u64>; 2]);
    let used = sets[0].1.get("GET /work").copied().unwrap_or_default();
    assert!((120..300).contains(&used), "{used} ms of 200: {:?}", sets[0].1);
}
