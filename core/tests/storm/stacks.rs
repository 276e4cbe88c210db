//! Unusual stacks: alternate ones of a few KiB, coroutines, threads without a stack of their own, handlers that jump
//! away, threads that are cancelled, and stacks that overflow.

use std::ffi::{c_int, c_void};
use std::hint::black_box;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use everprof_probe::os::gettid;
use everprof_probe::scratch;
use everprof_probe::thread::Slot;

use crate::amount;
use crate::common::{burn, directory, profiles, time_in};
use crate::forge::{expire, expire_until, timed_slot, unbounded};
use crate::plugin::{self, Plugin};

static STOP: AtomicBool = AtomicBool::new(false);

/// Memory of its own with an unreadable page below it: what touches that dies.
pub(crate) struct Guarded {
    start: *mut c_void,
    len: usize,
}

const PAGE: usize = 4096;

impl Guarded {
    pub(crate) fn new(len: usize) -> Guarded {
        let all = len.next_multiple_of(PAGE) + PAGE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a mapping where the kernel likes.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), all, protection, flags, -1, 0) };
        assert!(start != libc::MAP_FAILED);
        // SAFETY: the first page of what was just mapped.
        unsafe { libc::mprotect(start, PAGE, libc::PROT_NONE) };
        Guarded { start, len: all - PAGE }
    }

    pub(crate) fn low(&self) -> *mut u8 {
        self.start.cast::<u8>().wrapping_add(PAGE)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody runs on it any more.
        unsafe { libc::munmap(self.start, self.len + PAGE) };
    }
}

/// Makes `size` bytes at the upper end of `memory` the calling thread's alternate stack; with 0 it has none.
pub(crate) fn set_alternate(memory: &Guarded, size: usize) -> bool {
    let flags = if size == 0 { libc::SS_DISABLE } else { 0 };
    let start = memory.low().wrapping_add(memory.len - size).cast();
    let stack = libc::stack_t { ss_sp: start, ss_flags: flags, ss_size: size };
    // SAFETY: the memory stays mapped until another stack is set.
    unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) == 0 }
}

/// What the kernel itself puts onto a signal's stack, at most.
pub(crate) fn least_stack() -> usize {
    // SAFETY: no preconditions.
    (unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize).max(2048)
}

pub(crate) fn on_signal(signal: i32, handler: extern "C" fn(i32), flags: i32) {
    // SAFETY: all-zero is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = flags;
    // SAFETY: the action is live and whole.
    assert_eq!(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) }, 0);
}

extern "C" fn nothing(_: i32) {}

const PAINT: u8 = 0xa5;

/// Bytes of the alternate stack that were written since it was painted.
fn written(memory: &Guarded) -> usize {
    // SAFETY: the memory is mapped, and no signal comes now.
    let bytes = unsafe { std::slice::from_raw_parts(memory.low(), memory.len) };
    memory.len - bytes.iter().take_while(|byte| **byte == PAINT).count()
}

fn paint(memory: &Guarded) {
    // SAFETY: the memory is mapped, and nobody runs on it.
    unsafe { std::ptr::write_bytes(memory.low(), PAINT, memory.len) };
}

#[inline(never)]
fn deep_and_sampled(depth: u32, slot: &Slot) -> u32 {
    if depth == 0 {
        assert!(expire(slot));
        return black_box(1);
    }
    black_box(deep_and_sampled(depth - 1, slot) + 1)
}

