//! Recordings: a profile of the stretch of time that somebody is interested in, beside the continuous ones.
//!
//! Functions without a guard, for whoever serves profiles or waits for trouble: they ask the profiler that runs in this
//! process. On any thread of the host; never in a signal handler.

use std::sync::Arc;

use crate::drain::Handle;
use crate::error::{Error, ErrorKind, Result};
use crate::profile::{Kind, Profile};
use crate::profiler;

/// A recording at work, from [`record`]. Dropping it gives it up.
#[derive(Debug)]
#[must_use = "a recording that is dropped is given up"]
pub struct Recording {
    /// None once it is finished or given up.
    handle: Option<Arc<Handle>>,
    id: u64,
    /// The process that it was begun in.
    process: u32,
}

/// Begins to record a profile of a kind. The profiles of the periods go on as they are.
///
/// Several recordings may run at once, 16 at most, each for an hour at most; one that is forgotten is then given up. A
/// recording of kind `wall` where that is not among `kinds` looks at the threads for as long as it lasts; one of allocations
/// or of waits for locks installs the hooks for as long. Recordings cost what naming their samples costs: a segment of the
/// period ends where a recording begins or ends. Blocks for about a millisecond; longer where many begin and end at once.
///
/// Of kind `heap`, what was allocated is that of the recording, and what lives is what lives at its end, of blocks that were
/// allocated since the heap is followed: since the recording began, where `heap` is not among `kinds`.
///
/// ```no_run
/// use everprof::profile::Kind;
/// let _profiler = everprof::Profiler::start()?;
/// let recording = everprof::record(Kind::Cpu)?;
/// // what is of interest
/// let profile = recording.finish()?;
/// println!("{}", everprof::store::top(&profile)?.render(10));
/// # Ok::<(), everprof::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::Unavailable`] where no profiler runs in this process, or too many recordings do;
/// [`ErrorKind::Unsupported`] for a kind that cannot be recorded here, such as `heap` in a static executable
/// whose allocator is not [`crate::Allocator`]; the message says what would be needed.
pub fn record(kind: Kind) -> Result<Recording> {
    let handle = running()?;
    let id = handle.record(kind)?;
    Ok(Recording { handle: Some(handle), id, process: std::process::id() })
}

/// A snapshot of all live threads, each exactly once, everprof's own included.
///
/// A profile of kind `threads`: one sample for each thread, with the labels `thread_name`, `thread_id`, `state` (`on_cpu`,
/// `runnable`, `off_cpu`, as in profiles of kind `wall`), `wait` and `syscall` where it waits, and those of the
/// application. Nobody is stopped, and a thread that waits notices nothing. A thread that runs is asked for its stack by the
/// profiling signal, unless `wall_signal` is `never`; one that does not tell it within 5 ms has a frame in its place that
/// says so. Blocks for some 10 us for each thread that has moved since it was looked at last, for those 5 ms at the most,
/// and for the names.
///
/// ```no_run
/// let _profiler = everprof::Profiler::start()?;
/// let threads = everprof::threads()?;
/// println!("{} threads", threads.samples().len());
/// # Ok::<(), everprof::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::Unavailable`] where no profiler runs in this process, or nothing came for 30 seconds, or on everprof's
/// own thread; [`ErrorKind::Unsupported`] where there is no memory for it.
pub fn threads() -> Result<Profile> {
    running()?.threads()
}

/// What there is now of a kind that is followed all the time, as Go's `/debug/pprof/heap` has it: for `heap`, `alloc`, `lock`,
/// `mutex` and `block` all that was allocated or waited for since the kind is among `kinds`, and for `heap` what lives now;
/// for `threads` what [`threads`] says.
///
/// The places of an account are bounded (8,192): of more, those that weigh least are one frame that says so. Blocks for some
/// milliseconds, and for the names.
///
/// ```no_run
/// use everprof::profile::Kind;
/// let _profiler = everprof::Profiler::builder().set("kinds", "cpu,heap").start()?;
/// println!("{}", everprof::store::top(&everprof::snapshot(Kind::Heap)?)?.render(10));
/// # Ok::<(), everprof::Error>(())
/// ```
///
/// # Errors
/// [`ErrorKind::Unsupported`] where the kind is not among `kinds`, or is of a stretch of time and not of a moment;
/// [`ErrorKind::Unavailable`] as for [`threads`].
pub fn snapshot(kind: Kind) -> Result<Profile> {
    match kind {
        Kind::Threads => threads(),
        _ => running()?.account(kind),
    }
}

fn running() -> Result<Arc<Handle>> {
    profiler::running().ok_or_else(|| {
        let message = "no profiler runs in this process: start one first (everprof's `start`)";
        Error::new(ErrorKind::Unavailable, message)
    })
}

impl Recording {
    /// Ends the recording and returns its profile, with names: of all that was sampled since [`record`] returned, with the
    /// tags of the profiler. Blocks until the profile is named, which takes milliseconds, or as long as it takes to read
    /// the symbols of code that was not met before.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] where the profiler was stopped meanwhile, the recording was given up for its length or
    /// its size (256 MiB for all that are at hand), or nothing came for 30 seconds; [`ErrorKind::Unsupported`] in the child of a
    /// fork, for a recording that the parent began.
    pub fn finish(mut self) -> Result<Profile> {
        let Some(handle) = self.handle.take() else { return Err(not_ours()) };
        if self.is_a_copy() {
            // Its locks may be held by threads that do not exist here.
            std::mem::forget(handle);
            return Err(not_ours());
        }
        handle.finish(self.id)
    }

    /// Whether this is a fork's child with a copy of what the parent began.
    fn is_a_copy(&self) -> bool {
        self.process != std::process::id()
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let Some(handle) = self.handle.take() else { return };
        if self.is_a_copy() {
            std::mem::forget(handle);
        } else {
            handle.give_up(self.id);
        }
    }
}

fn not_ours() -> Error {
    let message = "the recording was begun before the fork and is the parent's: begin one in the child";
    Error::new(ErrorKind::Unsupported, message)
}
