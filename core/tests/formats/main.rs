//! The formats that profiles are written in, each read by a decoder that is not ours.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub
)]

mod damaged;
mod go;
#[path = "../common/go.rs"]
mod go_tool;
mod golden;
mod otlp;
mod otlp_proto;
mod profiles;
mod proto;
mod protobuf;
mod python;
mod round_trip;
