//! What the handler must not do, proven: no system call (a filter of the kernel kills who makes one), no allocation
//! (`malloc` is counted), no lock (somebody else holds it for ever).

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use everprof_probe::os::gettid;
use everprof_probe::sample::Trace;
use everprof_probe::sigprof;
use everprof_probe::thread::Slot;

use crate::amount;
use crate::common::{directory, profiles, time_in};
use crate::forge::{expire_until, timed_slot, unbounded};
use crate::plugin::{self, Plugin};

static STOP: AtomicBool = AtomicBool::new(false);
static READY: AtomicU32 = AtomicU32::new(0);
static CALLS: AtomicU64 = AtomicU64::new(0);

/// From now on the calling thread is killed, with its process, for every system call but the return from a signal and
/// the end of the thread.
fn forbid_system_calls() {
    const LOAD_NUMBER: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const KILL_PROCESS: u32 = 0x8000_0000;
    let step = |code: u16, jt: u8, jf: u8, k: u32| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        step(LOAD_NUMBER, 0, 0, 0),
        step(EQUAL, 2, 0, libc::SYS_rt_sigreturn as u32),
        step(EQUAL, 1, 0, libc::SYS_exit as u32),
        step(RETURN, 0, 0, KILL_PROCESS),
        step(RETURN, 0, 0, ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: plain numbers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program is live; the kernel copies it.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(set, 0);
}

fn end_thread() -> ! {
    loop {
        // SAFETY: ends this thread at once; what it owns is leaked.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}

extern "C" fn callback(n: c_int) -> c_int {
    CALLS.fetch_add(1, Ordering::Relaxed);
    black_box(n)
}

#[inline(never)]
fn deep(depth: u32, work: plugin::Work, slot: &Slot) -> u64 {
    if depth > 0 {
        return black_box(deep(depth - 1, work, slot) + 1);
    }
    let labels = slot.set_labels(5);
    let trace = slot.trace();
    slot.set_trace(Trace { trace_id: 7 << 70, span_id: 9, local_root: 8 }, 1);
    let done = work(20, 300, Some(callback)) as u64;
    slot.set_trace(trace, 0);
    slot.set_labels(labels);
    done
}

pub(crate) fn makes_no_system_call() {
    let library_dir = directory("no-system-call-plugin");
    let Some(library) = plugin::compile(&library_dir) else { return };
    let plugin = Plugin::open(&library);
    let work = plugin.work;
    let (profiler, dir) = unbounded("no-system-call", 10_000);
    let (send, tid) = mpsc::channel();
    thread::spawn(move || {
        let slot = timed_slot(gettid());
        // Lazy binding makes system calls of its own.
        deep(10, work, slot);
        let _ = send.send(slot.tid());
        forbid_system_calls();
        READY.store(1, Ordering::Release);
        let mut depth = 0;
        while !STOP.load(Ordering::Relaxed) {
            depth = (depth + 17) % 1500;
            black_box(deep(depth, work, slot));
        }
        READY.store(2, Ordering::Release);
        end_thread();
    });
    let slot = timed_slot(tid.recv().unwrap());
    while READY.load(Ordering::Acquire) == 0 {
        thread::sleep(Duration::from_millis(1));
    }
    let before = sigprof::cost().0;
    expire_until(&[slot], amount(50_000, 2_000_000));
    // And some seconds of what the kernel's timer sends by itself.
    thread::sleep(Duration::from_secs(2));
    let handled = sigprof::cost().0 - before;
    STOP.store(true, Ordering::Relaxed);
    while READY.load(Ordering::Acquire) != 2 {
        thread::sleep(Duration::from_millis(1));
    }
    crate::common::flush(&profiler);
    let stats = profiler.stats();
    crate::common::stop(profiler);
    let all = profiles(&dir);
    let profile = all.iter().max_by_key(|profile| profile.totals()[1]).unwrap();
    let whole = time_in(profile, "deep") as f64;
    let (leaf, rust) =
        (time_in(profile, "plugin_leaf") as f64, time_in(profile, "makes_no_system_call") as f64);
    println!(
        "{handled} signals under the filter; {} samples, lost {}, incomplete {}, truncated {}; in the plugin's leaf {:.2}, to the root {:.4}",
        stats.samples,
        stats.lost,
        stats.incomplete,
        stats.truncated,
        leaf / whole,
        rust / whole,
    );
    assert!(CALLS.load(Ordering::Relaxed) > 0 && leaf > 0.0 && rust > 0.9 * whole);
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::remove_dir_all(&library_dir).unwrap();
}

/// The proof above is worth something: the filter kills.
pub(crate) fn filter_kills() {
    // SAFETY: the child makes one system call and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        forbid_system_calls();
        // SAFETY: takes no argument; must not return.
        unsafe { libc::getppid() };
        end_thread();
    }
    let mut status = 0;
    // SAFETY: the pointer is to a live value.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS, "{status:x}");
}

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static IN_MALLOC: Cell<bool> = const { Cell::new(false) };
    static HOLDS_ARENA: Cell<bool> = const { Cell::new(false) };
}

static TWICE: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(old: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_memalign(alignment: usize, size: usize) -> *mut c_void;
}

/// Runs an allocation of the C library, counted; says where it was entered while it was at work on this thread.
fn counted(allocate: impl FnOnce() -> *mut c_void) -> *mut c_void {
    ALLOCATIONS.with(|count| count.set(count.get() + 1));
    if IN_MALLOC.with(|inside| inside.replace(true)) {
        TWICE.fetch_add(1, Ordering::Relaxed);
    }
    // As if an arena's lock were held for long.
    while HOLDS_ARENA.with(Cell::get) && !STOP.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
    let memory = allocate();
    IN_MALLOC.with(|inside| inside.set(false));
    memory
}

#[unsafe(no_mangle)]
extern "C" fn malloc(size: usize) -> *mut c_void {
    // SAFETY: passes the caller's arguments on.
    counted(|| unsafe { __libc_malloc(size) })
}

#[unsafe(no_mangle)]
extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    // SAFETY: passes the caller's arguments on.
    counted(|| unsafe { __libc_calloc(count, size) })
}

