//! Profiles on their way to servers: what requests look like, and what becomes of them where servers fail.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod datadog;
mod faults;
#[cfg(feature = "grpc")]
mod frames;
#[cfg(feature = "grpc")]
mod grpc;
#[cfg(feature = "grpc")]
mod grpc_faults;
mod otlp;
#[path = "../formats/otlp_proto.rs"]
pub(crate) mod otlp_proto;
mod proxies;
mod requests;
mod server;
mod sets;
#[cfg(feature = "tls")]
mod tls;
mod unix;

pub(crate) use sets::{exporter, now, set};
