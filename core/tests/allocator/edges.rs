//! Single calls that are unlike others.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use corosensei::{Coroutine, CoroutineResult, Yielder};
use everprof::profile::Kind;
use everprof_probe::alloc::Allocator;
use everprof_probe::heap;

use super::c::{Library, compile};
use super::{ALLOCATOR, common, is_about, profiles, start, sums, total};

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

/// With each byte as good as a sample: what fails is none, nor is what has no bytes, and all others are, of any alignment.
pub(super) fn sizes() {
    let dir = common::directory("allocator-sizes");
    let profiler = start(&dir, 1, &[]);
    // The rings and tables of our threads are there by now, and theirs are left out.
    let count = |work: &dyn Fn()| {
        let before = heap::count_live();
        work();
        heap::count_live().abs_diff(before)
    };
    let failing = || {
        for size in [isize::MAX as usize - 4095, isize::MAX as usize / 2, 1 << 50] {
            // SAFETY: the layout has a size.
            assert!(unsafe { ALLOCATOR.alloc(layout(size, 16)) }.is_null());
            // SAFETY: as above.
            assert!(unsafe { ALLOCATOR.alloc_zeroed(layout(size, 4096)) }.is_null());
            // SAFETY: as above.
            let block = unsafe { ALLOCATOR.alloc(layout(100, 8)) };
            // SAFETY: the block is of this layout.
            assert!(unsafe { ALLOCATOR.realloc(block, layout(100, 8), size - 8192) }.is_null());
            // It is known as before.
            assert!(heap::may_hold(block as u64));
            // SAFETY: as above.
            unsafe { ALLOCATOR.dealloc(block, layout(100, 8)) };
        }
    };
    // A thread of ours that has just begun has some blocks of its own.
    assert!(count(&failing) < 5);
    let fitting = || {
        for shift in 0..23 {
            let (size, align) = (3 << shift, 1 << shift);
            // SAFETY: the layout has a size.
            let block = unsafe { ALLOCATOR.alloc(layout(size, align)) };
            assert!(!block.is_null() && (block as usize).is_multiple_of(align));
            // SAFETY: as above.
            let zeroed = unsafe { ALLOCATOR.alloc_zeroed(layout(size, align)) };
            assert!((zeroed as usize).is_multiple_of(align));
            // SAFETY: the block is of that size.
            assert!(unsafe { std::slice::from_raw_parts(zeroed, size) }.iter().all(|byte| *byte == 0));
            for block in [block, zeroed] {
                // Nearly each is a sample: of a distance that is rounded down to no bytes.
                // SAFETY: the block is of this layout.
                unsafe { ALLOCATOR.dealloc(block, layout(size, align)) };
            }
        }
    };
    let before = profiler.stats().alloc_samples;
    assert!(count(&fitting) < 5, "what was given back is known no more");
    common::flush(&profiler);
    assert!(profiler.stats().alloc_samples + profiler.stats().alloc_lost > before + 40);
    // SAFETY: C's functions take any size.
    let empty: Vec<_> = (0..100).map(|_| unsafe { libc::malloc(0) }).collect();
    // SAFETY: the blocks are C's.
    empty.into_iter().for_each(|block| unsafe { libc::free(block) });
    common::stop(profiler);
    common::remove(&dir);
}

/// Resident memory in KiB.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The allocator below is asked for zeroed memory, which it has from the kernel.
pub(super) fn zeroed() {
    let dir = common::directory("allocator-zeroed");
    for malloc in ["off", "on"] {
        let profiler = start(&dir, 65_536, &[("malloc", malloc)]);
        let before = resident();
        let blocks: Vec<Vec<u8>> = (0..16).map(|_| black_box(vec![0; 64 << 20])).collect();
        let grown = resident() - before;
        assert!(grown < 64 << 10, "{grown} KiB for zeros that nobody has touched");
        drop(blocks);
        common::stop(profiler);
    }
    common::remove(&dir);
}

#[inline(never)]
fn resizes(list: &mut Vec<Vec<u8>>) {
    for block in list {
        block.reserve_exact(200_000);
        block.shrink_to(60_000);
        block.push(1);
    }
}

