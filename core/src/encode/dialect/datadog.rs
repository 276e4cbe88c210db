//! What Datadog calls values and labels: by the names that its own profilers use for native code.
//!
//! Spans are numbers there. The resource of a request is the label `trace endpoint`, which the page of an endpoint asks for;
//! the span at the root of a request's part in this process is `local root span id`.

use crate::profile::{Kind, Label, LabelValue};

/// The names of a kind's values, in order. Of Go's, the others stay: there are none for who held a lock, for threads, and for
/// the heap at its highest.
pub(super) fn values(kind: Kind) -> Option<&'static [&'static str]> {
    Some(match kind {
        Kind::Cpu => &["cpu-samples", "cpu-time"],
        Kind::Wall => &["wall-samples", "wall-time"],
        Kind::OffCpu => &["off-cpu-samples", "off-cpu-time"],
        Kind::Alloc => &["alloc-samples", "alloc-space"],
        Kind::Heap => &["alloc-samples", "alloc-space", "inuse-objects", "inuse-space"],
        Kind::Lock => &["lock-acquire", "lock-acquire-wait"],
        // Its profilers have none; with names of its own it is not added to what is waited for locks.
        Kind::Gil => &["gil-waits", "gil-wait-time"],
        _ => return None,
    })
}

const SPAN: &str = "span id";
const ROOT: &str = "local root span id";

/// Names of labels, and whether they are ids, which are numbers of 64 bits.
const LABELS: [(&str, &str, bool); 7] = [
    ("thread_name", "thread name", false),
    ("thread_id", "thread id", false),
    ("span_id", SPAN, true),
    ("local_root_span_id", ROOT, true),
    // What a request is about goes by several names.
    ("endpoint", "trace endpoint", false),
    ("route", "trace endpoint", false),
    ("http.route", "trace endpoint", false),
];

/// A label as Datadog has it; none where it stays as it is.
pub(super) fn label(label: &Label) -> Option<Label> {
    let (_, key, is_id) = LABELS.iter().find(|(known, ..)| *known == label.key)?;
    match &label.value {
        LabelValue::Text(text) if *is_id => {
            let id = u64::from_str_radix(text, 16).ok().filter(|id| *id != 0)?;
            // The field of the format is signed; the bits are those of the number.
            Some(Label::number(*key, id.cast_signed(), ""))
        }
        _ => Some(Label { key: (*key).to_string(), value: label.value.clone() }),
    }
}

/// Where nobody says which span is the root of the request here, the one that is known stands for it: programs that name one
/// for each request name that.
pub(super) fn complete(labels: &mut Vec<Label>) {
    let span = labels.iter().find(|label| label.key == SPAN).map(|label| label.value.clone());
    if let Some(value) = span.filter(|_| labels.iter().all(|label| label.key != ROOT)) {
        labels.push(Label { key: ROOT.to_string(), value });
    }
}
