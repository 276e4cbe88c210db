//! The exporters: where the encoded profiles of a period go.
//!
//! Called at the end of each period, one after the other, on a thread of everprof's that does nothing else; an exporter
//! may take its time, but not hold the process up at exit. One that panics has failed with this set, and is called with
//! the next one. It sees [`Set`], never the profile model.

mod file;

pub use crate::encode::{Encoded, Format, ProfileId, Set};
pub use file::FileExporter;

use crate::error::Result;

/// Somewhere that profiles are sent to.
pub trait Exporter: Send {
    /// What it is, for logs and statistics, such as `file:///var/lib/profiles`.
    fn name(&self) -> String;

    /// Sends the profiles of one period.
    ///
    /// # Errors
    /// Says what went wrong and why; the set counts as lost, and the next one is tried again.
    fn export(&mut self, set: &Set) -> Result<()>;
}
