//! The objects that the dynamic loader has mapped: the executable, its libraries, and the kernel's vDSO.
//!
//! Off the handler only: `dl_iterate_phdr` takes the loader's lock. Nothing is read from an object itself here, so the
//! lock is held for microseconds and an object that is unloaded a moment later does no harm. But glibc does not give that
//! lock back in the child of a fork: whoever asks for objects there, or opens one, would wait for ever if we were here at
//! that moment. So a fork waits for us: see [`hold`].

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering};

use super::{pause, yield_now};

/// One `PT_LOAD` or other segment of an object, in run-time addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// `p_type`, such as [`libc::PT_LOAD`].
    pub(crate) kind: u32,
    /// `p_flags`, such as [`libc::PF_X`].
    pub(crate) flags: u32,
    /// Where it starts in memory.
    pub(crate) address: u64,
    /// How long it is in memory.
    pub(crate) len: u64,
}

/// One loaded object, valid during the call that it was handed to.
pub(crate) struct Object<'a> {
    /// Its place in the loader's list.
    pub(crate) position: usize,
    /// The process's executable: the first object, but of another list that `dlmopen` makes.
    pub(crate) is_executable: bool,
    /// What to add to an address in the file.
    pub(crate) bias: u64,
    headers: &'a [libc::Elf64_Phdr],
}

impl Object<'_> {
    /// Its segments, in the file's order.
    pub(crate) fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        self.headers.iter().map(|header| Segment {
            kind: header.p_type,
            flags: header.p_flags,
            address: self.bias.wrapping_add(header.p_vaddr),
            len: header.p_memsz,
        })
    }
}

/// Keeps the library that holds this code in memory until the process ends. A plug-in that carries everprof may be
/// unloaded, but the kernel and the C library know addresses of ours by then: of the handler, which stays installed, and
/// of what runs at a fork. Nothing is done in an executable. The loader counts its error, if any, as the caller's.
pub fn keep_loaded() {
    let here = keep_loaded as fn() as usize;
    let mut executable = true;
    for_each(|object| {
        let holds = |segment: Segment| {
            segment.kind == libc::PT_LOAD && (here as u64).wrapping_sub(segment.address) < segment.len
        };
        if !object.is_executable && object.segments().any(holds) {
            executable = false;
        }
    });
    if executable {
        return;
    }
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: the pointer is to a live value; any address may be asked for.
    let found = unsafe { libc::dladdr(here as *const c_void, info.as_mut_ptr()) };
    // SAFETY: all-zero is a valid value, whether or not the call wrote it.
    let name = unsafe { info.assume_init() }.dli_fname;
    if found == 0 || name.is_null() {
        return;
    }
    // SAFETY: the loader's own name of an object that is loaded, which runs no code of it anew. The handle is kept.
    unsafe { libc::dlopen(name, libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE) };
}

/// How many objects were ever loaded and unloaded: the same numbers mean the same objects. `None` where the loader does
/// not say.
pub(crate) fn changes() -> Option<(u64, u64)> {
    unsafe extern "C" fn first(info: *mut libc::dl_phdr_info, size: usize, data: *mut c_void) -> i32 {
        if size >= size_of::<libc::dl_phdr_info>() {
            // SAFETY: the loader passes a structure of `size` bytes that is valid during this call.
            let info = unsafe { &*info };
            let found = data.cast::<Option<(u64, u64)>>();
            // SAFETY: `data` is the address of `found` in the function below, which outlives the iteration.
            unsafe { found.write(Some((info.dlpi_adds, info.dlpi_subs))) };
        }
        1
    }
    let mut found: Option<(u64, u64)> = None;
    let _inside = Inside::enter();
    // SAFETY: the callback matches the loader's signature and only touches what it is handed.
    unsafe { libc::dl_iterate_phdr(Some(first), (&raw mut found).cast()) };
    found
}

