//! What following a span costs: `cargo bench` here. Nanoseconds to enter it and leave it, and for a root from its creation to its
//! end, the least of several rounds.

use std::time::Instant;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt as _;

fn main() {
    let provider = SdkTracerProvider::builder().build();
    let otel = || tracing_opentelemetry::layer().with_tracer(provider.tracer("bench"));
    println!("{:<44} {:>14} {:>12}", "nanoseconds", "enter + leave", "root's life");
    tracing::subscriber::with_default(tracing_subscriber::registry(), || measure("registry alone"));
    let named = tracing_subscriber::registry().with(everprof::tracing::layer());
    tracing::subscriber::with_default(named, || measure("registry, everprof's names"));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(otel()), || {
        measure("OpenTelemetry")
    });
    let both = tracing_subscriber::registry().with(otel()).with(everprof::otel_layer!());
    tracing::subscriber::with_default(both, || measure("OpenTelemetry, everprof's IDs and names"));
}

const TURNS: u32 = 100_000;

fn measure(what: &str) {
    let root = tracing::info_span!("root");
    let entered = root.enter();
    let span = tracing::info_span!("span");
    let enter = least(|| drop(std::hint::black_box(&span).enter()));
    drop(entered);
    let life = least(|| {
        let root =
            tracing::info_span!(parent: None, "root", http.request.method = "GET", http.route = "/cart/{id}");
        drop(std::hint::black_box(&root).enter());
    });
    println!("{what:<44} {enter:>14.1} {life:>12.1}");
}

fn least(turn: impl Fn()) -> f64 {
    let round = || {
        let start = Instant::now();
        (0..TURNS).for_each(|_| turn());
        start.elapsed().as_nanos() as f64 / f64::from(TURNS)
    };
    (0..15).map(|_| round()).fold(f64::INFINITY, f64::min)
}
