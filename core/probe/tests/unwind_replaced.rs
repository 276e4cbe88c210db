//! Libraries that take the place of others: until the next refresh the tables of a walk are those of a library that is
//! gone. A stack through such a place says that it is doubtful, and after the refresh it is right again.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

mod unwinding;

use std::cell::Cell;
use std::hint::black_box;
use std::sync::{Mutex, MutexGuard, PoisonError};

use everprof_probe::regs::Regs;
use everprof_probe::sample::Frame;
use everprof_probe::unwind::{self, End};
use unwinding::{Compiled, Library, compile_c, natives, oracle, stack_memory, walk};

/// Calls back from a frame of `ROOM` bytes. Another room changes nothing but numbers in the code and in its call-frame
/// information, so two such libraries are alike to the last address, and so are
/// their search tables.
const LIBRARY: &str = "
#define TEN(n) F(n##0) F(n##1) F(n##2) F(n##3) F(n##4) F(n##5) F(n##6) F(n##7) F(n##8) F(n##9)
#define F(n) int function##n(int i) { return i + n; }
TEN(1) TEN(2) TEN(3) TEN(4) TEN(5) TEN(6)
__attribute__((noinline)) static int inner(void (*callback)(void)) {
    volatile char room[ROOM]; room[7] = 1; callback(); return room[7];
}
int run(void (*callback)(void)) { volatile char room[ROOM]; room[9] = 1; return inner(callback) + room[9]; }
";

type Run = extern "C" fn(extern "C" fn()) -> i32;

/// A stack, how it ended, and the oracle's.
type Looked = (Vec<Frame>, End, Vec<u64>);

thread_local! {
    static LOOKED: Cell<Option<Looked>> = const { Cell::new(None) };
}

/// Which libraries are loaded is the whole process's affair: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[inline(never)]
extern "C" fn look() {
    let (stack, end) = walk(&Regs::here(), &stack_memory(0..0));
    LOOKED.set(Some((stack, end, oracle())));
}

/// How the stack ends that is seen from inside of `library`; fails where it is told as complete and is not.
fn through(library: &Library) -> End {
    // SAFETY: that is its type in the source above.
    let run: Run = unsafe { std::mem::transmute(library.function(c"run")) };
    black_box(run(look));
    let (stack, end, oracle) = LOOKED.take().unwrap();
    let gap = stack.iter().any(|frame| matches!(frame, Frame::Missing(_)));
    assert_eq!(gap, end != End::Root, "{end:?} {stack:x?}");
    if end == End::Root {
        unwinding::assert_same_callers(&stack, &oracle);
    }
    // The leaf, and whoever called it, are known for certain in any case.
    let sure = natives(&stack);
    assert!(sure.len() >= 2 && oracle.contains(&(sure[1] + 1)), "{stack:x?} {oracle:x?}");
    end
}

/// The libraries with a small and a large frame.
fn pair() -> Option<(Compiled, Compiled)> {
    // The frame pointer is left alone, so that nothing but tables leads on.
    let build = |name, room| compile_c(name, LIBRARY, &[room, "-fomit-frame-pointer"]);
    Some((build("small", "-DROOM=600")?, build("large", "-DROOM=1200")?))
}

fn address(library: &Library) -> usize {
    library.function(c"run") as usize
}

fn refresh() {
    let generation = unwind::generation();
    while unwind::generation() == generation {
        unwind::refresh();
        std::thread::yield_now();
    }
}

#[test]
fn a_library_in_the_place_of_another_is_not_walked_as_that_one() {
    let _alone = alone();
    unwinding::refresh();
    let Some((small, large)) = pair() else { return };
    let mut replaced = 0;
    for round in 0..20 {
        let (first, second) = if round % 2 == 0 { (&small, &large) } else { (&large, &small) };
        let library = first.open();
        refresh();
        assert_eq!(through(&library), End::Root);
        let place = address(&library);
        library.close();
        let library = second.open();
        replaced += usize::from(address(&library) == place);
        // No refresh yet.
        let end = through(&library);
        assert_ne!(end, End::Truncated);
        assert!(address(&library) != place || unwind::wanted(), "{end:?} asks for a refresh");
        refresh();
        assert_eq!(through(&library), End::Root, "a library like the one before it has tables of its own");
        library.close();
    }
    eprintln!("{replaced} of 20 libraries came to lie where another had been");
    // An emulator maps every library at a place of its own.
    let emulated = std::env::var_os("EVERPROF_TEST_RUNNER").is_some();
    assert!(replaced > 0 || emulated, "the loader never used a place again");
}

#[test]
fn a_library_that_no_refresh_has_seen_is_not_taken_for_a_runtime() {
    let _alone = alone();
    unwinding::refresh();
    let Some((small, _large)) = pair() else { return };
    unwind::refresh();
    let library = small.open();
    assert_ne!(through(&library), End::Truncated);
    refresh();
    assert_eq!(through(&library), End::Root);
    library.close();
}
