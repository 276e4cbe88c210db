//! The sockets that lead to servers, all in one list: so that a fork's child can close its copies of them.
//!
//! A child's copy would keep a connection half open for as long as the child lives, long after the parent is done with it. So
//! sockets are made, and closed, with the list locked; a fork takes that lock, and in the child closes what is in the list.
//! Nothing that can wait is done with it held. Who shuts a connection from another thread does it with the list held as
//! well, since a number that is closed may be another file of the program's at once.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use everprof_probe::os::{Place, Socket};

/// All that are open.
#[derive(Debug)]
pub(crate) struct Sockets(Vec<Arc<Socket>>);

static OPEN: Mutex<Sockets> = Mutex::new(Sockets(Vec::new()));

fn open() -> MutexGuard<'static, Sockets> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The list, for a fork, to be held through it.
pub(crate) fn before_fork() -> MutexGuard<'static, Sockets> {
    open()
}

/// Closes this process's copies. In a fork's child, with the list that was held.
pub(crate) fn after_fork(mut sockets: MutexGuard<'static, Sockets>) {
    for socket in sockets.0.drain(..) {
        socket.close();
        // Whoever had it is a thread of the parent's, and gives nothing back here.
        std::mem::forget(socket);
    }
}

/// A socket in the list, for as long as this lives.
#[derive(Debug)]
pub(super) struct Line(Arc<Socket>);

/// What can end a [`Line`] from another thread, also when that is gone.
#[derive(Clone, Debug)]
pub(super) struct End(Arc<Socket>);

impl Line {
    /// One that fits the place, not connected yet.
    pub(super) fn new(place: &Place<'_>) -> io::Result<Self> {
        let mut open = open();
        let socket = Arc::new(Socket::new(place).map_err(io::Error::from_raw_os_error)?);
        open.0.push(socket.clone());
        Ok(Self(socket))
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.0
    }

    pub(super) fn end(&self) -> End {
        End(self.0.clone())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut open = open();
        open.0.retain(|socket| !Arc::ptr_eq(socket, &self.0));
        self.0.close();
    }
}

impl End {
    /// Ends it, whoever waits for it. One that is closed is none.
    pub(super) fn now(&self) {
        let _open = open();
        self.0.shut();
    }
}
