//! What tasks of asynchronous code wait for: the stack at which a future registers to be woken, and for how long.
//!
//! While a task waits no thread does: it is memory, and the threads that run tasks look idle or busy with others. So a
//! wait is told where it begins and ends, around a poll. Some polls, chosen by the caller before it is known how they
//! end, are *watched*: the future gets a waker of ours on the poller's stack (`spy`). A future that has to wait clones
//! its waker to be woken by it, deep inside, at the socket, timer or channel that it waits for: there the calling thread's
//! stack is what the task waits in, leaf, combinators and `async fn`s. The clone that it gets is the real waker's, so
//! nothing of ours outlives the poll. From the poll that said [`Poll::Pending`] to the next one, or to the end of the
//! future, a cell (`cells`) holds the wait; our thread reads it, also while it goes on.
//!
//! [`watch`] and [`Wait::end`] run on the application's threads, on the way of any poll: they wait for nobody, allocate
//! nothing, and make no system call but for the clock. They are not for handlers, and a handler may interrupt them.

mod cells;
mod spy;

use core::task::{Context, Poll};

use cells::Claim;

use crate::sample::Trace;
pub use cells::{Begun, CELLS, STACKS, Wait, after_fork, each, forget_all, memory, prepare, taken};
pub use spy::cost;

/// How a future said that it has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Registered {
    /// It kept a clone of its waker: each stack is one where it did.
    Cloned = 0,
    /// It woke itself before it returned, so as to be polled again after others: it is ready, and waits for its turn.
    Woken = 1,
    /// Nowhere that could be seen: the stack is that of the poll.
    Nowhere = 2,
}

/// A poll that was watched and has said that it has to wait: not told yet.
#[derive(Debug)]
#[must_use = "dropped, the wait is not told"]
pub struct Watched {
    claim: Claim,
}

impl Watched {
    /// Begins the wait: from now until [`Wait::end`] is called, of which each nanosecond stands for `weight` of them, it
    /// belongs to this label set and this trace and span.
    pub fn begin(self, weight: u32, labels: u32, trace: Trace) -> Wait {
        self.claim.publish(weight, labels, trace)
    }
}

/// Polls by calling `poll` with a context that has a waker of ours in front of that of `context`; where it has to wait,
/// returns that as well. Where there is no room for it, `poll` gets `context` itself.
pub fn watch<T>(
    context: &mut Context<'_>,
    poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
) -> (Poll<T>, Option<Watched>) {
    let Some(claim) = cells::claim() else { return (poll(context), None) };
    let mut spy = spy::Spy::new(context.waker(), claim);
    let outcome = spy.poll(poll);
    let watched = outcome.is_pending().then(|| Watched { claim: spy.pending() });
    (outcome, watched)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod model;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
