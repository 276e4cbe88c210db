//! What the wall clock of threads that do nothing costs, and how many of their calls it interrupts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, Builder};
use std::time::{Duration, Instant};

use crate::clock::process_cpu;
use crate::memory::resident;
use crate::{Peer, say};

/// The stacks of idle threads, of which most of the address space is never touched.
const STACK: usize = 64 << 10;
/// What is met for the first time is dearer.
const SETTLES: Duration = Duration::from_secs(6);
const MEASURED: Duration = Duration::from_secs(12);

static INTERRUPTED: AtomicU64 = AtomicU64::new(0);

/// Beside so many threads that wait, in three calls, at that rate.
pub(crate) fn measure<P: Peer>(threads: usize, rate_hz: u32) {
    // SAFETY: makes a descriptor, for all: there may be few.
    let epoll = unsafe { libc::epoll_create1(0) };
    for number in 0..threads {
        Builder::new().stack_size(STACK).spawn(move || wait(number, epoll)).expect("a thread can be started");
    }
    thread::sleep(Duration::from_secs(1));
    let (without, _) = over(MEASURED / 4);
    let before = resident("VmRSS:");
    let cpu = process_cpu();
    let Some(_peer) = P::start_wall(rate_hz) else { panic!("it has no wall clock") };
    thread::sleep(SETTLES);
    say("cpu_first_seconds", "ms", (process_cpu() - cpu).as_secs_f64() * 1e3);
    let (with, interrupted) = over(MEASURED);
    say("cpu", "% of a processor", (with - without).max(0.0) * 100.0);
    say("interrupted_calls", "1/s", interrupted);
    say("interrupted_in_all", "calls", INTERRUPTED.load(Ordering::Relaxed) as f64);
    say("rss_added", "KiB", resident("VmRSS:") - before);
}

/// The part of a processor that the process uses, and the calls a second that fail, over that time.
fn over(time: Duration) -> (f64, f64) {
    let (began, cpu, calls) = (Instant::now(), process_cpu(), INTERRUPTED.load(Ordering::Relaxed));
    thread::sleep(time);
    let seconds = began.elapsed().as_secs_f64();
    let calls = INTERRUPTED.load(Ordering::Relaxed) - calls;
    ((process_cpu() - cpu).as_secs_f64() / seconds, calls as f64 / seconds)
}

/// Waits for ever, in one of three calls that a signal ends with EINTR.
fn wait(number: usize, epoll: i32) {
    loop {
        // SAFETY: all-zero is a valid event.
        let mut event: libc::epoll_event = unsafe { std::mem::zeroed() };
        let day = libc::timespec { tv_sec: 86_400, tv_nsec: 0 };
        let failed = match number % 3 {
            // SAFETY: no descriptors are given.
            0 => unsafe { libc::poll(std::ptr::null_mut(), 0, -1) },
            // SAFETY: the event is ours to write.
            1 => unsafe { libc::epoll_wait(epoll, &mut event, 1, -1) },
            // SAFETY: the time is live.
            _ => unsafe { libc::nanosleep(&day, std::ptr::null_mut()) },
        };
        INTERRUPTED.fetch_add(u64::from(failed < 0), Ordering::Relaxed);
    }
}
