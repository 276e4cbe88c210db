//! everprof: always-on profiling of a process by itself.
#![forbid(unsafe_code)]

mod aggregate;
mod drain;
pub mod encode;
pub mod error;
pub mod export;
pub mod labels;
pub mod options;
mod pairs;
pub mod profile;
pub mod profiler;
mod stats;
pub mod store;
pub mod symbolize;
pub mod tags;

pub use error::{Error, ErrorKind, Result};
pub use labels::{Labels, TraceContext, with_labels};
pub use options::Options;
pub use profiler::Profiler;
pub use stats::Stats;
