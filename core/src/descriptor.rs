//! Files and sockets that are kept for longer than a moment, in a program that may close them behind our back.
//!
//! A daemon closes all descriptors that it did not open itself, and gives their numbers to files of its own. So each use of one
//! that was kept looks first whether it is ours still, and one that is not is given up without closing it, which would close
//! the program's. What is opened, used and closed at once does not need it.

use std::os::fd::{AsRawFd, IntoRawFd};

use everprof_probe::os::Identity;

/// One that is closed with its value, if it is ours by then.
#[derive(Debug)]
pub(crate) struct Kept<F: AsRawFd + IntoRawFd> {
    /// None only while this is dropped.
    file: Option<F>,
    identity: Option<Identity>,
}

impl<F: AsRawFd + IntoRawFd> Kept<F> {
    pub(crate) fn new(file: F) -> Self {
        let identity = Identity::of(file.as_raw_fd());
        Self { file: Some(file), identity }
    }

    /// None where the program has closed it.
    pub(crate) fn get(&self) -> Option<&F> {
        self.file.as_ref().filter(|file| self.identity.is_some_and(|own| own.is_of(file.as_raw_fd())))
    }

    /// The number; -1, which stands for no file, where the program has closed it.
    pub(crate) fn descriptor(&self) -> i32 {
        self.get().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Whether the program has closed it.
    pub(crate) fn is_lost(&self) -> bool {
        self.get().is_none()
    }
}

impl<F: AsRawFd + IntoRawFd> Drop for Kept<F> {
    fn drop(&mut self) {
        let is_lost = self.is_lost();
        if let Some(file) = self.file.take()
            && is_lost
        {
            // Without closing what may be another file by now.
            let _ = file.into_raw_fd();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_is_kept_is_closed_with_its_value() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let kept = Kept::new(near);
        assert!(!kept.is_lost() && kept.descriptor() == kept.get().unwrap().as_raw_fd());
        drop(kept);
        assert_eq!(far.read(&mut [0]).unwrap(), 0, "the end");
    }

    /// The number is that of another file, as far as can be told.
    #[test]
    fn what_is_another_file_by_now_is_not_touched() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut kept = Kept::new(near.try_clone().unwrap());
        kept.identity = Identity::of(far.as_raw_fd());
        assert!(kept.is_lost() && kept.descriptor() == -1);
        drop((kept, near));
        far.set_nonblocking(true).unwrap();
        let error = far.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "nobody has closed it");
    }
}
