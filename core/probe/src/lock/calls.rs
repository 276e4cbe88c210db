//! What is done before and after a call of a function by which threads wait (`functions`): it is timed, and known to who ends
//! it while it lasts.
//!
//! On the program's threads. `before` says how the call goes on; between it and `after` nothing of ours is on the stack but
//! the numbers that are kept ([`Call::kept`]). Where `after` is never told, since the thread was cancelled or jumped away, an
//! entry in `waiters` is all that stays.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::waiters::Counted;
use super::{Object, Wait, functions, threshold, waiters};
use crate::os;
use crate::own::Own;
use crate::regs::hook::{Call, Next};
use crate::sampling;

/// 1 while waits are of interest.
pub(super) static SWITCH: AtomicU32 = AtomicU32::new(0);
/// How many threads wait for locks of C, as far as is known.
pub(super) static CONTENDED: AtomicU32 = AtomicU32::new(0);
/// How many wait for semaphores: a thread without work may do so for ever, which other locks have nothing to do with.
pub(super) static AWAITED: AtomicU32 = AtomicU32::new(0);

/// Changes with each start: waits that began before it are not told.
static SESSION: AtomicU64 = AtomicU64::new(0);

/// The operation of a futex call without its flags, which are higher bits.
const OPERATION: usize = 0x7f;
/// What std's mutex waits for to change: that others wait for it as well.
const STD_CONTENDED: usize = 2;

/// Waits are of interest from now on.
pub(super) fn open() {
    if !is_open() {
        SESSION.fetch_add(1, Ordering::Relaxed);
        SWITCH.store(1, Ordering::SeqCst);
    }
}

/// They are not.
pub(super) fn close() {
    SWITCH.store(0, Ordering::SeqCst);
}

/// Whether they are.
pub(super) fn is_open() -> bool {
    SWITCH.load(Ordering::Relaxed) != 0
}

/// Whether the thread is one of ours, or the call is: in the middle of a sample our thread is woken, which ends no wait of the
/// program's.
fn is_ours() -> bool {
    let own = Own::of_this_thread();
    own.is_ours() || sampling::is_under_way(own)
}

/// A system call: one of the operations of a futex, or any other.
pub(super) extern "C" fn before_call(call: &mut Call) -> Next {
    if call.argument(0) as i64 != libc::SYS_futex || is_ours() {
        return Next::Pass;
    }
    let (address, expected) = (call.argument(1), call.argument(3));
    match (call.argument(2) & OPERATION) as i32 {
        libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET => {
            // A mutex of std's is woken by who frees it, but another one may take it meanwhile. Whoever has waited for it and
            // got it wakes others by it when he frees it, so that without that he waits for it still.
            let wanted = &Own::of_this_thread().wanted;
            let is_of_std = expected as u32 as usize == STD_CONTENDED;
            let again = is_of_std && wanted.get() == address as u64;
            wanted.set(if is_of_std { address as u64 } else { 0 });
            begin(call, address, again)
        }
        libc::FUTEX_LOCK_PI | FUTEX_LOCK_PI2 => begin(call, address, false),
        libc::FUTEX_WAKE | libc::FUTEX_WAKE_BITSET | libc::FUTEX_UNLOCK_PI => {
            Own::of_this_thread().wanted.set(0);
            ends(call, address)
        }
        _ => Next::Pass,
    }
}

const FUTEX_LOCK_PI2: i32 = 13;

/// It is over. What the kernel has not let wait, since the word had changed by then, was no wait.
pub(super) extern "C" fn after_call(call: &mut Call) {
    let errno = os::errno();
    match ended(call) {
        Some(number) if call.result as isize != -1 => super::released(number, &call.caller()),
        Some(_) => {}
        None => end(call, call.result as isize != -1 || errno != libc::EAGAIN),
    }
    os::set_errno(errno);
}

/// A function that will wait: a lock that was tried in vain, or another thing.
pub(super) extern "C" fn before_wait(call: &mut Call) -> Next {
    if is_ours() {
        return Next::Pass;
    }
    if object_of(call) == Object::Condition as u64
        && let Some(number) = waiters::due(call.argument(1) as u64)
    {
        // The lock of a condition is free for others meanwhile.
        let errno = os::errno();
        super::released(number, &call.caller());
        os::set_errno(errno);
    }
    begin(call, call.argument(0), false)
}

