//! `operator new` and `operator delete` of C++, where an allocator has them itself: those of the C++ library call `malloc`.
//!
//! All forms of each take a size, or a block, and up to two more words: how a block is to be aligned, how large it was, and
//! that no exception is to be thrown. The hooks pass on three, of which those that were not given are whatever lies in
//! their place.
//!
//! An exception passes through a hook, unless the program was compiled so that a panic ends it: then Rust ends it at any
//! exception as well. There the forms that throw are left alone, and what they allocate is not seen.

use core::ffi::c_void;

use super::{Originals, nowhere, original};
use crate::got::ways::{Function, Which};
use crate::heap;
use crate::heap::passing::{count, forget};

/// How many there are.
pub(super) const COUNT: usize = 20;

/// Where those begin that give blocks back.
const FIRST_DELETE: usize = 8;

static ORIGINALS: [Originals; COUNT] = [const { nowhere() }; COUNT];

macro_rules! operators {
    ($($place:literal: $hook:ident $name:literal;)+) => {
        [$(Function {
            name: $name,
            ours: [
                $hook::<$place, 0> as *const () as usize,
                $hook::<$place, 1> as *const () as usize,
                $hook::<$place, 2> as *const () as usize,
                $hook::<$place, 3> as *const () as usize,
            ],
            originals: &ORIGINALS[$place],
            which: Which::Allocators,
            releases: $place >= FIRST_DELETE,
        }),+]
    };
}

/// Those forms of `operator new` that may throw, by their places.
const THROWING: [usize; 4] = [0, 1, 4, 5];

/// All of them.
pub(super) fn functions() -> [Function; COUNT] {
    let mut all = named();
    if cfg!(panic = "abort") {
        let throwing = all.iter_mut().enumerate().filter(|(place, _)| THROWING.contains(place));
        // No symbol is called so.
        throwing.for_each(|(_, function)| function.name = b"");
    }
    all
}

fn named() -> [Function; COUNT] {
    operators! {
        0: new b"_Znwm";
        1: new b"_Znam";
        2: new b"_ZnwmRKSt9nothrow_t";
        3: new b"_ZnamRKSt9nothrow_t";
        4: new b"_ZnwmSt11align_val_t";
        5: new b"_ZnamSt11align_val_t";
        6: new b"_ZnwmSt11align_val_tRKSt9nothrow_t";
        7: new b"_ZnamSt11align_val_tRKSt9nothrow_t";
        8: delete b"_ZdlPv";
        9: delete b"_ZdaPv";
        10: delete b"_ZdlPvm";
        11: delete b"_ZdaPvm";
        12: delete b"_ZdlPvRKSt9nothrow_t";
        13: delete b"_ZdaPvRKSt9nothrow_t";
        14: delete b"_ZdlPvSt11align_val_t";
        15: delete b"_ZdaPvSt11align_val_t";
        16: delete b"_ZdlPvmSt11align_val_t";
        17: delete b"_ZdaPvmSt11align_val_t";
        18: delete b"_ZdlPvSt11align_val_tRKSt9nothrow_t";
        19: delete b"_ZdaPvSt11align_val_tRKSt9nothrow_t";
    }
}

unsafe extern "C-unwind" fn new<const PLACE: usize, const WAY: usize>(
    size: usize,
    b: usize,
    c: usize,
) -> *mut c_void {
    type Original = unsafe extern "C-unwind" fn(usize, usize, usize) -> *mut c_void;
    // SAFETY: the function of this name that the slot held, stored before any slot holds this one, of a shape that fits all
    // forms as far as calls go.
    let original: Original = unsafe { core::mem::transmute(of::<PLACE, WAY>()) };
    let before = heap::mark();
    // SAFETY: the arguments are the caller's. An exception passes through, since there is nothing to clean up.
    let block = unsafe { original(size, b, c) };
    count(block, size, before);
    block
}

unsafe extern "C-unwind" fn delete<const PLACE: usize, const WAY: usize>(
    block: *mut c_void,
    b: usize,
    c: usize,
) {
    type Original = unsafe extern "C-unwind" fn(*mut c_void, usize, usize);
    // SAFETY: as in `new`.
    let original: Original = unsafe { core::mem::transmute(of::<PLACE, WAY>()) };
    forget(block);
    // SAFETY: the arguments are the caller's.
    unsafe { original(block, b, c) };
}

#[inline(always)]
fn of<const PLACE: usize, const WAY: usize>() -> usize {
    ORIGINALS.get(PLACE).map_or(0, original::<WAY>)
}
