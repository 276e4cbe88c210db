//! Time inside a profiler's signal handler, taken from outside in the same way for all: once the profiler has installed
//! its handler, ours takes the place of it, calls it with what the kernel gave, and keeps the ticks in between.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::clock::{nanos_per_tick, ticks};
use crate::load::{Trash, at_depth};
use crate::{Peer, quantile, say};

/// everprof looks after its handler every two seconds and takes another signal where it is gone, so all must be over
/// before.
const WINDOW: Duration = Duration::from_millis(1500);
/// Signals in one go: fewer than fill anyone's buffer.
const BATCH_WORDS: usize = 16 * 1024;
/// Signals at the start of a batch that warm the caches.
const WARMING: usize = 20;

static HANDLER: AtomicUsize = AtomicUsize::new(0);
static TAKEN: [AtomicU64; 1 << 16] = [const { AtomicU64::new(0) }; 1 << 16];
static NEXT: AtomicUsize = AtomicUsize::new(0);
/// The value of the timer whose signals count; 0 where all do.
static TIMER: AtomicUsize = AtomicUsize::new(0);

/// Signals back to back.
pub(crate) fn warm<P: Peer>(frames: usize) {
    let mut round_trip = Vec::new();
    let mut taken = Vec::new();
    at_depth(frames - 1, || {
        let (peer, info) = begin::<P>();
        for _ in 0..8 {
            let batch = BATCH_WORDS / frames;
            for at in 0..batch + WARMING {
                let before = ticks();
                send(info.as_ref());
                let after = ticks();
                if at >= WARMING {
                    round_trip.push((after - before) as f64);
                }
            }
            let (all, first) = (NEXT.swap(0, Ordering::Relaxed), WARMING);
            taken.extend(TAKEN[first..all].iter().map(|ticks| ticks.load(Ordering::Relaxed) as f64));
            // The profiler empties its buffers in the meantime.
            std::thread::sleep(Duration::from_millis(130));
        }
        end(peer);
    });
    tell("handler", taken);
    tell("signal_round_trip", round_trip);
}

/// Signals of the profiler's own timer at 99 Hz, while the thread works with so many bytes.
pub(crate) fn timer<P: Peer>(frames: usize, bytes: usize) {
    let mut taken = Vec::new();
    let mut trash = Trash::new(bytes);
    at_depth(frames, || {
        let (peer, _) = begin::<P>();
        let end_at = Instant::now() + WINDOW;
        let mut seed = 1;
        while Instant::now() < end_at {
            trash.touch(20_000, &mut seed);
        }
        let all = NEXT.swap(0, Ordering::Relaxed);
        taken.extend(TAKEN[..all].iter().map(|ticks| ticks.load(Ordering::Relaxed) as f64));
        end(peer);
    });
    tell("handler", taken);
}

fn begin<P: Peer>() -> (P, Option<libc::siginfo_t>) {
    let peer = P::start(99);
    let info = peer.ready();
    TIMER.store(info.as_ref().map_or(0, value_of), Ordering::Relaxed);
    // The first samples pay for what is made lazily.
    crate::load::burn(Duration::from_millis(150));
    wrap();
    NEXT.store(0, Ordering::Relaxed);
    (peer, info)
}

fn end<P: Peer>(peer: P) {
    unwrap();
    drop(peer);
}

fn tell(what: &str, ticks: Vec<f64>) {
    let scale = nanos_per_tick();
    let mut nanos: Vec<f64> = ticks.into_iter().map(|ticks| ticks * scale).collect();
    nanos.sort_by(f64::total_cmp);
    say(&format!("{what}_count"), "signals", nanos.len() as f64);
    for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
        say(&format!("{what}_{name}"), "ns", quantile(&nanos, share));
    }
}

extern "C" fn timed(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
    // SAFETY: the address is that of a handler with three arguments; `wrap` has looked.
    let handler = unsafe { std::mem::transmute::<usize, Handler>(HANDLER.load(Ordering::Relaxed)) };
    let before = ticks();
    handler(signal, info, context);
    let after = ticks();
    let timer = TIMER.load(Ordering::Relaxed);
    // SAFETY: the kernel passes a valid siginfo to a handler of three arguments.
    if timer != 0 && value_of(unsafe { &*info }) != timer {
        return;
    }
    if let Some(place) = TAKEN.get(NEXT.fetch_add(1, Ordering::Relaxed)) {
        place.store(after - before, Ordering::Relaxed);
    }
}

/// What a timer's signal carries.
fn value_of(info: &libc::siginfo_t) -> usize {
    // SAFETY: of a signal that no timer sent, these bytes are something else, but they are there.
    unsafe { info.si_value() }.sival_ptr as usize
}

fn wrap() {
    let mut action = disposition();
    assert!(action.sa_flags & libc::SA_SIGINFO != 0, "the handler takes three arguments");
    HANDLER.store(action.sa_sigaction, Ordering::Relaxed);
    action.sa_sigaction = timed as *const () as usize;
    // SAFETY: the profiler's own disposition with another handler of the same type.
    unsafe { libc::sigaction(libc::SIGPROF, &action, std::ptr::null_mut()) };
}

fn unwrap() {
    let mut action = disposition();
    action.sa_sigaction = HANDLER.load(Ordering::Relaxed);
    // SAFETY: as it was before.
    unsafe { libc::sigaction(libc::SIGPROF, &action, std::ptr::null_mut()) };
}

fn disposition() -> libc::sigaction {
    // SAFETY: all-zero is a valid sigaction.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: `action` is live.
    unsafe { libc::sigaction(libc::SIGPROF, std::ptr::null(), &mut action) };
    action
}

/// Sends the calling thread the signal: that of a timer where the profiler tells them apart.
pub(crate) fn send(info: Option<&libc::siginfo_t>) {
    // SAFETY: system calls without memory effects; a process may send itself any siginfo.
    unsafe {
        let (pid, tid) = (libc::getpid(), libc::gettid());
        match info {
            Some(info) => {
                libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, libc::SIGPROF, std::ptr::from_ref(info))
            }
            None => libc::syscall(libc::SYS_tgkill, pid, tid, libc::SIGPROF),
        };
    }
}
