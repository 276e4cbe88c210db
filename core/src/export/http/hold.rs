//! The hold that another thread has on a request which may hang for minutes: it lets go at once.

use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

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
    stream: Option<Arc<TcpStream>>,
}

impl Hold {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends everything: the connection at hand, the pause at hand, and those to come.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.is_over = true;
        if let Some(stream) = state.stream.take() {
            let _ = stream.shutdown(Shutdown::Both);
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

    /// The descriptor of the connection at hand, for a fork's child, where no other thread uses it. None where the parent's
    /// thread was just changing it.
    pub(crate) fn copy(&self) -> Option<i32> {
        self.0.state.try_lock().ok()?.stream.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Takes hold of a connection; the one before is done with. At the end, of none.
    pub(super) fn keep(&self, stream: &Arc<TcpStream>) -> bool {
        let mut state = self.lock();
        state.stream = (!state.is_over).then(|| stream.clone());
        !state.is_over
    }

    /// The connection at hand is done with.
    pub(super) fn release(&self) {
        self.lock().stream = None;
    }
}
