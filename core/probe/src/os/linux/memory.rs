//! Reading this process's memory through the kernel, which answers "not mapped" where a load would fault.
//!
//! Two system calls do it: `process_vm_readv` on ourselves, and `pread` on `/proc/self/mem` where a sandbox forbids the
//! first. Called off the handler only: a call costs about a microsecond.
//!
//! Both go by the calling thread: the process's first one has no memory any more where it ended before the others.

use core::ffi::{CStr, c_void};

/// Copies from `address` into `into` and returns how many bytes were readable from there on.
pub(crate) fn copy(address: u64, into: &mut [u8]) -> usize {
    copy_as(super::gettid(), address, into)
}

/// The same where the caller knows the id of its thread, or of another one of the process that lives: to ask for it is a
/// tenth of a short copy.
pub(crate) fn copy_as(own: u32, address: u64, into: &mut [u8]) -> usize {
    let copied = read_through_process(own, address, into);
    if copied == 0 && !into.is_empty() { read_through_files(address, into) } else { copied }
}

fn read_through_process(own: u32, address: u64, into: &mut [u8]) -> usize {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote = libc::iovec { iov_base: address as *mut c_void, iov_len: into.len() };
    // SAFETY: `local` describes `into`, which is ours to write; the kernel checks the remote side itself.
    let copied = unsafe { libc::process_vm_readv(own as libc::pid_t, &local, 1, &remote, 1, 0) };
    usize::try_from(copied).unwrap_or(0)
}

/// So many pieces are copied in one call at most.
pub const PIECES: usize = 8;

/// Copies up to [`PIECES`] pieces, each from its address, until one is not readable as a whole, and returns how many bytes
/// it were. Where a sandbox forbids the call, none.
pub(crate) fn copy_all<'i>(own: u32, pieces: impl Iterator<Item = (u64, &'i mut [u8])>) -> usize {
    const NOTHING: libc::iovec = libc::iovec { iov_base: core::ptr::null_mut(), iov_len: 0 };
    let (mut local, mut remote) = ([NOTHING; PIECES], [NOTHING; PIECES]);
    let mut count = 0;
    for (((address, into), local), remote) in pieces.zip(&mut local).zip(&mut remote) {
        *remote = libc::iovec { iov_base: address as *mut c_void, iov_len: into.len() };
        *local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        count += 1;
    }
    if count == 0 {
        return 0;
    }
    let (local, remote, pid) = (local.as_ptr(), remote.as_ptr(), own as libc::pid_t);
    // SAFETY: each of the `count` local places describes a slice that is ours to write until this function returns; the
    // kernel checks the remote side itself.
    let copied = unsafe { libc::process_vm_readv(pid, local, count, remote, count, 0) };
    usize::try_from(copied).unwrap_or(0)
}

fn read_through_files(address: u64, into: &mut [u8]) -> usize {
    // Kernels before 3.17, and emulators, have the first one alone.
    match read_through_file(c"/proc/self/mem", address, into) {
        0 => read_through_file(c"/proc/thread-self/mem", address, into),
        copied => copied,
    }
}

fn read_through_file(path: &CStr, address: u64, into: &mut [u8]) -> usize {
    let Ok(offset) = libc::off_t::try_from(address) else { return 0 };
    // SAFETY: the path is a C string.
    let file = unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return 0;
    }
    // SAFETY: `into` is ours to write for its whole length; the kernel checks the other side itself.
    let copied = unsafe { libc::pread(file, into.as_mut_ptr().cast(), into.len(), offset) };
    // SAFETY: the descriptor was opened above and is not used again.
    unsafe { libc::close(file) };
    usize::try_from(copied).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{copy, copy_all, read_through_file, read_through_process};

    fn through_process(address: u64, into: &mut [u8]) -> usize {
        read_through_process(super::super::gettid(), address, into)
    }

    fn through_file(address: u64, into: &mut [u8]) -> usize {
        read_through_file(c"/proc/self/mem", address, into)
    }

    #[test]
    fn what_is_there_is_read_and_what_is_not_is_refused() {
        let source = *b"twelve bytes";
        let mut ways = 0;
        // A sandbox or an emulator may forbid either way, but not both.
        for read in [through_process, through_file] {
            let mut into = [0; 12];
            if read(source.as_ptr() as u64, &mut into) == 12 {
                assert_eq!(into, source);
                ways += 1;
            }
        }
        assert!(ways > 0);
        let mut into = [0; 12];
        assert_eq!(copy(source.as_ptr() as u64, &mut into), 12);
        assert_eq!(into, source);
        assert_eq!(copy(0, &mut into), 0);
        assert_eq!(copy(u64::MAX - 4, &mut into), 0);
    }

    #[test]
    fn pieces_are_read_up_to_the_first_that_is_not_there() {
        let source = *b"twelve bytes";
        let at = source.as_ptr() as u64;
        let own = super::super::gettid();
        let mut into = [0; 12];
        if read_through_process(own, at, &mut into) == 0 {
            return;
        }
        let mut pieces = [[0; 4]; 3];
        let read = copy_all(own, [at + 8, at, at + 4].into_iter().zip(pieces.iter_mut().map(|p| &mut p[..])));
        assert_eq!((read, &pieces), (12, &[*b"ytes", *b"twel", *b"ve b"]));
        let mut pieces = [[0; 4]; 3];
        let read = copy_all(own, [at, 0, at + 4].into_iter().zip(pieces.iter_mut().map(|p| &mut p[..])));
        assert_eq!((read, &pieces), (4, &[*b"twel", [0; 4], [0; 4]]));
        assert_eq!(copy_all(own, std::iter::empty()), 0);
    }
}
