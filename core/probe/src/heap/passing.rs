//! What a hook does that stands between the program and a function which allocates: hooks of C's functions (`malloc`), and those
//! of a runtime that has allocators of its own above them.
//!
//! An allocation may pass several such hooks. The one that is reached last counts, and changes the thread's mark; those before
//! it see that, and do not.

use core::ffi::c_void;

use crate::heap;

/// Of an allocation that was answered with `block`, asked for when the thread's mark ([`heap::mark`]) was `before`: counts it, unless a
/// function below has. To be called by the hook itself, which is left out of the sample's stack.
#[inline(always)]
pub fn count(block: *mut c_void, bytes: usize, before: u32) {
    if heap::mark() == before {
        count_here(block, bytes);
    }
}

/// The same where it is known that none below has, whatever has changed the mark.
#[inline(always)]
pub fn count_here(block: *mut c_void, bytes: usize) {
    // What fails is not counted: sizes that no memory can have would wind the thread's number around.
    if block.is_null() {
        return;
    }
    heap::counted();
    if heap::may_hold(block as u64) {
        heap::handed_out(block as u64);
    }
    if heap::count(bytes) {
        // The hook that this is a part of is a function of its own.
        heap::allocated(block as u64, bytes, 1);
    }
}

/// Of a block that is about to be given back.
#[inline(always)]
pub fn forget(block: *mut c_void) {
    if heap::may_hold(block as u64)
        && let Some(handle) = heap::take_out(block as u64)
    {
        heap::gone(handle);
    }
}

/// A block that is to have another size by `call`, whose answer is returned. It is to be counted then, by one of the functions above.
#[inline(always)]
pub fn resize(block: *mut c_void, size: usize, call: impl FnOnce() -> *mut c_void) -> *mut c_void {
    // Before: from then on, the address may be that of another block.
    let known = if heap::may_hold(block as u64) { heap::take_out(block as u64) } else { None };
    let moved = call();
    if let Some(handle) = known {
        // What fails leaves the block as it is, but to ask for nothing is one way to give it back.
        if moved.is_null() && size != 0 { heap::put_back(block as u64, handle) } else { heap::gone(handle) }
    }
    moved
}
