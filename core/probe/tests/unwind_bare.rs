//! Code without call-frame information: assembly, and whole plugins. A stack through it is either complete, or says where
//! frames may be missing; and no frame is shown that is not there.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod unwinding;

use std::cell::RefCell;
use std::hint::black_box;
use std::ops::Range;

use everprof_probe::regs::Regs;
use everprof_probe::sample::Frame;
use everprof_probe::unwind::{self, End};
use unwinding::{Library, compile_c, natives, oracle, refresh, stack_memory, walk};

/// A plugin that calls back from a few functions down. They are volatile enough to stay frames of their own, and keep
/// rubbish on the stack that looks like what a careless unwinder is after.
const PLUGIN: &str = r#"
typedef void (*callback)(void);
__attribute__((noinline)) static int third(callback f, int n) {
    volatile unsigned long rubbish[20];
    for (int i = 0; i < 20; i++) rubbish[i] = (unsigned long)&third + i;
    f();
    return n + (int)rubbish[3];
}
__attribute__((noinline)) static int second(callback f, int n) {
    volatile char room[300];
    for (int i = 0; i < 300; i += 7) room[i] = (char)i;
    return third(f, n + room[7]) + room[14];
}
int run(callback f) { volatile int keep = 3; int made = second(f, keep); keep = made; return keep; }
int tail(callback f) { return second(f, 9); }
"#;

struct Looked {
    ours: Vec<Frame>,
    end: End,
    oracle: Vec<u64>,
}

thread_local! {
    static LOOKED: RefCell<Vec<Looked>> = const { RefCell::new(Vec::new()) };
}

#[inline(never)]
extern "C" fn look() {
    let (ours, end) = walk(&Regs::here(), &stack_memory(0..0));
    LOOKED.with_borrow_mut(|looked| looked.push(Looked { ours, end, oracle: oracle() }));
}

type Run = extern "C" fn(extern "C" fn()) -> i32;

/// The stack outside of the plugin, and those seen from inside.
#[inline(never)]
fn through(run: Run) -> (Vec<u64>, Vec<Looked>) {
    // The frames of this function's callers, which every stack from inside must end with.
    let (outside, end) = walk(&Regs::here(), &stack_memory(0..0));
    assert_eq!(end, End::Root);
    black_box(run(look));
    (natives(&outside).split_off(1), LOOKED.take())
}

fn text_of(library: &Library) -> Range<u64> {
    let run = library.function(c"run") as u64;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let range = |line: &str| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
    };
    maps.lines().filter_map(range).find(|range| range.contains(&run)).unwrap()
}

/// Fails where a stack claims to be complete and is not, or shows a frame that is not there. Says whether it is complete.
fn check(looked: &Looked, outside: &[u64], plugin: &Range<u64>) -> bool {
    let gap = looked.ours.iter().position(|frame| matches!(frame, Frame::Missing(_)));
    let all = natives(&looked.ours);
    match looked.end {
        End::Root => {
            assert_eq!(gap, None);
            assert!(all.ends_with(outside), "{all:x?} {outside:x?}");
            unwinding::assert_same_callers(&looked.ours, &looked.oracle);
        }
        End::Doubtful => {
            assert!(gap.is_some());
            assert!(all.len() > 2 && outside.ends_with(&all[all.len() - 3..]), "{all:x?} {outside:x?}");
        }
        End::Lost => assert_eq!(looked.ours.last(), Some(&Frame::Missing(0))),
        End::Truncated => panic!("{:?}", looked.ours),
    }
    // What is neither the leaf, nor in the plugin, nor the caller that enters it, is a frame from outside, in its order.
    let mut left = outside.iter();
    let inside = |pc: &u64| plugin.contains(pc);
    let entered = all.iter().rposition(inside);
    for (index, pc) in all.iter().enumerate().skip(1).filter(|(_, pc)| !inside(pc)) {
        let enters = entered.is_some_and(|entered| index == entered + 1);
        assert!(enters || left.any(|outer| outer == pc), "{pc:x} is no caller: {all:x?} {outside:x?}");
    }
    looked.end == End::Root
}

