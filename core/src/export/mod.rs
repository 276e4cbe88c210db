//! The exporters: where the encoded profiles of a period go.
//!
//! Each has a queue and a thread of everprof's that does nothing else (`drain/deliver.rs`): it may take its time, and keeps
//! neither the sampling nor the other exporters waiting, but must not hold the process up at exit. One that panics has
//! failed with this set, and is called with the next one. It sees [`Set`], never the profile model.

mod ambient;
mod build;
mod cuts;
mod datadog;
mod file;
pub(crate) mod google;
mod http;
mod otlp;
mod parcel;
mod proxy;
mod server;
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "keys and certificates"))]
mod small_file;
pub(crate) mod spool;

pub use crate::encode::{Dialect, Encoded, Format, ProfileId, Set};
pub use build::of_options;
pub(crate) use build::{Destinations, destinations};
pub use file::FileExporter;
pub(crate) use http::{Hold, sockets};

use std::time::Duration;

use crate::error::{Error, Result};

/// Somewhere that profiles are sent to.
pub trait Exporter: Send {
    /// What it is, for logs and statistics, such as `file:///var/lib/profiles`. No secrets.
    fn name(&self) -> String;

    /// In which dialect the profiles are to be.
    fn dialect(&self) -> Dialect {
        Dialect::Pprof
    }

    /// Sends the profiles of one period.
    ///
    /// # Errors
    /// Says what went wrong and why; the set counts as lost, and the next one is tried again.
    fn export(&mut self, set: &Set) -> Result<()>;

    /// The same for an exporter that knows whether to try again: after [`Outcome::Later`] it gets the same set once more,
    /// unless that was given up meanwhile. What is called; by default, [`Exporter::export`].
    fn attempt(&mut self, set: &Set) -> Outcome {
        match self.export(set) {
            Ok(()) => Outcome::Sent,
            Err(error) => Outcome::Lost(Loss::Failed, error),
        }
    }

    /// Under which name its sets may wait on disk where the option `push_spool` names a place: the same name after a restart,
    /// and another one for another destination. By default none, and they wait in memory only. It does not get onto the disk
    /// itself, but a hash of it does: no secrets.
    fn spool_name(&self) -> Option<String> {
        None
    }

    /// The age beyond which a set is of no use to the other side. By default none.
    fn longest_age(&self) -> Option<Duration> {
        None
    }

    /// Whether a set that arrives twice counts once there, so that one of which nobody knows whether it arrived may be sent
    /// again whatever `push_delivery` says. By default not.
    fn may_repeat(&self) -> bool {
        false
    }

    /// What ends an attempt at hand from another thread, and all that come after it: called at the end of the profiler, once an
    /// attempt has had a second of it, so that what waits behind that can still go to disk (`push_spool`) before the process
    /// ends. By default none: an attempt that hangs then is left to itself, and what waits behind it as well.
    fn interrupt(&self) -> Option<Interrupt> {
        None
    }

    /// Nothing is to be sent for now: lets go of what was kept open for it. By default nothing was.
    fn idle(&mut self) {}

    /// After [`Outcome::Later`], what of the set is still to be sent, and whether some of it was lost: for an exporter that
    /// sends a set in parts, which then forgets about it. By default all of it, and nothing.
    fn unsent(&mut self, set: &Set) -> (Set, Option<(Loss, Error)>) {
        (set.clone(), None)
    }
}

/// Ends an exporter's attempt at hand, see [`Exporter::interrupt`].
///
/// ```
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use std::sync::Arc;
/// let is_over = Arc::new(AtomicBool::new(false));
/// let seen_by_the_attempt = is_over.clone();
/// let interrupt: everprof::export::Interrupt = Box::new(move || is_over.store(true, Ordering::Relaxed));
/// interrupt();
/// assert!(seen_by_the_attempt.load(Ordering::Relaxed));
/// ```
pub type Interrupt = Box<dyn Fn() + Send>;

/// What came of an attempt.
#[derive(Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// All profiles of the set are where they belong.
    Sent,
    /// Some will never be there.
    Lost(Loss, Error),
    /// Nothing is lost yet: try again, and where the other side said so, not before that time.
    Later(Error, Option<Duration>),
    /// The other side was reached and broke off, or could not do it now: try again, but others first. It may be this very set
    /// that it does not bear.
    Cut(Error),
}

/// Why a set did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// The exporter failed.
    Failed,
    /// The other side does not want it, now or later.
    Refused,
    /// It is too old for the other side.
    Expired,
    /// It was sent and not answered: it may be there or not, and is not to be there twice.
    Unknown,
    /// Several attempts broke off or failed, while others arrived.
    Broken,
}
