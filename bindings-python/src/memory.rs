//! Allocations in Python's own terms: hooks around the allocators of the domains `mem` and `obj`, which give out small blocks from
//! arenas that no function of C's is asked for.
//!
//! What is left is seen where `malloc` is called: the domain `raw`, large blocks of the others, and extension modules. An
//! allocation that came by there on its way is counted there, and once (`heap::passing`).
//!
//! The hooks run on the program's threads, with the interpreter's lock held, and pass on what they were asked with the context that
//! the allocator had, so that the interpreter may read half of the old allocator and half of ours while it is being set, as
//! one of another interpreter's lock does. Others may put theirs above ours (`tracemalloc`): then ours stay where they are at the end, and
//! count for nobody, until the next start.

use core::ffi::{CStr, c_int, c_void};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use everprof_probe::heap;
use everprof_probe::heap::passing;
use pyo3::Python;

/// `PyMemAllocatorEx` of `pymem.h`, the same in all versions.
#[repr(C)]
#[derive(Clone, Copy)]
struct Allocator {
    context: *mut c_void,
    malloc: usize,
    calloc: usize,
    realloc: usize,
    free: usize,
}

/// Where the hooks of a domain go on.
struct Original {
    is_set: AtomicBool,
    /// Small blocks are from arenas, and no function of C's is asked for one.
    has_arenas: AtomicBool,
    /// Nothing else is allocated with them, so that the thread's mark says exactly what was counted below.
    is_alone: AtomicBool,
    malloc: AtomicUsize,
    calloc: AtomicUsize,
    realloc: AtomicUsize,
    free: AtomicUsize,
}

const fn nowhere() -> Original {
    Original {
        is_set: AtomicBool::new(false),
        has_arenas: AtomicBool::new(false),
        is_alone: AtomicBool::new(false),
        malloc: AtomicUsize::new(0),
        calloc: AtomicUsize::new(0),
        realloc: AtomicUsize::new(0),
        free: AtomicUsize::new(0),
    }
}

/// `PYMEM_DOMAIN_MEM` and `PYMEM_DOMAIN_OBJ`.
const DOMAINS: [c_int; 2] = [1, 2];
/// Blocks up to this size are from arenas, by `pymalloc`'s measure.
const SMALL: usize = 512;
static ORIGINALS: [Original; 2] = [const { nowhere() }; 2];

/// Whether it is being asked if a hook of the domain is called, and whether one was: by an allocation of one's own.
static IS_ASKED: AtomicBool = AtomicBool::new(false);
static WAS_CALLED: [AtomicBool; 2] = [const { AtomicBool::new(false) }; 2];

type Malloc = unsafe extern "C" fn(usize) -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);

/// What is asked of the interpreter, by names that are not in its stable part but have been there since 3.5.
struct Functions {
    get: unsafe extern "C" fn(c_int, *mut Allocator),
    set: unsafe extern "C" fn(c_int, *const Allocator),
    malloc: [Malloc; 2],
    free: [Free; 2],
}

impl Functions {
    fn find() -> Option<Self> {
        // SAFETY: the interpreter's functions of these names are of the types that the fields have.
        let get = unsafe { function(c"PyMem_GetAllocator") }?;
        // SAFETY: as above.
        let set = unsafe { function(c"PyMem_SetAllocator") }?;
        let names = [(c"PyMem_Malloc", c"PyMem_Free"), (c"PyObject_Malloc", c"PyObject_Free")];
        // SAFETY: as above.
        let malloc = names.map(|(malloc, _)| unsafe { function::<Malloc>(malloc) });
        // SAFETY: as above.
        let free = names.map(|(_, free)| unsafe { function::<Free>(free) });
        let ([Some(mem), Some(obj)], [Some(free_mem), Some(free_obj)]) = (malloc, free) else { return None };
        let (malloc, free) = ([mem, obj], [free_mem, free_obj]);
        Some(Self { get, set, malloc, free })
    }

    fn allocator(&self, domain: c_int) -> Allocator {
        let mut found =
            Allocator { context: core::ptr::null_mut(), malloc: 0, calloc: 0, realloc: 0, free: 0 };
        // SAFETY: it writes one there.
        unsafe { (self.get)(domain, &raw mut found) };
        found
    }
}

