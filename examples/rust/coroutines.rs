//! Coroutines: their stacks are no thread's, so the profiler is told where each one is. Then a sample of a coroutine has
//! its callers, down to whoever resumed it; untold it would have its leaf only.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use corosensei::stack::{DefaultStack, Stack, StackPointer};
use corosensei::{Coroutine, CoroutineResult, Yielder};
use everprof::profile::Profile;
use everprof::store::{self, Query};
use everprof::{Profiler, StackRange};

/// A stack that the profiler knows for as long as it exists.
struct KnownStack {
    // Dropped first: the registration ends before the memory does.
    _registered: Option<StackRange>,
    stack: DefaultStack,
}

/// The page at the low end of the default stack, which nobody can read.
const GUARD: usize = 64 << 10;

impl KnownStack {
    fn new() -> std::io::Result<Self> {
        let stack = DefaultStack::new(1 << 20)?;
        let (low, high) = (stack.limit().get() + GUARD, stack.base().get());
        // SAFETY: without its guard page (4 to 64 KiB) the stack is readable, until it is dropped after the registration.
        let _registered = unsafe { StackRange::register(low..high) };
        Ok(Self { _registered, stack })
    }
}

// SAFETY: as the default stack, which it is.
unsafe impl Stack for KnownStack {
    fn base(&self) -> StackPointer {
        self.stack.base()
    }

    fn limit(&self) -> StackPointer {
        self.stack.limit()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = "target/examples/coroutines";
    let run = std::process::id().to_string();
    let profiler = Profiler::builder().dir(dir).tag("run", &run).start()?;

    let mut coroutine = Coroutine::with_stack(KnownStack::new()?, produce);
    let mut sum = 0;
    while let CoroutineResult::Yield(number) = coroutine.resume(()) {
        sum += number;
    }
    println!("the coroutine yielded {sum} in all");

    println!("{} samples have their leaf only", profiler.stats().incomplete_unknown_stack);
    profiler.stop()?;
    let profile = store::merge(&store::list(dir, &Query::default().tag("run", run))?)?.profile;
    let (inside, all) = (time_in(&profile, "produce"), time_in(&profile, ""));
    println!(
        "{} of {} ms are in the coroutine's function and what it called",
        inside / 1_000_000,
        all / 1_000_000
    );
    Ok(())
}

/// CPU nanoseconds of the stacks that hold a function of this name.
fn time_in(profile: &Profile, function: &str) -> i64 {
    let holds = |stack| {
        let lines = profile.get_stack(stack).iter().flat_map(|frame| &profile.get_location(*frame).lines);
        lines
            .into_iter()
            .any(|line| profile.text(profile.get_function(line.function).name).contains(function))
    };
    profile.samples().filter(|sample| holds(sample.stack)).map(|sample| sample.values[1]).sum()
}

/// The coroutine's function: works for a while between one number and the next.
#[inline(never)]
fn produce(yielder: &Yielder<(), u64>, (): ()) {
    for number in 0..50 {
        work(Duration::from_millis(10));
        yielder.suspend(number);
    }
}

#[inline(never)]
fn work(time: Duration) {
    let end = Instant::now() + time;
    let mut sum = 0u64;
    while Instant::now() < end {
        sum = std::hint::black_box((0..10_000u64).fold(sum, |sum, i| sum.wrapping_mul(31).wrapping_add(i)));
    }
}
