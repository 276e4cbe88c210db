//! The address space over time: which object was mapped where while a sample was taken.

use std::sync::Arc;

use everprof_probe::unwind;

use super::period::Epoch;
use crate::symbolize::{Module, maps};

/// The modules of the process, by epoch. An epoch ends when a module goes away, because its addresses may be used
/// again; modules that come are added to the epoch at hand.
#[derive(Debug)]
pub(super) struct Modules {
    closed: Vec<Epoch>,
    first: u32,
    current: Vec<Module>,
}

impl Modules {
    /// The modules of now.
    pub(super) fn new() -> Self {
        unwind::refresh();
        Self { closed: Vec::new(), first: 0, current: read() }
    }

    /// Looks for modules that came or went, at the price of a few nanoseconds where none did.
    pub(super) fn update(&mut self) {
        // Code that no loader announced, such as a JIT's, is noticed by a walk that met it.
        if unwind::wanted() | unwind::refresh() {
            self.read_again();
        }
    }

    /// Looks again whether or not the loader reported anything: code that was not loaded by it, such as a JIT's.
    pub(super) fn read_again(&mut self) {
        let now = read();
        let gone = |module: &Module| !now.contains(module);
        if self.current.iter().any(gone) {
            let old = std::mem::replace(&mut self.current, now);
            self.closed.push(old.into());
        } else {
            self.current = now;
        }
    }

    /// The number of the epoch at hand.
    pub(super) fn epoch(&self) -> u32 {
        self.first + self.closed.len() as u32
    }

    /// Hands out the epochs since the last call, with the number of the first; the one at hand goes on.
    pub(super) fn take(&mut self) -> (u32, Vec<Epoch>) {
        let first = self.first;
        self.first = self.epoch();
        let mut epochs = std::mem::take(&mut self.closed);
        epochs.push(Arc::from(self.current.as_slice()));
        (first, epochs)
    }
}

fn read() -> Vec<Module> {
    maps::own().unwrap_or_default()
}
