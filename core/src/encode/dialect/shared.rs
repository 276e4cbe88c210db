//! The tables of a profile that goes out in several parts: encoded and compressed once, where the parts have most of them in
//! common.
//!
//! Threads that run the same code are parts that point at the same functions. Each with a choice of its own would cost as
//! much as a whole profile, and be little smaller. A part that needs less than half is better off with what it needs.

use std::cell::OnceCell;

use crate::encode::gzip::Beginning;
use crate::encode::pprof::{self, Tables};
use crate::profile::Profile;

pub(super) struct Shared<'p> {
    profile: &'p Profile,
    parts: usize,
    made: OnceCell<Made<'p>>,
}

/// The tables as they begin the files of the parts.
pub(super) struct Made<'p> {
    pub(super) tables: Tables<'p>,
    /// Bytes without compression.
    pub(super) bytes: usize,
    pub(super) beginning: Beginning,
}

impl<'p> Shared<'p> {
    /// For so many parts.
    pub(super) fn new(profile: &'p Profile, parts: usize) -> Self {
        Self { profile, parts, made: OnceCell::new() }
    }

    /// What a part begins with that needs so many locations. None where it is better off alone.
    pub(super) fn with(&self, locations: usize) -> Option<&Made<'p>> {
        let is_most = locations * 2 >= self.profile.locations().len();
        (self.parts > 1 && is_most).then(|| self.made.get_or_init(|| Made::new(self.profile)))
    }
}

impl<'p> Made<'p> {
    fn new(profile: &'p Profile) -> Self {
        let tables = Tables::all(profile);
        let pieces = pprof::tables(&tables);
        let bytes = pieces.len();
        Self { tables, bytes, beginning: Beginning::new(pieces.into_iter(), bytes) }
    }
}
