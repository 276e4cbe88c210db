//! pprof-rs, as its README says; the package decides on the unwinder.

use harness::{Peer, Stack};
use pprof::{ProfilerGuard, ProfilerGuardBuilder};

/// Its types of frames differ with the unwinder, and have no common name outside of it.
#[cfg(feature = "libgcc")]
macro_rules! address {
    ($frame:expr) => {
        $frame.ip()
    };
}
#[cfg(not(feature = "libgcc"))]
macro_rules! address {
    ($frame:expr) => {
        $frame.ip
    };
}

struct Pprof {
    guard: ProfilerGuard<'static>,
    rate_hz: u32,
}

impl Peer for Pprof {
    fn start(rate_hz: u32) -> Self {
        let guard = ProfilerGuardBuilder::default().frequency(rate_hz as i32).build().expect("it starts");
        Self { guard, rate_hz }
    }

    type Report = pprof::Report;

    fn report(&mut self) -> pprof::Report {
        self.guard.report().build().expect("a report")
    }

    fn stacks(self) -> Vec<Stack> {
        let report = self.guard.report().build_unresolved().expect("a report");
        let stacks = report.data.iter().map(|(stack, count)| Stack {
            addresses: stack.frames.iter().map(|frame| (address!(frame) as u64).wrapping_sub(1)).collect(),
            // The one weight that it knows: a sample is a period.
            nanos: *count as u64 * 1_000_000_000 / u64::from(self.rate_hz),
            thread: String::from_utf8_lossy(&stack.thread_name[..stack.thread_name_length]).into_owned(),
            ..Stack::default()
        });
        stacks.collect()
    }
}

fn main() {
    harness::run::<Pprof>();
}
