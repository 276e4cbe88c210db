//! What the programs share: a profiler without a port of its own, and a thread with some work to be seen.

use std::fmt::Display;
use std::hint::black_box;
use std::thread;
use std::time::Duration;

/// Starts the profiler, as the first line of `main` would, and the work.
pub fn start() -> everprof::Result<everprof::Profiler> {
    thread::spawn(|| {
        loop {
            compute_prices();
        }
    });
    everprof::Profiler::start()
}

/// Says where the profiles are, now that the router listens.
pub fn tell(address: impl Display) {
    println!("http://{address}/debug/pprof/");
}

#[inline(never)]
fn compute_prices() {
    let mut price = 0u64;
    for item in 0..2_000_000u64 {
        price = black_box(price ^ item.wrapping_mul(31));
    }
    thread::sleep(Duration::from_millis(5));
}
