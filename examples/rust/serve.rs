//! Profiles on request: `cargo run --release --example serve`, then open the address that it prints in a browser, or give
//! it to `go tool pprof`. It ends after so many seconds as its first argument says (600), or when it is stopped.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// What is allocated, and lives, can be seen by this line.
#[global_allocator]
static ALLOCATOR: everprof::Allocator = everprof::Allocator::new();

fn main() -> everprof::Result<()> {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(600);
    // A port of loopback that the system chooses; EVERPROF_SERVE=6060 would say the same from outside. With the wall clock
    // recorded all the time, the page has a verdict.
    let profiler =
        everprof::Profiler::builder().set("serve", ":0").set("kinds", "cpu,wall,heap,mutex").start()?;
    let address = profiler.stats().serve_address.unwrap_or_default();
    println!("http://{address}/debug/pprof/");

    let end = Instant::now() + Duration::from_secs(seconds);
    let worker = |name: &str, work: fn()| {
        let work = move || {
            while Instant::now() < end {
                work();
            }
        };
        thread::Builder::new().name(name.to_string()).spawn(work).unwrap()
    };
    let workers = [worker("prices", compute_prices), worker("stock", ask_for_stock)];
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    drop(profiler);
    Ok(())
}

#[inline(never)]
fn compute_prices() {
    let mut price = 0u64;
    for item in 0..2_000_000u64 {
        price = black_box(price ^ item.wrapping_mul(31));
    }
    remember(price);
    thread::sleep(Duration::from_millis(5));
}

/// A cache that both threads want, of which nothing is ever forgotten.
#[inline(never)]
fn remember(price: u64) {
    static PRICES: Mutex<Vec<Vec<u64>>> = Mutex::new(Vec::new());
    let mut prices = PRICES.lock().unwrap();
    if prices.len() < 2_000 {
        prices.push(vec![price; 10_000]);
    }
    thread::sleep(Duration::from_millis(1));
}

#[inline(never)]
fn ask_for_stock() {
    remember(0);
    thread::sleep(Duration::from_millis(20));
}
