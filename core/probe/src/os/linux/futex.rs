//! A word that one thread sleeps on and others wake it by, without a lock.

use core::sync::atomic::AtomicU32;

/// Sleeps while `word` is `expected`, until [`wake`], a signal, or `nanos` are over; whoever calls looks for himself.
pub fn wait(word: &AtomicU32, expected: u32, nanos: u64) {
    let time = libc::timespec { tv_sec: (nanos / 1_000_000_000) as _, tv_nsec: (nanos % 1_000_000_000) as _ };
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word and the time are live, and the kernel only reads them.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, expected, &raw const time) };
}

/// Wakes who sleeps on `word`. Never waits.
pub fn wake(word: &AtomicU32) {
    let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word is live; its address is all that is used of it.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, i32::MAX) };
}
