//! dhat: each allocation, with its stack.

use harness::Allocations;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

struct Dhat(Option<dhat::Profiler>);

impl Allocations for Dhat {
    fn start(_live: bool) -> Self {
        Dhat(None)
    }

    fn sample(&mut self, on: bool) -> bool {
        // What it has found is thrown away, not written.
        self.0.take().map(std::mem::forget);
        self.0 = on.then(|| dhat::Profiler::builder().testing().build());
        // Samples there are none: all are taken.
        false
    }
}

fn main() {
    harness::run_allocations::<Dhat>();
}
