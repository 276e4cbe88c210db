//! Linux: raw calls through libc.

mod answer;
mod block;
mod calls;
mod context;
mod descriptor;
mod file;
mod futex;
pub(crate) mod loader;
pub(crate) mod memory;
pub(crate) mod objects;
mod pages;
mod perf;
mod poll;
mod program;
mod ready;
mod signal;
mod socket;
mod symbols;
mod task;
mod thread;
mod timer;

use file::{Text, Unread, read_file};

pub use block::Block;
pub(crate) use calls::restarted;
pub use calls::{WaitFor, call_name, waits_for};
pub use context::{forget_context, has_context, publish_context};
pub use descriptor::Identity;
pub use futex::{wait, wake};
pub use memory::PIECES;
pub use objects::keep_loaded;
pub use pages::Pages;
pub(crate) use pages::{Protection, is_writable, page_size, protect};
pub use perf::PerfEvent;
pub use poll::{Awaited, Watched, poll};
pub use program::{is_first, is_privileged};
pub use ready::{Standing, State, holds_back, ready_time, standing};
pub use signal::{
    Action, Cause, Disposition, Handler, call, cause, hold_back_in, ignore, install, is_on_alternate_stack,
    realtime_range, send,
};
pub use socket::{Place, Socket, would_block};
pub(crate) use symbols::{glibc, symbol, symbol_of_libc};
pub use task::{Task, Wait, task};
pub use thread::{
    at_exit, at_fork, block_signals, getpid, gettid, main_frames_end, main_stack_end, pause, stack,
    stack_limit, step_back, unblock_signal, without_signals_of_writes, yield_now,
};
pub use timer::{Clock, CpuTimer, monotonic, tick};

/// The calling thread's `errno`.
pub(crate) fn errno() -> i32 {
    // SAFETY: always valid for the calling thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the C library's pointer to the calling thread's own value.
    unsafe { *errno }
}

/// Sets the calling thread's `errno`.
pub(crate) fn set_errno(value: i32) {
    // SAFETY: always valid for the calling thread.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the C library's pointer to the calling thread's own value.
    unsafe { *errno = value };
}
