//! The plain wall-clock sampler: signals every thread at the rate, running or not. The handler walks by frame pointers,
//! which ends at once in a build without them, and keeps what it finds: what is measured is what signals cost.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use harness::{Peer, Stack};

struct Everyone;

static FRAMES: AtomicU64 = AtomicU64::new(0);

extern "C" fn walk(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a live context to a handler of SA_SIGINFO.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    #[cfg(target_arch = "x86_64")]
    let (mut frame, low) = (
        context.uc_mcontext.gregs[libc::REG_RBP as usize] as u64,
        context.uc_mcontext.gregs[libc::REG_RSP as usize] as u64,
    );
    #[cfg(target_arch = "aarch64")]
    let (mut frame, low) = (context.uc_mcontext.regs[29], context.uc_mcontext.sp);
    // No further than a small stack surely has: frames without pointers lead anywhere.
    let high = low + 512;
    let mut frames = 1;
    while frame >= low && frame < high && frame % 8 == 0 {
        // SAFETY: in the lowest 512 bytes of the stack in use.
        frame = unsafe { (frame as *const u64).read() };
        frames += 1;
    }
    FRAMES.fetch_add(frames, Ordering::Relaxed);
}

fn signal_everyone(rate_hz: u32) {
    // SAFETY: system calls without arguments.
    let (pid, own) = unsafe { (libc::getpid(), libc::gettid()) };
    loop {
        std::thread::sleep(Duration::from_secs(1) / rate_hz);
        for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
            let tid: i32 = task.file_name().to_str().and_then(|name| name.parse().ok()).unwrap_or(own);
            if tid != own {
                // SAFETY: plain numbers; the handler is installed.
                unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, libc::SIGPROF) };
            }
        }
    }
}

impl Peer for Everyone {
    fn start(_: u32) -> Self {
        panic!("it samples the wall clock only");
    }

    fn start_wall(rate_hz: u32) -> Option<Self> {
        // SAFETY: all-zero is a valid sigaction.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = walk as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        // SAFETY: the handler is of the type that SA_SIGINFO asks for.
        unsafe { libc::sigaction(libc::SIGPROF, &action, std::ptr::null_mut()) };
        std::thread::spawn(move || signal_everyone(rate_hz));
        Some(Everyone)
    }

    type Report = ();

    fn report(&mut self) {}

    fn stacks(self) -> Vec<Stack> {
        Vec::new()
    }
}

fn main() {
    harness::run::<Everyone>();
}
