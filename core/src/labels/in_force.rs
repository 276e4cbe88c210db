//! What is in force on this thread, for whoever ends scopes himself instead of by guards: the spans of `tracing`.

use super::Labels;
use super::slot;

pub(crate) use super::scope::Held;
pub(crate) use slot::{set_labels as restore_labels, set_trace};

/// Puts a set in force inside of `outer`, which is what was. Returns what keeps it alive, beside the set itself.
pub(crate) fn set_labels(set: &Labels, outer: u32) -> Labels {
    let (id, kept) = set.inside(outer);
    slot::set_labels(id);
    kept
}
