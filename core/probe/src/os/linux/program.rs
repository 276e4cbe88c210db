//! What sort of program this process runs, for a library that is loaded into all of them. At its start, when there is one
//! thread.

use core::ffi::{CStr, c_char};

/// Names the process that was the first, in the environment of those that it starts. No option, so that nobody takes it for one.
const FIRST: &CStr = c"_EVERPROF_FIRST";

/// Whether the program has rights that who started it has not: then it does not do as its environment says.
pub fn is_privileged() -> bool {
    // SAFETY: no preconditions.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Whether no process before this one was the first, or this one was and has called `exec`; leaves the mark that says so.
pub fn is_first() -> bool {
    // SAFETY: no preconditions.
    let own = unsafe { libc::getpid() };
    // SAFETY: the name is a C string, and no other thread changes the environment.
    let marked = unsafe { libc::getenv(FIRST.as_ptr()) };
    if !marked.is_null() {
        // SAFETY: the value is a C string.
        return unsafe { libc::atoi(marked) } == own;
    }
    let mut digits = [0_u8; 12];
    let mut rest = own;
    // From the last one on, with the end of the string behind.
    let mut places = digits.iter_mut().rev().skip(1);
    let mut len = 0;
    while rest > 0 {
        let Some(place) = places.next() else { break };
        *place = b'0' + (rest % 10) as u8;
        rest /= 10;
        len += 1;
    }
    let start = digits.len() - 1 - len;
    let value = digits.get(start..).unwrap_or_default().as_ptr().cast::<c_char>();
    // SAFETY: both are C strings, which are copied, and no other thread looks at the environment.
    unsafe { libc::setenv(FIRST.as_ptr(), value, 1) };
    true
}
