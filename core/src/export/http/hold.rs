//! The hold that another thread has on a request which may hang for minutes: it lets go at once.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::sockets::{End, Line};

/// Ends what a thread does with connections, and its pauses.
#[derive(Clone, Default)]
pub(crate) struct Hold(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_over: bool,
    /// The connection at hand.
    line: Option<End>,
}

impl Hold {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends everything: the connection at hand, the pause at hand, and those to come.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.is_over = true;
        if let Some(line) = state.line.take() {
            line.now();
        }
        self.0.changed.notify_all();
    }

    pub(crate) fn is_over(&self) -> bool {
        self.lock().is_over
    }

    /// Waits so long; false where the end came meanwhile.
    pub(crate) fn pause(&self, long: Duration) -> bool {
        let begin = Instant::now();
        let mut state = self.lock();
        while !state.is_over {
            let Some(left) = long.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) else {
                return true;
            };
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    /// Takes hold of a connection; the one before is done with. At the end, of none.
    pub(super) fn keep(&self, line: &Line) -> bool {
        let mut state = self.lock();
        state.line = (!state.is_over).then(|| line.end());
        !state.is_over
    }
}
