//! Clocks.

use std::time::{Duration, Instant};

/// CPU time of the process so far.
pub fn process_cpu() -> Duration {
    read(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// CPU time of the calling thread so far.
pub fn thread_cpu() -> Duration {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The processor's counter, which costs nothing that would show beside a handler.
pub(crate) fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: reading the counter has no effects.
    return unsafe { core::arch::x86_64::_rdtsc() };
    #[cfg(target_arch = "aarch64")]
    {
        let ticks: u64;
        // SAFETY: reading the counter has no effects.
        unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks) };
        ticks
    }
}

/// Nanoseconds of one tick, measured over a tenth of a second.
pub(crate) fn nanos_per_tick() -> f64 {
    let (began, first) = (Instant::now(), ticks());
    std::thread::sleep(Duration::from_millis(100));
    let (elapsed, last) = (began.elapsed(), ticks());
    elapsed.as_nanos() as f64 / (last - first) as f64
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is live.
    unsafe { libc::clock_gettime(clock, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
