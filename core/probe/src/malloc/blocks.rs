//! The functions of C.

use core::ffi::{c_int, c_void};

use super::{Originals, nowhere, original};
use crate::got::ways::{Function, Which};
use crate::heap;
use crate::heap::passing::{count, forget, resize};

/// How many there are.
pub(super) const COUNT: usize = 12;

static MALLOC: Originals = nowhere();
static CALLOC: Originals = nowhere();
static REALLOC: Originals = nowhere();
static REALLOCARRAY: Originals = nowhere();
static FREE: Originals = nowhere();
static FREE_SIZED: Originals = nowhere();
static FREE_ALIGNED_SIZED: Originals = nowhere();
static POSIX_MEMALIGN: Originals = nowhere();
static ALIGNED_ALLOC: Originals = nowhere();
static MEMALIGN: Originals = nowhere();
static VALLOC: Originals = nowhere();
static PVALLOC: Originals = nowhere();

/// The hooks of a function, one for each way on.
macro_rules! ours {
    ($hook:ident) => {
        [
            $hook::<0> as *const () as usize,
            $hook::<1> as *const () as usize,
            $hook::<2> as *const () as usize,
            $hook::<3> as *const () as usize,
        ]
    };
}
pub(super) use ours;

/// All of them; `malloc` is the first.
pub(super) fn functions() -> [Function; COUNT] {
    let of = |name: &'static [u8], ours, originals| {
        let releases = name.starts_with(b"free");
        Function { name, ours, originals, which: Which::All, releases }
    };
    [
        of(b"malloc", ours!(malloc), &MALLOC),
        of(b"calloc", ours!(calloc), &CALLOC),
        of(b"realloc", ours!(realloc), &REALLOC),
        of(b"reallocarray", ours!(reallocarray), &REALLOCARRAY),
        of(b"free", ours!(free), &FREE),
        of(b"free_sized", ours!(free_sized), &FREE_SIZED),
        of(b"free_aligned_sized", ours!(free_aligned_sized), &FREE_ALIGNED_SIZED),
        of(b"posix_memalign", ours!(posix_memalign), &POSIX_MEMALIGN),
        of(b"aligned_alloc", ours!(aligned_alloc), &ALIGNED_ALLOC),
        of(b"memalign", ours!(memalign), &MEMALIGN),
        of(b"valloc", ours!(valloc), &VALLOC),
        of(b"pvalloc", ours!(pvalloc), &PVALLOC),
    ]
}

unsafe extern "C-unwind" fn malloc<const WAY: usize>(size: usize) -> *mut c_void {
    type Original = unsafe extern "C-unwind" fn(usize) -> *mut c_void;
    // SAFETY: the function of this name that the slot held, stored before any slot holds this one.
    let original: Original = unsafe { core::mem::transmute(original::<WAY>(&MALLOC)) };
    let before = heap::mark();
    // SAFETY: the arguments are the caller's.
    let block = unsafe { original(size) };
    count(block, size, before);
    block
}

unsafe extern "C-unwind" fn calloc<const WAY: usize>(number: usize, size: usize) -> *mut c_void {
    type Original = unsafe extern "C-unwind" fn(usize, usize) -> *mut c_void;
    // SAFETY: as in `malloc`.
    let original: Original = unsafe { core::mem::transmute(original::<WAY>(&CALLOC)) };
    let before = heap::mark();
    // SAFETY: the arguments are the caller's.
    let block = unsafe { original(number, size) };
    count(block, number.wrapping_mul(size), before);
    block
}

unsafe extern "C-unwind" fn realloc<const WAY: usize>(block: *mut c_void, size: usize) -> *mut c_void {
    type Original = unsafe extern "C-unwind" fn(*mut c_void, usize) -> *mut c_void;
    // SAFETY: as in `malloc`.
    let original: Original = unsafe { core::mem::transmute(original::<WAY>(&REALLOC)) };
    let before = heap::mark();
    // SAFETY: the arguments are the caller's.
    let moved = resize(block, size, || unsafe { original(block, size) });
    count(moved, size, before);
    moved
}

