//! The local directory of profiles: what `Profiler::start()` writes to unless the option `push` says otherwise.
//!
//! ```text
//! <dir>/<service>/2026-11-22/20261122T124000.123Z-<host>-<instance>-7.cpu.pb.gz    one profile of a set
//! <dir>/<service>/2026-11-22/20261122T124000.123Z-<host>-<instance>-7.json         the set's tags and times
//! ```
//!
//! Every profile is complete and readable by `go tool pprof` by itself, with its tags as comments; the JSON
//! file spares a reader from opening the profiles. Writing is for everprof's own thread; reading is for
//! anyone, at any time, in any process.

mod ahead;
mod catalogue;
mod diff;
mod directory;
mod functions;
mod leaks;
mod levels;
mod merge;
mod names;
mod prune;
mod table;
mod timeline;
mod top;

pub use catalogue::{Entry, Query, list};
pub use diff::{Change, Diff, Normalise, Pair, diff};
pub use directory::{Directory, Retention};
pub use leaks::{Growing, Leaks, leaks};
pub use merge::{Levels, Merged, Skipped, merge, merge_levels, read};
pub(crate) use names::civil;
pub use prune::{Pruned, prune};
pub use timeline::{TimelinePage, timeline};
pub use top::{Top, TopRow, top};
