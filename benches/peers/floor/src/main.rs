//! The physical floor: a signal handler that does nothing.

use std::mem::MaybeUninit;

use harness::{Peer, Stack};

struct Floor;

extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

impl Peer for Floor {
    fn start(rate_hz: u32) -> Self {
        // SAFETY: all-zero is a valid sigaction.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = nothing as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        // SAFETY: the handler is of the type that SA_SIGINFO asks for.
        unsafe { libc::sigaction(libc::SIGPROF, &action, std::ptr::null_mut()) };
        let interval = libc::timeval { tv_sec: 0, tv_usec: 1_000_000 / i64::from(rate_hz) };
        let timer = libc::itimerval { it_interval: interval, it_value: interval };
        // SAFETY: `timer` is live.
        unsafe { libc::setitimer(libc::ITIMER_PROF, &timer, std::ptr::null_mut()) };
        Floor
    }

    type Report = ();

    fn report(&mut self) {}

    fn stacks(self) -> Vec<Stack> {
        Vec::new()
    }
}

fn main() {
    harness::run::<Floor>();
}
