//! A library that carries everprof, with waits of Rust's own locks in it: `main.rs` links it into programs of C in all their
//! forms, and loads it into programs of Rust.
#![allow(missing_docs, clippy::unwrap_used, clippy::print_stdout)]

use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use everprof::Profiler;
use everprof::profile::Kind;

static RUNNING: Mutex<Option<Profiler>> = Mutex::new(None);

/// Starts, and says with 0 that it did.
// SAFETY: no other function of the process has this name.
#[unsafe(no_mangle)]
pub extern "C" fn forms_start() -> i32 {
    let builder = Profiler::builder().set("kinds", "cpu,lock,mutex,block").set("symbolize", "names");
    let Ok(profiler) = builder.set("lock_threshold_ns", "1000000").set("period_s", "3600").start() else {
        return 1;
    };
    println!("problem: {}", profiler.stats().last_problem.unwrap_or_default());
    *RUNNING.lock().unwrap() = Some(profiler);
    // By then the tables are there that stacks are walked by, of what was just loaded as well.
    thread::sleep(Duration::from_millis(500));
    0
}

/// Says how the slots were, and stops.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn forms_stop() {
    let profiler = RUNNING.lock().unwrap().take().unwrap();
    assert!((0..30).any(|_| profiler.flush().is_ok()));
    let allocations = everprof::record(Kind::Alloc);
    let allocations = allocations.map_or_else(|error| error.to_string(), |_| "seen".to_string());
    println!("allocations: {allocations}");
    let stats = profiler.stats();
    println!("slots: {} {} {}", stats.lock_slots, stats.lock_slots_foreign, stats.lock_slots_refused);
    let _ = profiler.stop();
}

/// Waits 50 ms for a mutex, and as long for a condition.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn forms_wait() {
    let (lock, ready) = (Arc::new(Mutex::new(())), Arc::new(Barrier::new(2)));
    let holder = thread::spawn({
        let (lock, ready) = (lock.clone(), ready.clone());
        move || {
            let held = lock.lock().unwrap();
            ready.wait();
            thread::sleep(Duration::from_millis(50));
            drop(held);
        }
    });
    ready.wait();
    wait_in_rust(&lock);
    let held = lock.lock().unwrap();
    drop(Condvar::new().wait_timeout(held, Duration::from_millis(50)).unwrap());
    holder.join().unwrap();
}

#[inline(never)]
fn wait_in_rust(lock: &Mutex<()>) {
    drop(lock.lock().unwrap());
    std::hint::black_box(());
}