/// The handler's own need of stack, beyond the kernel's frame.
pub(crate) fn handler_needs_little_stack() {
    let (profiler, dir) = unbounded("stack-use", 99);
    on_signal(libc::SIGUSR1, nothing, libc::SA_ONSTACK);
    let (empty, ours) = thread::spawn(|| {
        let slot = timed_slot(gettid());
        let memory = Guarded::new(64 << 10);
        assert!(set_alternate(&memory, memory.len));
        paint(&memory);
        // SAFETY: has a handler.
        unsafe { libc::raise(libc::SIGUSR1) };
        let empty = written(&memory);
        // As deep as to be truncated, and as shallow as this.
        for round in 0..1000 {
            deep_and_sampled(round * 3, slot);
        }
        let ours = written(&memory);
        assert!(set_alternate(&memory, 0));
        (empty, ours)
    })
    .join()
    .unwrap();
    println!(
        "stack of a signal: {empty} bytes with an empty handler, {ours} with ours: {} more",
        ours - empty
    );
    let most = if cfg!(debug_assertions) { 4096 } else { 1408 };
    assert!(ours - empty <= most, "{} bytes", ours - empty);
    crate::common::stop(profiler);
    std::fs::remove_dir_all(&dir).unwrap();
}

static NESTED: AtomicU64 = AtomicU64::new(0);

extern "C" fn slow_handler(_: i32) {
    NESTED.fetch_add(1, Ordering::Relaxed);
    for n in 0..3000_u64 {
        black_box(n * n);
    }
}

/// The host's handlers on alternate stacks from as small as fits, interrupted by ours, and the stack changed meanwhile.
pub(crate) fn alternate_stacks() {
    let (profiler, dir) = unbounded("alternate", 10_000);
    on_signal(libc::SIGUSR1, slow_handler, libc::SA_ONSTACK | libc::SA_RESTART);
    on_signal(libc::SIGUSR2, slow_handler, libc::SA_RESTART);
    let (send, slot) = mpsc::channel();
    let worker = thread::spawn(move || {
        let memory = Guarded::new(64 << 10);
        send.send(timed_slot(gettid())).unwrap();
        // Three signals at once on it: the host's two, and ours on top.
        let least = 3 * least_stack() + 4096;
        let mut size = least;
        while !STOP.load(Ordering::Relaxed) {
            assert!(set_alternate(&memory, size));
            size = if size + 512 > memory.len { least } else { size + 512 };
            for _ in 0..20 {
                black_box(deep_and_idle(size as u32 % 100));
            }
            if size.is_multiple_of(1024) {
                assert!(set_alternate(&memory, 0));
            }
        }
        assert!(set_alternate(&memory, 0));
    });
    let slot = slot.recv().unwrap();
    for _ in 0..amount(3_000, 100_000) {
        for signal in [libc::SIGUSR1, libc::SIGUSR2] {
            // SAFETY: both have handlers; the thread lives.
            unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), slot.tid(), signal) };
            expire_until(&[slot], 3);
        }
    }
    STOP.store(true, Ordering::Relaxed);
    worker.join().unwrap();
    let incomplete = {
        crate::common::flush(&profiler);
        profiler.stats()
    };
    println!(
        "{} nested handlers; {} samples, incomplete {}",
        NESTED.load(Ordering::Relaxed),
        incomplete.samples,
        incomplete.incomplete
    );
    crate::common::stop(profiler);
    let in_handler: i64 = profiles(&dir).iter().map(|profile| time_in(profile, "slow_handler")).sum();
    assert!(in_handler > 0, "the host's handler is in the profile");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[inline(never)]
pub(crate) fn deep_and_idle(depth: u32) -> u32 {
    if depth == 0 { black_box(1) } else { black_box(deep_and_idle(depth - 1) + 1) }
}

static LINKS: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

/// Long beside the switch, whose system call is where most signals of a storm strike.
#[inline(never)]
fn in_the_coroutine() {
    for n in 0..50_000_u64 {
        black_box(n * n);
    }
}

extern "C" fn coroutine() {
    let [host, own] =
        [0, 1].map(|index: usize| LINKS[index].load(Ordering::Relaxed) as *mut libc::ucontext_t);
    loop {
        in_the_coroutine();
        // SAFETY: both contexts live as long as the coroutine is used.
        unsafe { libc::swapcontext(own, host) };
    }
}

