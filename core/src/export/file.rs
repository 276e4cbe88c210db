//! The embedded default: profiles into a bounded local directory.

use std::path::Path;

use super::{Exporter, Set};
use crate::error::Result;
use crate::store::{Directory, Retention};

/// Writes each set into a [`Directory`].
///
/// ```
/// use everprof::encode::Set;
/// use everprof::export::{Exporter, FileExporter};
/// use everprof::store::Retention;
/// let dir = std::env::temp_dir().join(format!("everprof-doc-{}", std::process::id()));
/// let mut exporter = FileExporter::new(&dir, Retention::default());
/// exporter.export(&Set::default()).unwrap();
/// # std::fs::remove_dir_all(&dir).ok();
/// ```
#[derive(Debug)]
pub struct FileExporter {
    directory: Directory,
}

impl FileExporter {
    /// An exporter into `dir`, which is created with the first set.
    pub fn new(dir: impl AsRef<Path>, retention: Retention) -> Self {
        Self { directory: Directory::new(dir, retention) }
    }
}

impl Exporter for FileExporter {
    fn name(&self) -> String {
        format!("file://{}", self.directory.path().display())
    }

    fn export(&mut self, set: &Set) -> Result<()> {
        self.directory.write(set)
    }
}
