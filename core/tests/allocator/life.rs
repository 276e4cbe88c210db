//! The beginning and the end: of the process, of threads, of a fork's child.

use std::cell::RefCell;
use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use everprof::Profiler;
use everprof::profile::Kind;
use everprof_probe::heap;

use super::{common, is_about, profiles, start, sums, total};

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static STARTED: Mutex<Option<Profiler>> = Mutex::new(None);

#[inline(never)]
fn early(count: usize) -> Vec<Vec<u8>> {
    let blocks: Vec<Vec<u8>> = (0..count).map(|_| black_box(vec![1; 5000])).collect();
    ALLOCATED.fetch_add(blocks.len(), Ordering::Relaxed);
    blocks
}

/// Before `main`, in every process of this test: allocates, and in that of one case starts the profiler.
pub(super) extern "C" fn at_load() {
    let kept = early(100);
    if std::env::var("EVERPROF_TEST_CASE").is_ok_and(|case| case == "before_main") {
        let dir = common::directory("allocator-early");
        *STARTED.lock().unwrap() = Some(start(&dir, 16_384, &[("malloc", "on")]));
        heap::seed(31);
        drop(early(1000));
    }
    drop(kept);
}

pub(super) fn before_main() {
    assert_eq!(ALLOCATED.load(Ordering::Relaxed), 1100);
    let profiler = STARTED.lock().unwrap().take().unwrap();
    common::flush(&profiler);
    let dir = std::env::temp_dir().join(format!("everprof-test-{}-allocator-early", std::process::id()));
    let told = total(&dir, Kind::Heap, "early");
    assert!(is_about(told[1] - 24_000, 1000, 5000, 16_384.0) && told[3] == 0, "{told:?}");
    common::stop(profiler);
    common::remove(&dir);
}

struct Last(Vec<Vec<u8>>);

impl Drop for Last {
    fn drop(&mut self) {
        at_the_end(&mut self.0);
    }
}

#[inline(never)]
fn at_the_end(list: &mut Vec<Vec<u8>>) {
    list.clear();
    (0..100).for_each(|_| drop(black_box(Vec::<u8>::with_capacity(5000))));
}

thread_local! {
    static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
}

/// C's own destructor of a thread's value, the last code that a thread runs.
extern "C" fn of_key(value: *mut libc::c_void) {
    drop(black_box(vec![1_u8; 3000]));
    // SAFETY: the value is a block of C's.
    unsafe { libc::free(value) };
}

/// Allocations and releases while a thread ends, when its variables are gone already.
pub(super) fn destructors() {
    const THREADS: u64 = 100;
    let dir = common::directory("allocator-destructors");
    let profiler = start(&dir, 65_536, &[("malloc", "on")]);
    let mut key = 0;
    // SAFETY: the pointer is to a live value, and the function is of the right type.
    assert_eq!(unsafe { libc::pthread_key_create(&mut key, Some(of_key)) }, 0);
    for _ in 0..THREADS {
        let work = move || {
            let blocks = (0..100).map(|_| black_box(vec![1_u8; 5000])).collect();
            LAST.set(Some(Last(blocks)));
            // SAFETY: no preconditions.
            let value = unsafe { libc::malloc(2000) };
            // SAFETY: the key is valid, and its destructor frees the value.
            unsafe { libc::pthread_setspecific(key, value) };
        };
        thread::spawn(work).join().unwrap();
    }
    common::flush(&profiler);
    let told = total(&dir, Kind::Heap, "at_the_end");
    assert!(is_about(told[1], THREADS * 100, 5000, 65_536.0) && told[3] == 0, "{told:?}");
    let live = profiles(&dir, Kind::Heap).pop().unwrap();
    assert_eq!(sums(&live, "destructors")[2..], [0; 2]);
    common::stop(profiler);
    common::remove(&dir);
}

extern "C" fn after_all() {
    // Everprof's own handler of the exit has run by now: it was registered later.
    for size in [1, 100, 5000, 1 << 20] {
        (0..500).for_each(|_| drop(black_box(Vec::<u8>::with_capacity(size))));
    }
    // SAFETY: ends the process with a code that says that it came to this.
    unsafe { libc::_exit(42) };
}

/// Forks, runs `child` in the child, and returns its exit code.
fn fork(child: impl FnOnce()) -> i32 {
    // SAFETY: the child runs ordinary code, as programs that fork do.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        child();
        // SAFETY: runs the handlers of exit.
        unsafe { libc::exit(0) };
    }
    let mut status = 0;
    // SAFETY: the pointer is to a live value.
    unsafe { libc::waitpid(pid, &mut status, 0) };
    assert!(libc::WIFEXITED(status), "the child was killed: {status:x}");
    libc::WEXITSTATUS(status)
}

pub(super) fn at_exit() {
    let dir = common::directory("allocator-exit");
    let code = fork(|| {
        // SAFETY: a function of the right type.
        assert_eq!(unsafe { libc::atexit(after_all) }, 0);
        let profiler = start(&dir, 4096, &[("malloc", "on")]);
        std::mem::forget(black_box(vec![1_u8; 1 << 20]));
        std::mem::forget(profiler);
        // SAFETY: runs the handlers of exit.
        unsafe { libc::exit(0) };
    });
    assert_eq!(code, 42);
    assert!(total(&dir, Kind::Heap, "at_exit")[3] >= 1 << 20, "the last profile was written");
    common::remove(&dir);
}

#[inline(never)]
fn of_parent(count: usize) -> Vec<Vec<u8>> {
    black_box((0..count).map(|_| black_box(vec![1_u8; 5000])).collect())
}

#[inline(never)]
fn of_child(count: usize) -> Vec<Vec<u8>> {
    black_box((0..count).map(|_| black_box(vec![1_u8; 5000])).collect())
}

/// Children of a process whose threads allocate: each has an account of its own, which begins empty.
pub(super) fn child() {
    let dir = common::directory("allocator-child");
    let profiler = start(&dir, 16_384, &[]);
    heap::seed(33);
    let kept = of_parent(1000);
    let (stop, churn) = (std::sync::atomic::AtomicBool::new(false), || drop(black_box(vec![1_u8; 200_000])));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                churn();
                thread::sleep(Duration::from_micros(500));
            }
        });
        for _ in 0..10 {
            let code = fork(|| {
                assert_eq!(heap::count_live(), 0, "nothing is the child's yet");
                while !profiler.stats().running || heap::interval() == 0 {
                    thread::sleep(Duration::from_millis(10));
                }
                heap::set_interval(16_384);
                let own = of_child(300);
                // Copies of the parent's.
                kept.iter().for_each(|block| assert_eq!(block.len(), 5000));
                common::flush(&profiler);
                drop(own);
            });
            assert_eq!(code, 0);
        }
        stop.store(true, Ordering::Relaxed);
    });
    common::flush(&profiler);
    let mut found = [0; 2];
    for heap in profiles(&dir, Kind::Heap) {
        let (parent, child) = (sums(&heap, "of_parent"), sums(&heap, "of_child"));
        assert!(parent == [0; 4] || child == [0; 4], "one account for two: {parent:?} {child:?}");
        // Beside the blocks, the list of them.
        if child[3] > 0 {
            assert!(is_about(child[3] - 7200, 300, 5000, 16_384.0), "{child:?}");
            found[1] += 1;
        }
        if parent[3] > 0 {
            assert!(is_about(parent[3] - 24_000, 1000, 5000, 16_384.0), "{parent:?}");
            found[0] += 1;
        }
    }
    assert_eq!(found, [1, 10]);
    drop(kept);
    common::stop(profiler);
    common::remove(&dir);
}