impl Functions {
    /// Allocates a block and gives it back: how many allocations of C's that took.
    fn ask(&self, place: usize, size: usize) -> u32 {
        let (Some(malloc), Some(free)) = (self.malloc.get(place), self.free.get(place)) else { return 0 };
        let before = heap::mark();
        // SAFETY: the interpreter's lock is held.
        let block = unsafe { malloc(size) };
        let taken = heap::mark().wrapping_sub(before);
        // SAFETY: of the same domain, and used no more.
        unsafe { free(block) };
        taken
    }

    /// How many of C's allocations a block of that size takes, at the least. Before ours are there.
    fn least(&self, place: usize, size: usize) -> u32 {
        (0..8).map(|_| self.ask(place, size)).min().unwrap_or(0)
    }
}

/// Puts the hooks in place, where they are not: while the interpreter's lock is held, without which nobody allocates in these domains.
pub(crate) fn install(_: Python<'_>) {
    let Some(functions) = Functions::find() else { return };
    for (place, (domain, original)) in DOMAINS.into_iter().zip(&ORIGINALS).enumerate() {
        // Somebody may have put back what was there before us, or have theirs above ours.
        if original.is_set.load(Ordering::Acquire) && is_reached(&functions, place) {
            continue;
        }
        let found = functions.allocator(domain);
        let Some(ours) = OURS.get(place).map(|ours| ours(found.context)) else { continue };
        original.malloc.store(found.malloc, Ordering::Relaxed);
        original.calloc.store(found.calloc, Ordering::Relaxed);
        original.realloc.store(found.realloc, Ordering::Relaxed);
        original.free.store(found.free, Ordering::Relaxed);
        let [small, large] = [SMALL / 8, SMALL * 8].map(|size| functions.least(place, size));
        original.has_arenas.store(small < large, Ordering::Relaxed);
        original.is_alone.store(small == 0, Ordering::Relaxed);
        original.is_set.store(true, Ordering::Release);
        // Before anybody can see ours, also an interpreter with a lock of its own.
        fence(Ordering::SeqCst);
        // SAFETY: an allocator that passes on to the one that it takes the place of.
        unsafe { (functions.set)(domain, &raw const ours) };
    }
}

/// Takes the hooks out, where nobody has put others above them.
pub(crate) fn uninstall(_: Python<'_>) {
    let Some(functions) = Functions::find() else { return };
    for (place, (domain, original)) in DOMAINS.into_iter().zip(&ORIGINALS).enumerate() {
        let found = functions.allocator(domain);
        let is_ours = OURS.get(place).is_some_and(|ours| ours(found.context).malloc == found.malloc);
        if !is_ours || !original.is_set.load(Ordering::Acquire) {
            continue;
        }
        let before = Allocator {
            context: found.context,
            malloc: original.malloc.load(Ordering::Relaxed),
            calloc: original.calloc.load(Ordering::Relaxed),
            realloc: original.realloc.load(Ordering::Relaxed),
            free: original.free.load(Ordering::Relaxed),
        };
        // SAFETY: the allocator that was there before.
        unsafe { (functions.set)(domain, &raw const before) };
        original.is_set.store(false, Ordering::Release);
    }
}

/// Whether the hooks are in place, as far as we know.
pub(crate) fn is_followed() -> bool {
    ORIGINALS.iter().all(|original| original.is_set.load(Ordering::Acquire))
}

/// Whether an allocation of the domain comes by our hook.
fn is_reached(functions: &Functions, place: usize) -> bool {
    let Some(was_called) = WAS_CALLED.get(place) else { return false };
    let (Some(malloc), Some(free)) = (functions.malloc.get(place), functions.free.get(place)) else {
        return false;
    };
    was_called.store(false, Ordering::Relaxed);
    IS_ASKED.store(true, Ordering::Relaxed);
    // SAFETY: the interpreter's lock is held.
    let block = unsafe { malloc(1) };
    IS_ASKED.store(false, Ordering::Relaxed);
    // SAFETY: of the same domain, and used no more; null is nothing.
    unsafe { free(block) };
    // Who gives nothing may stand above ours: hooks above that one would end in themselves.
    block.is_null() || was_called.load(Ordering::Relaxed)
}

/// The hooks of each domain, with the context of the allocator below.
const OURS: [fn(*mut c_void) -> Allocator; 2] = [ours::<0>, ours::<1>];

