//! The span at hand is told of every kind of sample, within the bound, or not at all where it is switched off.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::hint::black_box;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use everprof::profile::{Kind, LabelValue, Profile};
use everprof::{Profiler, TraceContext, labels, store};

use common::{directory, stop};

#[global_allocator]
static ALLOCATOR: everprof::Allocator = everprof::Allocator::new();

const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
const ROOT: u64 = 0xb7ad_6b71_6920_3331;

fn burn_and_allocate(time: Duration) {
    let until = Instant::now() + time;
    let mut kept = Vec::new();
    while Instant::now() < until {
        kept.push(black_box(vec![1_u8; 4096]));
        kept.truncate(64);
    }
}

/// One of two threads holds the lock while the other one waits for it, each in a span of its own.
fn contend(held: u64, waits: u64) {
    let lock = Mutex::new(());
    std::thread::scope(|scope| {
        let guard = lock.lock().unwrap();
        scope.spawn(|| {
            let _trace = TraceContext::new(TRACE, waits).with_local_root(ROOT).enter();
            drop(lock.lock().unwrap());
        });
        let _trace = TraceContext::new(TRACE, held).with_local_root(ROOT).enter();
        std::thread::sleep(Duration::from_millis(300));
        drop(guard);
    });
}

fn work(first: u64) {
    let context = TraceContext::new(TRACE, first).with_local_root(ROOT);
    context.run_for(|| {
        burn_and_allocate(Duration::from_millis(400));
        std::thread::sleep(Duration::from_millis(400));
    });
    for _ in 0..3 {
        contend(first + 1, first + 2);
    }
    // A task that waits in its span.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_time().worker_threads(1).build().unwrap();
    let task = TraceContext::new(TRACE, first + 3).with_local_root(ROOT);
    let wait = labels::Context::new(everprof::Labels::new([("task", "t")]), Some(task))
        .wrap(async { tokio::time::sleep(Duration::from_millis(400)).await });
    runtime.block_on(async { tokio::spawn(wait).await.unwrap() });
    // Nothing is in force any more.
    burn_and_allocate(Duration::from_millis(200));
}

trait RunFor {
    fn run_for(self, work: impl FnOnce());
}

impl RunFor for TraceContext {
    fn run_for(self, work: impl FnOnce()) {
        let _guard = self.enter();
        work();
    }
}

fn of_kind(dir: &Path, kind: Kind) -> Profile {
    let found = store::list(dir, &store::Query::default().kind(kind.name())).unwrap();
    store::merge(&found).unwrap().profile
}

fn text(profile: &Profile, labels: everprof::profile::LabelsId, key: &str) -> Option<String> {
    let label = profile.get_labels(labels).iter().find(|label| label.key == key)?;
    let LabelValue::Text(text) = &label.value else { panic!("{label:?}") };
    Some(text.clone())
}

/// The spans of a profile, and of each what its last value sums up to.
fn spans(profile: &Profile, value: usize) -> Vec<(Option<String>, i64)> {
    let mut sums: std::collections::BTreeMap<Option<String>, i64> = Default::default();
    for sample in profile.samples() {
        let span = text(profile, sample.labels, "span_id");
        let (trace, root) =
            (text(profile, sample.labels, "trace_id"), text(profile, sample.labels, "local_root_span_id"));
        match &span {
            Some(_) => assert_eq!(
                (trace.as_deref(), root.as_deref()),
                (Some("0af7651916cd43dd8448eb211c80319c"), Some("b7ad6b7169203331"))
            ),
            None => assert_eq!((trace, root), (None, None)),
        }
        *sums.entry(span).or_default() += sample.values[value];
    }
    sums.into_iter().collect()
}

fn keys(spans: &[(Option<String>, i64)]) -> BTreeSet<&str> {
    spans.iter().filter(|(_, sum)| *sum > 0).filter_map(|(span, _)| span.as_deref()).collect()
}

fn run(name: &str, spans: &str) -> (std::path::PathBuf, everprof::Stats) {
    let dir = directory(name);
    let builder =
        Profiler::builder().dir(&dir).set("kinds", "cpu,wall,heap,lock,mutex").set("interval_bytes", "65536");
    let builder = builder.set("wall_rate_hz", "100").set("trace_spans", spans).set("period_s", "3600");
    let profiler = builder.set("cpu_budget_percent", "100").start().unwrap();
    work(1);
    common::flush(&profiler);
    let stats = profiler.stats();
    stop(profiler);
    (dir, stats)
}

#[test]
fn every_kind_of_sample_has_its_span_within_the_bound() {
    const SPANS: [&str; 4] = ["0000000000000001", "0000000000000002", "0000000000000003", "0000000000000004"];
    let (dir, stats) = run("trace", "1000");
    assert_eq!(stats.spans_left_out, 0);
    let cpu = spans(&of_kind(&dir, Kind::Cpu), 1);
    assert!(keys(&cpu).contains(SPANS[0]), "{cpu:?}");
    // Those that wait run for a moment as well, which a sample may meet.
    let others: i64 = cpu
        .iter()
        .filter(|(span, _)| span.as_deref().is_some_and(|span| span != SPANS[0]))
        .map(|s| s.1)
        .sum();
    assert!(others < 60_000_000, "{cpu:?}");
    let without = cpu.iter().find(|(span, _)| span.is_none()).unwrap().1;
    assert!(without > 50_000_000, "what came after is nobody's: {cpu:?}");
    let wall = spans(&of_kind(&dir, Kind::Wall), 1);
    assert_eq!(keys(&wall), BTreeSet::from(SPANS), "{wall:?}");
    let heap = of_kind(&dir, Kind::Heap);
    assert!(keys(&spans(&heap, 1)).contains(SPANS[0]), "{:?}", spans(&heap, 1));
    assert_eq!(keys(&spans(&heap, 3)), BTreeSet::new(), "what lives outlives its span");
    assert_eq!(keys(&spans(&of_kind(&dir, Kind::Lock), 1)), BTreeSet::from([SPANS[2]]));
    assert_eq!(keys(&spans(&of_kind(&dir, Kind::Mutex), 1)), BTreeSet::from([SPANS[1]]), "who made it wait");
    std::fs::remove_dir_all(&dir).unwrap();

    let (dir, stats) = run("trace-one", "1");
    assert!(stats.spans_left_out > 0);
    assert_eq!(keys(&spans(&of_kind(&dir, Kind::Wall), 1)).len(), 1);
    std::fs::remove_dir_all(&dir).unwrap();

    let (dir, stats) = run("trace-off", "off");
    assert_eq!(stats.spans_left_out, 0);
    for kind in [Kind::Cpu, Kind::Wall, Kind::Heap, Kind::Lock, Kind::Mutex] {
        let told = spans(&of_kind(&dir, kind), 1);
        assert!(keys(&told).is_empty() && told.iter().any(|(_, sum)| *sum > 0), "{kind:?}: {told:?}");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}
