//! What is asked of the operating system, as plain functions and owned values. A platform is a folder; nothing outside
//! of `os` and `regs` is compiled conditionally.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::*;

// Better one sentence than the hundred errors that follow from it.
#[cfg(not(target_os = "linux"))]
compile_error!(
    "everprof works on Linux: depend on it in [target.'cfg(target_os = \"linux\")'.dependencies], and start it under the same cfg"
);
