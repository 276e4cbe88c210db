//! The allocator of a Rust program: where the stacks of its samples begin.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::ffi::c_void;
use std::hint::black_box;
use std::thread;

use everprof_probe::alloc::Allocator;
use everprof_probe::ring::{MAX_STACK_WORDS, Ring};
use everprof_probe::sample::{ALLOC_WORDS, Source};
use everprof_probe::thread_block::{self, Facts};
use everprof_probe::{heap, scratch, unwind};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator::new();

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

/// The functions at an address, the innermost first.
fn names(address: u64) -> String {
    let mut names = String::new();
    backtrace::resolve(address as *mut c_void, |symbol| {
        names.extend(symbol.name().map(|name| format!("{name} ")));
    });
    names
}

#[inline(never)]
fn asks_for_memory() {
    for _ in 0..100 {
        let mut block = black_box(Vec::<u8>::with_capacity(1000));
        block.reserve_exact(2000);
        drop(black_box(block));
    }
}

/// With who has called the allocator, or the function that has become a part of: what takes the sample needs no name to be left
/// out.
#[test]
fn stacks_begin_behind_us() {
    learn_threads();
    unwind::refresh();
    assert!(scratch::prepare());
    let ring: &'static Ring = Box::leak(Box::new(Ring::new(0).unwrap()));
    heap::start(1, 200, ring);
    // The thread has a chunk to go.
    drop(black_box(vec![1_u8; 200_000]));
    asks_for_memory();
    heap::set_interval(0);
    let mut stacks = Vec::new();
    ring.drain(&mut [0; MAX_STACK_WORDS], |header, words| {
        if header.source == Source::Alloc as u8 {
            stacks.push(words[ALLOC_WORDS..].to_vec());
        }
    });
    let of_site: Vec<Vec<String>> = stacks
        .iter()
        .map(|stack| stack.iter().take(12).map(|word| names(*word)).collect::<Vec<String>>())
        .filter(|stack| stack.iter().any(|name| name.contains("asks_for_memory")))
        .collect();
    let last = || stacks.last().map(|stack| stack.iter().map(|word| names(*word)).collect::<Vec<String>>());
    assert!(of_site.len() >= 200, "{} of {} stacks: {:#?}", of_site.len(), stacks.len(), last());
    for stack in of_site {
        // By the least that names are told by.
        assert!(!stack[0].is_empty() && !stack[0].contains("allocated"), "{stack:#?}");
    }
}
