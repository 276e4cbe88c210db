//! `perf_event_open` for one thread's CPU time.

use core::mem::MaybeUninit;

/// A software event that counts a thread's CPU time in user space and signals the thread; closed on drop. Where the program
/// has closed it, nothing is done with what may be a file of its own under that number.
#[derive(Debug)]
pub struct PerfEvent {
    descriptor: i32,
    /// The kernel's number of the event, which no other one gets.
    id: u64,
}

/// `struct perf_event_attr` up to its first published size (64 bytes, `linux/perf_event.h`).
#[repr(C)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    bp_type: u32,
    bp_addr: u64,
}

const TYPE_SOFTWARE: u32 = 1;
const TASK_CLOCK: u64 = 1;
const DISABLED: u64 = 1 << 0;
const EXCLUDE_KERNEL: u64 = 1 << 5;
const EXCLUDE_HV: u64 = 1 << 6;
const FLAG_FD_CLOEXEC: u64 = 1 << 3;
const IOC_ENABLE: libc::Ioctl = 0x2400;
const IOC_DISABLE: libc::Ioctl = 0x2401;
const IOC_PERIOD: libc::Ioctl = 0x4008_2404;
const IOC_ID: libc::Ioctl = 0x8008_2407u32 as libc::Ioctl;
const F_SETSIG: i32 = 10;
const F_SETOWN_EX: i32 = 15;

#[repr(C)]
struct Owner {
    kind: i32,
    tid: i32,
}

impl PerfEvent {
    /// Opens a stopped event on `tid` that will send `signal` to it every `period` nanoseconds of its CPU time; the
    /// error is the kernel's errno (EACCES or EPERM where policy forbids it, ENOSYS where it is filtered).
    pub fn open(tid: u32, signal: i32, period: u64) -> Result<PerfEvent, i32> {
        // SAFETY: all-zero is a valid value of this plain struct.
        let mut attributes: Attributes = unsafe { MaybeUninit::zeroed().assume_init() };
        attributes.kind = TYPE_SOFTWARE;
        attributes.size = size_of::<Attributes>() as u32;
        attributes.config = TASK_CLOCK;
        attributes.sample_period = period;
        attributes.wakeup_events = 1;
        attributes.flags = DISABLED | EXCLUDE_HV;
        let event = match open(&attributes, tid) {
            // An unprivileged process may not count time in the kernel: expiries there then give no signal, and what
            // they stood for shows as CPU time without a sample.
            Err(libc::EACCES | libc::EPERM) => {
                attributes.flags |= EXCLUDE_KERNEL;
                open(&attributes, tid)?
            }
            other => other?,
        };
        let owner = Owner { kind: 0, tid: tid as i32 };
        // SAFETY: the descriptor is ours.
        check(unsafe { libc::fcntl(event.descriptor, libc::F_SETFL, libc::O_ASYNC | libc::O_NONBLOCK) })?;
        // SAFETY: the descriptor is ours.
        check(unsafe { libc::fcntl(event.descriptor, F_SETSIG, signal) })?;
        // SAFETY: the descriptor is ours and the owner is live.
        check(unsafe { libc::fcntl(event.descriptor, F_SETOWN_EX, &owner) })?;
        Ok(event)
    }

    /// Whether it is open still.
    pub fn is_open(&self) -> bool {
        id(self.descriptor) == Some(self.id)
    }

    /// Starts it.
    pub fn enable(&self) -> Result<(), i32> {
        self.check_open()?;
        // SAFETY: the descriptor is ours.
        check(unsafe { libc::ioctl(self.descriptor, IOC_ENABLE, 0) })
    }

    /// Changes the period, in nanoseconds.
    pub fn set_period(&self, period: u64) -> Result<(), i32> {
        self.check_open()?;
        // SAFETY: the descriptor is ours and the period is live.
        check(unsafe { libc::ioctl(self.descriptor, IOC_PERIOD, &period) })
    }

    /// The descriptor, which the signal names.
    pub fn descriptor(&self) -> i32 {
        self.descriptor
    }

    fn check_open(&self) -> Result<(), i32> {
        if self.is_open() { Ok(()) } else { Err(libc::EBADF) }
    }
}

impl Drop for PerfEvent {
    fn drop(&mut self) {
        if !self.is_open() {
            return;
        }
        // A fork's child has the descriptor too, and closing ours would then end nothing.
        // SAFETY: the descriptor is ours.
        unsafe { libc::ioctl(self.descriptor, IOC_DISABLE, 0) };
        // SAFETY: the descriptor is ours, and this is its last use.
        unsafe { libc::close(self.descriptor) };
    }
}

/// The number of the event that a descriptor stands for; none where it stands for none.
fn id(descriptor: i32) -> Option<u64> {
    let mut id = 0u64;
    // SAFETY: the request writes one number, which lives through the call.
    let got = unsafe { libc::ioctl(descriptor, IOC_ID, &raw mut id) };
    if got == 0 { Some(id) } else { None }
}

fn open(attributes: &Attributes, tid: u32) -> Result<PerfEvent, i32> {
    // SAFETY: the attributes are live and carry their size; the other arguments are plain numbers.
    let fd =
        unsafe { libc::syscall(libc::SYS_perf_event_open, attributes, tid as i32, -1, -1, FLAG_FD_CLOEXEC) };
    if fd < 0 {
        return Err(super::errno());
    }
    let descriptor = fd as i32;
    Ok(PerfEvent { descriptor, id: id(descriptor).ok_or(libc::EBADF)? })
}

fn check(result: i32) -> Result<(), i32> {
    if result < 0 { Err(super::errno()) } else { Ok(()) }
}
