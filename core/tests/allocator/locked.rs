//! All hooks within each other: a signal in `malloc`, in a hook of ours, in a lock that others wait for.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use everprof::profile::Kind;
use everprof_probe::alloc::Allocator;
use everprof_probe::heap;
use everprof_probe::os::gettid;

use super::forge::{expire, timed_slot};
use super::{common, start, total};

/// An allocator behind one lock of Rust's and one of C's, as simple ones are.
struct Locked;

static OF_RUST: Mutex<()> = Mutex::new(());
struct OfC(UnsafeCell<libc::pthread_mutex_t>);
// SAFETY: a mutex of C is for several threads.
unsafe impl Sync for OfC {}
static OF_C: OfC = OfC(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));

// SAFETY: the blocks are C's.
unsafe impl GlobalAlloc for Locked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        in_the_lock(layout.size())
    }

    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        let held = OF_RUST.lock();
        // SAFETY: the block is C's.
        unsafe { libc::free(block.cast()) };
        drop(held);
    }
}

#[inline(never)]
fn in_the_lock(size: usize) -> *mut u8 {
    let held = OF_RUST.lock();
    // SAFETY: the mutex was initialised.
    assert_eq!(unsafe { libc::pthread_mutex_lock(OF_C.0.get()) }, 0);
    // SAFETY: no preconditions.
    let block = unsafe { libc::malloc(size) };
    (0..300_u64).for_each(|n| {
        black_box(n);
    });
    // SAFETY: as above.
    assert_eq!(unsafe { libc::pthread_mutex_unlock(OF_C.0.get()) }, 0);
    drop(held);
    block.cast()
}

static LOCKED: Allocator<Locked> = Allocator::with(Locked);

pub(super) fn everything_within_each_other() {
    const THREADS: usize = 4;
    const SIZE: usize = 1000;
    let dir = common::directory("allocator-locked");
    let options = [
        ("kinds", "cpu,alloc,heap,lock,mutex,block"),
        ("malloc", "on"),
        ("rate_hz", "1000"),
        ("lock_threshold_ns", "1000"),
    ];
    let profiler = start(&dir, 65_536, &options);
    let (stop, signals, allocated) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let wanted = super::amount(60_000, 2_000_000);
    thread::scope(|scope| {
        let mut targets = Vec::new();
        for _ in 0..THREADS {
            let (send, tid) = std::sync::mpsc::channel();
            let (stop, allocated) = (&stop, &allocated);
            scope.spawn(move || {
                send.send(gettid()).unwrap();
                let layout = Layout::from_size_align(SIZE, 8).unwrap();
                let mut kept = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    // SAFETY: the layout has a size.
                    kept.push(unsafe { LOCKED.alloc(layout) });
                    allocated.fetch_add(1, Ordering::Relaxed);
                    if kept.len() > 50 {
                        // SAFETY: the blocks are of this layout.
                        kept.drain(..).for_each(|block| unsafe { LOCKED.dealloc(block, layout) });
                    }
                }
                // SAFETY: as above.
                kept.into_iter().for_each(|block| unsafe { LOCKED.dealloc(block, layout) });
            });
            targets.push(tid.recv().unwrap());
        }
        let slots: Vec<_> = targets.into_iter().map(timed_slot).collect();
        let begin = Instant::now();
        while allocated.load(Ordering::Relaxed) < wanted && begin.elapsed() < Duration::from_secs(120) {
            for _ in 0..50 {
                slots.iter().for_each(|slot| assert!(expire(slot)));
                signals.fetch_add(THREADS as u64, Ordering::Relaxed);
            }
            thread::sleep(Duration::from_micros(200));
        }
        stop.store(true, Ordering::Relaxed);
    });
    common::flush(&profiler);
    let stats = profiler.stats();
    let allocated = allocated.load(Ordering::Relaxed);
    let told = total(&dir, Kind::Alloc, "in_the_lock");
    println!(
        "{allocated} allocations under {} signals; {} samples, {} lost; told {told:?}",
        signals.load(Ordering::Relaxed),
        stats.alloc_samples,
        stats.alloc_lost
    );
    assert!(super::is_about(told[1], allocated, SIZE, 65_536.0) || stats.alloc_lost > 0, "{told:?}");
    assert!(told[0] as f64 <= 1.3 * allocated as f64, "each is told once");
    assert!(
        total(&dir, Kind::Block, "in_the_lock")[1] > 0,
        "who waited for the lock of an allocation is told"
    );
    assert!(total(&dir, Kind::Cpu, "in_the_lock")[1] > 0, "and what it worked");
    assert!(super::nothing_lives(), "{} live", heap::count_live());
    assert!(everprof_probe::scratch::idle());
    common::stop(profiler);
    common::remove(&dir);
}
