//! Waits of threads for each other, seen where they begin and end: hooks in the slots of the functions that wait (`got`).
//!
//! The hooks run on the program's threads. A thread that need not wait is not held up: the futex of Rust's locks is asked
//! for only by who waits, and the locks of C are tried first. Who waits is timed, and the longer it waited the likelier it
//! is a sample: from [`Config::threshold`] on always, below that in proportion, so that each nanosecond that was waited has
//! the same chance, and sums are unbiased. Whether it will be one is drawn before the wait, as a time from which on it is,
//! so that the thread that ends the wait knows it as well and can leave its own stack.
//!
//! No heap, no lock and, but for the two looks at the clock, nothing that waits. What ends a wait abruptly - a thread that
//! is cancelled, a jump out of a handler - leaves nothing behind that does harm. `errno` is as the call has left it.

mod futex;
mod pthread;
mod waiters;

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use crate::got::{self, Patched};
use crate::own::Own;
use crate::regs::{self, Regs};
use crate::ring::Ring;
use crate::sample::{Header, LOCK_WORDS, Source};
use crate::{here, os, scratch};

static ACTIVE: AtomicBool = AtomicBool::new(false);
static THRESHOLD: AtomicU64 = AtomicU64::new(u64::MAX);
static MAX_WORDS: AtomicUsize = AtomicUsize::new(1024);
static RING: AtomicPtr<Ring> = AtomicPtr::new(core::ptr::null_mut());
static WAITS: AtomicU64 = AtomicU64::new(0);
static LOST: AtomicU64 = AtomicU64::new(0);
static TICKS: AtomicU64 = AtomicU64::new(0);

/// How waits are sampled.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Nanoseconds from which on each wait is a sample.
    pub threshold: u64,
    /// The longest stack kept, in words of the sample format.
    pub max_words: usize,
    /// Whether the locks of C are looked after as well, which are tried first then: some nanoseconds for each.
    pub pthread: bool,
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
}

/// Installs the hooks and begins to take samples, which go to `ring`. Again where objects were loaded since: those get
/// theirs. Our thread, after `scratch::prepare`.
pub fn start(config: Config, ring: &'static Ring) -> Patched {
    RING.store(core::ptr::from_ref(ring).cast_mut(), Ordering::Release);
    MAX_WORDS.store(config.max_words, Ordering::Relaxed);
    set_threshold(config.threshold);
    ACTIVE.store(true, Ordering::SeqCst);
    let mut patched = got::install(&futex::hooks());
    if config.pthread {
        patched += got::install(&pthread::hooks());
    }
    patched
}

/// Takes the hooks out. Threads that wait by one go on, and are not told. Our thread.
pub fn stop() {
    ACTIVE.store(false, Ordering::SeqCst);
    got::remove(&futex::hooks());
    got::remove(&pthread::hooks());
    waiters::forget();
}

/// Each wait of so many nanoseconds is a sample from now on.
pub fn set_threshold(nanos: u64) {
    THRESHOLD.store(nanos.max(1), Ordering::Relaxed);
}

/// Takes how many samples were lost since the last call. Our thread.
pub fn take_lost() -> u64 {
    LOST.swap(0, Ordering::Relaxed)
}

/// The ticks of [`regs::ticks`] that were spent on taking samples since the process began.
pub fn cost() -> u64 {
    TICKS.load(Ordering::Relaxed)
}

/// In a fork's child: nobody waits here, and nothing is told until the next start.
pub fn after_fork() {
    ACTIVE.store(false, Ordering::SeqCst);
    waiters::forget();
}

/// Whether the calling thread's waits are of interest.
#[inline]
fn is_wanted() -> bool {
    ACTIVE.load(Ordering::Relaxed) && !Own::of_this_thread().is_ours()
}

/// Times `wait`, which waits for the `object` at `address`, and samples it.
#[inline(always)]
fn timed<T>(object: Object, address: usize, wait: impl FnOnce() -> T) -> T {
    let threshold = THRESHOLD.load(Ordering::Relaxed);
    let number = WAITS.fetch_add(1, Ordering::Relaxed) + 1;
    // From 1 to the threshold, each as likely.
    let drawn = u128::from(Own::of_this_thread().random()) * u128::from(threshold);
    let least = 1 + (drawn >> 64) as u64;
    let begin = os::monotonic();
    let entry = waiters::enter(address as u64, number, begin.saturating_add(least));
    let result = wait();
    let nanos = os::monotonic().saturating_sub(begin);
    waiters::leave(entry, number);
    if nanos >= least {
        waited([nanos, threshold, address as u64, object as u64, number]);
    }
    result
}

/// Takes a sample of a wait that is over.
#[cold]
#[inline(never)]
fn waited(words: [u64; LOCK_WORDS]) {
    sample(Source::Lock, &words, &Regs::here());
}

/// The calling thread is about to end a wait for the object at `address`: takes a sample of who does, where the wait is
/// one to sample.
#[inline(always)]
fn ends(address: usize) {
    if let Some(number) = waiters::due(address as u64) {
        released(number);
    }
}

#[cold]
#[inline(never)]
fn released(number: u64) {
    sample(Source::Release, &[number], &Regs::here());
}

fn sample(source: Source, before: &[u64], regs: &Regs) {
    let own = Own::of_this_thread();
    let begin = regs::ticks();
    // Not in a handler that has interrupted us here, where the sign is not ours to take away.
    if own.busy.replace(true) {
        LOST.fetch_add(1, Ordering::Relaxed);
        return;
    }
    if take(source, before, regs).is_none() {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
    own.busy.set(false);
    TICKS.fetch_add(regs::ticks().wrapping_sub(begin), Ordering::Relaxed);
}

fn take(source: Source, before: &[u64], regs: &Regs) -> Option<()> {
    // SAFETY: null or a ring that lives as long as the process.
    let ring = unsafe { RING.load(Ordering::Acquire).as_ref() }?;
    let mut header: Header = here::header(source, 1, 0)?;
    let mut scratch = scratch::claim(header.tid as usize)?;
    let (mut trail, words) = scratch.parts();
    let (first, rest) = words.split_at_mut_checked(before.len())?;
    first.copy_from_slice(before);
    let room = MAX_WORDS.load(Ordering::Relaxed).min(rest.len());
    let (len, generation) = here::walk(regs, &mut trail, rest.get_mut(..room)?);
    header.generation = generation;
    ring.push(&header, words.get(..before.len() + len)?).then_some(())
}
