//! The functions by which threads wait for each other, and those by which they let others go on: one table.
//!
//! Locks of C are tried first, which is what taking a free one costs anyway; only where that fails is the wait timed. To
//! try is as good as to take for every type of lock: a recursive one counts up, one whose owner died says so, and one that
//! would refuse its own owner is busy, and refuses when it is asked to wait. Semaphores and conditions are not tried: to wait
//! for them is a point where a thread may be cancelled, in vain or not.
//!
//! Who gives a mutex back is looked at where others wait for it. glibc's says so by its first word, which is 1 while it is held
//! and nobody waits, 2 while somebody does, and other numbers where a mutex is of a special kind; so nearly all mutexes of a
//! program are given back as if there were no hooks. Other locks, and those of other C libraries, are looked at while any
//! thread waits for one of them.
//!
//! A lock that the C library cannot try is left alone: in glibc 2.25 to 2.28 to try an `rwlock` may leave others asleep that
//! wait for it (its bug 23844).
//!
//! Who posts a semaphore is looked at while any thread waits for one: it may be the lock of a runtime, which only that knows.
//!
//! Not here: `pthread_once` and `call_once`, in which the thread that initialises spends its time as well; and who signals a
//! condition, which nobody holds.

use core::cell::UnsafeCell;
use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::Object;
use super::calls::{self, AWAITED, CONTENDED, SWITCH};
use crate::got::{self, Hook};
use crate::os;
use crate::regs::hook::{self, After, Before, HOOKS, Plan};

/// One function, and what is done in its place.
struct Function {
    name: &'static [u8],
    object: Object,
    attempt: Attempt,
    /// Whether glibc's mutexes tell by their first word whether somebody waits for them, when this is called.
    tells: bool,
    switch: &'static AtomicU32,
    before: Before,
    after: After,
}

