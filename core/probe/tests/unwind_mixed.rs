//! Samples of code that is not Rust: libc, system calls, the vDSO, C callbacks, and a library that comes and goes.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod unwinding;

use std::hint::black_box;

use everprof_probe::regs::Regs;
use everprof_probe::unwind::{self, End};
use unwinding::{compile_c, profile, refresh, stack_memory, walk};

extern "C" fn compare(left: *const libc::c_void, right: *const libc::c_void) -> i32 {
    // SAFETY: the caller passes pointers into its array.
    let left = unsafe { *left.cast::<i32>() };
    // SAFETY: as above.
    let right = unsafe { *right.cast::<i32>() };
    left.cmp(&right) as i32
}

const LIBRARY: &str = r#"
#include <stdlib.h>
#include <string.h>
#include <math.h>
typedef int (*callback)(const void *, const void *);
int run(callback f) {
    int numbers[500];
    char *text = malloc(70000);
    double sum = 0;
    for (int i = 0; i < 500; i++) numbers[i] = i * 7919 % 1009;
    memset(text, 'x', 69999);
    text[69999] = 0;
    for (int i = 0; i < 200; i++) sum += strlen(text) + __builtin_sin(i);
    qsort(numbers, 500, sizeof(int), f);
    free(text);
    return numbers[7] + (int)sum;
}
"#;

type Run = extern "C" fn(extern "C" fn(*const libc::c_void, *const libc::c_void) -> i32) -> i32;

fn system_calls() {
    let mut bytes = vec![0_u8; 100_000];
    let copy = bytes.clone();
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    for _ in 0..300 {
        // SAFETY: the time is ours to write.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
        // SAFETY: no preconditions.
        black_box(unsafe { libc::getppid() });
    }
    for _ in 0..20 {
        bytes.copy_from_slice(black_box(&copy));
        black_box(format!("{:?}", &bytes[..200]));
    }
}

#[test]
fn complete_in_c_and_in_libraries_that_come_and_go() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let compiled = compile_c("mixed", LIBRARY, &["-lm"]);
    let mut library = compiled.as_ref().map(|compiled| compiled.open());
    let mut rounds = 0;
    let seen = profile(400, || {
        system_calls();
        if let Some(open) = &library {
            // SAFETY: that is its type in the source above.
            let run: Run = unsafe { std::mem::transmute(open.function(c"run")) };
            black_box(run(compare));
            rounds += 1;
            if rounds % 20 == 0 {
                library.take().unwrap().close();
                library = compiled.as_ref().map(|compiled| compiled.open());
                let generation = unwind::generation();
                while unwind::generation() == generation {
                    unwind::refresh();
                }
            }
        }
    });
    // Between the opening of a library and the refresh its code has no table yet.
    seen.assert_complete(980.0);
}

/// One test at a time: the signals and refreshes of one would meet the other's library.
static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Five megabytes of code: too much for a table that nobody asked for.
const LARGE: &str = r#"
__asm__(".text\n.fill 5000000, 1, 0\n");
int run(void (*look)(void)) { volatile char room[200]; room[3] = 1; look(); return room[3]; }
"#;

thread_local! {
    static LOOKED: std::cell::Cell<Option<End>> = const { std::cell::Cell::new(None) };
}

extern "C" fn look() {
    let (_, end) = walk(&Regs::here(), &stack_memory(0..0));
    LOOKED.set(Some(end));
}

#[test]
fn a_large_module_gets_its_table_when_a_walk_meets_it() {
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(compiled) = compile_c("large", LARGE, &[]) else { return };
    let library = compiled.open();
    // SAFETY: that is its type in the source above.
    let run: extern "C" fn(extern "C" fn()) -> i32 = unsafe { std::mem::transmute(library.function(c"run")) };
    refresh();
    run(look);
    assert_eq!(LOOKED.take(), Some(End::Lost));
    assert!(unwind::wanted());
    for _ in 0..1000 {
        unwind::refresh();
        run(look);
        if LOOKED.take() == Some(End::Root) {
            return library.close();
        }
        std::thread::yield_now();
    }
    panic!("still no table");
}
