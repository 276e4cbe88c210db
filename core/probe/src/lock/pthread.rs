//! The locks, conditions and semaphores of C: their functions, by the slots of those who call them.
//!
//! A lock is tried first, which is what taking a free one costs anyway; only where that fails is the wait timed. To try is
//! as good as to take for every type of lock: a recursive one counts up, one whose owner died says so, and one that would
//! refuse its own owner is busy, and refuses when it is asked to wait. Threads can be cancelled while they wait for a
//! condition or a semaphore: that unwinds through here, where there is nothing to clean up.

use core::ffi::c_int;
use core::sync::atomic::{AtomicUsize, Ordering};

use super::{Object, is_wanted, timed};
use crate::got::Hook;
use crate::os;

type Lock = libc::pthread_mutex_t;
type RwLock = libc::pthread_rwlock_t;
type Condition = libc::pthread_cond_t;
type Semaphore = libc::sem_t;
type Time = libc::timespec;

/// The functions that are hooked, by their places in [`ORIGINALS`].
const NAMES: [&[u8]; 7] = [
    b"pthread_mutex_lock",
    b"pthread_mutex_timedlock",
    b"pthread_rwlock_rdlock",
    b"pthread_rwlock_wrlock",
    b"pthread_cond_wait",
    b"pthread_cond_timedwait",
    b"sem_wait",
];

/// The C library's own, as the linker has bound them: by name alone, it might give one of an older version.
fn bound() -> [usize; NAMES.len()] {
    [
        libc::pthread_mutex_lock as *const () as usize,
        libc::pthread_mutex_timedlock as *const () as usize,
        libc::pthread_rwlock_rdlock as *const () as usize,
        libc::pthread_rwlock_wrlock as *const () as usize,
        libc::pthread_cond_wait as *const () as usize,
        libc::pthread_cond_timedwait as *const () as usize,
        libc::sem_wait as *const () as usize,
    ]
}

static ORIGINALS: [AtomicUsize; NAMES.len()] = [const { AtomicUsize::new(0) }; NAMES.len()];

/// The hooks of all of them.
pub(super) fn hooks() -> [Hook; NAMES.len()] {
    let ours = [
        mutex_lock as *const () as usize,
        mutex_timedlock as *const () as usize,
        rwlock_rdlock as *const () as usize,
        rwlock_wrlock as *const () as usize,
        cond_wait as *const () as usize,
        cond_timedwait as *const () as usize,
        sem_wait as *const () as usize,
    ];
    let bound = bound();
    core::array::from_fn(|place| {
        let (own, bound) = (ours.get(place).copied(), bound.get(place).copied());
        let known = ORIGINALS.get(place).map(|original| {
            // The first time no slot was changed yet, so that this is what stands in them.
            let _ =
                original.compare_exchange(0, bound.unwrap_or_default(), Ordering::Relaxed, Ordering::Relaxed);
            original.load(Ordering::Relaxed)
        });
        Hook {
            name: NAMES.get(place).copied().unwrap_or_default(),
            ours: own.unwrap_or_default(),
            original: known.unwrap_or_default(),
        }
    })
}

fn original(place: usize) -> usize {
    ORIGINALS.get(place).map_or(0, |original| original.load(Ordering::Relaxed))
}

/// One function of two pointers at most: what is asked for first, and the real call.
macro_rules! waits {
    ($name:ident, $place:literal, $object:expr, ($first:ident: $type:ty $(, $more:ident: $more_type:ty)*), $try:expr) => {
        unsafe extern "C-unwind" fn $name($first: *mut $type $(, $more: $more_type)*) -> c_int {
            type Original = unsafe extern "C-unwind" fn(*mut $type $(, $more_type)*) -> c_int;
            // SAFETY: the address of the C library's function of this name, stored before any slot holds this one.
            let original: Original = unsafe { core::mem::transmute(original($place)) };
            // SAFETY: the arguments are the caller's, who has to answer for them.
            let call = || unsafe { original($first $(, $more)*) };
            if !is_wanted() {
                return call();
            }
            let attempt: Option<unsafe extern "C" fn(*mut $type) -> c_int> = $try;
            if let Some(attempt) = attempt {
                let errno = os::errno();
                // SAFETY: as above.
                let result = unsafe { attempt($first) };
                if result != libc::EBUSY && result != -1 {
                    return result;
                }
                // Nobody but us has asked for what has just failed.
                os::set_errno(errno);
            }
            timed($object, $first as usize, call)
        }
    };
}

waits!(mutex_lock, 0, Object::Mutex, (lock: Lock), Some(libc::pthread_mutex_trylock));
waits!(mutex_timedlock, 1, Object::Mutex, (lock: Lock, until: *const Time), Some(libc::pthread_mutex_trylock));
waits!(rwlock_rdlock, 2, Object::RwLock, (lock: RwLock), Some(libc::pthread_rwlock_tryrdlock));
waits!(rwlock_wrlock, 3, Object::RwLock, (lock: RwLock), Some(libc::pthread_rwlock_trywrlock));
waits!(cond_wait, 4, Object::Condition, (condition: Condition, lock: *mut Lock), None);
waits!(cond_timedwait, 5, Object::Condition, (condition: Condition, lock: *mut Lock, until: *const Time), None);
waits!(sem_wait, 6, Object::Semaphore, (semaphore: Semaphore), Some(libc::sem_trywait));
