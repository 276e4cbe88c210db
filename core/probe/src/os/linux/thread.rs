//! The calling thread's facts, and the hooks of process life.

use core::mem::MaybeUninit;
use core::ops::Range;

/// Kernel id of the calling thread.
pub fn gettid() -> u32 {
    // SAFETY: takes no argument and cannot fail.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 }
}

/// Kernel id of the process.
pub fn getpid() -> u32 {
    // SAFETY: takes no argument and cannot fail.
    unsafe { libc::getpid() as u32 }
}

/// Lets another thread run.
pub fn yield_now() {
    // SAFETY: takes no argument and cannot fail.
    unsafe { libc::sched_yield() };
}

/// Lets other threads run for a millisecond, also those of a lower priority, which [`yield_now`] does not reach.
pub fn pause() {
    let time = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    // SAFETY: the time is a live value; what is left of it after a signal is not wanted.
    unsafe { libc::nanosleep(&time, core::ptr::null_mut()) };
}

/// The calling thread's stack without its guard, as the C library knows it. Not for handlers: it may allocate.
pub fn stack() -> Option<Range<u64>> {
    let mut attr = MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: always valid to ask of the calling thread.
    let this = unsafe { libc::pthread_self() };
    // SAFETY: the pointer is to a live value, which the call initialises.
    if unsafe { libc::pthread_getattr_np(this, attr.as_mut_ptr()) } != 0 {
        return None;
    }
    let mut start = core::ptr::null_mut();
    let mut len = 0;
    // SAFETY: the attributes were initialised; both results are live.
    let read = unsafe { libc::pthread_attr_getstack(attr.as_ptr(), &mut start, &mut len) };
    // SAFETY: the attributes were initialised and are not used again.
    unsafe { libc::pthread_attr_destroy(attr.as_mut_ptr()) };
    (read == 0).then(|| start as u64..start as u64 + len as u64)
}

/// Blocks every signal on the calling thread except those of a fault, so that the host's signals go to its own threads.
pub fn block_signals() {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the pointer is to a live value, which the call initialises.
    unsafe { libc::sigfillset(set.as_mut_ptr()) };
    // A fault while its signal is blocked kills the process past every handler; and SIGPROF is how we profile ourselves.
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGPROF] {
        // SAFETY: the set was initialised.
        unsafe { libc::sigdelset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: the set was initialised; the old mask is not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), core::ptr::null_mut()) };
}

/// Runs `work`, which writes to a file of the program's, without the signals that a write may bring about: where nobody reads a
/// pipe any more, where a file is too long, where a terminal is another's. They would end or stop the program for our words.
pub fn without_signals_of_writes<R>(work: impl FnOnce() -> R) -> R {
    const SIGNALS: [i32; 3] = [libc::SIGPIPE, libc::SIGXFSZ, libc::SIGTTOU];
    let mut ours = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    let mut pending = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the pointer is to a live value, which the call initialises.
    unsafe { libc::sigemptyset(ours.as_mut_ptr()) };
    for signal in SIGNALS {
        // SAFETY: the set was initialised.
        unsafe { libc::sigaddset(ours.as_mut_ptr(), signal) };
    }
    // SAFETY: the set was initialised; the call initialises the other one.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, ours.as_ptr(), before.as_mut_ptr()) };
    // SAFETY: the pointer is to a live value, which the call initialises.
    unsafe { libc::sigpending(pending.as_mut_ptr()) };
    for signal in SIGNALS {
        // SAFETY: the set was initialised.
        if unsafe { libc::sigismember(pending.as_ptr(), signal) } == 1 {
            // SAFETY: the set was initialised. What came before is the program's.
            unsafe { libc::sigdelset(ours.as_mut_ptr(), signal) };
        }
    }
    let result = work();
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // Each of them once at the most.
    for _ in SIGNALS {
        // SAFETY: set and time are live values; nothing is to be told of the signal.
        unsafe { libc::sigtimedwait(ours.as_ptr(), core::ptr::null_mut(), &at_once) };
    }
    // SAFETY: the mask was initialised above; the one that it replaces is not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), core::ptr::null_mut()) };
    result
}

/// Lets the program's own threads go first: the calling thread, and no other, gets a third of their weight where processors
/// are scarce. Not less, since others may have to wait for a lock that it holds.
pub fn step_back() {
    const NICE: i32 = 5;
    // SAFETY: a number is asked for; on Linux, 0 is the calling thread. An error reads as -1, which is no harm.
    let nice = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    if nice < NICE {
        // SAFETY: a number is set, of the calling thread alone; where that is forbidden, it stays as it is.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
    }
}

/// Unblocks `signal` on the calling thread.
pub fn unblock_signal(signal: i32) {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the pointer is to a live value, which the call initialises.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set was initialised.
    unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    // SAFETY: the set was initialised; the old mask is not wanted.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), core::ptr::null_mut()) };
}

/// Registers what runs around `fork`: before it, and after it in the parent and in the child, on the forking thread.
/// False where the C library has no memory for it. It cannot be undone.
pub fn at_fork(before: extern "C" fn(), parent: extern "C" fn(), child: extern "C" fn()) -> bool {
    // SAFETY: the functions live as long as the code of this crate.
    unsafe { libc::pthread_atfork(Some(call(before)), Some(call(parent)), Some(call(child))) == 0 }
}

/// Registers what runs at `exit`, on the exiting thread. It cannot be undone.
pub fn at_exit(function: extern "C" fn()) -> bool {
    // SAFETY: the function lives as long as the code of this crate.
    unsafe { libc::atexit(function) == 0 }
}

fn call(function: extern "C" fn()) -> unsafe extern "C" fn() {
    function
}

/// How far the main thread's stack may grow: the process's limit, and 1 GiB where there is none.
pub fn stack_limit() -> u64 {
    const UNLIMITED: u64 = 1 << 30;
    let mut limit = MaybeUninit::<libc::rlimit>::zeroed();
    // SAFETY: the pointer is to a live value.
    unsafe { libc::getrlimit(libc::RLIMIT_STACK, limit.as_mut_ptr()) };
    // SAFETY: all-zero is a valid rlimit, whether or not the call wrote it.
    unsafe { limit.assume_init() }.rlim_cur.min(UNLIMITED)
}

/// An address on the main thread's stack above every frame, and below what the program was given as text: that of some random
/// bytes, which the kernel puts there. 0 where it does not say.
pub fn main_frames_end() -> u64 {
    // SAFETY: no preconditions.
    unsafe { libc::getauxval(libc::AT_RANDOM) }
}

/// An address near the end of the main thread's stack: that of the program's path, which the kernel puts there, above
/// every frame. 0 where the kernel does not say.
pub fn main_stack_end() -> u64 {
    // SAFETY: no preconditions.
    unsafe { libc::getauxval(libc::AT_EXECFN) }
}