#[test]
fn a_plugin_is_complete_or_marked() {
    refresh();
    let bare = ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-exceptions"];
    let omitted = ["-fomit-frame-pointer"];
    let kept = ["-fno-omit-frame-pointer", "-mno-omit-leaf-frame-pointer"];
    let mut cases: Vec<(&str, Vec<&str>, bool)> = vec![
        ("with", vec![], true),
        ("with_o0", vec!["-O0"], true),
        ("bare_omitted", [&bare[..], &omitted].concat(), false),
        ("bare_kept", [&bare[..], &kept].concat(), false),
        ("bare_o0", [&bare[..], &["-O0"]].concat(), false),
        ("no_tail", vec!["-fno-optimize-sibling-calls", "-fno-plt"], true),
    ];
    if cfg!(target_arch = "x86_64") {
        cases.push(("cet", vec!["-fcf-protection=full", "-mshstk"], true));
        cases.push(("no_red_zone", vec!["-mno-red-zone"], true));
        cases.push(("realigned", vec!["-mstackrealign", "-mforce-drap"], true));
    } else {
        cases.push(("signed", vec!["-mbranch-protection=standard"], true));
        cases.push((
            "signed_leaves",
            vec!["-mbranch-protection=pac-ret+leaf+b-key+bti", "-march=armv8.5-a"],
            true,
        ));
        cases.push(("outline_atomics", vec!["-moutline-atomics"], true));
        cases.push(("records_omitted", vec!["-fomit-frame-pointer"], true));
        cases.push(("bare_signed", [&bare[..], &kept, &["-mbranch-protection=standard"]].concat(), false));
    }
    for (name, flags, complete) in cases {
        let Some(compiled) = compile_c(name, PLUGIN, &flags) else { return };
        let library = compiled.open();
        // Another library may have been at this place before.
        let generation = unwind::generation();
        while unwind::generation() == generation {
            unwind::refresh();
            std::thread::yield_now();
        }
        let plugin = text_of(&library);
        for entry in [c"run", c"tail"] {
            // SAFETY: that is its type in the source above.
            let run: Run = unsafe { std::mem::transmute(library.function(entry)) };
            let (outside, looked) = through(run);
            assert_eq!(looked.len(), 1);
            let found = check(&looked[0], &outside, &plugin);
            eprintln!("{name}: {:?}, {} frames", looked[0].end, looked[0].ours.len());
            assert_eq!(found, complete, "{name}: {:?}", looked[0].end);
        }
        library.close();
    }
}

// A leaf without information that is called directly, by a pointer, and through a chain of others.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".balign 16",
    ".globl everprof_test_bare_leaf",
    "everprof_test_bare_leaf:",
    "xor eax, eax",
    "2:",
    "add rax, rdi",
    "dec rdi",
    "jnz 2b",
    "ret",
    ".balign 16",
    ".globl everprof_test_bare_pushes",
    "everprof_test_bare_pushes:",
    "push rbx",
    "push r12",
    "sub rsp, 72",
    "mov rbx, rdi",
    "lea r12, [rip + everprof_test_bare_leaf]",
    "mov [rsp], r12",
    "mov [rsp + 8], r12",
    "call everprof_test_bare_leaf",
    "mov rdi, rbx",
    "call r12",
    "add rsp, 72",
    "pop r12",
    "pop rbx",
    "ret",
    ".balign 16",
    ".globl everprof_test_naked_jump",
    "everprof_test_naked_jump:",
    "jmp everprof_test_bare_leaf",
);

#[cfg(target_arch = "x86_64")]
mod steps {
    //! Every instruction of bare assembly, one by one.
    use std::sync::atomic::{AtomicUsize, Ordering};

