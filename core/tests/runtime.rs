//! The doors for runtimes, from the handler to the profile: a toy interpreter whose frames are merged with native ones
//! and named later, and one that samples itself.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use everprof::profile::{Kind, Label, Profile};
use everprof::recorder::{NamedFrame, RecordedSample, Recorder};
use everprof::symbolize::runtime::{self, FrameNames, RuntimeFrame, RuntimeLabel};
use everprof::{ErrorKind, Profiler};
use everprof_probe::memory::StackMemory;
use everprof_probe::regs::Regs;
use everprof_probe::unwind::{self, Cursor, FrameSource, Frames, Step};

use common::{directory, names, profiles, stop};

const KIND: u8 = 9;

/// The function that belongs to no native frame.
const OUTERMOST: u64 = 77;

/// No frame, but a word about the sample.
const SAID: u64 = 78;

/// The interpreter's stack of function numbers, innermost last; its own memory, as CPython's frames are.
static FRAMES: [AtomicU64; 16] = [const { AtomicU64::new(0) }; 16];
static DEPTH: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    // The linker's names for the ends of the section that `interpret` alone is in.
    #[link_name = "__start_toy_text"]
    static START: u8;
    #[link_name = "__stop_toy_text"]
    static STOP: u8;
}

/// "Interprets" function `number`: pushes its frame, and calls the next one through native code.
#[inline(never)]
// SAFETY: an ordinary function in a section of code of its own.
#[unsafe(link_section = "toy_text")]
fn interpret(number: u64, until: Instant) -> u64 {
    let depth = DEPTH.load(Ordering::Relaxed);
    FRAMES[depth as usize].store(number, Ordering::Relaxed);
    DEPTH.store(depth + 1, Ordering::Relaxed);
    let result = if number > 1 { native_helper(number - 1, until) } else { spin(until) };
    DEPTH.store(depth, Ordering::Relaxed);
    black_box(result)
}

#[inline(never)]
fn native_helper(number: u64, until: Instant) -> u64 {
    black_box(interpret(number, until)) + 1
}

#[inline(never)]
fn spin(until: Instant) -> u64 {
    let mut sum = 0;
    while Instant::now() < until {
        sum = (0..1000u64).fold(black_box(sum), |sum, n| sum ^ n.wrapping_mul(31));
    }
    sum
}

struct Interpreter;

// SAFETY: reads atomics and the program counter only.
unsafe impl FrameSource for Interpreter {
    fn owns(&self, pc: u64) -> bool {
        (&raw const START as u64..&raw const STOP as u64).contains(&pc)
    }

    fn begin(&self, _leaf: &Regs, cursor: &mut Cursor) {
        cursor[0] = DEPTH.load(Ordering::Relaxed);
    }

    fn step(&self, cursor: &mut Cursor, _: &mut Regs, _: &StackMemory, out: &mut Frames<'_>) -> Step {
        let Some(top) = cursor[0].checked_sub(1) else { return Step::Native };
        (cursor[0], cursor[1]) = (top, 1);
        out.push_runtime(KIND, FRAMES[top as usize & 15].load(Ordering::Relaxed), 7);
        Step::Hidden
    }

    fn end(&self, cursor: &mut Cursor, _: &StackMemory, out: &mut Frames<'_>) {
        // Of a thread that has met no frame of ours, nothing.
        if cursor[1] != 0 {
            out.push_runtime(KIND, OUTERMOST, 7);
            out.push_runtime(KIND, SAID, 1);
        }
    }
}

struct Names;

impl FrameNames for Names {
    fn name(&self, payload: u64, word: u64) -> Option<RuntimeFrame> {
        let (name, file) = (format!("script_function_{payload}"), "script.toy".to_string());
        Some(RuntimeFrame { name, file, line: word as u32, start_line: 1 })
    }

    fn label(&self, payload: u64, word: u64) -> Option<RuntimeLabel> {
        (payload == SAID).then_some(("vm", if word == 1 { "busy" } else { "idle" }))
    }
}

