//! Whether stacks are whole: from the thread's first frame to the leaf, as the `backtrace` crate sees them.
//!
//! The load is a set of spots, functions that call into Rust, libc, the vDSO and the kernel. At each spot the oracle
//! is asked once for the frames outside of it; every sample must contain a spot and be equal to its oracle outside.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::hint::black_box;
use std::time::Duration;

use crate::clock::thread_cpu;
use crate::load::compute;
use crate::{Peer, Stack, say};

thread_local! {
    /// By the address of a spot: the frames outside of it.
    static ORACLE: RefCell<HashMap<usize, Vec<u64>>> = RefCell::default();
}

/// `rust`, or `mixed` for a load that also runs in C.
pub(crate) fn measure<P: Peer>(load: &str) {
    let spots: &'static [Spot] = match load {
        "rust" => &[spot_arithmetic, spot_closures, spot_recursion],
        "mixed" => &[spot_arithmetic, spot_qsort, spot_clock, spot_memory, spot_kernel, spot_allocator],
        other => panic!("no load named {other:?}"),
    };
    let peer = P::start(997);
    let oracle = std::thread::Builder::new()
        .name("work".into())
        .spawn(move || {
            let end = thread_cpu() + Duration::from_millis(4000);
            let mut ask = true;
            while thread_cpu() < end {
                // One place to call the spots from: what is outside of them is the same whether the oracle is asked.
                spots.iter().for_each(|spot| spot(ask));
                ask = false;
            }
            ORACLE.take()
        })
        .expect("a thread")
        .join()
        .expect("the work ends");
    let mut stacks = peer.stacks();
    stacks.retain(|stack| stack.thread == "work");
    // The end that some unwinders put after the last frame.
    stacks.iter_mut().for_each(|stack| stack.addresses.retain(|address| *address != u64::MAX));
    let all: u64 = stacks.iter().map(|stack| stack.nanos).sum();
    let share = |matches: &dyn Fn(&Stack) -> bool| {
        let of: u64 = stacks.iter().filter(|stack| matches(stack)).map(|stack| stack.nanos).sum();
        of as f64 / all as f64 * 100.0
    };
    say("different_stacks", "stacks", stacks.len() as f64);
    say("to_the_root", "%", share(&|stack| reaches_root(stack, &oracle)));
    say("equal_to_oracle", "%", share(&|stack| equals(stack, &oracle)));
    if std::env::var_os("SHOW").is_some() {
        stacks
            .iter()
            .filter(|stack| !equals(stack, &oracle))
            .take(10)
            .for_each(|stack| eprintln!("{stack:x?}"));
        eprintln!("{oracle:x?}");
    }
}

type Spot = fn(bool);

/// Whether it ends as all do, in the same two outermost frames.
fn reaches_root(stack: &Stack, oracle: &HashMap<usize, Vec<u64>>) -> bool {
    let Some(truth) = oracle.values().next() else { return false };
    truth.len() > 2 && stack.addresses.ends_with(&truth[truth.len() - 2..])
}

/// Whether it has a spot, and outside of it just what the oracle saw.
fn equals(stack: &Stack, oracle: &HashMap<usize, Vec<u64>>) -> bool {
    let spot = stack.addresses.iter().enumerate().find_map(|(at, address)| {
        let function = backtrace_function(*address as usize);
        Some((at, oracle.get(&function)?))
    });
    spot.is_some_and(|(at, truth)| stack.addresses[at + 1..] == truth[..])
}

/// The start of the function that holds an address, as the unwinder of the C compiler knows it.
fn backtrace_function(address: usize) -> usize {
    unsafe extern "C" {
        fn _Unwind_FindEnclosingFunction(pc: *mut c_void) -> *mut c_void;
    }
    // SAFETY: the function looks the address up in tables and does not touch it.
    unsafe { _Unwind_FindEnclosingFunction(address as *mut c_void) as usize }
}

/// Keeps the frames outside of the spot that calls it.
#[inline(never)]
fn ask_oracle(spot: Spot) {
    let spot = spot as usize;
    let mut outside = None;
    backtrace::trace(|frame| {
        let Some(address) = (frame.ip() as usize).checked_sub(1) else { return true };
        match &mut outside {
            None if backtrace_function(address) == spot => outside = Some(Vec::new()),
            None => {}
            Some(outside) => outside.push(address as u64),
        }
        true
    });
    ORACLE.with_borrow_mut(|oracle| oracle.insert(spot, outside.expect("called by a spot")));
}

macro_rules! spots {
    ($($name:ident => $work:expr;)*) => {$(
        #[inline(never)]
        fn $name(ask: bool) {
            if ask {
                ask_oracle($name);
            } else {
                $work;
            }
            black_box(());
        }
    )*};
}

spots! {
    spot_arithmetic => compute(200_000);
    spot_closures => closures(2_000);
    spot_recursion => recurse(40);
    spot_qsort => qsort();
    spot_clock => (0..5_000).for_each(|_| { black_box(std::time::Instant::now()); });
    spot_memory => memory();
    spot_kernel => (0..1_000).for_each(|_| { black_box(std::os::unix::process::parent_id()); });
    spot_allocator => (1..2_000).for_each(|size| drop(black_box(vec![1u8; size % 700 + 1])));
}

fn closures(count: u64) {
    let mut numbers: Vec<u64> = (0..count).map(|n| n.wrapping_mul(0x9e37_79b9) % 1000).collect();
    numbers.sort_by_key(|n| black_box(n ^ 0x55));
    black_box(numbers);
}

#[inline(never)]
fn recurse(left: u32) {
    if left == 0 {
        compute(50_000);
    } else {
        recurse(left - 1);
    }
    black_box(left);
}

fn qsort() {
    extern "C" fn compare(a: *const c_void, b: *const c_void) -> i32 {
        // SAFETY: qsort hands out pointers to two elements.
        let (a, b) = unsafe { (*a.cast::<u64>(), *b.cast::<u64>()) };
        compute(20);
        a.cmp(&b) as i32
    }
    let mut numbers: Vec<u64> = (0..500u64).map(|n| n.wrapping_mul(0x9e37_79b9) % 1000).collect();
    // SAFETY: the element's size and number are those of the vector, and the function compares two of them.
    unsafe { libc::qsort(numbers.as_mut_ptr().cast(), numbers.len(), 8, Some(compare)) };
    black_box(numbers);
}

fn memory() {
    let mut bytes = vec![1u8; 64 * 1024];
    for round in 0..20 {
        // SAFETY: both halves lie in the vector and do not overlap.
        unsafe { libc::memcpy(bytes.as_mut_ptr().cast(), bytes.as_ptr().add(32 * 1024).cast(), 32 * 1024) };
        bytes[round] = 2;
    }
    // SAFETY: both slices lie in the vector.
    black_box(unsafe {
        libc::memcmp(bytes.as_ptr().cast(), bytes.as_ptr().add(32 * 1024).cast(), 32 * 1024)
    });
}
