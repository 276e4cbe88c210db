//! In the place of gRPC where this build has none: the same names, and nobody ever calls by them.

use super::{Client, Failure, Reply, Request};

/// No connection.
#[derive(Default)]
pub(super) struct Kept(());

/// There is none.
pub(in super::super) fn check() -> Result<(), String> {
    Err("this build of everprof has no gRPC: build it with its feature `grpc`".to_string())
}

impl Client {
    pub(in super::super) fn call(&self, _: &Request<'_>) -> Result<Reply, Failure> {
        Err(Failure::NotSent("this build of everprof has no gRPC".to_string()))
    }

    pub(super) fn end_calls(&self) {
        let Kept(()) = self.kept;
    }
}
