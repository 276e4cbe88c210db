//! Every instruction: a workload runs one step at a time, and after each instruction the walk must reach the root, past
//! the same outer frames. Prologues, epilogues, linkage stubs, lazy binding, the loader, the vDSO and the allocator are
//! all met in every state that they have.
//!
//! Only x86_64 lets a process step itself; on other processors the samples of the other tests must do.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod unwinding;

use std::arch::asm;
use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use everprof_probe::regs::Regs;
use everprof_probe::unwind::{self, End, Frames};
use unwinding::{compile_c, install_with, names, natives, refresh, stack_memory, walk};

/// The flag that makes the processor stop after an instruction.
const TRAP: i64 = 0x100;
/// How many of the outermost frames are compared: fewer than the test harness and the thread's start have.
const OUTER: usize = 6;

static STOP: AtomicBool = AtomicBool::new(false);
static STEPS: AtomicUsize = AtomicUsize::new(0);
static MISSED: AtomicUsize = AtomicUsize::new(0);
static DIFFERENT: AtomicUsize = AtomicUsize::new(0);
static EXPECTED: [AtomicUsize; OUTER] = [const { AtomicUsize::new(0) }; OUTER];
static EXAMPLES: [AtomicUsize; 64] = [const { AtomicUsize::new(0) }; 64];
/// Whether the oracle is asked: not while it is itself at work.
static ASK: AtomicBool = AtomicBool::new(true);
static GAVE_UP: AtomicUsize = AtomicUsize::new(0);
static COMPARED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn step(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if STOP.load(Ordering::Relaxed) {
        let context = context.cast::<libc::ucontext_t>();
        // SAFETY: the context is the handler's own.
        unsafe { (*context).uc_mcontext.gregs[libc::REG_EFL as usize] &= !TRAP };
        return;
    }
    // SAFETY: as above.
    let regs = unsafe { Regs::from_ucontext(context) };
    let mut words = [0; 256];
    let mut sink = Frames::new(&mut words);
    let end = unwind::walk(&regs, &stack_memory(0..0), &mut sink);
    let words = sink.finish();
    let number = STEPS.fetch_add(1, Ordering::Relaxed);
    let expected = EXPECTED.iter().map(|pc| pc.load(Ordering::Relaxed) as u64);
    let outer = words.len().checked_sub(OUTER).map(|start| &words[start..]);
    if end != End::Root || !outer.is_some_and(|outer| outer.iter().copied().eq(expected)) {
        let missed = MISSED.fetch_add(1, Ordering::Relaxed);
        if let Some(example) = EXAMPLES.get(missed) {
            example.store(regs.pc as usize, Ordering::Relaxed);
        }
    } else if number.is_multiple_of(97) && ASK.load(Ordering::Relaxed) {
        compare(words);
    }
}

/// Compares a stack with the oracle's, which also sees this handler's own frames.
fn compare(words: &[u64]) {
    let mut ips = [0; 300];
    let mut len = 0;
    // SAFETY: nothing else uses `backtrace` meanwhile.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            ips[len] = frame.ip() as u64;
            len += 1;
            len < 300
        })
    };
    let mut oracle = ips[..len].iter().rev().skip_while(|&&ip| ip <= 1);
    // The oracle gives up where there is no call-frame information at all: in the linkage stubs that some linkers make.
    let root = words[words.len() - 1] + 1;
    if oracle.clone().next() != Some(&root) {
        GAVE_UP.fetch_add(1, Ordering::Relaxed);
        return;
    }
    COMPARED.fetch_add(1, Ordering::Relaxed);
    if !words.iter().skip(1).rev().all(|pc| oracle.next() == Some(&(pc + 1))) {
        let different = DIFFERENT.fetch_add(1, Ordering::Relaxed);
        if let Some(example) = EXAMPLES.get(32 + different) {
            example.store(words[0] as usize, Ordering::Relaxed);
        }
    }
}

/// Runs `work` step by step.
#[inline(never)]
fn step_through(name: &str, permille: usize, work: impl FnOnce()) {
    let (outer, end) = walk(&Regs::here(), &stack_memory(0..0));
    assert_eq!(end, End::Root);
    let outer = natives(&outer);
    for (expected, pc) in EXPECTED.iter().zip(&outer[outer.len() - OUTER..]) {
        expected.store(*pc as usize, Ordering::Relaxed);
    }
    for counter in [&STEPS, &MISSED, &DIFFERENT, &COMPARED, &GAVE_UP].into_iter().chain(&EXAMPLES) {
        counter.store(0, Ordering::Relaxed);
    }
    STOP.store(false, Ordering::Relaxed);
    // SAFETY: sets the trap flag, and leaves the stack as it was.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
    work();
    STOP.store(true, Ordering::Relaxed);
    black_box(());
    let [steps, missed, different, compared, gave_up] =
        [&STEPS, &MISSED, &DIFFERENT, &COMPARED, &GAVE_UP].map(|counter| counter.load(Ordering::Relaxed));
    eprintln!("{name}: {steps} steps, {missed} missed; {different} of {compared} different from the oracle");
    let asked = ASK.load(Ordering::Relaxed);
    assert!(
        !asked || gave_up * 20 <= compared && compared > 20,
        "{name}: the oracle gave up {gave_up} times"
    );
    let examples: Vec<u64> =
        EXAMPLES.iter().map(|pc| pc.load(Ordering::Relaxed) as u64 + 1).filter(|&pc| pc > 1).collect();
    if missed + different > 0 {
        eprintln!("{}", names(&examples));
    }
    assert!(steps > 1000, "{name}: the processor does not step");
    assert!(missed * 1000 <= steps * (1000 - permille), "{name}: {missed} of {steps} missed");
    assert!(different * 1000 <= compared * (1000 - permille), "{name}: {different} of {compared} different");
}

