//! Locks: who waits for them, and who holds them meanwhile. Nothing is added to the program's own locks.
#![allow(clippy::print_stdout)]

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use everprof::Profiler;
use everprof::profile::Profile;
use everprof::store::{self, Query};

static STOCK: Mutex<u64> = Mutex::new(0);

fn main() -> everprof::Result<()> {
    let profiler = Profiler::builder()
        .dir("target/examples/lock")
        .set("kinds", "cpu,lock,mutex")
        .tag("run", &std::process::id().to_string())
        .start()?;

    thread::scope(|scope| {
        scope.spawn(|| (0..20).for_each(|_| take_stock()));
        for _ in 0..3 {
            scope.spawn(|| (0..20).for_each(|_| sell()));
        }
    });

    profiler.stop()?;
    let waited = milliseconds("lock", "sell")?;
    let held = milliseconds("mutex", "take_stock")?;
    println!("sell waited {waited} ms for the lock, {held} ms of all waits for take_stock");
    Ok(())
}

/// Holds the lock for long.
#[inline(never)]
fn take_stock() {
    let stock = STOCK.lock().unwrap_or_else(|broken| broken.into_inner());
    thread::sleep(Duration::from_millis(10));
    drop(stock);
    thread::sleep(Duration::from_millis(1));
}

/// Holds it for a moment.
#[inline(never)]
fn sell() {
    *STOCK.lock().unwrap_or_else(|broken| broken.into_inner()) += 1;
    thread::sleep(Duration::from_millis(2));
}

/// What a profile of this run tells of a function.
fn milliseconds(kind: &str, function: &str) -> everprof::Result<i64> {
    let query = Query::default().kind(kind).tag("run", std::process::id().to_string());
    let profile = store::merge(&store::list("target/examples/lock", &query)?)?.profile;
    let of_function = profile.samples().filter(|sample| holds(&profile, sample.stack, function));
    Ok(of_function.map(|sample| sample.values[1]).sum::<i64>() / 1_000_000)
}

fn holds(profile: &Profile, stack: everprof::profile::StackId, function: &str) -> bool {
    let mut lines = profile.get_stack(stack).iter().flat_map(|id| &profile.get_location(*id).lines);
    lines.any(|line| profile.text(profile.get_function(line.function).name).ends_with(function))
}
