//! What a profiler costs the program's allocations: each under a stack of 35 frames, with samples and without.

use std::ffi::c_void;
use std::hint::black_box;

use crate::clock::thread_cpu;
use crate::load::at_depth;
use crate::{quantile, say};

/// A profiler of allocations, or an allocator without one. The binary has made it the program's allocator.
pub trait Allocations: Send + Sized {
    /// Starts it with samples of allocations, one in 512 KiB on the average where it samples; with the live heap beside
    /// them where `live`.
    fn start(live: bool) -> Self;

    /// Takes samples or takes none from now on. False where there is no such thing.
    fn sample(&mut self, _on: bool) -> bool {
        false
    }

    /// Makes a profile of what was sampled, with names, as a program would to send or to write it. False where there is
    /// no such thing.
    fn report(&mut self) -> bool {
        false
    }
}

/// The mean distance of samples in bytes.
pub const INTERVAL: usize = 512 << 10;
/// Frames of the stack that allocates.
const DEPTH: usize = 35;
/// How often each is measured; the lower quartile is told, since whatever disturbs makes it longer.
const ROUNDS: usize = 21;
/// About how long one round is to take, in nanoseconds.
const ROUND: f64 = 20e6;
/// Blocks at a time where several live at once.
const BATCH: usize = 1000;
/// A block that is sampled in about one of eight.
const LARGE: usize = 64 << 10;

/// The whole of a `main`: the command line says `allocations off`, `allocations alloc` or `allocations heap`.
pub fn run_allocations<A: Allocations>() {
    run::<A>(pairs, batches);
}

/// The same of C's functions, called by the slots that a compiler of C would have called them by.
pub fn run_mallocs<A: Allocations>() {
    run::<A>(c_pairs, c_batches);
}

/// `pairs` of that many bytes, so many times; and several blocks at a time, so many in all, of the sizes that it is told.
fn run<A: Allocations>(pairs: fn(usize, usize), batches: fn(usize, fn(usize) -> usize)) {
    let mode = std::env::args().nth(2).unwrap_or_default();
    let mut peer = A::start(mode == "heap");
    let can_switch = peer.sample(mode != "off");
    at_depth(DEPTH, || {
        // Who samples lazily is at work by now.
        lower(|times| pairs(64, times));
        say("pair_64", "ns", lower(|times| pairs(64, times)));
        say("pair_512", "ns", lower(|times| pairs(512, times)));
        say("batch_64", "ns", lower(|times| batches(times, |_| 64)));
        say("batch_16_to_1024", "ns", lower(|times| batches(times, mixed)));
        if can_switch && mode != "off" {
            say("sample", "ns", sample(&mut peer, pairs));
        }
    });
    if mode != "off" {
        let before = crate::process_cpu();
        if peer.report() {
            say("report_cpu", "ms", (crate::process_cpu() - before).as_secs_f64() * 1e3);
        }
    }
}

/// Nanoseconds of CPU time of one of the steps of which `step` makes as many as it is told.
fn lower(step: impl Fn(usize)) -> f64 {
    // The same number of steps for all would keep the slowest busy for minutes.
    let times = (ROUND / nanos(10 * BATCH, &step)) as usize / BATCH * BATCH + BATCH;
    let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| nanos(times, &step)).collect();
    rounds.sort_by(f64::total_cmp);
    quantile(&rounds, 0.25)
}

fn nanos(times: usize, step: impl Fn(usize)) -> f64 {
    let before = thread_cpu();
    step(times);
    (thread_cpu() - before).as_nanos() as f64 / times as f64
}

/// What one sample costs: the same allocations with samples and without, in turn, and the difference by how many there were.
fn sample(peer: &mut impl Allocations, pairs: fn(usize, usize)) -> f64 {
    const TIMES: usize = 40_000;
    let mut differences: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            peer.sample(false);
            let without = nanos(TIMES, |times| pairs(LARGE, times));
            peer.sample(true);
            nanos(TIMES, |times| pairs(LARGE, times)) - without
        })
        .collect();
    differences.sort_by(f64::total_cmp);
    let chance = 1.0 - (-(LARGE as f64) / INTERVAL as f64).exp();
    quantile(&differences, 0.5) / chance
}

fn pairs(size: usize, times: usize) {
    for _ in 0..times {
        black_box(Vec::<u8>::with_capacity(black_box(size)));
    }
}

fn batches(times: usize, size: impl Fn(usize) -> usize) {
    let mut blocks: Vec<Vec<u8>> = Vec::with_capacity(BATCH);
    for _ in 0..times / BATCH {
        blocks.extend((0..BATCH).map(|number| Vec::with_capacity(black_box(size(number)))));
        blocks.clear();
    }
}

fn c_pairs(size: usize, times: usize) {
    for _ in 0..times {
        let block = black_box(c_block(size));
        // SAFETY: a block that was just allocated.
        unsafe { libc::free(block) };
    }
}

fn c_batches(times: usize, size: fn(usize) -> usize) {
    let mut blocks = [std::ptr::null_mut(); BATCH];
    for _ in 0..times / BATCH {
        blocks.iter_mut().enumerate().for_each(|(number, block)| *block = c_block(size(number)));
        // SAFETY: each was just allocated, and is freed once.
        blocks.iter().for_each(|block| unsafe { libc::free(*block) });
    }
}

fn c_block(size: usize) -> *mut c_void {
    // SAFETY: any size may be asked for.
    unsafe { libc::malloc(black_box(size)) }
}

/// From 16 to 1024, in no order that would help.
fn mixed(number: usize) -> usize {
    16 + number.wrapping_mul(2_654_435_761) % 1009
}
