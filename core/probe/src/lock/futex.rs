//! The system call by which Rust's locks wait, std's and parking_lot's: `syscall(SYS_futex, ...)` of the C library.

use core::ffi::c_long;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::{Object, ends, is_wanted, timed};
use crate::got::Hook;

/// The first three arguments are those that matter here. The function takes as many as its caller gives; read are seven,
/// of which those that were not given are whatever lies in their place, as in the C library's own.
type Syscall = unsafe extern "C-unwind" fn(c_long, usize, usize, usize, usize, usize, usize) -> c_long;

static ORIGINAL: AtomicUsize = AtomicUsize::new(0);

/// The operation without its flags, which are higher bits.
const OPERATION: usize = 0x7f;

/// The hook of the call.
pub(super) fn hooks() -> [Hook; 1] {
    let known = ORIGINAL.load(Ordering::Relaxed);
    if known == 0 {
        // The first time no slot was changed yet, so that this is what stands in them.
        ORIGINAL.store(libc::syscall as *const () as usize, Ordering::Relaxed);
    }
    let original = ORIGINAL.load(Ordering::Relaxed);
    [Hook { name: b"syscall", ours: on_syscall as *const () as usize, original }]
}

unsafe extern "C-unwind" fn on_syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    // SAFETY: what was stored is the address of the C library's function, of which `Syscall` is the shape as far as calls
    // by it go; it is stored before any slot holds this function.
    let original: Syscall = unsafe { core::mem::transmute(ORIGINAL.load(Ordering::Relaxed)) };
    // SAFETY: the arguments are the caller's, who has to answer for them.
    let call = || unsafe { original(number, a, b, c, d, e, f) };
    if number != libc::SYS_futex || !is_wanted() {
        return call();
    }
    match (b & OPERATION) as i32 {
        libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET => timed(Object::Futex, a, call),
        libc::FUTEX_WAKE | libc::FUTEX_WAKE_BITSET => {
            ends(a);
            call()
        }
        _ => call(),
    }
}
