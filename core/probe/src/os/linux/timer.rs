//! CPU clocks and the POSIX timers on them. Off the handler, from any thread.

use core::mem::MaybeUninit;

/// A POSIX timer that sends a signal each time a CPU clock has advanced by one interval; deleted on drop.
///
/// The kernel deletes it at `execve` and does not hand it to a fork's child, where [`CpuTimer::forget`] it.
#[derive(Debug)]
pub struct CpuTimer(libc::timer_t);

// SAFETY: a timer id is a number of the process, usable from every thread.
unsafe impl Send for CpuTimer {}

/// Whose CPU time a timer follows, and who gets its signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// One thread's CPU time; the signal goes to that thread.
    Thread(u32),
    /// The whole process's; the signal goes to a thread that is running.
    Process,
}

impl Clock {
    /// The kernel's number of the clock: for a thread `~tid << 3` with the bits for "per thread" and "scheduler time"
    /// (`posix-timers_types.h`), which works for any thread of the process, not only the calling one.
    fn id(self) -> libc::clockid_t {
        match self {
            Clock::Thread(tid) => (!(tid as libc::clockid_t) << 3) | 6,
            Clock::Process => libc::CLOCK_PROCESS_CPUTIME_ID,
        }
    }

    /// CPU time in nanoseconds; `None` where the thread is gone.
    pub fn now(self) -> Option<u64> {
        read_clock(self.id())
    }
}

/// Nanoseconds on the monotonic clock.
pub fn monotonic() -> u64 {
    read_clock(libc::CLOCK_MONOTONIC).unwrap_or_default()
}

/// Nanoseconds since the system was started, also those for which it was suspended.
pub(super) fn since_boot() -> u64 {
    read_clock(libc::CLOCK_BOOTTIME).unwrap_or_default()
}

/// Nanoseconds between two ticks of the kernel, which is when it looks at CPU timers; 10 ms where it does not say.
pub fn tick() -> u64 {
    const LONGEST: u64 = 10_000_000;
    let mut resolution = timespec(0);
    // SAFETY: the pointer is to a live value. The coarse clock advances at each tick.
    match unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &mut resolution) } {
        0 => (resolution.tv_nsec as u64).clamp(1, LONGEST),
        _ => LONGEST,
    }
}

impl CpuTimer {
    /// A disarmed timer on `clock` that sends `signal` with `value`; the error is the kernel's errno.
    pub fn new(clock: Clock, signal: i32, value: usize) -> Result<CpuTimer, i32> {
        // SAFETY: all-zero is a valid sigevent.
        let mut event: libc::sigevent = unsafe { MaybeUninit::zeroed().assume_init() };
        event.sigev_signo = signal;
        event.sigev_value.sival_ptr = value as *mut libc::c_void;
        event.sigev_notify = libc::SIGEV_SIGNAL;
        if let Clock::Thread(tid) = clock {
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_notify_thread_id = tid as i32;
        }
        let mut timer = MaybeUninit::uninit();
        // SAFETY: both pointers are to live values of the right type.
        if unsafe { libc::timer_create(clock.id(), &mut event, timer.as_mut_ptr()) } != 0 {
            return Err(super::errno());
        }
        // SAFETY: the call succeeded and wrote the id.
        Ok(CpuTimer(unsafe { timer.assume_init() }))
    }

    /// Fires after `first` and then every `interval` nanoseconds of the clock; both 0 disarm it.
    pub fn arm(&self, first: u64, interval: u64) -> Result<(), i32> {
        let spec = libc::itimerspec { it_value: timespec(first), it_interval: timespec(interval) };
        // SAFETY: the timer is ours and alive; the specification is a live value.
        match unsafe { libc::timer_settime(self.0, 0, &spec, core::ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(super::errno()),
        }
    }

    /// Whether it still follows a live thread: the kernel reports a timer of a dead thread as disarmed.
    pub fn is_armed(&self) -> bool {
        let mut spec = libc::itimerspec { it_value: timespec(0), it_interval: timespec(0) };
        // SAFETY: the timer is ours and alive; the specification is a live value.
        let read = unsafe { libc::timer_gettime(self.0, &mut spec) };
        read == 0 && (spec.it_interval.tv_sec != 0 || spec.it_interval.tv_nsec != 0)
    }

    /// Drops the value without the call: in a fork's child the id names nothing, or a stranger's timer.
    pub fn forget(self) {
        core::mem::forget(self);
    }
}

impl Drop for CpuTimer {
    fn drop(&mut self) {
        // SAFETY: the timer is ours, and this is the last use of its id.
        unsafe { libc::timer_delete(self.0) };
    }
}

fn read_clock(id: libc::clockid_t) -> Option<u64> {
    let mut now = timespec(0);
    // SAFETY: the pointer is to a live value.
    match unsafe { libc::clock_gettime(id, &mut now) } {
        0 => Some(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64),
        _ => None,
    }
}

fn timespec(nanos: u64) -> libc::timespec {
    // SAFETY: all-zero is a valid timespec; some platforms pad it, so that it cannot be written as a literal.
    let mut time: libc::timespec = unsafe { MaybeUninit::zeroed().assume_init() };
    time.tv_sec = (nanos / 1_000_000_000) as _;
    time.tv_nsec = (nanos % 1_000_000_000) as _;
    time
}
