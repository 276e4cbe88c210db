//! How long a walk takes, and what the tables cost: `cargo bench -p everprof-probe --bench unwind`.
//!
//! Warm means the same stack again and again: tables, cache and stack are in the processor's caches, so this is the cost
//! of the instructions alone. What a sample costs at 99 Hz is measured elsewhere, with a handler around it.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::hint::black_box;
use std::time::Instant;

use everprof_probe::memory::StackMemory;
use everprof_probe::regs::Regs;
use everprof_probe::unwind::{self, End, Frames};

const WALKS: u32 = 200;
const ROUNDS: u32 = 501;

#[inline(never)]
fn recurse(depth: u32, leaf: &dyn Fn()) -> u32 {
    if depth == 0 {
        leaf();
        return 1;
    }
    recurse(depth - 1, leaf) + black_box(depth)
}

/// Nanoseconds a walk, the best and the middle of some rounds, from a stack that has `frames` of them.
fn measure(frames: u32) {
    let missing = std::cell::Cell::new(0);
    recurse(1, &|| missing.set(frames - walk().0 as u32));
    recurse(1 + missing.get(), &|| {
        let mut times: Vec<u32> = (0..ROUNDS).map(|_| time()).collect();
        times.sort_unstable();
        let (len, end) = walk();
        assert_eq!((len, end), (frames as usize, End::Root));
        let per_frame = f64::from(times[0]) / f64::from(frames);
        println!(
            "{frames:4} frames: {:5} ns best, {:5} ns median, {per_frame:.1} ns a frame",
            times[0],
            times[times.len() / 2]
        );
    });
}

#[inline(never)]
fn time() -> u32 {
    let regs = Regs::here();
    let stack = stack(&regs);
    let mut words = [0; 512];
    let start = Instant::now();
    for _ in 0..WALKS {
        let mut sink = Frames::new(&mut words);
        black_box(unwind::walk(black_box(&regs), &stack, &mut sink));
        black_box(sink.finish());
    }
    (start.elapsed().as_nanos() / u128::from(WALKS)) as u32
}

#[inline(never)]
fn walk() -> (usize, End) {
    let regs = Regs::here();
    let mut words = [0; 512];
    let mut sink = Frames::new(&mut words);
    let end = unwind::walk(&regs, &stack(&regs), &mut sink);
    (sink.finish().len(), end)
}

fn stack(regs: &Regs) -> StackMemory {
    let mut stack = StackMemory::new();
    // SAFETY: the main thread's stack reaches from here to behind the environment.
    unsafe { stack.add(regs.sp..top_of_stack()) };
    stack
}

fn top_of_stack() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.ends_with("[stack]")).unwrap();
    let (_, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
    u64::from_str_radix(end, 16).unwrap()
}

fn main() {
    let start = Instant::now();
    unwind::refresh();
    let first = start.elapsed();
    let count = unwind::count();
    let each = first.as_nanos() as usize / count.read.max(1);
    println!("tables of all modules: {first:.2?}, {each} ns a row, {count:?}");
    let start = Instant::now();
    for _ in 0..WALKS {
        black_box(unwind::refresh());
    }
    println!("refresh without a change: {} ns", start.elapsed().as_nanos() / u128::from(WALKS));
    measure(33);
    measure(103);
}
