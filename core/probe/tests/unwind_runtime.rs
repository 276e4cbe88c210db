//! The door for runtimes: a toy interpreter that keeps its frames on the heap, and toy code made at run time, with frame
//! pointers and without. Their frames and the native ones come out as one stack, in the order of the calls.
#![allow(clippy::unwrap_used, clippy::panic, clippy::multiple_unsafe_ops_per_block)]

mod unwinding;

use std::hint::black_box;
use std::ops::Range;

use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use everprof_probe::memory::StackMemory;
use everprof_probe::regs::Regs;
use everprof_probe::sample::Frame;
use everprof_probe::unwind::{Cursor, End, FrameSource, Frames, Step, set_source, unset_source};
use unwinding::{refresh, stack_memory, walk};

const INTERPRETER: u8 = 7;
const COMPILER: u8 = 8;

/// A frame of the interpreted program.
struct ProgramFrame {
    function: u64,
    line: u64,
    caller: *const ProgramFrame,
    /// The frame that the native function was entered with.
    entry: bool,
}

/// The interpreter's thread state: the frame that runs.
static CURRENT: AtomicPtr<ProgramFrame> = AtomicPtr::new(std::ptr::null_mut());

/// Runs functions `first..first + count`, each called by the one before without a native call, and calls `native` from
/// the last. In a section of its own, so that its bounds are known.
#[inline(never)]
#[unsafe(link_section = "interpreter")]
fn interpret(first: u64, count: u64, native: &dyn Fn()) {
    let outer = CURRENT.load(Ordering::Relaxed);
    let mut frames = Vec::new();
    let mut caller = outer.cast_const();
    for function in first..first + count {
        let frame =
            Box::new(ProgramFrame { function, line: function * 10, caller, entry: function == first });
        caller = &raw const *frame;
        frames.push(frame);
    }
    CURRENT.store(caller.cast_mut(), Ordering::Relaxed);
    native();
    CURRENT.store(outer, Ordering::Relaxed);
    black_box(frames);
}

fn interpreter() -> Range<u64> {
    unsafe extern "C" {
        static __start_interpreter: u8;
        static __stop_interpreter: u8;
    }
    (&raw const __start_interpreter) as u64..(&raw const __stop_interpreter) as u64
}

struct Interpreter;

// SAFETY: reads only frames of the interpreting thread, which is the one that is walked.
unsafe impl FrameSource for Interpreter {
    fn owns(&self, pc: u64) -> bool {
        interpreter().contains(&pc)
    }

    fn begin(&self, _leaf: &Regs, cursor: &mut Cursor) {
        cursor[0] = CURRENT.load(Ordering::Relaxed) as u64;
    }

    fn step(&self, cursor: &mut Cursor, _: &mut Regs, _: &StackMemory, out: &mut Frames<'_>) -> Step {
        while cursor[0] != 0 {
            // SAFETY: the frame is linked, so its box is alive.
            let frame = unsafe { &*(cursor[0] as *const ProgramFrame) };
            out.push_runtime(INTERPRETER, frame.function, frame.line);
            cursor[0] = frame.caller as u64;
            if frame.entry {
                break;
            }
        }
        Step::Hidden
    }
}

/// Code that calls its first argument, with a frame pointer: `push`, `mov`, `call`, `pop`, `ret` and their like.
#[cfg(target_arch = "x86_64")]
const WITH: &[u8] = &[0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3];
#[cfg(target_arch = "aarch64")]
const WITH: &[u32] = &[0xa9bf_7bfd, 0x9100_03fd, 0xd63f_0000, 0xa8c1_7bfd, 0xd65f_03c0];

/// The same without one: a frame of `FRAME` bytes, with the return address at `RETURN`.
#[cfg(target_arch = "x86_64")]
const WITHOUT: &[u8] = &[0x48, 0x83, 0xec, 0x18, 0xff, 0xd7, 0x48, 0x83, 0xc4, 0x18, 0xc3];
#[cfg(target_arch = "x86_64")]
const FRAME: (u64, u64) = (0x20, 0x18);
#[cfg(target_arch = "aarch64")]
const WITHOUT: &[u32] = &[0xd100_83ff, 0xf900_07fe, 0xd63f_0000, 0xf940_07fe, 0x9100_83ff, 0xd65f_03c0];
#[cfg(target_arch = "aarch64")]
const FRAME: (u64, u64) = (0x20, 0x08);

type Code = extern "C" fn(extern "C" fn());

fn compile<T>(code: &[T]) -> Code {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping that holds the code and is made executable before it is called.
    unsafe {
        let page = libc::mmap(
            std::ptr::null_mut(),
            4096,
            protection,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        );
        assert_ne!(page, libc::MAP_FAILED);
        std::ptr::copy_nonoverlapping(code.as_ptr(), page.cast(), code.len());
        assert_eq!(libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_EXEC), 0);
        std::mem::transmute(page)
    }
}

/// Where the code without frame pointers is.
static COMPILED: AtomicU64 = AtomicU64::new(1);

struct Compiler;

// SAFETY: reads only what `stack` vouches for.
unsafe impl FrameSource for Compiler {
    fn owns(&self, pc: u64) -> bool {
        pc & !0xfff == COMPILED.load(Ordering::Relaxed)
    }

