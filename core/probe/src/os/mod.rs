//! What is asked of the operating system, as plain functions and owned values. A platform is a folder; nothing outside
//! of `os` and `regs` is compiled conditionally.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::*;