/// A semaphore, for which one may not have to wait.
pub(super) extern "C" fn before_semaphore(call: &mut Call) -> Next {
    if functions::is_available(call.argument(0)) { Next::Pass } else { before_wait(call) }
}

/// It is over. Who was refused has not waited.
pub(super) extern "C" fn after_wait(call: &mut Call) {
    const THRD_TIMEDOUT: i32 = 4;
    let errno = os::errno();
    let was_refused = !matches!(
        call.result as i32,
        // 0, an error in `errno`, the one of a barrier's threads, and what ends a wait.
        0 | -1 | libc::ETIMEDOUT | libc::EOWNERDEAD | THRD_TIMEDOUT
    );
    end(call, !was_refused);
    os::set_errno(errno);
}

/// A function that lets others go on. Asked only while somebody waits.
pub(super) extern "C" fn before_end(call: &mut Call) -> Next {
    ends(call, call.argument(0))
}

/// It has. From now on what the others waited for may be gone.
pub(super) extern "C" fn after_end(call: &mut Call) {
    let errno = os::errno();
    if let Some(number) = ended(call).filter(|_| call.result as u32 == 0) {
        super::released(number, &call.caller());
    }
    os::set_errno(errno);
}

fn object_of(call: &Call) -> u64 {
    call.entry().object().into()
}

fn begin(call: &mut Call, address: usize, again: bool) -> Next {
    // Off meanwhile: the wait will not be told.
    let threshold = threshold().max(1);
    let random = Own::of_this_thread().random();
    // From 1 to the threshold, each as likely.
    let drawn = u128::from(random) * u128::from(threshold);
    let least = 1 + (drawn >> 64) as u64;
    let begin = os::monotonic();
    // Those of earlier waits are smaller, and it takes no look at what other threads write; that two waits of one nanosecond
    // have the same is one chance in 256, and confuses who ended them.
    let number = begin << 8 | random & 0xff | u64::from(begin == 0);
    let enter = |counted| waiters::enter(address as u64, number, begin.saturating_add(least), counted);
    let place = match object_of(call) {
        SEMAPHORE => enter(Counted::Semaphore),
        // Whose end nobody looks for.
        CONDITION.. => waiters::NOWHERE,
        RW_LOCK => enter(Counted::Lock),
        MUTEX if !functions::mutexes_tell() => enter(Counted::Lock),
        _ => enter(Counted::Not),
    };
    let session = SESSION.load(Ordering::Relaxed) << 1 | u64::from(again);
    call.kept = [begin, least, threshold, number, place, session];
    Next::Call
}

const MUTEX: u64 = Object::Mutex as u64;
const RW_LOCK: u64 = Object::RwLock as u64;
const CONDITION: u64 = Object::Condition as u64;
const SEMAPHORE: u64 = Object::Semaphore as u64;

fn end(call: &Call, did_wait: bool) {
    let [begin, least, threshold, number, place, session] = call.kept;
    let nanos = os::monotonic().saturating_sub(begin);
    let is_ended = waiters::leave(place, number);
    let is_told = is_open() && session >> 1 == SESSION.load(Ordering::Relaxed);
    if nanos < least || !did_wait || !is_told {
        return;
    }
    let object = object_of(call);
    let address = call.argument(if object == Object::Futex as u64 { 1 } else { 0 }) as u64;
    let is_again = session & 1 != 0;
    let is_timed_out = object == CONDITION && call.result as i32 == libc::ETIMEDOUT;
    let wait = Wait { nanos, threshold, address, object, number, is_again, is_ended, is_timed_out };
    super::waited(&wait, &call.caller());
}

/// The calling thread is about to end a wait for the object at `address`. Where that is one to sample, who ends it is
/// told when that is done, and not before, while the others wait.
fn ends(call: &mut Call, address: usize) -> Next {
    let Some(number) = waiters::due(address as u64) else { return Next::Pass };
    // Of a wait the second of these numbers is none.
    call.kept = [0, 0, 0, number, waiters::NOWHERE, 0];
    Next::Call
}

/// The number of the wait that the call has ended, if it is such a call.
fn ended(call: &Call) -> Option<u64> {
    let [_, least, _, number, ..] = call.kept;
    (least == 0).then_some(number)
}
