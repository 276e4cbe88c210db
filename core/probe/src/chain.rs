//! Who had a signal before us: the signals of it that are not ours go on to them.
//!
//! everprof takes no signal that has a handler; but one may be set between the look and the taking, and a signal that
//! was ours once may have to be left for another (`sigprof::install`). So every signal has its own entry here.

use core::ffi::c_void;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::os::{self, Action, Disposition};

const SIGNALS: usize = 65;

/// By signal: the handler's address, doubled, plus 1 where it takes three arguments; 0 where there was none. One word,
/// so that a handler sees both or neither.
static BEFORE: [AtomicUsize; SIGNALS] = [const { AtomicUsize::new(0) }; SIGNALS];

/// Keeps what `signal` had before us. Off the handler, before ours is installed.
pub fn remember(signal: i32, before: &Disposition) {
    let entry = match before.action() {
        Action::Handler(address) => address << 1 | usize::from(before.wants_info()),
        Action::Default | Action::Ignore => 0,
    };
    if let Some(place) = usize::try_from(signal).ok().and_then(|signal| BEFORE.get(signal)) {
        place.store(entry, Ordering::Release);
    }
}

/// Hands a signal that is not ours to who had it before us, if there was somebody. For handlers.
///
/// # Safety
/// The arguments are those that the kernel gave to the handler that calls this.
pub unsafe fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    let entry = usize::try_from(signal).ok().and_then(|signal| BEFORE.get(signal));
    match entry.map_or(0, |place| place.load(Ordering::Acquire)) {
        0 => {}
        // SAFETY: address and kind are of one disposition; the caller vouches for the rest.
        entry => unsafe { os::call(entry >> 1, entry & 1 == 1, signal, info, context) },
    }
}
