//! An allocator without a profiler: what the others are held against.

use harness::Allocations;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

struct Bare;

impl Allocations for Bare {
    fn start(_live: bool) -> Self {
        Bare
    }
}

fn main() {
    if cfg!(feature = "c") { harness::run_mallocs::<Bare>() } else { harness::run_allocations::<Bare>() }
}
