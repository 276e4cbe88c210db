//! What following a span costs: `cargo bench` here. Nanoseconds to enter it and leave it, the least of several rounds.

use std::time::Instant;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt as _;

fn main() {
    let provider = SdkTracerProvider::builder().build();
    let otel = || tracing_opentelemetry::layer().with_tracer(provider.tracer("bench"));
    println!("{:<44} {:>9}", "enter and leave a span", "ns");
    tracing::subscriber::with_default(tracing_subscriber::registry(), || measure("registry alone"));
    let named = tracing_subscriber::registry().with(everprof::tracing::layer());
    tracing::subscriber::with_default(named, || measure("registry, everprof's names"));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(otel()), || {
        measure("OpenTelemetry")
    });
    let both = tracing_subscriber::registry().with(otel()).with(everprof::otel_layer!());
    tracing::subscriber::with_default(both, || measure("OpenTelemetry, everprof's IDs and names"));
}

fn measure(what: &str) {
    const TURNS: u32 = 200_000;
    let root = tracing::info_span!("root");
    let _root = root.enter();
    let span = tracing::info_span!("span");
    let mut least = f64::INFINITY;
    for _ in 0..15 {
        let start = Instant::now();
        for _ in 0..TURNS {
            drop(std::hint::black_box(&span).enter());
        }
        least = least.min(start.elapsed().as_nanos() as f64 / f64::from(TURNS));
    }
    println!("{what:<44} {least:>9.1}");
}