#[unsafe(no_mangle)]
extern "C" fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
    // SAFETY: passes the caller's arguments on.
    counted(|| unsafe { __libc_realloc(old, size) })
}

#[unsafe(no_mangle)]
extern "C" fn aligned_alloc(alignment: usize, size: usize) -> *mut c_void {
    // SAFETY: passes the caller's arguments on.
    counted(|| unsafe { __libc_memalign(alignment, size) })
}

pub(crate) fn allocates_nothing() {
    let (profiler, dir) = unbounded("no-allocation", 10_000);
    let (send, tid) = mpsc::channel();
    let spinner = thread::spawn(move || {
        let before = ALLOCATIONS.with(Cell::get);
        drop(black_box(vec![1, 2, 3]));
        assert_eq!(ALLOCATIONS.with(Cell::get), before + 1, "the count counts");
        send.send(gettid()).unwrap();
        let before = ALLOCATIONS.with(Cell::get);
        while !STOP.load(Ordering::Relaxed) {
            black_box(before);
        }
        ALLOCATIONS.with(Cell::get) - before
    });
    expire_until(&[timed_slot(tid.recv().unwrap())], amount(50_000, 2_000_000));
    STOP.store(true, Ordering::Relaxed);
    assert_eq!(spinner.join().unwrap(), 0);
    crate::common::stop(profiler);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Threads that do nothing but allocate, interrupted everywhere inside the allocator.
pub(crate) fn is_never_in_malloc_twice() {
    let (profiler, dir) = unbounded("malloc", 10_000);
    let (send, tids) = mpsc::channel();
    let threads: Vec<_> = (0..2)
        .map(|seed| {
            let send = send.clone();
            thread::spawn(move || {
                send.send(gettid()).unwrap();
                allocate_without_end(seed);
            })
        })
        .collect();
    let slots: Vec<&Slot> = (0..2).map(|_| timed_slot(tids.recv().unwrap())).collect();
    expire_until(&slots, amount(30_000, 1_000_000));
    STOP.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    crate::common::stop(profiler);
    assert!(time_in(&crate::common::largest(&dir), "malloc") > 0, "samples fell into the allocator");
    assert_eq!(TWICE.load(Ordering::Relaxed), 0);
    std::fs::remove_dir_all(&dir).unwrap();
}

pub(crate) fn allocate_without_end(seed: u64) {
    let mut random = crate::forge::Random(seed);
    let mut kept: Vec<Vec<u8>> = Vec::new();
    while !STOP.load(Ordering::Relaxed) {
        kept.push(vec![1; random.next() as usize % 5000]);
        if kept.len() > 200 {
            kept.swap_remove(random.next() as usize % 200);
        }
    }
}

/// Three threads are sampled while each holds a lock that a careless handler would want: the loader's, the standard
/// output's, and one inside the allocator.
pub(crate) fn waits_for_no_lock() {
    let (profiler, dir) = unbounded("locks", 10_000);
    let (send, tids) = mpsc::channel();
    let holders: [fn(); 3] = [hold_loader, hold_output, hold_arena];
    let threads: Vec<_> = holders
        .into_iter()
        .map(|hold| {
            let send = send.clone();
            thread::spawn(move || {
                send.send(timed_slot(gettid())).unwrap();
                hold();
            })
        })
        .collect();
    let slots: Vec<&Slot> = (0..3).map(|_| tids.recv().unwrap()).collect();
    while READY.load(Ordering::Acquire) != 3 {
        thread::sleep(Duration::from_millis(1));
    }
    expire_until(&slots, amount(5_000, 100_000));
    STOP.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    crate::common::stop(profiler);
    assert!(time_in(&crate::common::largest(&dir), "hold_output") > 0);
    std::fs::remove_dir_all(&dir).unwrap();
}

fn spin_until_stopped() {
    READY.fetch_add(1, Ordering::Release);
    while !STOP.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

fn hold_loader() {
    unsafe extern "C" fn spin(_: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
        spin_until_stopped();
        1
    }
    // SAFETY: the callback has the right type, and ends.
    unsafe { libc::dl_iterate_phdr(Some(spin), std::ptr::null_mut()) };
}

fn hold_output() {
    let held = std::io::stdout().lock();
    spin_until_stopped();
    drop(held);
}

fn hold_arena() {
    READY.fetch_add(1, Ordering::Release);
    HOLDS_ARENA.with(|holds| holds.set(true));
    let memory = black_box(vec![1; 100]);
    HOLDS_ARENA.with(|holds| holds.set(false));
    drop(memory);
}
