//! Which open file a descriptor stands for. Off the handler.
//!
//! A daemon closes all descriptors that it did not open, ours among them, and the next file that it opens gets such a number.
//! So what is kept for longer than a call is looked at before each use, and neither used nor closed where it is another's. A
//! program that does so between our look and our use is not met; the two are as close together as two calls can be.

use core::mem::MaybeUninit;

/// An open file, as far as one can be told from others while both are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// That of an open descriptor; none where it is closed. All files without a place of their own (perf events, timers,
    /// `epoll`) have the same one.
    pub fn of(descriptor: i32) -> Option<Self> {
        let mut found = MaybeUninit::<libc::stat>::zeroed();
        // SAFETY: the kernel writes one `stat` at the most, for which there is room.
        if unsafe { libc::fstat(descriptor, found.as_mut_ptr()) } != 0 {
            return None;
        }
        // SAFETY: it was initialised with zeros, and its fields are numbers.
        let found = unsafe { found.assume_init() };
        Some(Self { device: found.st_dev, inode: found.st_ino })
    }

    /// Whether the descriptor stands for that file still.
    pub fn is_of(self, descriptor: i32) -> bool {
        Self::of(descriptor) == Some(self)
    }
}
