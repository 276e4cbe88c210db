//! Work to be profiled: stacks of an exact depth, stacks that differ, processors and caches kept busy.

use std::hint::black_box;
use std::time::Duration;

use crate::clock::thread_cpu;

/// Runs `work` under a stack of `frames` frames from `work` itself to the thread's first, by functions of different
/// frame sizes, as a real stack has them. On a thread of its own.
pub(crate) fn at_depth(frames: usize, work: impl FnMut() + Send) {
    let mut work = work;
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("work".into())
            .spawn_scoped(scope, || {
                let mut least = 0;
                LEVELS[0](0, &mut || least = count_frames());
                LEVELS[0](frames.checked_sub(least).expect("deeper than the start of a thread"), &mut work);
            })
            .expect("a thread");
    });
}

type Level = fn(usize, &mut dyn FnMut());

static LEVELS: [Level; 24] = [
    level::<0>,
    level::<1>,
    level::<2>,
    level::<3>,
    level::<4>,
    level::<5>,
    level::<6>,
    level::<7>,
    level::<8>,
    level::<9>,
    level::<10>,
    level::<11>,
    level::<12>,
    level::<13>,
    level::<14>,
    level::<15>,
    level::<16>,
    level::<17>,
    level::<18>,
    level::<19>,
    level::<20>,
    level::<21>,
    level::<22>,
    level::<23>,
];

#[inline(never)]
fn level<const N: usize>(left: usize, work: &mut dyn FnMut()) {
    let room = black_box([N; N]);
    if left == 0 {
        work();
    } else {
        LEVELS[(N + 1) % LEVELS.len()](left - 1, work);
    }
    black_box(&room);
}

fn count_frames() -> usize {
    let mut frames = 0;
    backtrace::trace(|_| {
        frames += 1;
        true
    });
    // Without this function and the two of the crate itself.
    frames - 3
}

/// Runs `work` under one of 2^14 different stacks of 24 frames, which `path` names bit by bit.
pub(crate) fn by_path(path: usize, work: &mut dyn FnMut()) {
    TURNS[path & 1](path >> 1, 23, work);
}

type Turn = fn(usize, usize, &mut dyn FnMut());

static TURNS: [Turn; 2] = [turn::<0>, turn::<1>];

#[inline(never)]
fn turn<const N: usize>(path: usize, left: usize, work: &mut dyn FnMut()) {
    let room = black_box([N; 2]);
    if left == 0 {
        work();
    } else {
        TURNS[path & 1](path >> 1, left - 1, work);
    }
    black_box(&room);
}

/// Burns that much CPU time of the calling thread.
#[inline(never)]
pub(crate) fn burn(time: Duration) {
    let end = thread_cpu() + time;
    while thread_cpu() < end {
        compute(20_000);
    }
}

/// So many rounds of arithmetic.
#[inline(never)]
pub(crate) fn compute(rounds: u64) {
    let mut sum = 1u64;
    for round in 0..rounds {
        sum = black_box(sum.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round));
    }
}

/// Memory that work goes over in no order; enough of it pushes everything else out of the caches.
pub(crate) struct Trash(Vec<u64>);

impl Trash {
    pub(crate) fn new(bytes: usize) -> Self {
        Self((0..bytes as u64 / 8).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect())
    }

    /// Touches so many places of it in no order. Inlined: the caller is to be the leaf.
    #[inline(always)]
    pub(crate) fn touch(&mut self, times: usize, seed: &mut u64) {
        let len = self.0.len() as u64;
        for _ in 0..times {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let at = ((*seed >> 33) % len) as usize;
            self.0[at] ^= *seed;
        }
    }
}
