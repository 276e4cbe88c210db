//! Through signal frames: a handler that is itself interrupted, on the same stack and on an alternate one.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod unwinding;

use std::hint::black_box;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use everprof_probe::regs::{self, Regs};
use everprof_probe::unwind::End;
use unwinding::{
    assert_same_callers, install, install_with, natives, oracle, profile, refresh, stack_memory, walk,
};

/// What the outer handler was interrupted at, and how often the inner one looked.
static INTERRUPTED: AtomicU64 = AtomicU64::new(0);
static LOOKED: AtomicU64 = AtomicU64::new(0);

/// Raises the next signal from inside a handler.
extern "C" fn outer(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the context is the handler's own.
    let regs = unsafe { Regs::from_ucontext(context) };
    INTERRUPTED.store(regs.pc, Ordering::Relaxed);
    // SAFETY: the signal's handler is `inner`.
    unsafe { libc::raise(libc::SIGUSR2) };
    black_box(());
}

/// Walks from inside two handlers: the frame that the first one interrupted is in the stack, exactly.
extern "C" fn inner(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the context is the handler's own.
    let altstack: Range<u64> = unsafe { regs::altstack(context) };
    let (ours, end) = walk(&Regs::here(), &stack_memory(altstack));
    let oracle = oracle();
    assert_eq!(end, End::Root);
    let interrupted = INTERRUPTED.load(Ordering::Relaxed);
    let ours_native = natives(&ours);
    assert!(ours_native.contains(&interrupted), "{interrupted:#x} in {ours_native:#x?}");
    // In the oracle's list interrupted frames are exact as well: ours are brought into its form.
    let exact = ours_native.iter().filter(|&&pc| pc == interrupted || oracle.contains(&pc)).count();
    assert!(
        exact >= 4,
        "two frames were interrupted, and each handler returns to the first byte of code: {exact}"
    );
    let callers: Vec<u64> = ours_native.iter().skip(1).copied().collect();
    let same = oracle.iter().filter(|&&ip| ip > 1).rev().zip(callers.iter().rev());
    for (oracle, pc) in same {
        assert!(*oracle == pc + 1 || *oracle == *pc, "{oracle:#x} {pc:#x}");
    }
    LOOKED.fetch_add(1, Ordering::Relaxed);
}

#[inline(never)]
fn raise_from(depth: u32) -> u32 {
    if depth == 0 {
        // SAFETY: the signal's handler is `outer`.
        unsafe { libc::raise(libc::SIGUSR1) };
        return 1;
    }
    raise_from(depth - 1) + black_box(depth)
}

/// Gives the calling thread an alternate stack that has room for the oracle.
fn alternate_stack() {
    let room = Vec::leak(vec![0_u8; 1 << 20]);
    let stack = libc::stack_t { ss_sp: room.as_mut_ptr().cast(), ss_flags: 0, ss_size: room.len() };
    // SAFETY: the memory is given away for ever.
    assert_eq!(unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) }, 0);
}

#[test]
fn through_two_handlers() {
    refresh();
    let (here, _) = walk(&Regs::here(), &stack_memory(0..0));
    assert_same_callers(&here, &oracle());
    alternate_stack();
    for flags in [0, libc::SA_ONSTACK] {
        install_with(libc::SIGUSR1, outer, flags);
        install_with(libc::SIGUSR2, inner, flags);
        raise_from(10);
        install_with(libc::SIGUSR2, inner, libc::SA_ONSTACK);
        raise_from(3);
    }
    assert_eq!(LOOKED.load(Ordering::Relaxed), 4);
}

extern "C" fn busy(_signal: i32, _info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    let mut sum = 0_u64;
    for number in 0..20_000 {
        sum = black_box(sum + number);
    }
}

/// A profile of a program that spends its time in a handler of its own, on the alternate stack, as ours runs there.
#[test]
fn a_profiled_handler() {
    alternate_stack();
    install(libc::SIGURG, busy);
    let seen = profile(200, || {
        // SAFETY: the signal's handler is `busy`.
        unsafe { libc::raise(libc::SIGURG) };
    });
    seen.assert_complete(995.0);
}
