//! The profile of a snapshot: each thread a sample of its own.

use super::super::names::Names;
use super::super::snapshot::{Snapshot, State};
use super::Builder;
use super::time::wait_labels;
use crate::aggregate::Sums;
use crate::profile::{Kind, Label, Profile};
use crate::symbolize;

/// Every thread of a snapshot, with its stack or a frame that says why there is none.
pub(in super::super) fn threads(snapshot: &Snapshot, names: &Names<'_>, mode: symbolize::Mode) -> Profile {
    let mut builder = Builder::new(Kind::Threads, &snapshot.names, names, mode);
    builder.profile.period = 1;
    let one = Sums { count: 1, nanos: 0 };
    for row in &snapshot.rows {
        let state = |state: &str| vec![Label::text("state", state)];
        let (labels, mark) = match row.state {
            State::OnCpu => (state("on_cpu"), "running"),
            State::Runnable => (state("runnable"), "waiting for a processor"),
            State::OffCpu(waited) => (wait_labels(waited), "waiting"),
        };
        let thread = row.key.thread;
        let is_own =
            snapshot.names.threads.get(thread as usize).is_some_and(|(_, tid)| *tid == Some(snapshot.own));
        match row.has_stack {
            true => builder.add(row.key, &labels, one),
            false if is_own => builder.add_frame("everprof takes this snapshot", Some(thread), &labels, one),
            false => builder.add_frame(mark, Some(thread), &labels, one),
        }
    }
    builder.profile
}