/// A stack that no thread knows of, with nothing mapped behind either end.
pub(crate) fn coroutines() {
    let (profiler, dir) = unbounded("coroutine", 10_000);
    let (send, slot) = mpsc::channel();
    let worker = thread::spawn(move || {
        send.send(timed_slot(gettid())).unwrap();
        let memory = Guarded::new(32 << 10);
        // SAFETY: all-zero is a valid context until it is made one.
        let mut contexts: Box<[libc::ucontext_t; 2]> = Box::new(unsafe { std::mem::zeroed() });
        let [host, own] = &mut *contexts;
        // SAFETY: the context is live.
        unsafe { libc::getcontext(own) };
        own.uc_stack.ss_sp = memory.low().cast();
        own.uc_stack.ss_size = memory.len;
        LINKS[0].store(std::ptr::from_mut(host) as usize, Ordering::Relaxed);
        LINKS[1].store(std::ptr::from_mut(own) as usize, Ordering::Relaxed);
        // SAFETY: the context was initialised and has a stack.
        unsafe { libc::makecontext(own, coroutine, 0) };
        while !STOP.load(Ordering::Relaxed) {
            // SAFETY: both contexts are live.
            unsafe { libc::swapcontext(host, own) };
        }
    });
    expire_until(&[slot.recv().unwrap()], amount(20_000, 500_000));
    STOP.store(true, Ordering::Relaxed);
    worker.join().unwrap();
    crate::common::stop(profiler);
    let profile = &crate::common::largest(&dir);
    assert!(time_in(profile, "in_the_coroutine") > 0, "the leaf is always there");
    std::fs::remove_dir_all(&dir).unwrap();
}

static RAW_THREAD: AtomicU32 = AtomicU32::new(0);

