//! Always-on profiling of a process by itself: two lines, and every minute of CPU time is a pprof profile in a local
//! directory, with complete stacks from an ordinary release build.
//!
//! ```no_run
//! fn main() -> everprof::Result<()> {
//!     let _profiler = everprof::Profiler::start()?;
//!     // the service runs here
//!     Ok(())
//! }
//! ```
//!
//! # What it does
//!
//! Every thread of the process is sampled 99 times a second *of its own CPU time*; an idle thread costs nothing. A
//! signal handler walks the stack without frame pointers, allocation, locks or system calls and leaves it in a ring.
//! everprof's own thread sums up equal stacks; once a minute another names them and writes gzip-compressed pprof files
//! into `./everprof`, which is bounded in age and size. [`store`] lists, merges and compares what is there, and
//! [`encode::flamegraph`] shows it as one HTML file.
//!
//! # A look at it
//!
//! `go tool pprof -http=: everprof/*/*/*.cpu.pb.gz`, or without other tools:
//!
//! ```no_run
//! use everprof::{encode::flamegraph, store};
//! let profiles = store::list("./everprof", &store::Query::default())?;
//! let sum = store::merge(&profiles)?.profile;
//! println!("{}", store::top(&sum)?.render(15));
//! let page = flamegraph::html(&sum, &flamegraph::PageOptions::default());
//! std::fs::write("flamegraph.html", page).unwrap();
//! # Ok::<(), everprof::Error>(())
//! ```
//!
//! # Where to go on
//!
//! | to | see |
//! |---|---|
//! | start, stop, ask what it costs | [`Profiler`], [`Stats`] |
//! | take a profile of the stretch of time that is of interest | [`record`] |
//! | see what every thread is doing now | [`threads`] |
//! | see what is allocated, what lives and who waits for locks, as of now | [`snapshot`] |
//! | change the rate, the kinds and other options while it runs | [`set`] |
//! | fetch profiles while the program runs, by browser or `go tool pprof` | [`pull`], the option `serve` |
//! | see what allocates, in Rust by any allocator and in C | [`Allocator`], the options `kinds` and `malloc` |
//! | set options in code or by `EVERPROF_…` | [`Options`] |
//! | say whose work a sample is: tenants, endpoints, traces, futures | [`labels`] |
//! | tell spans of the crate `tracing` apart, with their IDs of OpenTelemetry | feature `tracing` |
//! | say which deployment a profile is of | [`tags`] |
//! | read, merge and compare profiles | [`store`], [`profile`] |
//! | write other formats | [`encode`] |
//! | send profiles to servers | the option `push`, [`export::Exporter`], [`profiler::Builder::exporters`] |
//! | tell of stacks that are no thread's, such as those of coroutines | [`StackRange`] |
//! | add the frames of a language runtime | [`symbolize::runtime`], [`recorder`], [`thread_names`] |
//!
//! # What it leaves alone
//!
//! A signal that has a handler of somebody else is not taken; another one is. The host's handlers of SIGSEGV and SIGBUS on
//! alternate stacks stay, with our signal in their mask, so that they have their stack for themselves. The handler drops
//! a sample rather than wait.
//! Errors of everprof's own never fail the host: they are values, reported once through [`log`] and in [`Stats`].
//! After a `fork` the child goes on by itself; `exec` leaves nothing behind. A library that carries everprof may be
//! unloaded, and two of them may run in one process, each with its own copy: the second takes another signal.
//! Linux on x86_64 and aarch64 with glibc; for other systems it does not compile, and says so.
#![forbid(unsafe_code)]

mod aggregate;
mod descriptor;
mod drain;
pub mod encode;
pub mod error;
pub mod export;
pub mod labels;
pub mod options;
mod pairs;
pub mod profile;
pub mod profiler;
pub mod pull;
pub mod recorder;
pub mod recording;
mod report;
mod serve;
pub mod stats;
pub mod store;
pub mod symbolize;
pub mod tags;
pub mod thread_names;
#[cfg(feature = "tracing")]
pub mod tracing;

pub use error::{Error, ErrorKind, Result};
#[doc(inline)]
pub use everprof_probe::alloc::Allocator;
#[doc(inline)]
pub use everprof_probe::stacks::StackRange;
pub use labels::{Labels, TraceContext, count_endpoint, with_labels};
pub use options::Options;
#[doc(inline)]
pub use profiler::{Profiler, set};
#[doc(inline)]
pub use recording::{Recording, record, snapshot, threads};
#[cfg(fuzzing)]
#[doc(hidden)]
pub use serve::fuzz_head;
pub use stats::Stats;

/// The programs in the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
