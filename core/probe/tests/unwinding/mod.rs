//! What the unwinder's tests share: a thread's stack bounds, a profiling timer with a handler of its own, and the
//! `backtrace` crate as the oracle.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

#[cfg(target_arch = "x86_64")]
pub mod step;

use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use everprof_probe::memory::StackMemory;
use everprof_probe::regs::{self, Regs};
use everprof_probe::sample::{Frame, frames};
use everprof_probe::unwind::{self, End, Frames};

thread_local! {
    static STACK: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
    // Not on the handler's stack, which is small: the standard library's alternate stack has 8 KiB.
    static WORDS: UnsafeCell<[u64; 512]> = const { UnsafeCell::new([0; 512]) };
}

/// The calling thread's stack; remembered, so that a handler may ask on a thread that has asked before.
pub fn stack_range() -> Range<u64> {
    if STACK.get() == (0, 0) {
        let mut attributes = std::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
        let (mut start, mut len) = (std::ptr::null_mut(), 0);
        // SAFETY: the attributes are filled in by the first call and destroyed by the last.
        #[allow(clippy::multiple_unsafe_ops_per_block)]
        unsafe {
            assert_eq!(libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()), 0);
            assert_eq!(libc::pthread_attr_getstack(attributes.as_ptr(), &mut start, &mut len), 0);
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
        }
        STACK.set((start as u64, start as u64 + len as u64));
    }
    let (start, end) = STACK.get();
    start..end
}

/// The memory that a walk of the calling thread may read; `extra` is its alternate stack.
pub fn stack_memory(extra: Range<u64>) -> StackMemory {
    let mut memory = StackMemory::new();
    // SAFETY: a thread's stack is mapped while it runs on it.
    unsafe { memory.add(stack_range()) };
    // SAFETY: as the kernel says in the signal frame.
    unsafe { memory.add(extra) };
    memory
}

/// Waits until there are tables: a refresh that another test is in the middle of answers at once.
pub fn refresh() {
    while !unwind::refresh() && unwind::generation() == 0 {
        std::thread::yield_now();
    }
}

/// Our stack from `regs`, leaf first.
pub fn walk(regs: &Regs, stack: &StackMemory) -> (Vec<Frame>, End) {
    let mut words = vec![0; 3000];
    let mut sink = Frames::new(&mut words);
    let end = unwind::walk(regs, stack, &mut sink);
    (frames(sink.finish()).collect(), end)
}

/// The addresses of the oracle's stack, from the caller's frame on: return addresses.
#[inline(always)]
pub fn oracle() -> Vec<u64> {
    let mut ips = Vec::new();
    // SAFETY: the caller makes sure that nothing else uses `backtrace` meanwhile.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            ips.push(frame.ip() as u64);
            ips.len() < 3000
        })
    };
    ips
}

/// The native addresses of `stack`.
pub fn natives(stack: &[Frame]) -> Vec<u64> {
    let native = |frame: &Frame| if let Frame::Native(pc) = frame { Some(*pc) } else { None };
    stack.iter().filter_map(native).collect()
}

/// Fails unless `ours`, from a frame on, is what the oracle says. Both know a first frame each that the other does not.
pub fn assert_same_callers(ours: &[Frame], oracle: &[u64]) {
    let ours: Vec<u64> = natives(ours).into_iter().skip(1).map(|pc| pc + 1).collect();
    // The oracle ends with the frame above the root, if at all, at address 0 or 1.
    let oracle: Vec<u64> = oracle.iter().copied().filter(|&ip| ip > 1).collect();
    assert!(!ours.is_empty() && oracle.len() > ours.len(), "{} frames, oracle {}", ours.len(), oracle.len());
    let same = &oracle[oracle.len() - ours.len()..];
    if ours != same {
        panic!("ours:\n{}oracle:\n{}", names(&ours), names(&oracle));
    }
}

