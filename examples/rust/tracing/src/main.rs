//! Two requests, each with spans that move between threads: of each span, how much CPU time it used.

use std::collections::BTreeMap;
use std::time::Duration;

use everprof::profile::LabelValue;
use everprof::store;
use spans::{burn, init};

#[tracing::instrument]
async fn request(name: &str, work: Duration) {
    for _ in 0..10 {
        parse(work / 20).await;
        burn(work / 20);
        tokio::task::yield_now().await;
    }
}

#[tracing::instrument]
async fn parse(work: Duration) {
    burn(work);
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::main]
async fn main() -> everprof::Result<()> {
    let (_provider, spans) = init();
    let dir = std::env::var_os("EVERPROF_DIR").unwrap_or_else(|| "everprof".into());
    let profiler = everprof::Profiler::builder().dir(&dir).start()?;
    let one = tokio::spawn(request("small", Duration::from_millis(400)));
    let other = tokio::spawn(request("large", Duration::from_millis(1200)));
    _ = tokio::join!(one, other);
    profiler.stop()?;

    let mut used: BTreeMap<String, i64> = BTreeMap::new();
    let profile = store::merge(&store::list(&dir, &store::Query::default().kind("cpu"))?)?.profile;
    for sample in profile.samples() {
        let labels = profile.get_labels(sample.labels).iter();
        for label in labels.filter(|label| label.key == "local_root_span_id") {
            if let LabelValue::Text(span) = &label.value {
                *used.entry(span.clone()).or_default() += sample.values[1];
            }
        }
    }
    for span in spans.get_finished_spans().unwrap_or_default() {
        let id = span.span_context.span_id().to_string();
        if let Some(nanos) = used.get(&id) {
            println!(
                "{} {id} of trace {} used {} ms",
                span.name,
                span.span_context.trace_id(),
                nanos / 1_000_000
            );
        }
    }
    Ok(())
}
