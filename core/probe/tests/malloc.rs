//! The hooks of C's functions: what they count and sample, and that taking them out leaves nothing behind.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::ffi::{CStr, c_void};
use std::hint::black_box;
use std::thread;

use everprof_probe::malloc::{self, Config};
use everprof_probe::ring::{MAX_STACK_WORDS, Ring};
use everprof_probe::sample::{ALLOC_WORDS, Source};
use everprof_probe::thread_block::{self, Facts};
use everprof_probe::{heap, scratch, unwind};

fn learn_threads() {
    let (send, facts) = std::sync::mpsc::channel();
    let (done, until_done) = std::sync::mpsc::channel::<()>();
    let other = thread::spawn(move || {
        send.send(Facts::here().unwrap()).unwrap();
        let _ = until_done.recv();
    });
    assert!(thread_block::learn(&Facts::here().unwrap(), &facts.recv().unwrap()));
    drop(done);
    other.join().unwrap();
}

/// How many allocations `work` is counted as.
fn counts(work: impl FnOnce()) -> u32 {
    let before = heap::mark();
    work();
    heap::mark() - before
}

/// Every function of C, once; returns its blocks.
#[inline(never)]
fn of_every_sort() -> Vec<*mut c_void> {
    let mut aligned = std::ptr::null_mut();
    // SAFETY: C's functions take any size, and alignments that are powers of two.
    assert_eq!(unsafe { libc::posix_memalign(&mut aligned, 4096, 100) }, 0);
    // SAFETY: as above.
    let block = unsafe { libc::malloc(100) };
    // SAFETY: as above.
    let zeroed = unsafe { libc::calloc(10, 10) };
    // SAFETY: the block is C's.
    let moved = unsafe { libc::realloc(block, 100_000) };
    // SAFETY: as above.
    let memalign = unsafe { libc::memalign(64, 100) };
    // SAFETY: the text is a C string.
    let text = unsafe { libc::strdup(c"everprof".as_ptr()) };
    // SAFETY: it is a copy of one.
    assert_eq!(unsafe { CStr::from_ptr(text) }, c"everprof");
    assert!((aligned as usize).is_multiple_of(4096) && (memalign as usize).is_multiple_of(64));
    vec![aligned, zeroed, moved, memalign, text.cast()]
}

fn free(blocks: Vec<*mut c_void>) {
    // SAFETY: the blocks are C's, and nobody has them any more.
    blocks.into_iter().for_each(|block| unsafe { libc::free(block) });
}

/// The functions at an address, the innermost first.
fn names(address: u64) -> String {
    let mut names = String::new();
    backtrace::resolve(address as *mut c_void, |symbol| {
        names.extend(symbol.name().map(|name| format!("{name} ")));
    });
    names
}

/// One test, since the hooks are one for the process.
#[test]
fn functions_of_c_count_and_are_given_back() {
    learn_threads();
    unwind::refresh();
    assert!(scratch::prepare());
    let ring: &'static Ring = Box::leak(Box::new(Ring::new(0).unwrap()));
    let early = of_every_sort();
    let config = Config { mappings: true };
    let patched = malloc::start(config);
    assert!(patched.changed > 0 && patched.refused == 0, "{patched:?}");
    let again = malloc::start(config);
    assert_eq!((again.changed, again.unchanged), (0, patched.changed), "{again:?}");
    // Five blocks, one of which was changed in size; and the list of them.
    let mut blocks = Vec::new();
    assert_eq!(counts(|| blocks = black_box(of_every_sort())), 7);
    assert_eq!(counts(|| free(early)), 0, "blocks from before are as good as others");

    heap::start(1, 200, ring);
    // The thread has a chunk to go.
    drop(black_box(vec![1_u8; 200_000]));
    let sampled = of_every_sort();
    heap::set_interval(0);
    assert!(heap::count_live() >= 4, "{} blocks are known", heap::count_live());
    free(sampled);
    assert_eq!(heap::count_live(), 0);
    let (mut samples, mut deepest, mut leaves) = (0, 0, Vec::new());
    ring.drain(&mut [0; MAX_STACK_WORDS], |header, words| {
        if header.source == Source::Alloc as u8 {
            samples += 1;
            deepest = deepest.max(words.len() - ALLOC_WORDS);
            leaves.push(words[ALLOC_WORDS]);
        }
    });
    assert!(samples >= 4 && deepest > 5, "{samples} samples of up to {deepest} words");
    // A stack begins with who has called the function: not with what stands in for that, of which no name need tell.
    let leaves: Vec<String> = leaves.into_iter().map(names).collect();
    assert!(
        leaves.iter().all(|leaf| !leaf.contains("everprof") && !leaf.contains("allocated")),
        "{leaves:?}"
    );
    let direct = leaves.iter().filter(|leaf| leaf.contains("of_every_sort")).count();
    assert!(direct >= 4, "{leaves:?}");

    let removed = malloc::stop();
    assert_eq!((removed.changed, removed.refused), (patched.changed, 0), "{removed:?}");
    assert_eq!(counts(|| free(of_every_sort())), 0);
    free(blocks);
}
