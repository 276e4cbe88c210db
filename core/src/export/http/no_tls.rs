//! In the place of TLS where this build has none: the same names, and nobody ever connects by them.

use std::io::{Read, Write};
use std::path::PathBuf;

use super::wire::{Timed, Wire};

/// Whom to trust, if there were TLS.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Trust {
    pub(in super::super) roots: Option<PathBuf>,
    pub(in super::super) certificate: Option<PathBuf>,
    pub(in super::super) key: Option<PathBuf>,
    #[allow(dead_code)] // nobody is asked
    /// The protocol above that the other side has to agree to.
    pub(in super::super) alpn: Option<&'static [u8]>,
}

/// There is none.
pub(super) enum Stream {}

impl Trust {
    pub(in super::super) fn check(&self) -> Result<(), String> {
        let files = [&self.roots, &self.certificate, &self.key].into_iter().flatten().count();
        let without = if files > 0 { " (its files are of no use without)" } else { "" };
        Err(format!("this build of everprof has no TLS: build it with its feature `tls`{without}"))
    }

    pub(super) fn wrap(&self, _: &str, _: Wire) -> Result<Stream, String> {
        Err("this build of everprof has no TLS".to_string())
    }
}

impl Stream {
    pub(super) fn timed(&mut self) -> &mut Timed {
        match *self {}
    }
}

impl Read for Stream {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        match *self {}
    }
}

impl Write for Stream {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        match *self {}
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match *self {}
    }
}
