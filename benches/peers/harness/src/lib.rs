//! What all profilers are put through, each in a process of its own.
//!
//! A profiler's binary implements [`Peer`] and calls [`run`], which does the one measure that the command line names
//! and prints a line `metric <tab> unit <tab> value` for each figure. The program `compare` runs the binaries in turn.

mod allocations;
mod clock;
mod handler;
mod labels;
mod load;
mod memory;
mod overhead;
mod stacks;
mod threads;
mod totals;
mod upload;
mod waits;
mod wall;

use std::time::Duration;

pub use allocations::{Allocations, INTERVAL, run_allocations, run_mallocs};
pub use clock::{process_cpu, thread_cpu};
pub use waits::{Locked, measure_lock, measure_wait};

/// A profiler that can be measured.
pub trait Peer: Sized {
    /// Starts it at that rate.
    fn start(rate_hz: u32) -> Self;

    /// Starts it with samples of the wall clock of every thread at that rate; `None` where there is no such thing.
    fn start_wall(_rate_hz: u32) -> Option<Self> {
        None
    }

    /// Starts it at that rate, pushing to a server of Pyroscope's API; `None` where there is no such thing.
    fn start_pushing(_url: &str, _rate_hz: u32) -> Option<Self> {
        None
    }

    /// Waits until the calling thread is sampled, and says what signal the profiler takes for that of its timer; `None`
    /// where any will do.
    fn ready(&self) -> Option<libc::siginfo_t> {
        None
    }

    /// CPU time that the profiler says it has used, and that of the whole process at the same moment.
    fn own_cpu(&self) -> Option<(Duration, Duration)> {
        None
    }

    /// Sets a label, or a tag, on the calling thread and takes it back, so many times. False where there is no such
    /// thing.
    fn label(&self, _times: u32) -> bool {
        false
    }

    /// Takes a snapshot of all threads, with names: how many there were, and the CPU time that it took without the names.
    /// `None` where there is no such thing.
    fn snapshot(&mut self) -> Option<(usize, Duration)> {
        None
    }

    /// What a profile is handed over as.
    type Report;

    /// Makes a profile of what was sampled, with names, as a program would to send or to write it.
    fn report(&mut self) -> Self::Report;

    /// Ends, and tells what was sampled.
    fn stacks(self) -> Vec<Stack>;
}

/// One stack of a profile.
#[derive(Debug, Default)]
pub struct Stack {
    /// Addresses, the leaf first; of callers the return address minus one. Empty where they are not to be had.
    pub addresses: Vec<u64>,
    /// Functions, the leaf first; empty where they are not needed.
    pub names: Vec<String>,
    /// CPU time it stands for.
    pub nanos: u64,
    /// Name of its thread.
    pub thread: String,
    /// Kernel id of its thread, where it is known.
    pub tid: Option<u32>,
}

/// The whole of a profiler's `main`.
pub fn run<P: Peer>() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(0);
    let word = |at: usize| arguments.get(at).map_or("", String::as_str);
    match word(0) {
        "warm" => handler::warm::<P>(number(1)),
        "timer" => handler::timer::<P>(number(1), 256 << 10),
        "cold" => handler::timer::<P>(number(1), 32 << 20),
        "overhead" => overhead::measure::<P>(number(1) as u32),
        "totals" => totals::measure::<P>(word(1), number(2), number(3) as u32),
        "stacks" => stacks::measure::<P>(word(1)),
        "wall" => wall::measure::<P>(number(1), number(2) as u32),
        "threads" => threads::measure::<P>(number(1)),
        "memory" => memory::measure::<P>(number(1)),
        "labels" => labels::measure::<P>(),
        "upload" => upload::measure::<P>(number(1), number(2)),
        other => panic!("no measure named {other:?}"),
    }
}

/// Whether this run will ask for the stacks: a profiler that only sends them away has to keep them then.
pub fn wants_stacks() -> bool {
    matches!(std::env::args().nth(1).as_deref(), Some("totals" | "stacks"))
}

/// Prints one figure.
fn say(metric: &str, unit: &str, value: f64) {
    println!("{metric}\t{unit}\t{value}");
}

/// The value below which that share of the sorted values lies.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}
