//! Every instruction: a workload runs one step at a time, and after each instruction the walk must reach the root, past
//! the same outer frames. Prologues, epilogues, linkage stubs, lazy binding, the loader, the vDSO and the allocator are
//! all met in every state that they have.
//!
//! Only x86_64 lets a process step itself; on other processors the samples of the other tests must do.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod unwinding;

use std::collections::{BTreeMap, HashMap};
use std::hint::black_box;

use unwinding::step::{ask, prepare, step_through};
use unwinding::{compile_c, refresh};

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
    prepare();
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
    ask(false);
    std::panic::set_hook(Box::new(|_| {}));
    step_through("a panic", 995, || _ = std::panic::catch_unwind(|| std::panic::panic_any(black_box(7))));
    _ = std::panic::take_hook();
}
