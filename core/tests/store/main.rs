//! The local directory of profiles: written by several processes that may die at any moment, bounded, and
//! read back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    dead_code,
    missing_docs,
    unreachable_pub
)]

mod bounds;
mod compare;
mod failures;
mod processes;
#[path = "../formats/profiles.rs"]
mod profiles;
mod reading;
mod support;
mod timeline;