unsafe extern "C-unwind" fn reallocarray<const WAY: usize>(
    block: *mut c_void,
    number: usize,
    size: usize,
) -> *mut c_void {
    type Original = unsafe extern "C-unwind" fn(*mut c_void, usize, usize) -> *mut c_void;
    // SAFETY: as in `malloc`.
    let original: Original = unsafe { core::mem::transmute(original::<WAY>(&REALLOCARRAY)) };
    // Where the product is too large for a number it fails, and is not 0.
    let bytes = number.saturating_mul(size);
    let before = heap::mark();
    // SAFETY: the arguments are the caller's.
    let moved = resize(block, bytes, || unsafe { original(block, number, size) });
    count(moved, bytes, before);
    moved
}

unsafe extern "C-unwind" fn free<const WAY: usize>(block: *mut c_void) {
    type Original = unsafe extern "C-unwind" fn(*mut c_void);
    // SAFETY: as in `malloc`.
    let original: Original = unsafe { core::mem::transmute(original::<WAY>(&FREE)) };
    forget(block);
    // SAFETY: the arguments are the caller's.
    unsafe { original(block) };
}

/// Of C23: whoever frees says how large the block is.
unsafe extern "C-unwind" fn free_sized<const WAY: usize>(block: *mut c_void, size: usize) {
    type Original = unsafe extern "C-unwind" fn(*mut c_void, usize);
    // SAFETY: as in `malloc`.
    let original: Original = unsafe { core::mem::transmute(original::<WAY>(&FREE_SIZED)) };
    forget(block);
    // SAFETY: the arguments are the caller's.
    unsafe { original(block, size) };
}

/// Of C23 as well, for blocks of `aligned_alloc`.
unsafe extern "C-unwind" fn free_aligned_sized<const WAY: usize>(
    block: *mut c_void,
    alignment: usize,
    size: usize,
) {
    type Original = unsafe extern "C-unwind" fn(*mut c_void, usize, usize);
    // SAFETY: as in `malloc`.
    let original: Original = unsafe { core::mem::transmute(original::<WAY>(&FREE_ALIGNED_SIZED)) };
    forget(block);
    // SAFETY: the arguments are the caller's.
    unsafe { original(block, alignment, size) };
}

unsafe extern "C-unwind" fn posix_memalign<const WAY: usize>(
    to: *mut *mut c_void,
    alignment: usize,
    size: usize,
) -> c_int {
    type Original = unsafe extern "C-unwind" fn(*mut *mut c_void, usize, usize) -> c_int;
    // SAFETY: as in `malloc`.
    let original: Original = unsafe { core::mem::transmute(original::<WAY>(&POSIX_MEMALIGN)) };
    let before = heap::mark();
    // SAFETY: the arguments are the caller's.
    let result = unsafe { original(to, alignment, size) };
    if result == 0 {
        // SAFETY: the function has just written there.
        count(unsafe { *to }, size, before);
    }
    result
}

/// A function of an alignment and a size, or of a size.
macro_rules! aligned {
    ($name:ident, $originals:ident, $size:ident $(, $alignment:ident)?) => {
        unsafe extern "C-unwind" fn $name<const WAY: usize>($($alignment: usize,)? $size: usize) -> *mut c_void {
            type Original = unsafe extern "C-unwind" fn($(aligned!(@ $alignment),)? usize) -> *mut c_void;
            // SAFETY: as in `malloc`.
            let original: Original = unsafe { core::mem::transmute(original::<WAY>(&$originals)) };
            let before = heap::mark();
            // SAFETY: the arguments are the caller's.
            let block = unsafe { original($($alignment,)? $size) };
            count(block, $size, before);
            block
        }
    };
    (@ $argument:ident) => { usize };
}

aligned!(aligned_alloc, ALIGNED_ALLOC, size, alignment);
aligned!(memalign, MEMALIGN, size, alignment);
aligned!(valloc, VALLOC, size);
aligned!(pvalloc, PVALLOC, size);
