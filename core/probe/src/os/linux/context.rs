//! The process's context in OpenTelemetry's layout (OTEP 4719): a small mapping that a profiler outside finds by its name.
//!
//! Our thread, and a fork's child. A header says where the payload lies, and its time stamp whether it is just being
//! changed: 0 while it is, and another number after each change. The mapping has room for two payloads, which take turns,
//! so that one that is being read is not overwritten by the next.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

const NAME: &core::ffi::CStr = c"OTEL_CTX";
const SIGNATURE: u64 = u64::from_ne_bytes(*b"OTEL_CTX");
const VERSION: u32 = 2;
/// Bytes of the mapping, and where payloads begin in it.
const LEN: usize = 64 << 10;
const PAYLOADS: [usize; 2] = [4 << 10, 34 << 10];
/// The longest payload.
const MOST: usize = 30 << 10;

/// Ours; null while there is none. And the process that it is of: a fork's child does not have the mapping.
static MAPPED: AtomicPtr<Header> = AtomicPtr::new(core::ptr::null_mut());
static OWNER: AtomicU32 = AtomicU32::new(0);

#[repr(C)]
struct Header {
    signature: AtomicU64,
    version: AtomicU32,
    payload_size: AtomicU32,
    published_at: AtomicU64,
    payload: AtomicU64,
}

/// Whether this process has published a context by us.
pub fn has_context() -> bool {
    mapped().is_some()
}

fn mapped() -> Option<NonNull<Header>> {
    NonNull::new(MAPPED.load(Ordering::Acquire)).filter(|_| OWNER.load(Ordering::Relaxed) == super::getpid())
}

/// Publishes this payload, or in place of the one before. False where the system does not allow it, or it is longer than
/// 30 KiB. One thread at a time.
pub fn publish_context(payload: &[u8]) -> bool {
    if payload.len() > MOST {
        return false;
    }
    let Some(start) = mapped().or_else(map) else { return false };
    // SAFETY: mapped, larger than the header and aligned to a page; zeros are a valid header, and it is never unmapped.
    let header: &'static Header = unsafe { start.as_ref() };
    let base = start.as_ptr() as u64;
    let [first, second] = PAYLOADS;
    let place = if header.payload.load(Ordering::Relaxed) == base + first as u64 { second } else { first };
    let to: *mut u8 = start.as_ptr().cast::<u8>().wrapping_add(place);
    // SAFETY: the place has room for the longest payload and is not the one that is published; nobody else here uses it.
    unsafe { core::ptr::copy_nonoverlapping(payload.as_ptr(), to, payload.len()) };
    let before = header.published_at.swap(0, Ordering::SeqCst);
    fence(Ordering::SeqCst);
    header.signature.store(SIGNATURE, Ordering::Relaxed);
    header.version.store(VERSION, Ordering::Relaxed);
    header.payload_size.store(payload.len() as u32, Ordering::Relaxed);
    header.payload.store(base + place as u64, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    header.published_at.store(since_boot().max(before + 1), Ordering::SeqCst);
    OWNER.store(super::getpid(), Ordering::Relaxed);
    MAPPED.store(start.as_ptr(), Ordering::Release);
    name(start) || IS_FILE.load(Ordering::Relaxed)
}

/// Forgets the parent's context, which the child has not inherited. In a fork's child.
pub fn forget_context() {
    MAPPED.store(core::ptr::null_mut(), Ordering::Release);
}

/// Whether the mapping has its name by the file that it is of, and not by `prctl` alone.
static IS_FILE: AtomicBool = AtomicBool::new(false);

fn map() -> Option<NonNull<Header>> {
    const NO_EXEC: libc::c_uint = 8;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let create = |flags: libc::c_uint| {
        // SAFETY: the name ends with a zero; where the kernel knows no such call or flag it says so.
        unsafe { libc::syscall(libc::SYS_memfd_create, NAME.as_ptr(), flags) as libc::c_int }
    };
    let file = Some(create(flags | NO_EXEC)).filter(|file| *file >= 0).unwrap_or_else(|| create(flags));
    // SAFETY: a file of our own, or none, which is an error.
    let is_file = file >= 0 && unsafe { libc::ftruncate(file, LEN as libc::off_t) } == 0;
    let anonymous = if is_file { 0 } else { libc::MAP_ANONYMOUS };
    // SAFETY: a mapping at an address of the kernel's choice touches nothing that exists.
    let start = unsafe {
        libc::mmap(
            core::ptr::null_mut(),
            LEN,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | anonymous,
            if is_file { file } else { -1 },
            0,
        )
    };
    if file >= 0 {
        // SAFETY: ours, and not used any more.
        unsafe { libc::close(file) };
    }
    if start == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the mapping that was just made.
    if unsafe { libc::madvise(start, LEN, libc::MADV_DONTFORK) } != 0 {
        // A child would have its parent's name.
        // SAFETY: nobody knows it yet.
        unsafe { libc::munmap(start, LEN) };
        return None;
    }
    IS_FILE.store(is_file, Ordering::Relaxed);
    NonNull::new(start.cast())
}

/// Gives the mapping its name, where the kernel can. Also a sign for those who watch for it, after each change.
fn name(start: NonNull<Header>) -> bool {
    const PR_SET_VMA: libc::c_int = 0x5356_4d41;
    const PR_SET_VMA_ANON_NAME: libc::c_ulong = 0;
    // SAFETY: the range is ours, and the name ends with a zero.
    unsafe { libc::prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, start.as_ptr(), LEN, NAME.as_ptr()) == 0 }
}

fn since_boot() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes to the place given.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}