/// What is called first, and its result where that was in vain.
#[derive(Clone, Copy)]
enum Attempt {
    None,
    /// A function of the C library.
    Of(&'static [u8], u32),
    /// One of ours, of up to three arguments.
    Our(extern "C" fn(usize, usize, usize) -> u32, u32),
}

const EBUSY: u32 = libc::EBUSY as u32;
/// `thrd_busy` of glibc's and musl's `<threads.h>`.
const THRD_BUSY: u32 = 1;

const TRY_MUTEX: Attempt = Attempt::Of(b"pthread_mutex_trylock", EBUSY);
const TRY_READ: Attempt = Attempt::Of(b"pthread_rwlock_tryrdlock", EBUSY);
const TRY_WRITE: Attempt = Attempt::Of(b"pthread_rwlock_trywrlock", EBUSY);
const TRY_MTX: Attempt = Attempt::Of(b"mtx_trylock", THRD_BUSY);

static FUNCTIONS: [Function; 29] = [
    // By which Rust's locks wait, std's and parking_lot's. The first one, and there without the others.
    Function { before: calls::before_call, after: calls::after_call, ..wait(b"syscall", Object::Futex) },
    lock(b"pthread_mutex_lock", Object::Mutex, TRY_MUTEX),
    lock(b"pthread_mutex_timedlock", Object::Mutex, Attempt::Our(mutex_until, EBUSY)),
    lock(b"pthread_mutex_clocklock", Object::Mutex, Attempt::Our(mutex_by_clock, EBUSY)),
    end_of_mutex(b"pthread_mutex_unlock"),
    lock(b"pthread_rwlock_rdlock", Object::RwLock, TRY_READ),
    lock(b"pthread_rwlock_wrlock", Object::RwLock, TRY_WRITE),
    lock(b"pthread_rwlock_timedrdlock", Object::RwLock, Attempt::Our(read_until, EBUSY)),
    lock(b"pthread_rwlock_timedwrlock", Object::RwLock, Attempt::Our(write_until, EBUSY)),
    lock(b"pthread_rwlock_clockrdlock", Object::RwLock, Attempt::Our(read_by_clock, EBUSY)),
    lock(b"pthread_rwlock_clockwrlock", Object::RwLock, Attempt::Our(write_by_clock, EBUSY)),
    end(b"pthread_rwlock_unlock", Object::RwLock),
    wait(b"pthread_cond_wait", Object::Condition),
    wait(b"pthread_cond_timedwait", Object::Condition),
    wait(b"pthread_cond_clockwait", Object::Condition),
    semaphore(b"sem_wait"),
    semaphore(b"sem_timedwait"),
    semaphore(b"sem_clockwait"),
    Function { switch: &AWAITED, ..end(b"sem_post", Object::Semaphore) },
    wait(b"pthread_join", Object::Join),
    wait(b"pthread_timedjoin_np", Object::Join),
    wait(b"pthread_clockjoin_np", Object::Join),
    wait(b"pthread_barrier_wait", Object::Barrier),
    lock(b"mtx_lock", Object::Mutex, TRY_MTX),
    lock(b"mtx_timedlock", Object::Mutex, Attempt::Our(mtx_until, THRD_BUSY)),
    end_of_mutex(b"mtx_unlock"),
    wait(b"cnd_wait", Object::Condition),
    wait(b"cnd_timedwait", Object::Condition),
    wait(b"thrd_join", Object::Join),
];

const _: () = assert!(FUNCTIONS.len() <= HOOKS);

const fn lock(name: &'static [u8], object: Object, attempt: Attempt) -> Function {
    Function { attempt, ..wait(name, object) }
}

const fn semaphore(name: &'static [u8]) -> Function {
    Function { before: calls::before_semaphore, ..wait(name, Object::Semaphore) }
}

const fn wait(name: &'static [u8], object: Object) -> Function {
    let (before, after) = (calls::before_wait, calls::after_wait);
    Function { name, object, attempt: Attempt::None, tells: false, switch: &SWITCH, before, after }
}

/// The end of a wait of others, looked at while somebody waits for a lock of C.
const fn end(name: &'static [u8], object: Object) -> Function {
    let (before, after) = (calls::before_end, calls::after_end);
    Function { switch: &CONTENDED, before, after, ..wait(name, object) }
}

/// The same of a mutex, which may tell itself whether somebody waits.
const fn end_of_mutex(name: &'static [u8]) -> Function {
    Function { tells: true, ..end(name, Object::Mutex) }
}

/// The hook by which Rust's locks are seen.
pub(super) fn of_rust() -> [Hook; 1] {
    prepare();
    [hook_of(0)]
}

/// Those of the locks of C.
pub(super) fn of_c() -> [Hook; FUNCTIONS.len() - 1] {
    prepare();
    core::array::from_fn(|number| hook_of(number + 1))
}

fn hook_of(number: usize) -> Hook {
    let name = FUNCTIONS.get(number).map_or(&b""[..], |function| function.name);
    let original = hook::entry(number).map_or(0, hook::Entry::original);
    Hook { name, ours: hook::function(number), original }
}

/// Looks for the functions, the first time. Our thread.
fn prepare() {
    if hook::entry(0).is_none_or(|entry| entry.original() != 0) {
        return;
    }
    let names = FUNCTIONS.each_ref().map(|function| function.name);
    let attempts = FUNCTIONS.each_ref().map(|function| match function.attempt {
        Attempt::Of(name, _) => name,
        _ => b"",
    });
    let found = got::originals(names).into_iter().zip(got::originals(attempts));
    let strands_readers = strands_readers(os::glibc());
    let mutexes_tell = os::glibc().is_some() && is_held_as_one();
    MUTEXES_TELL.store(mutexes_tell, Ordering::Relaxed);
    for (number, (function, (original, attempt))) in FUNCTIONS.iter().zip(found).enumerate() {
        let (attempt, busy) = match function.attempt {
            Attempt::None => (0, 0),
            // What cannot be tried is left alone.
            _ if function.object == Object::RwLock && strands_readers => continue,
            Attempt::Of(..) if attempt == 0 => continue,
            Attempt::Of(_, busy) => (attempt, busy),
            Attempt::Our(ours, busy) => (ours as usize, busy),
        };
        if original != 0 {
            let &Function { object, switch, before, after, tells, .. } = function;
            let object = object as u32;
            let (switch, quiet) = if tells && mutexes_tell { (&SWITCH, HELD) } else { (switch, 0) };
            hook::prepare(number, Plan { original, switch, attempt, busy, quiet, object, before, after });
        }
    }
}

/// The first word of a mutex of glibc's that is held while nobody waits for it, of the usual kinds; 0 is one that is free.
const HELD: u32 = 1;

static MUTEXES_TELL: AtomicBool = AtomicBool::new(false);

/// Whether mutexes tell by their first word that nobody waits for them.
pub(super) fn mutexes_tell() -> bool {
    MUTEXES_TELL.load(Ordering::Relaxed)
}

/// Whether a mutex is what we think it is. Our thread.
fn is_held_as_one() -> bool {
    let mutex = UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER);
    let first = mutex.get().cast::<u32>();
    // SAFETY: the mutex is initialised, and larger than a word.
    let free = unsafe { first.read_volatile() };
    // SAFETY: as above.
    unsafe { libc::pthread_mutex_lock(mutex.get()) };
    // SAFETY: as above.
    let held = unsafe { first.read_volatile() };
    // SAFETY: as above, and this thread holds it.
    unsafe { libc::pthread_mutex_unlock(mutex.get()) };
    (free, held) == (0, HELD)
}