/// Each change of size is an allocation of the whole new size, and lives with that.
pub(super) fn resized() {
    const COUNT: u64 = 200;
    for malloc in ["off", "on"] {
        let dir = common::directory("allocator-resized");
        let profiler = start(&dir, 65_536, &[("malloc", malloc)]);
        heap::seed(21);
        let mut list: Vec<Vec<u8>> = (0..COUNT).map(|_| Vec::with_capacity(30_000)).collect();
        resizes(&mut list);
        common::flush(&profiler);
        let told = total(&dir, Kind::Heap, "resizes");
        let chance = |size: f64| 1.0 - (-size / 65_536.0).exp();
        let truth = COUNT as f64 * 260_000.0;
        let sigma = [200_000.0, 60_000.0]
            .map(|size: f64| COUNT as f64 * (1.0 - chance(size)) / chance(size) * size * size)
            .iter()
            .sum::<f64>()
            .sqrt();
        assert!((told[1] as f64 - truth).abs() < 5.0 * sigma, "{malloc}: {told:?} of {truth}");
        assert!(is_about(told[3], COUNT, 60_000, 65_536.0), "{malloc}: {told:?}");
        drop(list);
        common::flush(&profiler);
        let last = profiles(&dir, Kind::Heap).pop().unwrap();
        assert_eq!(sums(&last, "resizes"), [0; 4], "{malloc}");
        common::stop(profiler);
        common::remove(&dir);
    }
}

#[inline(never)]
fn churns(count: usize) {
    (0..count).for_each(|_| drop(black_box(Vec::<u8>::with_capacity(20_000))));
}

/// Distances that change while threads allocate, and none at all for a while: each sample has the weight of its time.
pub(super) fn intervals() {
    const COUNT: u64 = 500;
    let dir = common::directory("allocator-intervals");
    let profiler = start(&dir, 65_536, &[]);
    heap::seed(22);
    let mut counted = 0;
    for interval in [65_536, 30_000, 0, 200_000, 65_536, 0, 20_000] {
        heap::set_interval(interval);
        // Each thread follows within 64 KiB of its allocations.
        drop(black_box(Vec::<u8>::with_capacity(70_000)));
        churns(COUNT as usize);
        common::flush(&profiler);
        counted += if interval == 0 { 0 } else { COUNT };
    }
    let told = total(&dir, Kind::Alloc, "churns");
    // By the least precise of them for all.
    assert!(is_about(told[1], counted, 20_000, 120_000.0), "{told:?} of {counted}");
    assert_eq!(profiler.stats().alloc_lost, 0);
    common::stop(profiler);
    common::remove(&dir);
}

/// Gives out memory of its own without a lock, so that a handler may ask for it.
struct Bump;
static ROOM: [AtomicUsize; 1 << 17] = [const { AtomicUsize::new(0) }; 1 << 17];
static USED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: no two blocks share a byte until all room was given out once, and nobody here keeps one for so long.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let at = USED.fetch_add(layout.size().div_ceil(8), Ordering::Relaxed) % (ROOM.len() - 1024);
        (&raw const ROOM[at]).cast_mut().cast()
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

static BUMP: Allocator<Bump> = Allocator::with(Bump);
static HANDLED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn allocates(_: i32) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the layout has a size.
    let block = unsafe { BUMP.alloc(layout(64, 8)) };
    // SAFETY: the block is of this layout.
    unsafe { BUMP.dealloc(block, layout(64, 8)) };
}

/// A handler of the program's that allocates, while one allocation after the other is a sample.
pub(super) fn within() {
    let dir = common::directory("allocator-within");
    let profiler = start(&dir, 65_536, &[("kinds", "cpu,alloc,heap"), ("rate_hz", "1000")]);
    // SAFETY: zeros are valid but for the handler, which is set.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = allocates as *const () as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: the handler keeps to what its allocator can do.
    assert_eq!(unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) }, 0);
    // SAFETY: takes no argument.
    let this = unsafe { libc::pthread_self() } as usize;
    let (stop, samples) = (std::sync::atomic::AtomicBool::new(false), super::amount(200_000, 5_000_000));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // SAFETY: the thread lives until the scope ends.
                unsafe { libc::pthread_kill(this as libc::pthread_t, libc::SIGUSR1) };
                thread::sleep(Duration::from_micros(20));
            }
        });
        heap::set_interval(64);
        for _ in 0..samples {
            // SAFETY: the layout has a size.
            let block = unsafe { BUMP.alloc(layout(64, 8)) };
            // SAFETY: the block is of this layout.
            unsafe { BUMP.dealloc(block, layout(64, 8)) };
        }
        heap::set_interval(0);
        stop.store(true, Ordering::Relaxed);
    });
    let handled = HANDLED.load(Ordering::Relaxed);
    common::flush(&profiler);
    let stats = profiler.stats();
    println!("{handled} handlers, {} samples, {} lost", stats.alloc_samples, stats.alloc_lost);
    assert!(handled > 100 && stats.alloc_samples > 1000, "{stats:?}");
    // Those that were not told are counted.
    let expected = samples as f64 * 0.632;
    assert!((stats.alloc_samples + stats.alloc_lost) as f64 > 0.9 * expected, "{stats:?}");
    assert!(super::nothing_lives(), "{} live", heap::count_live());
    common::stop(profiler);
    common::remove(&dir);
}

