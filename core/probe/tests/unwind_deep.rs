//! Stacks deeper than a sample holds, and deeper than a walk goes.
#![allow(clippy::unwrap_used, clippy::panic)]

mod unwinding;

use std::hint::black_box;

use everprof_probe::regs::Regs;
use everprof_probe::sample::{Frame, frames};
use everprof_probe::unwind::{self, End, Frames, MOST_FRAMES};
use unwinding::{refresh, stack_memory};

#[inline(never)]
fn recurse(depth: usize, leaf: &dyn Fn()) -> usize {
    if depth == 0 {
        leaf();
        return 1;
    }
    recurse(depth - 1, leaf) + black_box(depth)
}

fn walk_into(words: &mut [u64]) -> (Vec<Frame>, End) {
    let mut sink = Frames::new(words);
    let end = unwind::walk(&Regs::here(), &stack_memory(0..0), &mut sink);
    (frames(sink.finish()).collect(), end)
}

/// Runs on a thread with room for very deep stacks.
fn on_a_deep_stack(run: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        std::thread::Builder::new().stack_size(64 << 20).spawn_scoped(scope, run).unwrap().join().unwrap();
    });
}

#[test]
fn both_ends_of_a_deep_stack_are_kept() {
    refresh();
    on_a_deep_stack(|| {
        _ = recurse(5000, &|| {
            let (stack, end) = walk_into(&mut [0; 1024]);
            let depth = oracle_depth();
            assert_eq!(end, End::Root);
            assert_eq!(stack.len(), 1024);
            let gap = stack.iter().position(|frame| matches!(frame, Frame::Missing(_))).unwrap();
            assert!((400..600).contains(&gap), "{gap}");
            let Frame::Missing(missing) = stack[gap] else { unreachable!() };
            // The oracle sees its own call as well, and this one the helper that walks.
            let ours = stack.len() - 1 + usize::try_from(missing).unwrap();
            assert!(ours.abs_diff(depth) <= 3, "{ours} frames, {depth} by the oracle");
        });
    });
}

fn oracle_depth() -> usize {
    let mut depth = 0;
    // SAFETY: the other test does not use the oracle.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            depth += usize::from(frame.ip() as usize > 1);
            true
        })
    };
    depth
}

#[test]
fn a_bottomless_stack_is_cut() {
    refresh();
    on_a_deep_stack(|| {
        _ = recurse(2 * MOST_FRAMES, &|| {
            let (stack, end) = walk_into(&mut [0; 1024]);
            assert_eq!(end, End::Truncated);
            assert_eq!(stack.last(), Some(&Frame::Missing(0)));
            let gaps = stack.iter().filter(|frame| matches!(frame, Frame::Missing(_))).count();
            assert_eq!(gaps, 2);
        });
    });
}
