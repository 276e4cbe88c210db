//! Memory that the program maps itself, without a file behind it. A mapping is a block; one that is unmapped in part, or
//! that another one is put upon, is known until its beginning is unmapped.

use core::ffi::{c_int, c_void};

use super::blocks::ours;
use super::{Originals, nowhere, original};
use crate::got::ways::{Function, Which};
use crate::heap;
use crate::heap::passing::forget;

/// How many there are.
pub(super) const COUNT: usize = 4;

static MMAP: Originals = nowhere();
static MMAP64: Originals = nowhere();
static MREMAP: Originals = nowhere();
static MUNMAP: Originals = nowhere();

/// All of them.
pub(super) fn functions() -> [Function; COUNT] {
    let of = |name: &'static [u8], ours, originals| {
        let releases = name == b"munmap";
        Function { name, ours, originals, which: Which::NotOfAllocators, releases }
    };
    [
        of(b"mmap", ours!(mmap), &MMAP),
        of(b"mmap64", ours!(mmap64), &MMAP64),
        of(b"mremap", ours!(mremap), &MREMAP),
        of(b"munmap", ours!(munmap), &MUNMAP),
    ]
}

/// Counts a mapping. The thread's mark stays: memory that an allocator maps for its blocks is beside them.
#[inline(always)]
fn count(mapping: *mut c_void, bytes: usize) {
    if mapping == libc::MAP_FAILED {
        return;
    }
    if heap::may_hold(mapping as u64) {
        heap::handed_out(mapping as u64);
    }
    if heap::count(bytes) {
        // The hook that this is a part of is a function of its own.
        heap::allocated(mapping as u64, bytes, 1);
    }
}

macro_rules! map {
    ($name:ident, $originals:ident) => {
        unsafe extern "C-unwind" fn $name<const WAY: usize>(
            at: *mut c_void,
            bytes: usize,
            protection: c_int,
            flags: c_int,
            file: c_int,
            offset: i64,
        ) -> *mut c_void {
            type Original =
                unsafe extern "C-unwind" fn(*mut c_void, usize, c_int, c_int, c_int, i64) -> *mut c_void;
            // SAFETY: the function of this name that the slot held, stored before any slot holds this one.
            let original: Original = unsafe { core::mem::transmute(original::<WAY>(&$originals)) };
            // SAFETY: the arguments are the caller's.
            let mapping = unsafe { original(at, bytes, protection, flags, file, offset) };
            // Room that is only reserved is no memory yet.
            if flags & libc::MAP_ANONYMOUS != 0 && protection != libc::PROT_NONE {
                count(mapping, bytes);
            }
            mapping
        }
    };
}

map!(mmap, MMAP);
map!(mmap64, MMAP64);

/// The fifth argument is given with some flags only.
unsafe extern "C-unwind" fn mremap<const WAY: usize>(
    mapping: *mut c_void,
    bytes: usize,
    new_bytes: usize,
    flags: c_int,
    to: *mut c_void,
) -> *mut c_void {
    type Original = unsafe extern "C-unwind" fn(*mut c_void, usize, usize, c_int, *mut c_void) -> *mut c_void;
    // SAFETY: as in `mmap`; on the processors that there are, one function takes arguments as the other does.
    let original: Original = unsafe { core::mem::transmute(original::<WAY>(&MREMAP)) };
    let known = if heap::may_hold(mapping as u64) { heap::take_out(mapping as u64) } else { None };
    // SAFETY: the arguments are the caller's.
    let moved = unsafe { original(mapping, bytes, new_bytes, flags, to) };
    if let Some(handle) = known {
        if moved == libc::MAP_FAILED { heap::put_back(mapping as u64, handle) } else { heap::gone(handle) }
    }
    // Whether there is a file behind it is not known here; seldom is one made larger.
    count(moved, new_bytes);
    moved
}

unsafe extern "C-unwind" fn munmap<const WAY: usize>(mapping: *mut c_void, bytes: usize) -> c_int {
    type Original = unsafe extern "C-unwind" fn(*mut c_void, usize) -> c_int;
    // SAFETY: as in `mmap`.
    let original: Original = unsafe { core::mem::transmute(original::<WAY>(&MUNMAP)) };
    forget(mapping);
    // SAFETY: the arguments are the caller's.
    unsafe { original(mapping, bytes) }
}
