//! The exporters: where the encoded profiles of a period go.
//!
//! Called on everprof's own thread at the end of each period, one after the other; an exporter may take its
//! time, but not hold the process up at exit. It sees [`Set`], never the profile model.

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
