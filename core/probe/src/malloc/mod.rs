//! Allocations of C and C++, in whatever object: hooks in the slots of the allocator's functions (`got::ways`).
//!
//! The hooks run on the program's threads, in place of its calls of `malloc` and its kin, those that the C library makes for
//! itself included. Each passes on what it was asked to the very function that the slot held, and returns what that has
//! answered; in between it counts (`heap`): no heap, no lock, nothing to wait for, `errno` as the call has left it, and
//! nothing to clean up where an exception passes through.
//!
//! An allocation may come by more than one function that counts: `operator new` of an allocator, `malloc` below it, Rust's
//! allocator above both. The one that is reached last counts, and changes the thread's mark; the others see that. So nothing
//! has to be taken back where a call is left by a jump.
//!
//! Not seen: calls inside of one object, such as those of an allocator that was linked into the executable; calls by an
//! address that somebody had from `dlsym`, or kept from before the start; those of the loader; those of a static
//! executable. A sampled block that is given back by such a way is known until its address is handed out anew.

mod blocks;
mod mappings;
mod operators;

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::got::Patched;
use crate::got::ways::{self, Function, WAYS, Which};

/// Which functions are hooked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Those that map and unmap memory as well: what is mapped without a file counts as an allocation.
    pub mappings: bool,
}

/// Installs the hooks, which count from then on. Again where objects were loaded since: those get theirs. Our thread.
pub fn start(config: Config) -> Patched {
    let functions = functions();
    let wanted = if config.mappings { functions.len() } else { BLOCKS };
    ways::install(functions.get(..wanted).unwrap_or_default())
}

/// Takes the hooks out. Calls that are inside of one go on. Our thread.
pub fn stop() -> Patched {
    ways::remove(&functions())
}

/// Those that have to do with blocks come first.
const BLOCKS: usize = blocks::COUNT + operators::COUNT;

fn functions() -> [Function; BLOCKS + mappings::COUNT] {
    static NOWHERE: Originals = nowhere();
    let nothing =
        Function { name: b"", ours: [0; WAYS], originals: &NOWHERE, which: Which::All, releases: false };
    let mut all = blocks::functions().into_iter().chain(operators::functions()).chain(mappings::functions());
    core::array::from_fn(|_| all.next().unwrap_or(nothing))
}

/// Where the hooks of one function go on.
type Originals = [AtomicUsize; WAYS];

const fn nowhere() -> Originals {
    [const { AtomicUsize::new(0) }; WAYS]
}

/// Where the hook that is called goes on.
#[inline(always)]
fn original<const WAY: usize>(originals: &Originals) -> usize {
    originals.get(WAY).map_or(0, |original| original.load(Ordering::Relaxed))
}
