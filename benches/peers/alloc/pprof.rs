//! jemalloc's own profiler at the same mean distance of samples, and `jemalloc_pprof`, which makes pprof files of its dumps.

use harness::Allocations;
use tikv_jemalloc_ctl::raw;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

// 2^19 = 512 KiB.
#[unsafe(export_name = "malloc_conf")]
pub static CONFIGURATION: &[u8] = b"prof:true,prof_active:false,lg_prof_sample:19\0";

struct Jemalloc;

impl Allocations for Jemalloc {
    fn start(_live: bool) -> Self {
        Jemalloc
    }

    fn sample(&mut self, on: bool) -> bool {
        // SAFETY: `prof.active` is a `bool` that may be written.
        unsafe { raw::write(b"prof.active\0", on) }.is_ok()
    }

    fn report(&mut self) -> bool {
        let Some(control) = jemalloc_pprof::PROF_CTL.as_ref() else { return false };
        let mut control = control.try_lock().expect("nobody else asks");
        control.activate().is_ok() && control.dump_pprof().is_ok()
    }
}

fn main() {
    harness::run_allocations::<Jemalloc>();
}
