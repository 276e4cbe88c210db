//! What encoding takes of memory beside the profile: no more than 5 MiB for 10,000 stacks of 30 frames, in every dialect, with
//! what comes out of it.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code, unreachable_pub)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use everprof::encode::Dialect;
use everprof::profile::Kind;

#[path = "formats/profiles.rs"]
mod profiles;

const MOST: usize = 5 << 20;

/// The system's allocator, with an account of what is held.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn took(bytes: usize) {
    PEAK.fetch_max(HELD.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: all is the system's; the account beside it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // As if both were there at once, which they are where the block cannot grow in its place.
        took(size);
        // SAFETY: as the caller promises.
        let moved = unsafe { System.realloc(block, layout, size) };
        HELD.fetch_sub(layout.size(), Relaxed);
        moved
    }
}

#[test]
fn no_dialect_takes_much_memory_beside_the_profile() {
    let made = [(Kind::Cpu, profiles::large(10_000, 30))];
    for dialect in [Dialect::Pprof, Dialect::Pyroscope, Dialect::Parca, Dialect::Otlp, Dialect::Datadog] {
        let before = HELD.load(Relaxed);
        PEAK.store(before, Relaxed);
        let encoded = dialect.encode(&made);
        let peak = PEAK.load(Relaxed) - before;
        let bytes: usize = encoded.iter().map(|encoded| encoded.bytes.len()).sum();
        println!("{dialect:?}: at most {} KiB, {} of them what is sent", peak >> 10, bytes >> 10);
        assert!(peak <= MOST, "{dialect:?} took {} KiB", peak >> 10);
    }
}
