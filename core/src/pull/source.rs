//! What the pull side asks the profiler for, so that it need not know it.

use std::sync::OnceLock;

use crate::error::Result;
use crate::profile::{Kind, Profile, Verdict};
use crate::stats::Stats;

/// The running profiler, as the pull side sees it.
pub(crate) trait Source: Send + Sync {
    /// Begins to record now; with `as_change`, levels are told as what becomes of them.
    fn record(&self, kind: Kind, as_change: bool) -> Result<Box<dyn Recorded>>;
    /// What there is now: the stacks of all threads, the live heap, what was allocated or waited for since that is counted.
    fn now(&self, kind: Kind) -> Result<Profile>;
    /// What is known of the process, for the index page.
    fn about(&self) -> About;
}

/// A recording under way; dropped, it is given up.
pub(crate) trait Recorded: Send {
    /// Ends now; waits for the names.
    fn finish(self: Box<Self>) -> Result<Profile>;
}

/// What the index page tells.
#[derive(Default)]
pub(crate) struct About {
    pub(crate) tags: Vec<(String, String)>,
    pub(crate) stats: Stats,
    pub(crate) verdict: Option<Verdict>,
    /// The kinds that are taken of periods now.
    pub(crate) kinds: Vec<Kind>,
    pub(crate) period_s: u64,
}

static SOURCE: OnceLock<&'static dyn Source> = OnceLock::new();

/// Makes `source` the one that is asked from now on. It outlives profilers that come and go.
pub(crate) fn install(source: &'static dyn Source) {
    let _ = SOURCE.set(source);
}

pub(super) fn source() -> Option<&'static dyn Source> {
    SOURCE.get().copied()
}
