//! The last moments of threads and processes, and children that share our memory for a while: destructors of
//! thread-local values, functions at exit, and programs started by `posix_spawn` and `vfork`, all under a timer.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod unwinding;

use std::cell::Cell;
use std::hint::black_box;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use everprof_probe::regs::Regs;
use everprof_probe::unwind::End;
use unwinding::{natives, profile, stack_memory, walk};

static DESTROYED: AtomicUsize = AtomicUsize::new(0);
static DEEPEST: AtomicUsize = AtomicUsize::new(0);

struct Walks;

impl Drop for Walks {
    fn drop(&mut self) {
        assert_complete();
        DESTROYED.fetch_add(1, Ordering::Relaxed);
    }
}

#[inline(never)]
fn assert_complete() {
    let (stack, end) = walk(&Regs::here(), &stack_memory(0..0));
    assert_eq!(end, End::Root, "{stack:x?}");
    DEEPEST.fetch_max(natives(&stack).len(), Ordering::Relaxed);
}

thread_local! {
    static WALKS: Walks = const { Walks };
    static OTHER: Cell<Option<Box<Walks>>> = const { Cell::new(None) };
}

extern "C" fn at_exit() {
    let (_, end) = walk(&Regs::here(), &stack_memory(0..0));
    if end != End::Root {
        // SAFETY: ends the child at once, by a code that the test knows.
        unsafe { libc::_exit(9) };
    }
}

#[test]
fn destructors_of_threads_and_functions_at_exit_are_complete() {
    unwinding::refresh();
    for _ in 0..20 {
        let thread = std::thread::spawn(|| {
            unwinding::stack_range();
            WALKS.with(|_| ());
            OTHER.set(Some(Box::new(Walks)));
        });
        assert!(thread.join().is_ok());
    }
    assert_eq!(DESTROYED.load(Ordering::Relaxed), 40);
    assert!(DEEPEST.load(Ordering::Relaxed) > 4);
    // SAFETY: the child runs functions at exit and nothing else.
    let child = unsafe { libc::fork() };
    if child == 0 {
        everprof_probe::unwind::after_fork();
        // SAFETY: no preconditions; a child that hangs is a failure, not a wait.
        unsafe { libc::alarm(60) };
        // SAFETY: the function is one for this purpose.
        unsafe { libc::atexit(at_exit) };
        // SAFETY: the child has one thread.
        unsafe { libc::exit(7) };
    }
    let mut status = 0;
    // SAFETY: the status is ours to write.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(libc::WEXITSTATUS(status), 7, "9: a function at exit has no whole stack");
}

unsafe extern "C" {
    safe fn vfork() -> i32;
}

#[test]
fn programs_are_started_under_the_timer() {
    let mut spawned = 0;
    let seen = profile(60, || {
        assert!(Command::new("true").status().unwrap().success());
        spawned += 1;
        let child = vfork();
        if child == 0 {
            // SAFETY: all that a child of vfork may do.
            unsafe { libc::_exit(5) };
        }
        let mut status = 0;
        // SAFETY: the status is ours to write.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert_eq!(libc::WEXITSTATUS(status), 5);
        black_box((0..20_000_u64).map(|n| n.to_string().len()).sum::<usize>());
    });
    eprintln!("{spawned} programs");
    seen.assert_complete(980.0);
}