extern "C" fn without_anything(_: *mut c_void) -> c_int {
    while !STOP.load(Ordering::Relaxed) {
        black_box(deep_and_idle(20));
    }
    RAW_THREAD.store(2, Ordering::Release);
    loop {
        // SAFETY: ends this thread alone.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}

/// Threads that the C library does not know: no control block of their own, a stack of nobody's.
pub(crate) fn raw_clone_threads() {
    let (profiler, dir) = unbounded("clone", 10_000);
    let memory = Guarded::new(64 << 10);
    let top = memory.low().wrapping_add(memory.len).cast();
    let flags = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM;
    // SAFETY: the function touches no thread-local storage and ends its thread itself.
    let tid = unsafe { libc::clone(without_anything, top, flags, std::ptr::null_mut()) };
    assert!(tid > 0);
    expire_until(&[timed_slot(tid as u32)], amount(20_000, 500_000));
    STOP.store(true, Ordering::Relaxed);
    while RAW_THREAD.load(Ordering::Acquire) != 2 {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(20));
    crate::common::stop(profiler);
    assert!(time_in(&crate::common::largest(&dir), "deep_and_idle") > 0);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Threads with as little stack as the system allows.
pub(crate) fn tiny_stacks() {
    let (profiler, dir) = unbounded("tiny", 10_000);
    let (send, slots) = mpsc::channel();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let send = send.clone();
            let spin = move || {
                send.send(timed_slot(gettid())).unwrap();
                while !STOP.load(Ordering::Relaxed) {
                    black_box(deep_and_idle(5));
                }
            };
            thread::Builder::new().stack_size(libc::PTHREAD_STACK_MIN).spawn(spin).unwrap()
        })
        .collect();
    let slots: Vec<_> = (0..4).map(|_| slots.recv().unwrap()).collect();
    expire_until(&slots, amount(3_000, 100_000));
    STOP.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    crate::common::stop(profiler);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// A thread that holds the signal back: its time is told when it lets it through, in one sample, and the total is right.
pub(crate) fn signal_held_back() {
    let (profiler, dir) = unbounded("held-back", 99);
    thread::spawn(|| {
        let mask = |how| {
            // SAFETY: all-zero is a valid set.
            let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
            // SAFETY: the set is live.
            unsafe { libc::sigaddset(&mut set, libc::SIGPROF) };
            // SAFETY: the set is live; the old one is not wanted.
            unsafe { libc::pthread_sigmask(how, &set, std::ptr::null_mut()) };
        };
        mask(libc::SIG_BLOCK);
        burn(Duration::from_millis(800));
        mask(libc::SIG_UNBLOCK);
        burn(Duration::from_millis(200));
    })
    .join()
    .unwrap();
    crate::common::stop(profiler);
    let total = crate::common::largest(&dir).totals()[1] as f64 / 1e9;
    println!("1 s of work, most of it with the signal held back: {total:.3} s in the profile");
    assert!((0.95..1.2).contains(&total), "{total}");
    std::fs::remove_dir_all(&dir).unwrap();
}

/// The host's handlers that jump away never leave ours unfinished.
pub(crate) fn handlers_that_jump_away() {
    static STOP_JUMPS: AtomicI32 = AtomicI32::new(0);
    let library_dir = directory("jump-plugin");
    let Some(library) = plugin::compile(&library_dir) else { return };
    let jump = Plugin::open(&library).jump;
    let (profiler, dir) = unbounded("jump", 10_000);
    let (send, slot) = mpsc::channel();
    let worker = thread::spawn(move || {
        // Larger than Rust's, so that a debug build can nest there.
        let memory = Guarded::new(64 << 10);
        assert!(set_alternate(&memory, memory.len));
        send.send(timed_slot(gettid())).unwrap();
        let jumps = jump(&raw const STOP_JUMPS);
        assert!(set_alternate(&memory, 0));
        jumps
    });
    let slot = slot.recv().unwrap();
    // Its handler is in place by then.
    thread::sleep(Duration::from_millis(200));
    // From two threads, so that the one signal meets the handler of the other.
    let pester = thread::spawn(move || {
        while !STOP.load(Ordering::Relaxed) {
            // SAFETY: the thread lives until it is told to stop.
            unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), slot.tid(), libc::SIGUSR2) };
        }
    });
    expire_until(&[slot], amount(50_000, 2_000_000));
    STOP.store(true, Ordering::Relaxed);
    pester.join().unwrap();
    STOP_JUMPS.store(1, Ordering::Relaxed);
    println!("{} jumps out of handlers", worker.join().unwrap());
    crate::common::stop(profiler);
    assert!(scratch::idle(), "a handler was left for ever");
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::remove_dir_all(&library_dir).unwrap();
}

/// Threads that are cancelled at any instruction never leave our handler unfinished.
pub(crate) fn cancelled_threads() {
    let library_dir = directory("cancel-plugin");
    let Some(library) = plugin::compile(&library_dir) else { return };
    let spinner = Plugin::open(&library).spinner;
    let (profiler, dir) = unbounded("cancel", 10_000);
    for _ in 0..amount(60, 3_000) {
        let mut thread = 0;
        assert_eq!(spinner(&mut thread), 0);
        let slot = newest_slot();
        for _ in 0..50 {
            expire(slot);
        }
        // SAFETY: the thread lives and was not joined yet.
        assert_eq!(unsafe { libc::pthread_cancel(thread) }, 0);
        while expire(slot) {}
        // SAFETY: as above; its result is not wanted.
        assert_eq!(unsafe { libc::pthread_join(thread, std::ptr::null_mut()) }, 0);
    }
    crate::common::stop(profiler);
    assert!(scratch::idle(), "a handler was left for ever");
    std::fs::remove_dir_all(&dir).unwrap();
    std::fs::remove_dir_all(&library_dir).unwrap();
}

