//! The unwinder: native stacks without frame pointers, walked inside a signal handler.
//!
//! Two halves. On everprof's thread, [`refresh`] follows which objects are loaded (the kernel's vDSO among them) and
//! turns their call-frame information into compact tables. In the handler, [`walk`] goes from frame to frame by those
//! tables: a cache look-up, a rule of sixteen bytes and two or three loads each, with no allocation, lock or system call,
//! and a few hundred bytes of stack. Between the two stands one atomic pointer; what handlers may still be reading is
//! freed later (see `inflight`), and neither side ever waits for the other.
//!
//! ```
//! use everprof_probe::memory::StackMemory;
//! use everprof_probe::regs::Regs;
//! use everprof_probe::unwind::{self, Frames};
//!
//! unwind::refresh();
//! let regs = Regs::here();
//! let mut stack = StackMemory::new();
//! // SAFETY: what lies on this thread's stack just above the current frame is mapped.
//! unsafe { stack.add(regs.sp..regs.sp + 512) };
//! let mut words = [0; 64];
//! let mut frames = Frames::new(&mut words);
//! unwind::walk(&regs, &stack, &mut frames);
//! assert_eq!(frames.finish()[0], regs.pc);
//! ```
//!
//! What it refuses: `.debug_frame` and compact formats of other systems, expressions beyond those that compilers write
//! (see [`Count::unsupported`]), and guessing: a frame whose caller is not known for certain, or at least by a frame
//! pointer that checks out, ends the walk with [`End::Lost`]; and where the frame pointer may have led past callers, the
//! stack says so ([`End::Doubtful`]).
//!
//! The first design used a ready-made unwinder with a cache: as fast warm, but it cannot be fed without a heap, keeps a
//! section of the file mapped (which faults once the file is replaced), and knows nothing of runtimes' frames.

mod bare;
mod cfi;
mod changed;
mod expression;
mod frames;
mod inflight;
pub mod later;
mod modules;
mod page_vec;
mod plain;
mod prologue;
mod reader;
mod rows;
mod rule;
mod snapshot;
mod source;
mod table;
mod trail;
mod walk;

pub use cfi::Section;
pub use frames::Frames;
pub(crate) use prologue::{Found, find_frame_pointer};
pub use source::{Cursor, FrameSource, Step, labels_here, set_source, unset_source};
pub use table::{Count, check};
pub use trail::{TRAIL_WORDS, Trail};
pub use walk::{End, MOST_FRAMES, Walked, walk, walk_along};
pub(crate) use walk::{remember, walk_entered, walk_waiting};

/// Brings the tables up to date: looks for objects that were loaded or unloaded, builds what is missing, shows it to
/// handlers, and frees what none of them can be using any more. Says true where something changed.
///
/// Off the handler: it makes system calls and takes the loader's lock for a moment. Where nothing changed it costs 10 ns
/// and that lock. Meant for one thread; a second one that comes meanwhile returns false at once.
pub fn refresh() -> bool {
    modules::refresh()
}

/// To be called before hooks are there: stacks begin in the code of this crate from then on, so the next [`refresh`] builds the
/// table of the object that it is in, which otherwise waits until a walk meets it.
pub fn begin_in_ours() {
    modules::begin_in_ours();
}

/// Counts the changes that [`refresh`] has shown to handlers: samples with equal generations were walked with the same
/// modules. 0 before the first. Async-signal-safe.
pub fn generation() -> u32 {
    snapshot::generation()
}

/// Whether a walk met code outside every module, or a module without a table, since the last [`refresh`]: another one
/// soon makes the next samples complete. Async-signal-safe.
pub fn wanted() -> bool {
    snapshot::is_wanted()
}

/// Marks the beginning of a walk of the calling thread. Async-signal-safe.
pub(crate) fn enter() -> inflight::Entered {
    inflight::enter(crate::regs::thread_pointer())
}

/// Marks the end of a walk of the calling thread that was entered, and that will never leave.
pub(crate) fn leave_behind() {
    inflight::leave_behind(crate::regs::thread_pointer());
}

/// Asks for what a walk on the calling thread will look at first. A hint, for handlers.
#[inline]
pub fn prefetch() {
    inflight::prefetch(crate::regs::thread_pointer());
    snapshot::prefetch_current();
}

/// To be called on the forking thread before a fork, and [`after_fork_in_parent`] or [`after_fork`] after it: no refresh
/// holds the loader's lock meanwhile, which the C library would not give back in the child.
pub fn before_fork() {
    crate::os::objects::hold();
}

/// To be called in the parent after a fork.
pub fn after_fork_in_parent() {
    crate::os::objects::release();
}

/// To be called in the child of a fork, before anything else here: walks and refreshes that other threads of the parent
/// were in the middle of are over.
pub fn after_fork() {
    crate::os::objects::release_in_child();
    inflight::forget();
    modules::after_fork();
}

/// What the tables built so far consist of.
pub fn count() -> Count {
    modules::count()
}