/// A line per address: for the message of a failed assertion.
pub fn names(addresses: &[u64]) -> String {
    let mut text = String::new();
    for &address in addresses {
        let mut name = None;
        backtrace::resolve((address as usize).wrapping_sub(1) as *mut _, |symbol| {
            name = symbol.name().map(|name| name.to_string()).or(name.take());
        });
        text += &format!("  {address:#x} {}\n", name.unwrap_or_default());
    }
    text
}

/// What the handler of [`profile`] saw.
#[derive(Default)]
pub struct Seen {
    pub samples: AtomicUsize,
    pub root: AtomicUsize,
    pub truncated: AtomicUsize,
    pub deepest: AtomicUsize,
    /// The leaves of walks that were lost: the last few.
    pub lost_count: AtomicUsize,
    pub lost: [AtomicU64; 16],
    pub lost_at: [AtomicU64; 16],
}

static SEEN: Seen = Seen {
    samples: AtomicUsize::new(0),
    root: AtomicUsize::new(0),
    truncated: AtomicUsize::new(0),
    deepest: AtomicUsize::new(0),
    lost_count: AtomicUsize::new(0),
    lost: [const { AtomicU64::new(0) }; 16],
    lost_at: [const { AtomicU64::new(0) }; 16],
};

extern "C" fn handler(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // The timer is the process's: it may strike a thread that has not asked for its bounds, and asking allocates.
    if STACK.get() == (0, 0) {
        return;
    }
    // SAFETY: the context is that of a handler installed with SA_SIGINFO.
    let regs = unsafe { Regs::from_ucontext(context) };
    // SAFETY: as above.
    let altstack = unsafe { regs::altstack(context) };
    // SAFETY: a thread's words are used by its handler alone, which does not interrupt itself.
    let words = WORDS.with(|words| unsafe { &mut *words.get() });
    let mut sink = Frames::new(words);
    let end = unwind::walk(&regs, &stack_memory(altstack), &mut sink);
    let words = sink.finish();
    SEEN.samples.fetch_add(1, Ordering::Relaxed);
    SEEN.deepest.fetch_max(words.len(), Ordering::Relaxed);
    match end {
        End::Root => _ = SEEN.root.fetch_add(1, Ordering::Relaxed),
        End::Truncated => _ = SEEN.truncated.fetch_add(1, Ordering::Relaxed),
        End::Lost | End::Doubtful => {
            let number = SEEN.lost_count.fetch_add(1, Ordering::Relaxed);
            SEEN.lost[number % 16].store(regs.pc, Ordering::Relaxed);
            SEEN.lost_at[number % 16].store(words[words.len().saturating_sub(2)], Ordering::Relaxed);
        }
    }
}

pub type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

/// Installs `handler` for `signal`, on the alternate stack where there is one.
pub fn install(signal: i32, handler: Handler) {
    install_with(signal, handler, libc::SA_ONSTACK);
}

/// Installs `handler` for `signal`, on the stack that `flags` say.
pub fn install_with(signal: i32, handler: Handler, flags: i32) {
    // SAFETY: all zero is an empty action.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | flags;
    // SAFETY: the action is complete.
    assert_eq!(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) }, 0);
}

/// Runs `work` again and again under a profiling timer until `samples` were taken, and says what came of them. `work`
/// does a few milliseconds of it at a time.
pub fn profile(samples: usize, mut work: impl FnMut()) -> &'static Seen {
    refresh();
    stack_range();
    install(libc::SIGPROF, handler);
    set_timer(1000);
    while SEEN.samples.load(Ordering::Relaxed) < samples {
        work();
    }
    set_timer(0);
    &SEEN
}

fn set_timer(microseconds: i64) {
    let interval = libc::timeval { tv_sec: 0, tv_usec: microseconds };
    let timer = libc::itimerval { it_interval: interval, it_value: interval };
    // SAFETY: the timer's value is complete.
    assert_eq!(unsafe { libc::setitimer(libc::ITIMER_PROF, &timer, std::ptr::null_mut()) }, 0);
}

