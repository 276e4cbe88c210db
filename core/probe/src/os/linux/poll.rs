//! Waiting for several descriptors at once. Off the handler.

/// A descriptor that is waited for, and after the wait what there is to do with it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Watched(libc::pollfd);

/// What is waited for. That the other end broke off is told in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// Bytes, or their end.
    Read,
    /// Room for bytes.
    Write,
    /// That the other end will send nothing any more.
    End,
    /// Nothing else.
    Break,
}

/// How long to sleep where nothing can be waited for.
const REFUSED_MILLIS: i32 = 50;

impl Watched {
    /// Descriptor `fd`.
    pub const fn new(fd: i32, awaited: Awaited) -> Self {
        let events = match awaited {
            Awaited::Read => libc::POLLIN,
            Awaited::Write => libc::POLLOUT,
            Awaited::End => libc::POLLRDHUP,
            Awaited::Break => 0,
        };
        Self(libc::pollfd { fd, events, revents: 0 })
    }

    /// Whether what was awaited is there, or something went wrong.
    pub const fn is_ready(&self) -> bool {
        self.0.revents != 0
    }
}

/// Waits until one of the descriptors is ready, a signal comes, or `millis` are over; whoever calls looks for himself.
///
/// Where the kernel refuses to look, none is ready after a short sleep: a process may forbid itself descriptors
/// (`RLIMIT_NOFILE` below their count), and whoever calls this in a loop must not run in circles then.
pub fn poll(watched: &mut [Watched], millis: u32) {
    let millis = i32::try_from(millis).unwrap_or(i32::MAX);
    // SAFETY: the structures are live, `Watched` is laid out as one, and the kernel writes to nothing else of them than
    // what it found. A number that is no descriptor, or no longer the same one, is only looked at.
    let found = unsafe { libc::poll(watched.as_mut_ptr().cast(), watched.len() as libc::nfds_t, millis) };
    if found < 0 && super::errno() != libc::EINTR {
        // SAFETY: no structure is read.
        unsafe { libc::poll(core::ptr::null_mut(), 0, millis.min(REFUSED_MILLIS)) };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::Shutdown;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_can_be_done_is_told() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let ready = |awaited, millis| {
            let mut watched = [Watched::new(far.as_raw_fd(), awaited)];
            poll(&mut watched, millis);
            watched[0].is_ready()
        };
        assert!(ready(Awaited::Write, 10_000) && !ready(Awaited::Read, 0) && !ready(Awaited::End, 0));
        near.write_all(b"x").unwrap();
        assert!(ready(Awaited::Read, 10_000) && !ready(Awaited::End, 0));
        near.shutdown(Shutdown::Write).unwrap();
        assert!(ready(Awaited::End, 10_000) && !ready(Awaited::Break, 0));
        drop(near);
        assert!(ready(Awaited::Break, 10_000));
    }
}
