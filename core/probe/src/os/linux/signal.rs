//! Signal dispositions, and what the kernel tells a handler about a timer's signal.

use core::mem::MaybeUninit;

/// A handler as `sigaction` takes it.
pub type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

/// A saved disposition of a signal.
#[derive(Clone, Copy)]
pub struct Disposition(libc::sigaction);

/// What a disposition does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The default, which kills the process for the signals used here.
    Default,
    /// Ignored.
    Ignore,
    /// A handler, at this address.
    Handler(usize),
}

impl Disposition {
    /// The disposition of `signal` now; `None` where there is no such signal.
    pub fn of(signal: i32) -> Option<Disposition> {
        exchange(signal, core::ptr::null())
    }

    /// What it does.
    pub fn action(&self) -> Action {
        match self.0.sa_sigaction {
            libc::SIG_DFL => Action::Default,
            libc::SIG_IGN => Action::Ignore,
            handler => Action::Handler(handler),
        }
    }

    /// Makes it the disposition of `signal` again.
    pub fn restore(&self, signal: i32) {
        exchange(signal, &self.0);
    }

    /// Whether its handler runs on an alternate stack and `signal` may interrupt it there. Where the handler does not
    /// even hold back its own signal (SA_NODEFER), it may be one that jumps away, with the mask as it is then.
    fn is_exposed_to(&self, signal: i32) -> bool {
        let flags = self.0.sa_flags;
        matches!(self.action(), Action::Handler(_))
            && flags & libc::SA_ONSTACK != 0
            && flags & libc::SA_NODEFER == 0
            // SAFETY: the set is live and initialised.
            && unsafe { libc::sigismember(&self.0.sa_mask, signal) } == 0
    }

    fn holding_back(mut self, signal: i32) -> Disposition {
        // SAFETY: the set is live and initialised.
        unsafe { libc::sigaddset(&mut self.0.sa_mask, signal) };
        self
    }

    fn is_same_handler(&self, other: &Disposition) -> bool {
        (self.0.sa_sigaction, self.0.sa_flags) == (other.0.sa_sigaction, other.0.sa_flags)
    }

    /// Whether its handler takes three arguments (SA_SIGINFO) or one.
    pub fn wants_info(&self) -> bool {
        self.0.sa_flags & libc::SA_SIGINFO != 0
    }
}

/// Calls the handler at `address` as the kernel would have. For handlers.
///
/// # Safety
/// `address` and `wants_info` come from one [`Disposition`] whose action is [`Action::Handler`], and the other
/// arguments are those of the signal at hand.
pub unsafe fn call(
    address: usize,
    wants_info: bool,
    signal: i32,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    if wants_info {
        // SAFETY: SA_SIGINFO says that the address is a function of this type.
        let handler: Handler = unsafe { core::mem::transmute::<usize, Handler>(address) };
        handler(signal, info, context);
    } else {
        // SAFETY: without SA_SIGINFO the address is a function of this type.
        let handler = unsafe { core::mem::transmute::<usize, extern "C" fn(i32)>(address) };
        handler(signal);
    }
}

/// Whether the calling thread runs on its alternate signal stack, and so in a handler; false where the kernel does not say.
/// Async-signal-safe.
pub fn is_on_alternate_stack() -> bool {
    let mut now = MaybeUninit::<libc::stack_t>::zeroed();
    // SAFETY: changes nothing, and writes to a live value.
    let result = unsafe { libc::sigaltstack(core::ptr::null(), now.as_mut_ptr()) };
    // SAFETY: zeros are a valid value, and what the kernel has written is one.
    result == 0 && unsafe { now.assume_init() }.ss_flags & libc::SS_ONSTACK != 0
}

/// Installs `handler` for `signal`: interrupted calls restart, and an alternate stack is used where there is one. Every
/// other signal waits until it has returned, but those of a fault: a handler of the host that ran in the middle of ours
/// might never come back (`siglongjmp`, a cancelled thread), and what ours holds would be held for ever. Returns what
/// was there before.
pub fn install(signal: i32, handler: Handler) -> Option<Disposition> {
    let mut action = zeroed_action();
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
    // Not sigfillset: it leaves out the signals that the C library cancels threads with.
    // SAFETY: a set of signals is bits, of which every pattern is valid.
    unsafe { core::ptr::write_bytes(&raw mut action.sa_mask, 0xff, 1) };
    for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS] {
        // SAFETY: the set is live and initialised.
        unsafe { libc::sigdelset(&mut action.sa_mask, fault) };
    }
    exchange(signal, &action)
}

