//! What labels cost the application: `cargo bench -p everprof --bench labels`.
//!
//! Prints nanoseconds for one set and restore, the least of several rounds, since everything else on the machine only
//! adds. A compiler fence stands between the two halves, where the application's work would be. Times a loop of its own rather than through a framework: one operation takes fewer cycles than a framework's
//! bookkeeping.
#![allow(clippy::print_stdout)]

use std::future::Future;
use std::hint::black_box;
use std::sync::atomic::{Ordering, compiler_fence};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use everprof::{Labels, TraceContext, with_labels};

const ROUNDS: usize = 25;

fn main() {
    let tenant = Labels::new([("tenant", "a")]);
    let stage = Labels::new([("stage", "parse")]);
    let trace = TraceContext::new(1 << 100, 2);

    println!("{:<44} {:>9}", "set and restore", "ns");
    line("nothing (the loop)", 1_000_000, || ());
    line("prepared labels, outermost", 1_000_000, || during(black_box(&tenant).enter()));
    {
        let _outer = tenant.enter();
        line("prepared labels, nested", 1_000_000, || during(black_box(&stage).enter()));
    }
    line("trace context", 1_000_000, || during(black_box(trace).enter()));
    let rooted = trace.with_local_root(1);
    line("trace context with its local root", 1_000_000, || during(black_box(rooted).enter()));
    line("with_labels of a set that exists", 100_000, || with_labels([("tenant", black_box("a"))], || ()));
    let mut number = 0u64;
    line("with_labels of a set that does not", 20_000, || {
        number += 1;
        with_labels([("request", number.to_string())], || ());
    });
    polls("not told", &tenant);
    let dir = std::env::temp_dir().join("everprof-bench-labels");
    let profiler = everprof::Profiler::builder().dir(&dir).set("kinds", "cpu,wall").start();
    polls("told", &tenant);
    drop(profiler);
    let _ = std::fs::remove_dir_all(&dir);
    {
        let _outer = tenant.enter();
        line("Labels::current()", 100_000, || drop(black_box(Labels::current())));
    }
}

/// A poll of a future that waits, by itself and wrapped, while waits of tasks are told or not.
fn polls(told: &str, labels: &Labels) {
    let waits = || {
        std::future::poll_fn(|context| {
            black_box(context.waker());
            Poll::<()>::Pending
        })
    };
    let mut context = Context::from_waker(Waker::noop());
    let mut bare = Box::pin(waits());
    line("poll of a future that waits", 1_000_000, || {
        _ = black_box(bare.as_mut().poll(black_box(&mut context)))
    });
    let mut wrapped = Box::pin(labels.wrap(waits()));
    let what = format!("poll of the same, wrapped, waits {told}");
    line(&what, 1_000_000, || _ = black_box(wrapped.as_mut().poll(black_box(&mut context))));
}

/// Ends a scope, but not before it has begun.
fn during<T>(guard: T) {
    compiler_fence(Ordering::SeqCst);
    drop(guard);
}

fn line(what: &str, count: u32, mut work: impl FnMut()) {
    let mut least = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..count {
            work();
        }
        least = least.min(start.elapsed().as_nanos() as f64 / f64::from(count));
    }
    println!("{what:<44} {least:>9.2}");
}
