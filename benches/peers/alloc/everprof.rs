//! everprof around an allocator, as a program would use it; with the feature `c` by its hooks of C's functions.

use everprof::export::{Exporter, Set};
use everprof::{Profiler, Result};
use everprof_probe::heap;
use harness::{Allocations, INTERVAL};

#[cfg(not(any(feature = "jemalloc", feature = "c")))]
#[global_allocator]
static ALLOCATOR: everprof::Allocator = everprof::Allocator::new();

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: everprof::Allocator<tikv_jemallocator::Jemalloc> =
    everprof::Allocator::with(tikv_jemallocator::Jemalloc);

struct Nowhere;

impl Exporter for Nowhere {
    fn name(&self) -> String {
        "nowhere".into()
    }

    fn export(&mut self, _: &Set) -> Result<()> {
        Ok(())
    }
}

struct Everprof(Profiler);

impl Allocations for Everprof {
    fn start(live: bool) -> Self {
        let kinds = if live { "cpu,heap" } else { "cpu,alloc" };
        let builder = Profiler::builder().set("kinds", kinds).set("interval_bytes", INTERVAL.to_string());
        Self(builder.exporters(|| vec![Box::new(Nowhere)]).start().expect("it starts"))
    }

    fn sample(&mut self, on: bool) -> bool {
        heap::set_interval(if on { INTERVAL as u64 } else { 0 });
        true
    }

    fn report(&mut self) -> bool {
        self.0.flush().is_ok()
    }
}

fn main() {
    if cfg!(feature = "c") {
        harness::run_mallocs::<Everprof>()
    } else {
        harness::run_allocations::<Everprof>()
    }
}
