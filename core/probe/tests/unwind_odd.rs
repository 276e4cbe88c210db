//! Every instruction of what runs at odd moments and in odd ways: exceptions on their way, jumps across frames,
//! initialisers, resolvers, holders of the loader's lock, stacks that grow in pieces.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod unwinding;

use std::hint::black_box;

use unwinding::step::{ask, may_doubt, prepare, step_through};
use unwinding::{Compiled, Library, compile_c, compile_cxx, refresh};

const EXCEPTIONS: &str = r#"
#include <stdexcept>
#include <string>
#include <vector>
struct Guard { std::string name; ~Guard() { name += "gone"; } };
__attribute__((noinline)) static int thrower(int n) {
    Guard guard{std::string(40, 'x')};
    if (n > 2) throw std::runtime_error("no more than two of them, if you please");
    std::vector<int> numbers(n + 1, n);
    return thrower(n + 1) + numbers[0];
}
extern "C" int run() {
    int caught = 0;
    for (int i = 0; i < 2; i++)
        try { caught += thrower(i); } catch (const std::exception &error) { caught += error.what()[0]; }
    return caught;
}
"#;

const JUMPS: &str = r#"
#define _GNU_SOURCE
#include <setjmp.h>
#include <link.h>
#include <stdlib.h>
#include <stdio.h>
static jmp_buf place;
static volatile int sum;
__attribute__((noinline)) static void down(int n) { volatile int room[9]; room[n] = n; if (n == 0) longjmp(place, 1); down(n - 1); sum += room[n]; }
static int each(struct dl_phdr_info *info, size_t size, void *data) { sum += (int)info->dlpi_phnum; return 0; }
static int by_number(void) { return 7; }
static void *resolve(void) { for (int i = 0; i < 300; i++) sum += i; return by_number; }
__attribute__((ifunc("resolve"))) int chosen(void);
__attribute__((constructor)) static void before(void) { char text[40]; for (int i = 0; i < 20; i++) snprintf(text, 40, "%d", i); sum += atoi(text); }
__attribute__((destructor)) static void after(void) { char text[40]; for (int i = 0; i < 20; i++) snprintf(text, 40, "%d", i); }
__attribute__((naked)) static int naked(void) { __asm__("mov $3, %eax\n ret"); }
int run(void) {
    for (int i = 0; i < 9; i++) if (!setjmp(place)) down(i);
    dl_iterate_phdr(each, 0);
    return sum + chosen() + naked();
}
"#;

const GROWING: &str = r#"
__attribute__((noinline)) static int deep(int n) { volatile char room[3000]; room[n] = n; return n == 0 ? 0 : deep(n - 1) + room[n]; }
int run(void) { return deep(40); }
"#;

fn run_of(library: &Library) -> extern "C" fn() -> i32 {
    // SAFETY: that is its type in the sources above.
    unsafe { std::mem::transmute(library.function(c"run")) }
}

fn step_run(name: &str, permille: usize, compiled: &Compiled) {
    let library = compiled.open();
    refresh();
    let run = run_of(&library);
    step_through(name, permille, || _ = black_box(run()));
    library.close();
}

#[test]
fn odd_moments_unwind_to_the_root() {
    prepare();
    ask(false);
    if let Some(compiled) = compile_cxx("exceptions", EXCEPTIONS, &[]) {
        // The unwinder replaces stack pointers by hand, in a handful of instructions for each exception.
        step_run("C++ exceptions", 995, &compiled);
    }
    for flags in [&["-Wl,-z,lazy", "-fcf-protection=none"][..], &["-Wl,-z,now", "-fcf-protection=full"]] {
        let Some(compiled) = compile_c("jumps", JUMPS, flags) else { continue };
        // The last nine instructions of a `longjmp` have the caller in registers that no walk carries: they are marked.
        step_run("jumps, resolvers and the loader's lock", 950, &compiled);
        let path = compiled.path();
        // Constructors, and destructors at the end: what calls these, the compiler's start files leave without information.
        // And no refresh has seen the library, which lies where it lay before.
        may_doubt(true);
        step_through("opening and closing", 990, || {
            // SAFETY: a library of our own, whose initialisers compute.
            let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
            // SAFETY: nothing of it is used.
            unsafe { libc::dlclose(handle) };
        });
        may_doubt(false);
    }
    if let Some(compiled) = compile_c("growing", GROWING, &["-fsplit-stack", "-fcf-protection=none"]) {
        let library = compiled.open();
        refresh();
        black_box(run_of(&library)());
        library.close();
    }
}
