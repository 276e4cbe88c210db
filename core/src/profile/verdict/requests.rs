//! The kinds of requests, by the labels of the application: what each spent its time on.

use std::collections::BTreeMap;

use super::{Activity, Bound, Group, OWN_LABELS, Request, bound, longest};
use crate::profile::{Label, LabelValue};

/// So many kinds of requests are told.
const MOST_REQUESTS: usize = 20;

/// What was read of the kinds of requests: by the labels, nanoseconds by activity, and by where they waited.
pub(super) type Read = BTreeMap<String, (Group, BTreeMap<(Activity, Vec<String>), u64>)>;

/// The kind of request that a sample with these labels belongs to: all that the application has set.
pub(super) fn kind(labels: &[Label]) -> Option<String> {
    let of_one = ["trace_id", "span_id", "local_root_span_id"];
    let own = |key: &str| OWN_LABELS.contains(&key) || of_one.contains(&key);
    let labels = labels.iter().filter(|label| !own(&label.key)).filter_map(|label| match &label.value {
        LabelValue::Text(text) => Some(format!("{}={text}", label.key)),
        LabelValue::Number(..) => None,
    });
    let labels: Vec<String> = labels.collect();
    (!labels.is_empty()).then(|| labels.join(", "))
}

/// What is told of the kinds of requests.
pub(super) fn told(read: Read) -> Vec<Request> {
    let all = read.into_iter().map(|(name, (group, places))| {
        let bound = bound(&group, 0);
        let places = places.iter().map(|((activity, place), nanos)| (*activity, place, *nanos));
        let waits_in = match bound {
            Bound::Wait(for_what) | Bound::Mixed(for_what) => longest(places, for_what),
            _ => Vec::new(),
        };
        Request { group: Group { name, ..group }, bound, waits_in }
    });
    let mut told: Vec<Request> = all.filter(|request| request.bound != Bound::Idle).collect();
    told.sort_by_key(|request| std::cmp::Reverse(request.group.busy() + request.group.waited()));
    told.truncate(MOST_REQUESTS);
    told
}
