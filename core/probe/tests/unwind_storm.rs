//! Walks in handlers on several threads while libraries come and go and the tables follow: nothing that a walk may be
//! reading is freed under it, and everything else is. And after a fork the child goes on.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod unwinding;

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use everprof_probe::regs::Regs;
use everprof_probe::unwind::{self, End};
use unwinding::{compile_c, profile, stack_memory, walk};

/// Rounds of opening and closing; `EVERPROF_STORM` makes it longer.
fn rounds() -> usize {
    std::env::var("EVERPROF_STORM").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(300)
}

const LIBRARY: &str =
    "int run(int n) { int sum = 0; for (int i = 0; i < n; i++) sum += i ^ sum; return sum; }";

static DONE: AtomicBool = AtomicBool::new(false);

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}

#[test]
fn libraries_come_and_go_under_the_walks() {
    unwinding::refresh();
    let compiled = compile_c("storm", LIBRARY, &[]);
    // Where the library has been.
    let places = Mutex::new(BTreeSet::new());
    let seen = std::thread::scope(|scope| {
        let loader = scope.spawn(|| {
            unwinding::stack_range();
            let mut first = 0;
            for round in 0..rounds() {
                let library = compiled.as_ref().map(|compiled| compiled.open());
                unwind::refresh();
                if let Some(library) = &library {
                    let address = library.function(c"run");
                    places.lock().unwrap().insert(address as u64 & !0xffff);
                    // SAFETY: that is its type in the source above.
                    let run: extern "C" fn(i32) -> i32 = unsafe { std::mem::transmute(address) };
                    black_box(run(20_000));
                }
                if let Some(library) = library {
                    library.close();
                }
                unwind::refresh();
                if round == 20 {
                    first = mappings();
                }
            }
            DONE.store(true, Ordering::Relaxed);
            (first, mappings())
        });
        let walkers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    unwinding::stack_range();
                    while !DONE.load(Ordering::Relaxed) {
                        for _ in 0..100 {
                            let (stack, end) = walk(&Regs::here(), &stack_memory(0..0));
                            assert!(end == End::Root && stack.len() > 3, "{end:?} {stack:?}");
                        }
                    }
                })
            })
            .collect();
        let seen = profile(100, || _ = black_box((0..2000).map(|n| n.to_string()).collect::<Vec<_>>()));
        let (first, last) = loader.join().unwrap();
        for walker in walkers {
            walker.join().unwrap();
        }
        assert!(last <= first + 20, "{first} mappings became {last}");
        seen
    });
    // The loader itself calls the library before it returns, when no refresh can know it yet: what its initialisers are
    // called by is then found by frame pointers, and marked as doubtful.
    let places = places.into_inner().unwrap();
    seen.assert_complete_but(990.0, |leaf| {
        places.range(..=leaf).next_back().is_some_and(|place| leaf < place + 0x1_0000)
    });
    in_a_child();
}

/// The child has one thread of the parent's, and tables that go on being refreshed.
fn in_a_child() {
    // SAFETY: the child only walks, refreshes and exits.
    let child = unsafe { libc::fork() };
    if child == 0 {
        unwind::after_fork();
        let generation = unwind::generation();
        let (_, end) = walk(&Regs::here(), &stack_memory(0..0));
        let library = c"libm.so.6";
        // SAFETY: a library of the system's.
        unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_NOW) };
        unwind::refresh();
        let fine = end == End::Root && unwind::generation() >= generation;
        // SAFETY: ends the child without the parent's destructors.
        unsafe { libc::_exit(if fine { 7 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: the status is ours to write.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(libc::WEXITSTATUS(status), 7);
}