    use everprof_probe::sample::frames;

    use super::{Frame, Regs, black_box, natives, refresh, stack_memory, walk};
    use crate::unwinding::install_with;
    use crate::unwinding::step::{stepping, walk_of_step};

    unsafe extern "C" {
        fn everprof_test_bare_leaf(rounds: u64) -> u64;
        fn everprof_test_bare_pushes(rounds: u64) -> u64;
        fn everprof_test_naked_jump(rounds: u64) -> u64;
    }

    static STEPS: AtomicUsize = AtomicUsize::new(0);
    static COMPLETE: AtomicUsize = AtomicUsize::new(0);
    static MARKED: AtomicUsize = AtomicUsize::new(0);
    static WRONG: AtomicUsize = AtomicUsize::new(0);
    static WRONG_AT: AtomicUsize = AtomicUsize::new(0);
    static OUTSIDE: [AtomicUsize; 64] = [const { AtomicUsize::new(0) }; 64];

    extern "C" fn step(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let mut words = [0; 256];
        let Some((pc, end, words)) = walk_of_step(context, &mut words) else { return };
        STEPS.fetch_add(1, Ordering::Relaxed);
        let outside = || OUTSIDE.iter().map(|pc| pc.load(Ordering::Relaxed) as u64).take_while(|&pc| pc != 0);
        let native = |frame| if let Frame::Native(pc) = frame { Some(pc) } else { None };
        let len = frames(words).filter_map(native).count();
        // After the leaf, its callers here and the one that calls all this, frames are those outside, to the last.
        let ends_right = |count: usize| {
            let ours = frames(words).filter_map(native).skip(len.saturating_sub(count));
            ours.eq(outside().skip(outside().count() - count))
        };
        let count = outside().count();
        match end {
            End::Root if len > count && len <= count + 4 && ends_right(count) => &COMPLETE,
            End::Doubtful | End::Lost if len <= 4 || ends_right(3) => &MARKED,
            _ => {
                WRONG_AT.store(pc as usize, Ordering::Relaxed);
                &WRONG
            }
        }
        .fetch_add(1, Ordering::Relaxed);
    }

    use super::End;

    #[inline(never)]
    fn step_through(work: unsafe extern "C" fn(u64) -> u64) -> (usize, usize, usize) {
        let (outside, end) = walk(&Regs::here(), &stack_memory(0..0));
        assert_eq!(end, End::Root);
        for (place, pc) in OUTSIDE.iter().zip(natives(&outside).into_iter().skip(1).chain([0])) {
            place.store(pc as usize, Ordering::Relaxed);
        }
        for counter in [&STEPS, &COMPLETE, &MARKED, &WRONG] {
            counter.store(0, Ordering::Relaxed);
        }
        // SAFETY: the function takes a number and returns one.
        stepping(|| _ = black_box(unsafe { work(black_box(20)) }));
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        eprintln!(
            "{} steps, {} complete, {} marked, {} wrong, at {:#x}",
            count(&STEPS),
            count(&COMPLETE),
            count(&MARKED),
            count(&WRONG),
            count(&WRONG_AT)
        );
        assert_eq!(count(&WRONG), 0);
        (count(&STEPS), count(&COMPLETE), count(&MARKED))
    }

    #[test]
    fn assembly_is_complete_or_marked_at_every_instruction() {
        refresh();
        install_with(libc::SIGTRAP, step, 0);
        let (steps, complete, _) = step_through(everprof_test_bare_leaf);
        // Where it has no frame of its own, whoever called it is found.
        assert!(steps > 50 && complete == steps, "{complete} of {steps}");
        let (steps, complete, _) = step_through(everprof_test_naked_jump);
        assert!(steps > 50 && complete == steps, "{complete} of {steps}");
        let (_, _, marked) = step_through(everprof_test_bare_pushes);
        assert!(marked > 50);
    }
}
