//! Waits of threads for each other, seen where they begin and end: hooks in the slots of the functions that wait (`got`).
//!
//! The hooks run on the program's threads. A thread that need not wait is not held up: the futex of Rust's locks is asked
//! for only by who waits, and the locks of C are tried first. Who waits is timed, and the longer it waited the likelier it
//! is a sample: from the threshold on always, below that in proportion, so that each nanosecond that was waited has
//! the same chance, and sums are unbiased. Whether it will be one is drawn before the wait, as a time from which on it is,
//! so that the thread that ends the wait knows it as well and can leave its own stack; it does so once the others go on. Each sample carries the threshold that
//! it was drawn by, so that this may change at any time.
//!
//! No heap, no lock and, but for the two looks at the clock, nothing that waits. What ends a wait abruptly - a thread that
//! is cancelled, a jump out of a handler - leaves nothing behind that does harm, and meets no frame of ours on its way
//! (`regs::hook`). `errno` is as the call has left it.
//!
//! What counts as a wait: each call that lets a thread sleep; of std's mutex all sleeps until it is had are one. A wait is told
//! when it is over, one that never ends never.

mod calls;
mod functions;
mod waiters;

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use crate::got::{self, Patched};
use crate::own::Own;
use crate::regs::{self, Regs};
use crate::ring::Ring;
use crate::sample::{AGAIN, ENDED, Header, LOCK_WORDS, Source, TIMED_OUT, UNFINISHED};
use crate::sampling::{self, Mark, Sampling, Which};
use crate::{cost, here, os, scratch};

static STARTED: AtomicBool = AtomicBool::new(false);
static THRESHOLD: AtomicU64 = AtomicU64::new(u64::MAX);
static MAX_WORDS: AtomicUsize = AtomicUsize::new(1024);
static RING: AtomicPtr<Ring> = AtomicPtr::new(core::ptr::null_mut());
static LOST: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static TICKS: AtomicU64 = AtomicU64::new(0);

/// How waits are sampled.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Nanoseconds from which on each wait is a sample; 0: none is, until [`set_threshold`] says otherwise.
    pub threshold: u64,
    /// The longest stack kept, in words of the sample format.
    pub max_words: usize,
    /// Whether the locks of C are looked after as well, which are tried first then: a nanosecond or two for each.
    pub c_locks: bool,
}

/// What a thread waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Object {
    /// A word of memory, by the system call: a lock, a condition or a parked thread of Rust; its functions tell which.
    Futex = 0,
    /// `pthread_mutex_t`.
    Mutex = 1,
    /// `pthread_rwlock_t`.
    RwLock = 2,
    /// `pthread_cond_t`.
    Condition = 3,
    /// `sem_t`.
    Semaphore = 4,
    /// The end of a thread.
    Join = 5,
    /// `pthread_barrier_t`.
    Barrier = 6,
}

/// Installs the hooks and begins to take samples, which go to `ring`. Our thread, after `scratch::prepare`.
pub fn start(config: Config, ring: &'static Ring) -> Patched {
    RING.store(core::ptr::from_ref(ring).cast_mut(), Ordering::Release);
    MAX_WORDS.store(config.max_words, Ordering::Relaxed);
    STARTED.store(true, Ordering::SeqCst);
    set_threshold(config.threshold);
    hook_again(config.c_locks)
}

/// Installs the hooks in objects that were loaded since, and where they were not to be had before. Our thread.
pub fn hook_again(c_locks: bool) -> Patched {
    let mut patched = got::install(&functions::of_rust());
    // A static executable has no slots, and no other objects.
    if c_locks && patched.changed + patched.unchanged > 0 {
        patched += got::install(&functions::of_c());
    }
    waiters::sweep(os::monotonic());
    patched
}

/// Takes the hooks out. Threads that wait by one go on, and are not told. Our thread.
pub fn stop() {
    STARTED.store(false, Ordering::SeqCst);
    calls::close();
    got::remove(&functions::of_rust());
    got::remove(&functions::of_c());
    waiters::forget();
}

