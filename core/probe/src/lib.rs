//! The part of everprof that runs on the application's threads at a bad moment: inside a signal handler, inside
//! its allocator, and where it waits for a lock.
//!
//! # The contract of code in this crate
//!
//! Code reachable from the signal handler does not allocate, lock, panic, unwind, log, or call the system, and touches
//! only memory that it knows to be mapped. It is bounded in time. It drops a sample rather than wait, and counts what
//! it dropped by reason. `sigprof`, `unwind`, `memory`, `regs`, the look-ups of `stacks`, the write half of `ring`, the look-ups of `thread` and
//! every [`unwind::FrameSource`] keep these rules; the rest of the crate (building tables, creating timers) runs on
//! everprof's own thread, and says so in its module documentation.
//!
//! The crate is `no_std` and without `alloc`: the compiler keeps the first rule.
#![cfg_attr(not(test), no_std)]
#![deny(clippy::indexing_slicing)]

pub mod alloc;
pub mod awaiting;
pub mod bell;
pub mod chain;
pub mod cost;
pub mod got;
pub mod heap;
pub mod here;
pub mod lock;
pub mod loss;
pub mod malloc;
pub mod memory;
pub mod os;
pub mod own;
pub mod perf;
pub mod poisson;
pub mod record;
pub mod regs;
pub mod ring;
pub mod sample;
pub mod sampling;
pub mod scratch;
pub mod sigprof;
pub mod stacks;
pub mod thread;
pub mod thread_block;
pub mod timer;
pub mod unwind;
pub mod waiting;