/// Whether this version of glibc is one in which a lock for reading and writing that is tried may leave others asleep.
fn strands_readers(glibc: Option<(u32, u32)>) -> bool {
    glibc.is_some_and(|version| ((2, 25)..=(2, 28)).contains(&version))
}

/// Whether a time is one that the C library takes: it refuses others before it looks at the lock, and so must we.
fn is_time(until: usize) -> bool {
    let until = until as *const libc::timespec;
    if until.is_null() {
        return false;
    }
    // SAFETY: the program gave it to a function that reads it.
    let nanos = unsafe { (*until).tv_nsec };
    (0..1_000_000_000).contains(&nanos)
}

/// The same with a clock: of others than these two it refuses all times.
fn is_time_of(clock: usize, until: usize) -> bool {
    matches!(clock as c_int, libc::CLOCK_REALTIME | libc::CLOCK_MONOTONIC) && is_time(until)
}

fn try_mutex(lock: usize) -> u32 {
    // SAFETY: the program gave it to a function that takes a mutex.
    unsafe { libc::pthread_mutex_trylock(lock as *mut libc::pthread_mutex_t) as u32 }
}

fn try_read(lock: usize) -> u32 {
    // SAFETY: the program gave it to a function that takes such a lock.
    unsafe { libc::pthread_rwlock_tryrdlock(lock as *mut libc::pthread_rwlock_t) as u32 }
}

fn try_write(lock: usize) -> u32 {
    // SAFETY: as above.
    unsafe { libc::pthread_rwlock_trywrlock(lock as *mut libc::pthread_rwlock_t) as u32 }
}

extern "C" fn mutex_until(lock: usize, until: usize, _: usize) -> u32 {
    if is_time(until) { try_mutex(lock) } else { EBUSY }
}

extern "C" fn mutex_by_clock(lock: usize, clock: usize, until: usize) -> u32 {
    if is_time_of(clock, until) { try_mutex(lock) } else { EBUSY }
}

extern "C" fn read_until(lock: usize, until: usize, _: usize) -> u32 {
    if is_time(until) { try_read(lock) } else { EBUSY }
}