/// Makes the handler of `fault`, where it runs on an alternate stack, hold `signal` back as long as it runs. There is no
/// way to change a disposition only if it is still what was read: where the host sets another in between, that one is
/// put back, with the same change.
pub fn hold_back_in(fault: i32, signal: i32) {
    let Some(mut there) = Disposition::of(fault).filter(|now| now.is_exposed_to(signal)) else { return };
    let mut wanted = there.holding_back(signal);
    // As often as the host may change it while we look, which is hardly ever once.
    for _ in 0..8 {
        match exchange(fault, &wanted.0) {
            Some(newer) if !newer.is_same_handler(&there) => {
                there = wanted;
                wanted = if newer.is_exposed_to(signal) { newer.holding_back(signal) } else { newer };
            }
            _ => return,
        }
    }
}

/// Makes the process ignore `signal`: what is still pending then does no harm, as the default would.
pub fn ignore(signal: i32) {
    let mut action = zeroed_action();
    action.sa_sigaction = libc::SIG_IGN;
    exchange(signal, &action);
}

/// The first and last number of the real-time signals that the C library leaves to programs.
pub fn realtime_range() -> (i32, i32) {
    (libc::SIGRTMIN(), libc::SIGRTMAX())
}

/// What the kernel says about why a signal came; the fields of `siginfo_t` that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A POSIX timer expired: its value, and how often it expired again before the signal was delivered.
    Timer {
        /// What the timer was created with.
        value: usize,
        /// Expiries since the one that queued the signal.
        overrun: u32,
    },
    /// A file descriptor became ready: the descriptor.
    Descriptor(i32),
    /// Anything else: `kill`, `setitimer`, another program.
    Other,
}

/// The layout of `siginfo_t` for timers and descriptors on 64-bit Linux (`asm-generic/siginfo.h`), which libc keeps
/// private: three words of 4 bytes, padding, then a union.
#[repr(C)]
struct Info {
    signo: i32,
    errno: i32,
    code: i32,
    _pad: i32,
    /// Timer: the kernel's timer id (low), the overrun (high). Descriptor: the band, 8 bytes.
    first: [i32; 2],
    /// Timer: the value. Descriptor: the descriptor, in the low half.
    second: u64,
}

const SI_TIMER: i32 = -2;
const POLL_IN: i32 = 1;
const POLL_HUP: i32 = 6;

/// Reads the cause. For handlers.
///
/// # Safety
/// `info` is what the kernel gave to a handler of SA_SIGINFO.
pub unsafe fn cause(info: *const libc::siginfo_t) -> Cause {
    // SAFETY: the caller's promise; siginfo_t is 128 bytes and aligned to 8, and the layout is the kernel's.
    let info = unsafe { &*info.cast::<Info>() };
    match info.code {
        SI_TIMER => Cause::Timer { value: info.second as usize, overrun: info.first[1].max(0) as u32 },
        POLL_IN..=POLL_HUP => Cause::Descriptor(info.second as u32 as i32),
        _ => Cause::Other,
    }
}

/// Sends `signal` to a thread of this process as a timer of it would, with a value and an overrun. False where there is
/// no such thread, or no room for the signal. Not for handlers.
pub fn send(tid: u32, signal: i32, value: usize, overrun: u32) -> bool {
    // The kernel copies the whole of `siginfo_t`; what comes after the fields that matter is zeros.
    #[repr(C)]
    struct Whole {
        info: Info,
        _rest: [u64; 12],
    }
    let info = Info {
        signo: signal,
        errno: 0,
        code: SI_TIMER,
        _pad: 0,
        first: [0, overrun as i32],
        second: value as u64,
    };
    let whole = Whole { info, _rest: [0; 12] };
    let pid = super::getpid();
    // SAFETY: the information is live and as large as the kernel reads; a process may send itself any code below 0.
    unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, signal, &raw const whole) == 0 }
}

fn zeroed_action() -> libc::sigaction {
    // SAFETY: all-zero is a valid sigaction: the default action with an empty mask.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

fn exchange(signal: i32, new: *const libc::sigaction) -> Option<Disposition> {
    let mut old = zeroed_action();
    // SAFETY: `new` is null or live, `old` is live.
    (unsafe { libc::sigaction(signal, new, &mut old) } == 0).then_some(Disposition(old))
}