/// Calls `each` with every loaded object in the loader's order, the executable first. `each` runs under the loader's lock: it must be short,
/// and must not load or unload anything.
pub(crate) fn for_each(mut each: impl FnMut(&Object<'_>)) {
    struct Visit<'a> {
        position: usize,
        each: &'a mut dyn FnMut(&Object<'_>),
    }
    unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> i32 {
        // SAFETY: the loader passes a structure that is valid during this call.
        let info = unsafe { &*info };
        let visit = data.cast::<Visit<'_>>();
        // SAFETY: `data` is the address of `visit` in the function below, which nothing else uses meanwhile.
        let visit = unsafe { &mut *visit };
        let headers = if info.dlpi_phdr.is_null() {
            &[][..]
        } else {
            // SAFETY: the loader says that `dlpi_phnum` program headers are there for as long as the object is.
            unsafe { core::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) }
        };
        let object = Object {
            position: visit.position,
            is_executable: visit.position == 0 && is_executable(info, headers),
            bias: info.dlpi_addr,
            headers,
        };
        (visit.each)(&object);
        visit.position += 1;
        0
    }
    let mut state = Visit { position: 0, each: &mut each };
    let _inside = Inside::enter();
    // SAFETY: the callback matches the loader's signature, and `state` outlives the iteration.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut state).cast()) };
}

/// Whether the first object that was told is the process's: code that `dlmopen` loaded is told of its own list only. The
/// C library tells the executable without a name, or else it is known by its entry.
fn is_executable(info: &libc::dl_phdr_info, headers: &[libc::Elf64_Phdr]) -> bool {
    // SAFETY: no preconditions.
    let entry = unsafe { libc::getauxval(libc::AT_ENTRY) };
    let holds_entry = |header: &libc::Elf64_Phdr| {
        entry.wrapping_sub(info.dlpi_addr.wrapping_add(header.p_vaddr)) < header.p_memsz
    };
    // SAFETY: the loader's name of the object is a C string, or missing.
    let nameless = info.dlpi_name.is_null() || unsafe { *info.dlpi_name } == 0;
    nameless || headers.iter().filter(|header| header.p_type == libc::PT_LOAD).any(holds_entry)
}

/// Keeps our threads out of the loader until [`release`]. Before a fork, on the forking thread. Waits for one that is
/// inside, which takes microseconds; but not for ever, since that one may wait for a lock of the forking thread's.
pub(crate) fn hold() {
    const MILLISECONDS: u32 = 200;
    for _ in 0..MILLISECONDS {
        if !INSIDE.swap(true, Ordering::Acquire) {
            HELD.store(true, Ordering::Relaxed);
            return;
        }
        pause();
    }
}

/// The fork is over: in the parent, where `hold` may have given up.
pub(crate) fn release() {
    if HELD.swap(false, Ordering::Relaxed) {
        INSIDE.store(false, Ordering::Release);
    }
}

/// The fork is over: in the child, which has one thread.
pub(crate) fn release_in_child() {
    HELD.store(false, Ordering::Relaxed);
    INSIDE.store(false, Ordering::Release);
}

/// Whether a thread of ours is inside of the loader, or a fork keeps them out; and the latter.
static INSIDE: AtomicBool = AtomicBool::new(false);
static HELD: AtomicBool = AtomicBool::new(false);

struct Inside;

impl Inside {
    fn enter() -> Self {
        while INSIDE.swap(true, Ordering::Acquire) {
            yield_now();
        }
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::{for_each, hold, release};
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_fork_waits_for_whoever_is_inside_and_keeps_others_out() {
        static VISITED: AtomicU32 = AtomicU32::new(0);
        let look = || {
            std::thread::spawn(|| {
                for_each(|object| {
                    if object.position == 0 {
                        VISITED.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(std::time::Duration::from_millis(50));
                        VISITED.fetch_add(1, Ordering::SeqCst);
                    }
                });
            })
        };
        let first = look();
        while VISITED.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        hold();
        assert_eq!(VISITED.load(Ordering::SeqCst), 2, "somebody is inside");
        let second = look();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(VISITED.load(Ordering::SeqCst), 2, "somebody came in");
        release();
        for thread in [first, second] {
            assert!(thread.join().is_ok());
        }
        assert_eq!(VISITED.load(Ordering::SeqCst), 4);
    }
}