impl Seen {
    /// Fails unless at least `permille` of a thousand samples reached the root.
    pub fn assert_complete(&self, permille: f64) {
        self.assert_complete_but(permille, |_| false);
    }

    /// The same where walks from a leaf that is `excused` may have been lost. Of the lost, 16 are known by their leaf.
    pub fn assert_complete_but(&self, permille: f64, excused: impl Fn(u64) -> bool) {
        let lost = self.lost.iter().map(|leaf| leaf.load(Ordering::Relaxed));
        let excused = lost.filter(|&leaf| leaf != 0 && excused(leaf)).count();
        let (samples, root) = (self.samples.load(Ordering::Relaxed), self.root.load(Ordering::Relaxed));
        let share = (root + excused) as f64 * 1000.0 / samples as f64;
        eprintln!("{root} of {samples} samples reached the root, the deepest with {:?} words", self.deepest);
        if samples > root {
            let addresses = |list: &[AtomicU64; 16]| -> Vec<u64> {
                list.iter()
                    .map(|address| address.load(Ordering::Relaxed) + 1)
                    .filter(|&address| address > 1)
                    .collect()
            };
            eprintln!("lost:\n{}at:\n{}", names(&addresses(&self.lost)), names(&addresses(&self.lost_at)));
        }
        assert!(share >= permille, "{root} of {samples} samples reached the root, {excused} are excused");
    }
}

/// Compiles `source` into a shared library with the C compiler at hand. `None`, loudly, where there is no compiler, and
/// a failure in CI.
pub fn compile_c(name: &str, source: &str, flags: &[&str]) -> Option<Compiled> {
    compile(name, "source.c", source, flags)
}

/// The same for C++.
pub fn compile_cxx(name: &str, source: &str, flags: &[&str]) -> Option<Compiled> {
    compile(name, "source.cc", source, &[flags, &["-lstdc++"]].concat())
}

fn compile(name: &str, file: &str, source: &str, flags: &[&str]) -> Option<Compiled> {
    let directory = std::env::temp_dir().join(format!("everprof-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let compiled = Compiled { directory };
    let file = compiled.directory.join(file);
    std::fs::write(&file, source).unwrap();
    let default = if cfg!(target_arch = "aarch64") { "aarch64-linux-gnu-gcc" } else { "cc" };
    let mut compiler = std::process::Command::new(std::env::var("CC").unwrap_or_else(|_| default.to_owned()));
    compiler.args(["-O2", "-g0", "-fPIC", "-shared", "-o"]).arg(compiled.library()).arg(&file).args(flags);
    if !compiler.status().is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("CI").is_none(), "no C compiler");
        eprintln!("SKIPPED: {name}: no C compiler");
        return None;
    }
    Some(compiled)
}

/// A compiled library; its file is removed when dropped.
pub struct Compiled {
    directory: std::path::PathBuf,
}

impl Compiled {
    /// Opens it, to be bound lazily.
    pub fn open(&self) -> Library {
        let path = self.path();
        // SAFETY: the path is a C string; the library's initialisers do nothing.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "{path:?} does not open");
        Library(handle)
    }

    /// Its file.
    pub fn path(&self) -> std::ffi::CString {
        std::ffi::CString::new(self.library().to_str().unwrap()).unwrap()
    }

    fn library(&self) -> std::path::PathBuf {
        self.directory.join("library.so")
    }
}

impl Drop for Compiled {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// An open library.
pub struct Library(*mut libc::c_void);

impl Library {
    /// The address of a function.
    pub fn function(&self, name: &std::ffi::CStr) -> *mut libc::c_void {
        // SAFETY: the library is open, and the name is a C string.
        let function = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!function.is_null(), "no {name:?}");
        function
    }

    /// Closes it: its code is gone.
    pub fn close(self) {
        // SAFETY: nothing of it is used after this.
        assert_eq!(unsafe { libc::dlclose(self.0) }, 0);
    }
}
