//! How much stack a walk takes: alternate signal stacks have 8 KiB, of which the kernel's frame takes up to half.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod unwinding;

use std::cell::UnsafeCell;
use std::hint::black_box;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use everprof_probe::regs::{self, Regs};
use everprof_probe::unwind::{self, Frames};
use unwinding::{Handler, install, refresh, stack_memory};

const SIZE: usize = 256 << 10;
const PAINT: u8 = 0xa5;

struct Words(UnsafeCell<[u64; 512]>);

// SAFETY: only the handler uses the words, on one thread.
unsafe impl Sync for Words {}

static WORDS: Words = Words(UnsafeCell::new([0; 512]));
static FRAMES: AtomicU64 = AtomicU64::new(0);
static WALK: AtomicBool = AtomicBool::new(false);

/// Prepares a walk and does everything but it, or it as well.
extern "C" fn handler(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the context is the handler's own.
    let regs = unsafe { Regs::from_ucontext(context) };
    // SAFETY: as above.
    let altstack: Range<u64> = unsafe { regs::altstack(context) };
    let stack = stack_memory(altstack);
    // SAFETY: see `Words`.
    let mut sink = Frames::new(unsafe { &mut *WORDS.0.get() });
    if WALK.load(Ordering::Relaxed) {
        black_box(unwind::walk(&regs, &stack, &mut sink));
    }
    FRAMES.store(sink.finish().len() as u64, Ordering::Relaxed);
}

#[inline(never)]
fn recurse(depth: u32) -> u32 {
    if depth == 0 {
        // SAFETY: the signal has a handler.
        unsafe { libc::raise(libc::SIGUSR1) };
        return 1;
    }
    recurse(depth - 1) + black_box(depth)
}

/// Bytes of the alternate stack that a signal touched.
fn touched(room: &mut [u8]) -> usize {
    room.fill(PAINT);
    recurse(600);
    room.len() - room.iter().position(|&byte| byte != PAINT).unwrap()
}

#[test]
fn a_walk_takes_less_than_a_kibibyte_of_stack() {
    refresh();
    stack_memory(0..0);
    install(libc::SIGUSR1, handler as Handler);
    let room = Vec::leak(vec![0_u8; SIZE]);
    let stack = libc::stack_t { ss_sp: room.as_mut_ptr().cast(), ss_flags: 0, ss_size: SIZE };
    // SAFETY: the memory is given away for ever.
    assert_eq!(unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) }, 0);
    let without = touched(room);
    WALK.store(true, Ordering::Relaxed);
    // Once for the cache, once past it: the deepest calls are those of the first look-up.
    let with = touched(room).max(touched(room));
    assert_eq!(FRAMES.load(Ordering::Relaxed), 512);
    let walk = with.saturating_sub(without);
    eprintln!("the walk takes {walk} bytes of stack; the signal and the rest of its handler {without}");
    // What is not optimised keeps every temporary apart.
    let limit = if cfg!(debug_assertions) { 4096 } else { 1024 };
    assert!(walk < limit, "{walk} bytes");
}
