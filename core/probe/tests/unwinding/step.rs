//! Stepping: a workload runs one instruction at a time, and after each the walk must reach the root, past the same outer
//! frames. Only x86_64 lets a process step itself.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::arch::asm;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use everprof_probe::regs::Regs;
use everprof_probe::unwind::{self, End, Frames};

use crate::unwinding::{install_with, names, natives, oracle, refresh, stack_memory, walk};

/// Makes stepping ready.
pub fn prepare() {
    refresh();
    // The oracle makes itself ready on its first call.
    oracle();
    // The standard library's alternate stack is too small for the oracle.
    install_with(libc::SIGTRAP, step, 0);
}

/// Whether the oracle is asked: not while it is itself at work.
pub fn ask(yes: bool) {
    ASK.store(yes, Ordering::Relaxed);
}

/// Whether a stack may have a mark, as long as its outer frames are right: where libraries come and go.
pub fn may_doubt(yes: bool) {
    MAY_DOUBT.store(yes, Ordering::Relaxed);
}

/// The flag that makes the processor stop after an instruction.
const TRAP: i64 = 0x100;
/// How many of the outermost frames are compared: fewer than the test harness and the thread's start have.
const OUTER: usize = 6;

static STOP: AtomicBool = AtomicBool::new(false);
static STEPS: AtomicUsize = AtomicUsize::new(0);
static MISSED: AtomicUsize = AtomicUsize::new(0);
static DIFFERENT: AtomicUsize = AtomicUsize::new(0);
static EXPECTED: [AtomicUsize; OUTER] = [const { AtomicUsize::new(0) }; OUTER];
static EXAMPLES: [AtomicUsize; 64] = [const { AtomicUsize::new(0) }; 64];
/// Whether the oracle is asked: not while it is itself at work.
static ASK: AtomicBool = AtomicBool::new(true);
static MAY_DOUBT: AtomicBool = AtomicBool::new(false);
static GAVE_UP: AtomicUsize = AtomicUsize::new(0);
static COMPARED: AtomicUsize = AtomicUsize::new(0);

/// Runs `work` one instruction at a time; after each comes a SIGTRAP.
#[inline(always)]
pub fn stepping(work: impl FnOnce()) {
    STOP.store(false, Ordering::Relaxed);
    // SAFETY: sets the trap flag, and leaves the stack as it was.
    unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq") };
    work();
    STOP.store(true, Ordering::Relaxed);
    black_box(());
}

/// In a handler of SIGTRAP: the instruction it came before, the end of its walk, and the stack, in `words`. `None` after
/// the last one.
pub fn walk_of_step(context: *mut libc::c_void, words: &mut [u64; 256]) -> Option<(u64, End, &[u64])> {
    if STOP.load(Ordering::Relaxed) {
        let context = context.cast::<libc::ucontext_t>();
        // SAFETY: the context is the handler's own.
        unsafe { (*context).uc_mcontext.gregs[libc::REG_EFL as usize] &= !TRAP };
        return None;
    }
    // SAFETY: as above.
    let regs = unsafe { Regs::from_ucontext(context) };
    let mut sink = Frames::new(words);
    let end = unwind::walk(&regs, &stack_memory(0..0), &mut sink);
    Some((regs.pc, end, sink.finish()))
}

extern "C" fn step(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let mut words = [0; 256];
    let Some((pc, end, words)) = walk_of_step(context, &mut words) else { return };
    let number = STEPS.fetch_add(1, Ordering::Relaxed);
    let expected = EXPECTED.iter().map(|pc| pc.load(Ordering::Relaxed) as u64);
    let outer = words.len().checked_sub(OUTER).map(|start| &words[start..]);
    let complete = end == End::Root || end == End::Doubtful && MAY_DOUBT.load(Ordering::Relaxed);
    if !complete || !outer.is_some_and(|outer| outer.iter().copied().eq(expected)) {
        let missed = MISSED.fetch_add(1, Ordering::Relaxed);
        if let Some(example) = EXAMPLES.get(missed) {
            example.store(pc as usize, Ordering::Relaxed);
        }
    } else if number.is_multiple_of(97) && ASK.load(Ordering::Relaxed) {
        compare(words);
    }
}

/// Compares a stack with the oracle's, which also sees this handler's own frames.
fn compare(words: &[u64]) {
    let mut ips = [0; 300];
    let mut len = 0;
    // SAFETY: nothing else uses `backtrace` meanwhile.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            ips[len] = frame.ip() as u64;
            len += 1;
            len < 300
        })
    };
    let mut oracle = ips[..len].iter().rev().skip_while(|&&ip| ip <= 1);
    // The oracle gives up where there is no call-frame information at all: in the linkage stubs that some linkers make.
    let root = words[words.len() - 1] + 1;
    if oracle.clone().next() != Some(&root) {
        GAVE_UP.fetch_add(1, Ordering::Relaxed);
        return;
    }
    COMPARED.fetch_add(1, Ordering::Relaxed);
    if !words.iter().skip(1).rev().all(|pc| oracle.next() == Some(&(pc + 1))) {
        let different = DIFFERENT.fetch_add(1, Ordering::Relaxed);
        if let Some(example) = EXAMPLES.get(32 + different) {
            example.store(words[0] as usize, Ordering::Relaxed);
        }
    }
}

/// Runs `work` step by step; at least `permille` of a thousand steps must be right.
#[inline(never)]
pub fn step_through(name: &str, permille: usize, work: impl FnOnce()) {
    let (outer, end) = walk(&Regs::here(), &stack_memory(0..0));
    assert_eq!(end, End::Root);
    let outer = natives(&outer);
    for (expected, pc) in EXPECTED.iter().zip(&outer[outer.len() - OUTER..]) {
        expected.store(*pc as usize, Ordering::Relaxed);
    }
    for counter in [&STEPS, &MISSED, &DIFFERENT, &COMPARED, &GAVE_UP].into_iter().chain(&EXAMPLES) {
        counter.store(0, Ordering::Relaxed);
    }
    stepping(work);
    let [steps, missed, different, compared, gave_up] =
        [&STEPS, &MISSED, &DIFFERENT, &COMPARED, &GAVE_UP].map(|counter| counter.load(Ordering::Relaxed));
    eprintln!("{name}: {steps} steps, {missed} missed; {different} of {compared} different from the oracle");
    let asked = ASK.load(Ordering::Relaxed);
    assert!(
        !asked || gave_up * 20 <= compared && compared > 20,
        "{name}: the oracle gave up {gave_up} times"
    );
    let examples: Vec<u64> =
        EXAMPLES.iter().map(|pc| pc.load(Ordering::Relaxed) as u64 + 1).filter(|&pc| pc > 1).collect();
    if missed + different > 0 {
        eprintln!("{}", names(&examples));
    }
    assert!(steps > 1000, "{name}: the processor does not step");
    assert!(missed * 1000 <= steps * (1000 - permille), "{name}: {missed} of {steps} missed");
    assert!(different * 1000 <= compared * (1000 - permille), "{name}: {different} of {compared} different");
}