extern "C" fn read_by_clock(lock: usize, clock: usize, until: usize) -> u32 {
    if is_time_of(clock, until) { try_read(lock) } else { EBUSY }
}

extern "C" fn write_until(lock: usize, until: usize, _: usize) -> u32 {
    if is_time(until) { try_write(lock) } else { EBUSY }
}

extern "C" fn write_by_clock(lock: usize, clock: usize, until: usize) -> u32 {
    if is_time_of(clock, until) { try_write(lock) } else { EBUSY }
}

/// A lock of `<threads.h>`, which in glibc and musl is one of POSIX.
extern "C" fn mtx_until(lock: usize, until: usize, _: usize) -> u32 {
    let is_taken = is_time(until) && try_mutex(lock) == 0;
    if is_taken { 0 } else { THRD_BUSY }
}

/// Whether a semaphore is there to be had at once.
pub(super) fn is_available(semaphore: usize) -> bool {
    let mut value = 0;
    // SAFETY: the program gave it to a function that takes a semaphore; the other pointer is to a live value.
    let result = unsafe { libc::sem_getvalue(semaphore as *mut libc::sem_t, &raw mut value) };
    result == 0 && value > 0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_mutex_tells_whether_somebody_waits_for_it() {
        if os::glibc().is_none() {
            return;
        }
        assert!(is_held_as_one());
        struct Shared(UnsafeCell<libc::pthread_mutex_t>);
        // SAFETY: a mutex of C is for several threads.
        unsafe impl Sync for Shared {}
        for kind in
            [libc::PTHREAD_MUTEX_NORMAL, libc::PTHREAD_MUTEX_RECURSIVE, libc::PTHREAD_MUTEX_ERRORCHECK]
        {
            let mut attributes = core::mem::MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
            // SAFETY: room for them.
            unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) };
            // SAFETY: they are initialised.
            unsafe { libc::pthread_mutexattr_settype(attributes.as_mut_ptr(), kind) };
            let mutex = Shared(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));
            // SAFETY: room for a mutex, and initialised attributes.
            unsafe { libc::pthread_mutex_init(mutex.0.get(), attributes.as_ptr()) };
            // SAFETY: a mutex that lives; its first word is one that is read and written as a whole.
            let first = unsafe { AtomicU32::from_ptr(mutex.0.get().cast()) };
            // SAFETY: as above.
            unsafe { libc::pthread_mutex_lock(mutex.0.get()) };
            assert_eq!(first.load(Ordering::SeqCst), HELD, "{kind}");
            std::thread::scope(|scope| {
                let mutex = &mutex;
                scope.spawn(move || {
                    // SAFETY: as above.
                    unsafe { libc::pthread_mutex_lock(mutex.0.get()) };
                    // SAFETY: as above, and this thread holds it.
                    unsafe { libc::pthread_mutex_unlock(mutex.0.get()) };
                });
                let mut looks = 0;
                while first.load(Ordering::SeqCst) <= HELD {
                    looks += 1;
                    assert!(looks < 10_000, "{kind}: somebody waits, and nothing tells");
                    std::thread::sleep(Duration::from_millis(1));
                }
                // SAFETY: as above.
                unsafe { libc::pthread_mutex_unlock(mutex.0.get()) };
            });
            assert_eq!(first.load(Ordering::SeqCst), 0);
        }
    }

    #[test]
    fn locks_are_tried_where_that_is_safe() {
        let strands = [(2, 17), (2, 24), (2, 25), (2, 28), (2, 29), (2, 41)]
            .map(|version| strands_readers(Some(version)));
        assert_eq!(strands, [false, false, true, true, false, false]);
        assert!(!strands_readers(None));
        // Another C library does not say.
        assert_eq!(os::glibc().is_some(), os::symbol(b"gnu_get_libc_version", None) != 0);
        assert!(os::glibc().is_none_or(|version| version >= (2, 17)));
    }
}
