//! everprof: always-on profiling of a process by itself.
#![forbid(unsafe_code)]

pub mod error;
pub mod profile;

pub use error::{Error, ErrorKind, Result};