/// Each wait of so many nanoseconds is a sample from now on, or with 0 none; the hooks stay where they are and cost next to
/// nothing then. Without effect before [`start`] and after [`stop`].
pub fn set_threshold(nanos: u64) {
    if nanos == 0 || !STARTED.load(Ordering::SeqCst) {
        return calls::close();
    }
    THRESHOLD.store(nanos, Ordering::Relaxed);
    calls::open();
}

/// The nanoseconds from which on each wait is a sample; 0 where none is.
pub fn threshold() -> u64 {
    if calls::is_open() { THRESHOLD.load(Ordering::Relaxed) } else { 0 }
}

/// Takes how many samples were lost since the last call, and the waits and nanoseconds that they stood for. Our thread.
pub fn take_lost() -> [u64; 3] {
    LOST.each_ref().map(|count| count.swap(0, Ordering::Relaxed))
}

/// The ticks of [`regs::ticks`] that were spent on taking samples since the process began.
pub fn cost() -> u64 {
    TICKS.load(Ordering::Relaxed)
}

/// In a fork's child: nobody waits here, and nothing is told until the next start.
pub fn after_fork() {
    STARTED.store(false, Ordering::SeqCst);
    calls::close();
    waiters::after_fork();
}

/// A wait that is over and that is a sample.
struct Wait {
    nanos: u64,
    threshold: u64,
    address: u64,
    object: u64,
    number: u64,
    /// The thread had waited for the same lock already and not got it.
    is_again: bool,
    /// Who ended it was seen.
    is_ended: bool,
    /// Its time was over.
    is_timed_out: bool,
}

/// Takes a sample of it.
#[cold]
#[inline(never)]
fn waited(wait: &Wait, caller: &Regs) {
    let again = if wait.is_again { AGAIN } else { 0 };
    let ended = if wait.is_ended { ENDED } else { 0 };
    let timed_out = if wait.is_timed_out { TIMED_OUT } else { 0 };
    let words: [u64; LOCK_WORDS] =
        [wait.nanos, wait.threshold, wait.address, wait.object | again | ended | timed_out, wait.number];
    if !sample(Source::Lock, &words, caller) {
        // As the samples that come through: each stands for those that were none.
        let count = (wait.threshold / wait.nanos.max(1)).max(1);
        let waits = if wait.is_again { 0 } else { count };
        for (lost, more) in LOST.iter().zip([1, waits, wait.nanos.max(wait.threshold)]) {
            lost.fetch_add(more, Ordering::Relaxed);
        }
    }
}

/// The calling thread has ended the wait of this number, or is about to: takes a sample of who does.
#[cold]
#[inline(never)]
fn released(number: u64, caller: &Regs) {
    sample(Source::Release, &[number], caller);
}

fn sample(source: Source, before: &[u64], regs: &Regs) -> bool {
    let begin = regs::ticks();
    let mark = Mark::new();
    // Not in a handler that has interrupted us here.
    let Some(sampling) = sampling::begin(Own::of_this_thread(), &mark) else { return false };
    let is_taken = take(source, before, regs, &sampling).is_some();
    drop(sampling);
    TICKS.fetch_add(cost::since(begin), Ordering::Relaxed);
    is_taken
}

fn take(source: Source, before: &[u64], regs: &Regs, sampling: &Sampling<'_>) -> Option<()> {
    // SAFETY: null or a ring that lives as long as the process.
    let ring = unsafe { RING.load(Ordering::Acquire).as_ref() }?;
    let mut header: Header = here::header(source, 1, 0)?;
    let mut scratch = scratch::claim(header.tid as usize)?;
    let buffer = scratch.index();
    let (mut trail, words) = scratch.parts();
    let (first, rest) = words.split_at_mut_checked(before.len())?;
    first.copy_from_slice(before);
    let room = MAX_WORDS.load(Ordering::Relaxed).min(rest.len());
    let taken = sampling.walk(regs, &mut trail, rest, room, ring.copies());
    header.generation = taken.generation;
    if taken.is_unfinished {
        header.source |= UNFINISHED;
    }
    let record = words.get(..before.len() + taken.len)?;
    sampling.push(Which::Locks, ring, buffer, &header, record).then_some(())
}
