//! One closed period on its way to its names: everything the publisher needs, and nothing of the process any more. Where
//! recordings begin or end in a period, it comes in segments, of which each is one of these.

use std::collections::HashMap;
use std::sync::Arc;

use crate::aggregate::{Aggregate, Sums};
use crate::profile::Kind;
use crate::recorder::Recorded;
use crate::symbolize::Module;

/// The address space as it was while some of the samples were taken.
pub(super) type Epoch = Arc<[Module]>;

/// The sums of one period with what is needed to name them.
#[derive(Debug, Default)]
pub(super) struct Period {
    /// Nanoseconds since the Unix epoch.
    pub(super) time_nanos: i64,
    /// Length on the monotonic clock, nanoseconds.
    pub(super) duration_nanos: i64,
    /// Period of the timers in force at the end, nanoseconds.
    pub(super) sampling_period: u32,
    /// How many signals the sums came with.
    pub(super) signals: u64,
    /// Nanoseconds between two looks at threads that wait; 0 where there were none.
    pub(super) wall_period: u64,
    /// By the thread's number: nanoseconds that it was ready to run and had no processor.
    pub(super) ready: HashMap<u32, u64>,
    pub(super) sums: Aggregate,
    /// Ready-made samples of runtimes.
    pub(super) recorded: Recorded,
    /// Names by thread number: the name, and the id where it is wanted.
    pub(super) threads: Vec<(Arc<str>, Option<u32>)>,
    /// Address spaces by epoch number, counted from `first_epoch`.
    pub(super) epochs: Vec<Epoch>,
    pub(super) first_epoch: u32,
    /// By the thread's number: nanoseconds to be added to its samples, in proportion to what they stand for.
    pub(super) corrections: HashMap<u32, i64>,
    /// Nanoseconds that threads used which were never met, to be spread over the samples of discovered threads.
    pub(super) unmet: u64,
    /// CPU time without a stack.
    pub(super) stackless: Vec<Stackless>,
}

/// CPU time without a stack: a frame of the profile says why.
#[derive(Debug)]
pub(super) struct Stackless {
    /// The name of the frame.
    pub(super) reason: &'static str,
    /// The thread's number, where it is known.
    pub(super) thread: Option<u32>,
    pub(super) sums: Sums,
}

impl Period {
    /// Whether there is nothing to be told of it.
    pub(super) fn is_empty(&self) -> bool {
        self.has_no_cpu_time() && self.sums.waits().next().is_none() && self.recorded.is_empty()
    }

    /// The same for who tells nothing of waits.
    pub(super) fn has_no_cpu_time(&self) -> bool {
        self.sums.rows().next().is_none() && self.stackless.is_empty() && self.recorded.is_empty_of(Kind::Cpu)
    }

    /// All the nanoseconds that the profile of the period will tell.
    pub(super) fn nanos(&self) -> u64 {
        let samples: u64 = self.sums.rows().map(|(_, sums)| sums.nanos).sum();
        let stackless: u64 = self.stackless.iter().map(|part| part.sums.nanos).sum();
        let corrections: i64 = self.corrections.values().sum();
        (samples + stackless + self.unmet).saturating_add_signed(corrections)
    }

    /// The module that held `address` in an epoch.
    pub(super) fn module(&self, epoch: u32, address: u64) -> Option<&Module> {
        let modules = self.epochs.get(epoch.checked_sub(self.first_epoch)? as usize)?;
        // Not sorted: the main binary comes first. There are some dozens, and each address is looked up once.
        modules.iter().find(|module| module.contains(address))
    }
}