thread_local! {
    static YIELDER: Cell<*const Yielder<(), ()>> = const { Cell::new(std::ptr::null()) };
}

/// Leaves its thread in the middle of an allocation, as one would whose lock belongs to an executor.
struct Moves;

// SAFETY: as the system's.
unsafe impl GlobalAlloc for Moves {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let yielder = YIELDER.take();
        if !yielder.is_null() {
            // SAFETY: that of the coroutine that runs here.
            unsafe { &*yielder }.suspend(());
        }
        // SAFETY: by the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: by the caller's promise.
        unsafe { System.dealloc(block, layout) };
    }
}

struct Sent(Coroutine<(), (), usize>);
// SAFETY: what the coroutine of this test keeps on its stack is of no thread.
unsafe impl Send for Sent {}

/// What it asks for on one thread, where it is counted, it gets on another.
pub(super) fn moved() {
    static MOVES: Allocator<Moves> = Allocator::with(Moves);
    let dir = common::directory("allocator-moved");
    let profiler = start(&dir, 65_536, &[]);
    heap::set_interval(0);
    for _ in 0..1000 {
        let mut coroutine = Sent(Coroutine::new(|yielder: &Yielder<(), ()>, ()| {
            YIELDER.set(yielder);
            // SAFETY: the layout has a size.
            unsafe { MOVES.alloc(layout(1234, 8)) as usize }
        }));
        let begun = heap::left();
        assert!(matches!(coroutine.0.resume(()), CoroutineResult::Yield(())));
        let asked = heap::left();
        // The thread's number is that of a chunk, which may just have ended.
        assert!(begun - asked == 1234 || begun < 1234, "{begun} {asked}");
        let both = Barrier::new(2);
        let block = thread::scope(|scope| {
            let there = scope.spawn(|| {
                let mut coroutine = coroutine;
                let before = heap::left();
                let CoroutineResult::Return(block) = coroutine.0.resume(()) else { panic!("it goes on") };
                let after = heap::left();
                both.wait();
                assert!(
                    before == after || asked < 0,
                    "it was counted where it was asked for: {before} {after}"
                );
                std::mem::forget(coroutine);
                block
            });
            both.wait();
            there.join().unwrap()
        });
        // SAFETY: the block is of this layout.
        unsafe { MOVES.dealloc(block as *mut u8, layout(1234, 8)) };
    }
    common::stop(profiler);
    common::remove(&dir);
}

#[inline(never)]
fn rust_allocates(count: usize) {
    (0..count).for_each(|_| drop(black_box(vec![1_u8; 5000])));
}

/// Both sources at once: Rust's allocator stands before C's functions, and C code calls those.
pub(super) fn once() {
    let dir = common::directory("allocator-once");
    let library = compile(&dir, "user", include_str!("../malloc/user.c"), &[]);
    let library = Library::open(&library, libc::RTLD_NOW);
    // SAFETY: the functions have these types.
    let allocate: extern "C" fn(usize) -> *mut libc::c_void = unsafe { library.find("user_allocates") };
    // SAFETY: as above.
    let free: extern "C" fn(*mut libc::c_void) = unsafe { library.find("user_frees") };
    for (malloc, of_c, sources) in [("on", 2000, "rust, c"), ("auto", 0, "rust"), ("off", 0, "rust")] {
        let profiles = dir.join(malloc);
        let profiler = start(&profiles, 16_384, &[("malloc", malloc)]);
        heap::seed(23);
        rust_allocates(2000);
        common::flush(&profiler);
        (0..2000).for_each(|_| free(allocate(5000)));
        common::flush(&profiler);
        assert_eq!(profiler.stats().alloc_sources, sources);
        let (rust, c) = (
            total(&profiles, Kind::Alloc, "rust_allocates"),
            total(&profiles, Kind::Alloc, "user_allocates"),
        );
        assert!(is_about(rust[1], 2000, 5000, 16_384.0), "{malloc}: {rust:?}");
        assert!(is_about(c[1], of_c, 5000, 16_384.0), "{malloc}: {c:?}");
        common::stop(profiler);
    }
    common::remove(&dir);
}
