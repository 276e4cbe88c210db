//! What the example and its test share: a program's tracing, with everprof as one line of it.

use everprof_probe::os::{Clock, gettid};
use opentelemetry::trace::{Span as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue, trace::TraceContextExt as _};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    InMemorySpanExporter, SdkTracerProvider, SimpleSpanProcessor, Span, SpanData, SpanProcessor,
};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Says on local root spans that there is a profile of them: Grafana shows a button then.
#[derive(Debug)]
pub struct HasProfile;

impl SpanProcessor for HasProfile {
    fn on_start(&self, span: &mut Span, parent: &Context) {
        let parent = parent.span().span_context().clone();
        if !parent.is_valid() || parent.is_remote() {
            let id = span.span_context().span_id().to_string();
            span.set_attribute(KeyValue::new("pyroscope.profile.id", id));
        }
    }

    fn on_end(&self, _span: SpanData) {}

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: std::time::Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Sets tracing up. Spans go into memory here; a service has an exporter to its tracing backend in that place.
pub fn init() -> (SdkTracerProvider, InMemorySpanExporter) {
    let spans = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(HasProfile)
        .with_span_processor(SimpleSpanProcessor::new(spans.clone()))
        .build();
    tracing_subscriber::registry()
        .with(tracing_opentelemetry::layer().with_tracer(provider.tracer("spans")))
        .with(everprof::otel_layer!())
        .init();
    (provider, spans)
}

/// Uses so much of a processor's time.
#[inline(never)]
pub fn burn(time: std::time::Duration) {
    let clock = Clock::Thread(gettid());
    let until = clock.now().unwrap_or_default() + time.as_nanos() as u64;
    let mut sum = 0_u64;
    while clock.now().is_some_and(|now| now < until) {
        sum = (0..1000).fold(sum, |sum, number| std::hint::black_box(sum ^ number));
    }
}
