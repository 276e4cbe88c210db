//! Where allocations are seen: in Rust's allocator, if that is everprof's, and where C's functions are called.
//!
//! Our thread. A program that makes everprof's its allocator means Rust's allocations; in any other the functions of C are
//! what all have in common, Rust's allocator included.

use std::sync::OnceLock;

use everprof_probe::got::Patched;
use everprof_probe::heap;
use everprof_probe::malloc::{self, Config};

use super::super::hooked::Hooked;
use crate::error::{Error, ErrorKind, Result};
use crate::options::{Malloc, Options};
use crate::stats::Stats;

const STATIC: &str = "nothing calls malloc by slots that could be hooked, as in a static executable";
const WAY: &str = "make everprof's the program's allocator (#[global_allocator] static ALLOCATOR: everprof::Allocator = \
                   everprof::Allocator::new();)";

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Wanted {
    malloc: Malloc,
    mmap: bool,
}

impl Wanted {
    /// By the options.
    pub(in super::super) fn of(options: &Options) -> Self {
        Self { malloc: options.malloc, mmap: options.mmap }
    }
}

/// Those that there are.
#[derive(Debug, Default)]
pub(in super::super) struct Sources {
    rust: bool,
    /// Functions of C that are hooked, and what was done last.
    c: Option<(Config, Patched)>,
    problem: Option<&'static str>,
    hooked: Hooked,
}

impl Sources {
    /// Finds them, and puts hooks where that is wanted.
    pub(super) fn start(wanted: Wanted) -> Result<Self> {
        let mut sources = Self::default();
        sources.rust = is_rusts_allocator();
        let is_wanted = match wanted.malloc {
            Malloc::Auto => !sources.rust,
            Malloc::On => true,
            Malloc::Off => false,
        };
        if is_wanted {
            let config = Config { mappings: wanted.mmap };
            let patched = malloc::start(config);
            if patched.changed + patched.unchanged > 0 {
                sources.c = Some((config, patched));
                sources.look_again();
                heap::set_counted_below(sources.rust && is_below_rusts_allocator());
            } else {
                sources.problem = Some(STATIC);
            }
        }
        if !sources.rust && sources.c.is_none() {
            let why = sources.problem.unwrap_or("the option malloc is off");
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("allocations are not seen: {why}; {WAY}"),
            ));
        }
        Ok(sources)
    }

    /// What of it could not be had, to be told once.
    pub(in super::super) fn problem(&self) -> Option<String> {
        self.problem.map(|why| format!("allocations of C are not seen: {why}"))
    }

    /// Hooks the objects that were loaded since, where modules have `changed` or may still be changing.
    pub(super) fn keep_hooked(&mut self, changed: bool) {
        if let Some((config, patched)) = &mut self.c
            && self.hooked.is_due(changed)
        {
            *patched = malloc::start(*config);
        }
    }

    /// Has the next wake look again: for slots that were filled by a first call since.
    pub(super) fn look_again(&mut self) {
        self.hooked.look_again();
    }

    /// Says what there is.
    pub(in super::super) fn tell(&self, stats: &mut Stats) {
        stats.alloc_sources = match (self.rust, self.c.is_some()) {
            (true, true) => "rust, c",
            (true, false) => "rust",
            (false, true) => "c",
            (false, false) => "",
        };
        let patched = self.c.as_ref().map_or(Patched::default(), |(_, patched)| *patched);
        stats.alloc_slots = (patched.changed + patched.unchanged) as u64;
        stats.alloc_slots_foreign = patched.foreign as u64;
        stats.alloc_slots_refused = patched.refused as u64;
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        if self.c.is_some() {
            heap::set_counted_below(false);
            malloc::stop();
        }
    }
}

/// Whether Rust's allocations come by us: one of ours would be counted. It was decided when the program was linked, and is
/// asked once, before functions of C are hooked, since by these a fork's child would be misled.
fn is_rusts_allocator() -> bool {
    static IS_OURS: OnceLock<bool> = OnceLock::new();
    *IS_OURS.get_or_init(|| {
        let before = heap::left();
        drop(std::hint::black_box(Vec::<u8>::with_capacity(64)));
        heap::left() != before
    })
}

/// Whether Rust's allocations come by C's functions that are hooked: one of ours would change the mark.
fn is_below_rusts_allocator() -> bool {
    let before = heap::mark();
    drop(std::hint::black_box(Vec::<u8>::with_capacity(64)));
    heap::mark() != before
}