/// The slot of the thread that was started last, given to it by hand.
fn newest_slot() -> &'static Slot {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let ids = tasks.map(|task| task.file_name().to_str().unwrap().parse::<u32>().unwrap());
    everprof_probe::thread::claim(ids.max().unwrap()).unwrap()
}

static FAULTS: AtomicU64 = AtomicU64::new(0);
static FAULTS_SAMPLED: AtomicU64 = AtomicU64::new(0);

/// A handler of faults that takes its time, as those do that write a report. It leaves by mending what was wrong.
extern "C" fn slow_fault_handler(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    let slot = everprof_probe::thread::find(gettid()).unwrap();
    let now = || everprof_probe::os::Clock::Thread(gettid()).now().unwrap();
    let (before, end) = (slot.credited(), now() + 5_000_000);
    while now() < end {}
    FAULTS_SAMPLED.fetch_add(slot.credited() - before, Ordering::Relaxed);
    FAULTS.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the kernel's information is live.
    let info = unsafe { &*info };
    // SAFETY: a fault has an address.
    let page = unsafe { info.si_addr() };
    // SAFETY: the page is the one that the faulting thread gave for this.
    unsafe { libc::mprotect(page, PAGE, libc::PROT_READ | libc::PROT_WRITE) };
}

/// The host's handler of faults is not interrupted on its alternate stack, whether it was set before our start or after.
pub(crate) fn fault_handlers_are_left_alone() {
    let set_handler = || {
        // SAFETY: all-zero is a valid sigaction.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = slow_fault_handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the action is live and whole.
        assert_eq!(unsafe { libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut()) }, 0);
    };
    let fault = || {
        let memory = Guarded::new(PAGE);
        let alternate = Guarded::new(64 << 10);
        assert!(set_alternate(&alternate, alternate.len));
        // SAFETY: the page below `low` is mapped without any access; the handler makes it writable.
        unsafe { memory.low().wrapping_sub(PAGE).write_volatile(1) };
        assert!(set_alternate(&alternate, 0));
    };
    set_handler();
    let (profiler, dir) = unbounded("faults", 1000);
    let faults = move || {
        timed_slot(gettid());
        (0..20).for_each(|_| fault());
    };
    thread::spawn(faults).join().unwrap();
    assert_eq!(FAULTS_SAMPLED.load(Ordering::Relaxed), 0, "set before");
    set_handler();
    // Our thread looks after dispositions every second.
    thread::sleep(Duration::from_millis(2500));
    thread::spawn(faults).join().unwrap();
    assert_eq!(FAULTS_SAMPLED.load(Ordering::Relaxed), 0, "set after");
    assert_eq!(FAULTS.load(Ordering::Relaxed), 40);
    crate::common::stop(profiler);
    let told = crate::common::largest(&dir).totals()[1] as f64 / 1e9;
    println!("40 faults of 5 ms: {told:.3} s in the profile");
    assert!(told > 0.19, "the time is told when the handler is through: {told}");
    std::fs::remove_dir_all(&dir).unwrap();
}

const OVERFLOW: &str = "EVERPROF_TEST_OVERFLOW";

#[allow(unconditional_recursion)]
#[inline(never)]
fn overflow(depth: u64) -> u64 {
    let room = black_box([depth; 100]);
    overflow(depth + 1) + black_box(room[3])
}

/// A stack that overflows while it is profiled ends the process as it always does, with the runtime's message.
pub(crate) fn overflow_is_told_as_ever() {
    if std::env::var_os(OVERFLOW).is_some() {
        let (_profiler, _) = unbounded("overflow", 10_000);
        let doomed = thread::spawn(|| {
            burn(Duration::from_millis(100));
            overflow(0)
        });
        let _ = doomed.join();
        return;
    }
    for _ in 0..amount(5, 100) {
        let output = Command::new(std::env::current_exe().unwrap()).env(OVERFLOW, "1").output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains("has overflowed its stack"), "{:?}: {message}", output.status);
        assert!(!output.status.success());
    }
}