fn ours<const PLACE: usize>(context: *mut c_void) -> Allocator {
    Allocator {
        context,
        malloc: malloc::<PLACE> as *const () as usize,
        calloc: calloc::<PLACE> as *const () as usize,
        realloc: realloc::<PLACE> as *const () as usize,
        free: free::<PLACE> as *const () as usize,
    }
}

unsafe extern "C" fn malloc<const PLACE: usize>(context: *mut c_void, size: usize) -> *mut c_void {
    type Function = unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void;
    // SAFETY: the function that was there before, stored before anybody calls this one.
    let original: Function = unsafe { core::mem::transmute(original::<PLACE>(|original| &original.malloc)) };
    let before = heap::mark();
    // SAFETY: the arguments are the caller's.
    let block = unsafe { original(context, size) };
    // Whatever its size: who is above may have changed it.
    if IS_ASKED.load(Ordering::Relaxed) {
        WAS_CALLED.get(PLACE).inspect(|was_called| was_called.store(true, Ordering::Relaxed));
    }
    count::<PLACE>(block, size, before);
    block
}

unsafe extern "C" fn calloc<const PLACE: usize>(
    context: *mut c_void,
    number: usize,
    size: usize,
) -> *mut c_void {
    type Function = unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void;
    // SAFETY: as in `malloc`.
    let original: Function = unsafe { core::mem::transmute(original::<PLACE>(|original| &original.calloc)) };
    let before = heap::mark();
    // SAFETY: the arguments are the caller's.
    let block = unsafe { original(context, number, size) };
    count::<PLACE>(block, number.wrapping_mul(size), before);
    block
}

unsafe extern "C" fn realloc<const PLACE: usize>(
    context: *mut c_void,
    block: *mut c_void,
    size: usize,
) -> *mut c_void {
    type Function = unsafe extern "C" fn(*mut c_void, *mut c_void, usize) -> *mut c_void;
    // SAFETY: as in `malloc`.
    let original: Function = unsafe { core::mem::transmute(original::<PLACE>(|original| &original.realloc)) };
    let before = heap::mark();
    // SAFETY: the arguments are the caller's.
    let moved = passing::resize(block, size, || unsafe { original(context, block, size) });
    // A large block that is to be a small one may stay with C's function, which has counted it.
    match ORIGINALS.get(PLACE).is_some_and(|original| original.is_alone.load(Ordering::Relaxed)) {
        true => passing::count(moved, size, before),
        false => count::<PLACE>(moved, size, before),
    }
    moved
}

unsafe extern "C" fn free<const PLACE: usize>(context: *mut c_void, block: *mut c_void) {
    type Function = unsafe extern "C" fn(*mut c_void, *mut c_void);
    // SAFETY: as in `malloc`.
    let original: Function = unsafe { core::mem::transmute(original::<PLACE>(|original| &original.free)) };
    passing::forget(block);
    // SAFETY: the arguments are the caller's.
    unsafe { original(context, block) };
}

/// Counts a block, unless that was done below: small ones of arenas never were, whatever else was allocated on the way, such as
/// the arena, or what `tracemalloc` keeps of the block.
#[inline(always)]
fn count<const PLACE: usize>(block: *mut c_void, size: usize, before: u32) {
    let has_arenas = ORIGINALS.get(PLACE).is_some_and(|original| original.has_arenas.load(Ordering::Relaxed));
    if size <= SMALL && has_arenas {
        passing::count_here(block, size);
    } else {
        passing::count(block, size, before);
    }
}

#[inline(always)]
fn original<const PLACE: usize>(function: impl FnOnce(&Original) -> &AtomicUsize) -> usize {
    ORIGINALS.get(PLACE).map_or(0, |original| function(original).load(Ordering::Relaxed))
}

/// The interpreter's function of that name.
///
/// # Safety
///
/// `F` must be the type of a pointer to it.
unsafe fn function<F: Copy>(name: &CStr) -> Option<F> {
    const { assert!(size_of::<F>() == size_of::<usize>()) };
    // SAFETY: the name is a C string.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    // SAFETY: by the caller's promise, and where it is none there is no such function.
    (!found.is_null()).then(|| unsafe { core::mem::transmute_copy::<*mut c_void, F>(&found) })
}