extern "C" fn compare_numbers(left: *const libc::c_void, right: *const libc::c_void) -> i32 {
    // SAFETY: qsort passes pointers into the array.
    let left = unsafe { *left.cast::<i32>() };
    // SAFETY: as above.
    let right = unsafe { *right.cast::<i32>() };
    left.cmp(&right) as i32
}

fn rust_code() {
    let mut words: Vec<String> =
        (0..12).map(|number| format!("{:>5.2}", f64::from(number * 7919 % 1009))).collect();
    words.sort();
    let mut map = HashMap::new();
    let mut tree = BTreeMap::new();
    for word in &words {
        *map.entry(word.clone()).or_insert(0) += 1;
        tree.insert(word.as_str(), word.len());
    }
    black_box((map, tree));
}

fn libc_code() {
    let mut numbers: Vec<i32> = (0..60).map(|number| number * 7919 % 1009).collect();
    // SAFETY: the array has that many numbers, and the comparison reads two of them.
    unsafe { libc::qsort(numbers.as_mut_ptr().cast(), 60, 4, Some(compare_numbers)) };
    let mut text = [0; 200];
    // SAFETY: the buffer has two hundred bytes, and the arguments are what the format says.
    unsafe {
        libc::snprintf(text.as_mut_ptr(), 200, c"%d %s %10.3f %lx".as_ptr(), 7, c"text".as_ptr(), 2.5, 99_u64)
    };
    let mut blocks = Vec::new();
    for size in [1, 24, 100, 1000, 5000, 40_000, 200_000, 3_000_000] {
        // SAFETY: any size may be asked for.
        let block = unsafe { libc::malloc(size) };
        // SAFETY: the block has `size` bytes.
        unsafe { libc::memset(block, 1, size.min(3000)) };
        blocks.push(block);
    }
    for block in blocks {
        // SAFETY: each block is freed once.
        unsafe { libc::free(block) };
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    for clock in [libc::CLOCK_MONOTONIC, libc::CLOCK_REALTIME_COARSE, libc::CLOCK_THREAD_CPUTIME_ID] {
        // SAFETY: the time is ours to write.
        unsafe { libc::clock_gettime(clock, &mut time) };
    }
    // SAFETY: no preconditions.
    unsafe { libc::getppid() };
    black_box((text, time));
}

/// Calls through a linkage table that is bound lazily, so that the first call runs the loader; a frame with a variable
/// length; a realigned one.
const LIBRARY: &str = r#"
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
typedef int (*callback)(const void *, const void *);
__attribute__((noinline)) static int realigned(int n, callback f) {
    _Alignas(64) volatile int area[16];
    volatile char *variable = __builtin_alloca(n);
    for (int i = 0; i < 16; i++) area[i] = i * n;
    variable[n / 2] = 1;
    return f((void *)area, (void *)(area + 1));
}
int run(callback f) {
    int numbers[64];
    char text[64];
    for (int i = 0; i < 64; i++) numbers[i] = i * 7919 % 101;
    qsort(numbers, 64, sizeof(int), f);
    snprintf(text, sizeof(text), "%d", numbers[3]);
    return realigned(atoi(text) + 40, f) + (int)strlen(text);
}
"#;

#[test]
fn every_instruction_unwinds_to_the_root() {
    refresh();
    // The oracle makes itself ready on its first call.
    unwinding::oracle();
    // The standard library's alternate stack is too small for the oracle.
    install_with(libc::SIGTRAP, step, 0);
    step_through("Rust", 1000, rust_code);
    step_through("libc", 1000, libc_code);
    let flags = ["-Wl,-z,lazy", "-fcf-protection=none"];
    if let Some(compiled) = compile_c("lazy", LIBRARY, &flags) {
        let library = compiled.open();
        refresh();
        let run = library.function(c"run");
        type Callback = extern "C" fn(*const libc::c_void, *const libc::c_void) -> i32;
        // SAFETY: that is its type in the source above.
        let run: extern "C" fn(Callback) -> i32 = unsafe { std::mem::transmute(run) };
        step_through("C library, lazily bound", 1000, || _ = black_box(run(compare_numbers)));
    }
    // The loader and the unwinder of exceptions replace stack pointers by hand, in a handful of instructions.
    step_through("opening a library", 998, || {
        // SAFETY: a library of the system's.
        unsafe { libc::dlopen(c"libutil.so.1".as_ptr(), libc::RTLD_NOW) };
    });
    ASK.store(false, Ordering::Relaxed);
    std::panic::set_hook(Box::new(|_| {}));
    step_through("a panic", 995, || _ = std::panic::catch_unwind(|| std::panic::panic_any(black_box(7))));
    _ = std::panic::take_hook();
}
