//! Stacks of plain Rust code: recursion, closures, generics; on the main thread's child and from a signal handler.
#![allow(clippy::unwrap_used, clippy::panic)]

mod unwinding;

use std::hint::black_box;

use everprof_probe::regs::Regs;
use everprof_probe::unwind::End;
use unwinding::{assert_same_callers, oracle, profile, refresh, stack_memory, walk};

#[inline(never)]
fn compare_here() {
    let regs = Regs::here();
    let (ours, end) = walk(&regs, &stack_memory(0..0));
    let oracle = oracle();
    assert_eq!(end, End::Root);
    assert_same_callers(&ours, &oracle);
}

#[inline(never)]
fn recurse(depth: u32, leaf: &dyn Fn()) -> u32 {
    if depth == 0 {
        leaf();
        return 1;
    }
    let local = black_box([depth; 5]);
    recurse(depth - 1, leaf) + local[black_box(2)]
}

#[inline(never)]
fn generic<T: Copy, R>(value: T, each: impl Fn(T) -> R) -> Vec<R> {
    (0..3).map(|_| each(value)).collect()
}

/// Work with calls, loops, memory and the formatting machinery.
fn work() {
    recurse(40, &|| {
        let mut words: Vec<String> = (0..200).map(|number| format!("{:x}", number * 7919 % 1009)).collect();
        words.sort();
        black_box(words.concat());
    });
}

#[test]
fn equal_to_the_oracle() {
    refresh();
    compare_here();
    recurse(25, &compare_here);
    generic(3, |_| generic('x', |_| recurse(2, &compare_here)));
    std::panic::catch_unwind(compare_here).unwrap();
    recurse(1500, &compare_here);
}

#[test]
fn complete_from_a_signal() {
    profile(300, work).assert_complete(999.0);
}