    fn step(&self, _: &mut Cursor, regs: &mut Regs, stack: &StackMemory, out: &mut Frames<'_>) -> Step {
        let (size, at) = FRAME;
        let Some(pc) = stack.read(regs.sp + at) else { return Step::End };
        out.push_runtime(COMPILER, regs.pc & 0xfff, 1);
        (regs.pc, regs.sp) = (pc, regs.sp + size);
        Step::Moved
    }
}

thread_local! {
    static SEEN: std::cell::RefCell<(Vec<Frame>, Option<End>)> = const { std::cell::RefCell::new((Vec::new(), None)) };
}

extern "C" fn look() {
    let (stack, end) = walk(&Regs::here(), &stack_memory(0..0));
    SEEN.set((stack, Some(end)));
}

/// Native code between two entries of the interpreter: through libc.
extern "C" fn reenter() {
    extern "C" fn compare(left: *const libc::c_void, right: *const libc::c_void) -> i32 {
        if SEEN.with_borrow(|seen| seen.1.is_none()) {
            interpret(20, 2, &|| look());
        }
        // SAFETY: qsort passes pointers into the array.
        unsafe { *left.cast::<i32>() - *right.cast::<i32>() }
    }
    let mut numbers = [3, 1, 2];
    // SAFETY: the array has three numbers.
    unsafe { libc::qsort(numbers.as_mut_ptr().cast(), 3, 4, Some(compare)) };
}

/// Program 10, 11, 12; code made at run time; libc; program 20, 21; the walk.
fn run(code: Code) -> (Vec<Frame>, End) {
    SEEN.take();
    interpret(10, 3, &|| code(black_box(reenter)));
    assert!(CURRENT.load(Ordering::Relaxed).is_null());
    let (stack, end) = SEEN.take();
    (stack, end.unwrap())
}

fn runtime_frames(stack: &[Frame]) -> Vec<(u8, u64)> {
    let frame = |frame: &Frame| {
        if let Frame::Runtime(kind, payload, _) = frame { Some((*kind, *payload)) } else { None }
    };
    stack.iter().filter_map(frame).collect()
}

#[test]
fn native_and_runtime_frames_come_out_as_one_stack() {
    refresh();
    let (with, without) = (compile(WITH), compile(WITHOUT));
    let native_interpreter = |stack: &[Frame]| {
        stack.iter().filter(|frame| matches!(frame, Frame::Native(pc) if interpreter().contains(pc))).count()
    };
    let compiled = |stack: &[Frame], code: Code| {
        stack
            .iter()
            .filter(|frame| matches!(frame, Frame::Native(pc) if pc & !0xfff == code as usize as u64))
            .count()
    };

    // No source: native frames alone, through code that has frame pointers.
    let (plain, end) = run(with);
    assert_eq!(end, End::Root);
    assert_eq!((runtime_frames(&plain).len(), native_interpreter(&plain), compiled(&plain, with)), (0, 2, 1));

    // The interpreter's source: its two entries become their frames, and the native ones are hidden.
    assert!(set_source(INTERPRETER, &Interpreter));
    let (merged, end) = run(with);
    assert_eq!(end, End::Root);
    let (program, compiler) = (|function| (INTERPRETER, function), |at| (COMPILER, at));
    assert_eq!(runtime_frames(&merged), [21, 20, 12, 11, 10].map(program));
    assert_eq!((native_interpreter(&merged), compiled(&merged, with)), (0, 1));
    assert_eq!(merged.len(), plain.len() - 2 + 5);
    assert!(merged.contains(&Frame::Runtime(INTERPRETER, 11, 110)));
    let between = |from: u64, to: u64| {
        let at = |function| {
            merged
                .iter()
                .position(|frame| matches!(frame, Frame::Runtime(_, f, _) if *f == function))
                .unwrap()
        };
        at(to) - at(from) - 1
    };
    // Between the entries lie the closure, the code made at run time, and libc.
    assert!(between(20, 12) >= 4, "{merged:x?}");
    assert_eq!((between(21, 20), between(12, 11), between(11, 10)), (0, 0, 0));

    // Code without frame pointers needs a source of its own; two work side by side.
    COMPILED.store(without as usize as u64, Ordering::Relaxed);
    assert!(set_source(COMPILER, &Compiler));
    let (both, end) = run(without);
    assert_eq!(end, End::Root);
    let call = runtime_frames(&both)[2].1;
    let expected = [program(21), program(20), compiler(call), program(12), program(11), program(10)];
    assert_eq!(runtime_frames(&both), expected);
    assert_eq!((both.len(), compiled(&both, without)), (merged.len(), 0));

    // Unset, they are asked no more; a source returns to its place.
    unset_source(INTERPRETER);
    unset_source(COMPILER);
    let (again, end) = run(with);
    assert_eq!((end, again.len(), runtime_frames(&again).len()), (End::Root, plain.len(), 0));
    for _ in 0..10 {
        assert!(set_source(INTERPRETER, &Interpreter));
        unset_source(INTERPRETER);
    }
    assert!(!set_source(0, &Interpreter) && !set_source(128, &Interpreter));
}
