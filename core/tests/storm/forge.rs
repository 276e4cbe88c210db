//! Signals faster than any timer: a process may send itself what a timer would have sent, and worse.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use everprof::Profiler;
use everprof_probe::os::gettid;
use everprof_probe::thread::{Slot, find};

use crate::common::{directory, time_in};

/// The code of a timer's signal.
pub(crate) const SI_TIMER: i32 = -2;

/// Sends `signal` to a thread of this process as the kernel would, with any code and fields; false where it refuses.
pub(crate) fn forge(tid: u32, signal: i32, code: i32, overrun: i32, value: u64) -> bool {
    #[repr(C)]
    struct Info {
        words: [i32; 6],
        value: u64,
        rest: [u64; 12],
    }
    let info = Info { words: [signal, 0, code, 0, 77, overrun], value, rest: [0; 12] };
    // SAFETY: the kernel copies 128 bytes of siginfo, as long as `Info` is.
    unsafe {
        libc::syscall(libc::SYS_rt_tgsigqueueinfo, std::process::id(), tid, signal, &raw const info) == 0
    }
}

/// Sends a thread the signal of its own timer.
pub(crate) fn expire(slot: &Slot) -> bool {
    forge(slot.tid(), libc::SIGPROF, SI_TIMER, 0, slot.address() as u64)
}

/// The slot of a thread once its timer runs.
pub(crate) fn timed_slot(tid: u32) -> &'static Slot {
    loop {
        if let Some(slot) = find(tid).filter(|slot| slot.period() != 0) {
            return slot;
        }
        thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Expires the timers of `slots` in turn until each of them has taken `samples` more.
pub(crate) fn expire_until(slots: &[&Slot], samples: u64) {
    let taken = |slot: &Slot| slot.credited() / u64::from(slot.period().max(1));
    let wanted: Vec<u64> = slots.iter().map(|slot| taken(slot) + samples).collect();
    while slots.iter().zip(&wanted).any(|(slot, wanted)| taken(slot) < *wanted) {
        for _ in 0..100 {
            slots.iter().for_each(|slot| assert!(expire(slot)));
        }
    }
}

/// Numbers without end: SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }
}

/// A profiler that is not held back by what the storm costs.
pub(crate) fn unbounded(name: &str, rate: u32) -> (Profiler, std::path::PathBuf) {
    let dir = directory(name);
    let builder = Profiler::builder().dir(&dir).rate_hz(rate).set("cpu_budget_percent", "100");
    (builder.set("symbolize", "names").start().unwrap(), dir)
}

/// Signals that no timer sent: every value, code and overrun, to threads that are busy.
pub(crate) fn forged_signals() {
    static STOP: AtomicBool = AtomicBool::new(false);
    static SPINS: AtomicU64 = AtomicU64::new(0);
    let (profiler, dir) = unbounded("forged", 1000);
    let (send, tids) = std::sync::mpsc::channel();
    let spinners: Vec<_> = (0..2)
        .map(|_| {
            let send = send.clone();
            thread::spawn(move || {
                send.send(gettid()).unwrap();
                while !STOP.load(Ordering::Relaxed) {
                    SPINS.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let slots: Vec<&Slot> = (0..2).map(|_| timed_slot(tids.recv().unwrap())).collect();
    // A slot that is free: its thread is gone.
    let gone = thread::spawn(|| timed_slot(gettid()).address() as u64).join().unwrap();
    let mut random = Random(1);
    for round in 0..crate::amount(200_000, 5_000_000) {
        let slot = slots[round as usize % 2];
        let address = slot.address() as u64;
        let value = match random.next() % 10 {
            0 => random.next(),
            1 => address + 1 + random.next() % 127,
            2 => gone,
            3 => 0,
            4 => u64::MAX,
            5 => address.wrapping_sub(random.next() % (8 << 20)),
            6 => address.wrapping_add(128 * (random.next() % 70_000)),
            7 => everprof_probe::sigprof::DISCOVERY as u64,
            8 => random.next() % 70_000,
            _ => slots[1 - round as usize % 2].address() as u64,
        };
        // What timers send, what descriptors send, and everything else that a process may send itself.
        let code = match random.next() % 4 {
            0 => SI_TIMER,
            1 => 1 + (random.next() % 6) as i32,
            2 => random.next() as i32,
            _ => -((random.next() % 8) as i32),
        };
        let overrun = if random.next().is_multiple_of(8) { random.next() as i32 >> 20 } else { 0 };
        let _ = forge(slot.tid(), libc::SIGPROF, code, overrun, value);
    }
    let before = SPINS.load(Ordering::Relaxed);
    expire_until(&slots, 100);
    assert!(SPINS.load(Ordering::Relaxed) > before);
    STOP.store(true, Ordering::Relaxed);
    spinners.into_iter().for_each(|thread| thread.join().unwrap());
    let stats = profiler.stats();
    crate::common::stop(profiler);
    assert!(time_in(&crate::common::largest(&dir), "forged_signals") > 0, "{stats:?}");
    std::fs::remove_dir_all(&dir).unwrap();
}