#[test]
fn native_frames_and_those_of_runtimes_are_one_stack() {
    assert!(unwind::set_source(KIND, &Interpreter));
    runtime::register(KIND, Arc::new(Names)).unwrap();
    let dir = directory("runtime");
    let profiler = Profiler::builder().dir(&dir).rate_hz(250).start().unwrap();
    let pauses = Recorder::of_pauses();
    assert!(!pauses.is_wanted(), "nobody asked for them");
    let error = everprof::record(Kind::Gc).map(drop).unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("kinds=cpu,gc"), "{error}");
    pauses.set_telling(true);
    let recording = everprof::record(Kind::Gc).unwrap();
    let recorded =
        [NamedFrame { name: "self_sampled".into(), file: "page.js".into(), line: 3, start_line: 1 }];
    let sample =
        RecordedSample { stack: &recorded, thread: "js", count: 2, nanos: 20_000_000, ..Default::default() };
    assert!(Recorder::new().record(&sample) && Recorder::new().record(&sample));
    assert!(pauses.record(&RecordedSample { count: 3, nanos: 5_000_000, ..sample.clone() }));
    let told = recording.finish().unwrap();
    assert_eq!((told.totals(), told.sample_types[1].name.as_str()), (vec![3, 5_000_000], "pause"));
    assert!(!pauses.is_wanted() && !pauses.record(&sample), "the recording is over");
    pauses.set_telling(false);
    interpret(3, Instant::now() + Duration::from_millis(800));
    stop(profiler);
    unwind::unset_source(KIND);
    assert!(!Recorder::new().record(&sample), "no profiler, no record");

    let profiles = profiles(&dir);
    let merged: Vec<_> =
        profiles.iter().flat_map(|profile| profile.samples().map(move |sample| (profile, sample))).collect();
    let stacks: Vec<Vec<&str>> =
        merged.iter().map(|(profile, sample)| names(profile, profile.get_stack(sample.stack))).collect();
    let wanted =
        ["script_function_1", "native_helper", "script_function_2", "native_helper", "script_function_3"];
    let complete = stacks.iter().filter(|stack| holds_in_order(stack, &wanted)).count();
    assert!(complete > 0, "{stacks:#?}");
    let ours = |stack: &&Vec<&str>| stack.contains(&"script_function_3");
    assert!(
        stacks.iter().filter(ours).all(|stack| stack.last() == Some(&"script_function_77")),
        "{stacks:#?}"
    );
    // The last word of the source's is a label, and no frame.
    let busy = Label::text("vm", "busy");
    for (stack, (profile, sample)) in stacks.iter().zip(&merged) {
        assert_eq!(ours(&stack), profile.get_labels(sample.labels).contains(&busy), "{stack:?}");
    }
    assert!(
        stacks.iter().all(|stack| !stack.iter().any(|name| name.ends_with("::interpret"))),
        "{stacks:#?}"
    );
    let js = Label::text("thread_name", "js");
    let own: Vec<i64> = merged
        .iter()
        .filter(|(profile, sample)| has(profile, profile.get_stack(sample.stack), "self_sampled"))
        .inspect(|(profile, sample)| assert!(profile.get_labels(sample.labels).contains(&js)))
        .flat_map(|(_, sample)| sample.values.to_vec())
        .collect();
    assert_eq!(own, [4, 40_000_000]);
    std::fs::remove_dir_all(&dir).unwrap();
}

fn has(profile: &Profile, stack: &[everprof::profile::LocationId], name: &str) -> bool {
    names(profile, stack).contains(&name)
}

/// Whether the stack holds these names in this order, leaf first, with others between them.
fn holds_in_order(stack: &[&str], wanted: &[&str]) -> bool {
    let mut rest = stack.iter();
    wanted.iter().all(|name| rest.any(|frame| frame.contains(name)))
}
