//! Zeroed memory straight from the kernel: this crate has no heap, and what a handler touches must not move.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicUsize};

/// An anonymous private mapping, zeroed, whose pages cost memory only once they are touched.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is owned by this value alone, like a `Box<[u8]>`.
unsafe impl Send for Pages {}
// SAFETY: as above; shared access goes through raw pointers whose users keep their own rules.
unsafe impl Sync for Pages {}

impl Pages {
    /// Maps `len` bytes (at least one page); `None` where the kernel refuses.
    pub fn new(len: usize) -> Option<Pages> {
        let len = len.max(1);
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe {
            libc::mmap(
                core::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return None;
        }
        Some(Pages { start: NonNull::new(start.cast())?, len })
    }

    /// First byte; aligned to a page.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Length in bytes, as asked for.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it is empty: never.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Makes the kernel give memory for the bytes of `range` now, so that no handler waits for it in a page fault, behind a
    /// lock of the whole address space. Only where nobody else uses the memory yet.
    pub fn touch(&self, range: core::ops::Range<usize>) {
        for offset in range.step_by(4096).filter(|offset| *offset < self.len) {
            // SAFETY: the byte lies in the mapping, and is zero as all are.
            unsafe { self.start.as_ptr().wrapping_add(offset).write_volatile(0) };
        }
    }

    /// Gives back what lies behind the first `len` bytes, by whole pages of 4 KiB. Where the kernel's pages are larger it
    /// may refuse: then everything stays.
    pub fn shrink(&mut self, len: usize) {
        let keep = len.max(1).next_multiple_of(4096);
        if keep >= self.len {
            return;
        }
        let tail = self.start.as_ptr().wrapping_add(keep);
        // SAFETY: the tail belongs to this mapping, and `&mut self` says that nobody looks at it.
        if unsafe { libc::munmap(tail.cast(), self.len - keep) } == 0 {
            self.len = keep;
        }
    }

    /// Gives up ownership: the mapping then lives as long as the process.
    pub fn leak(self) -> NonNull<u8> {
        let start = self.start;
        core::mem::forget(self);
        start
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: start and len are those of the mapping, which nobody else unmaps.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}
/// What may be done with the page of a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protection {
    Read,
    Write,
}

/// Says what may be done with the page that begins at `start`, which holds data of an object's; false where the kernel does not
/// let us.
pub(crate) fn protect(start: u64, protection: Protection) -> bool {
    let flags = match protection {
        Protection::Read => libc::PROT_READ,
        Protection::Write => libc::PROT_READ | libc::PROT_WRITE,
    };
    // SAFETY: a page of an object's data, of which nothing is taken away that anybody needs: what was read-only is so again.
    unsafe { libc::mprotect(start as *mut libc::c_void, page_size() as usize, flags) == 0 }
}

/// Whether `word` can be written to, which is asked without changing it: the kernel is to add nothing to it. `None` where it
/// does not say, as in a sandbox without that call. Changes `errno`.
pub(crate) fn is_writable(word: &AtomicUsize) -> Option<bool> {
    /// Nobody sleeps on it.
    static NOBODY: AtomicU32 = AtomicU32::new(0);
    let operation = libc::FUTEX_WAKE_OP | libc::FUTEX_PRIVATE_FLAG;
    let add_nothing = libc::FUTEX_OP_ADD << 28;
    // SAFETY: both words are live; where the second cannot be written to, the kernel says so.
    let woken = unsafe {
        libc::syscall(libc::SYS_futex, NOBODY.as_ptr(), operation, 0, 0, word.as_ptr(), add_nothing)
    };
    if woken < 0 { (super::errno() == libc::EFAULT).then_some(false) } else { Some(true) }
}

/// The size of a page in bytes.
pub(crate) fn page_size() -> u64 {
    // SAFETY: no preconditions.
    unsafe { libc::getauxval(libc::AT_PAGESZ) }.max(4096)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_what_can_be_written_to() {
        let page = Pages::new(page_size() as usize).unwrap().leak();
        let start = page.as_ptr() as u64;
        // SAFETY: the mapping is aligned, zeroed, and stays.
        let word = unsafe { &*page.as_ptr().cast::<AtomicUsize>() };
        assert_eq!(is_writable(word), Some(true));
        assert!(protect(start, Protection::Read));
        assert_eq!(is_writable(word), Some(false));
        assert!(protect(start, Protection::Write));
        assert_eq!(is_writable(word), Some(true));
    }
}
