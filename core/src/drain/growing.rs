//! A profile that grows by segments: of a period in which recordings begin or end, and of a recording.
//!
//! On the publisher's thread. A period of one segment costs nothing here. What is kept is bounded: with very many samples
//! those to come are no longer told apart by trace and span, as within a segment, and a recording that grows beyond all
//! measure is given up.

use std::collections::BTreeMap;

use crate::profile::Profile;

/// With more samples than this, traces and spans are no longer told apart.
const MOST_SAMPLES: usize = 256 << 10;
/// The keys that are then left out.
const OF_TRACES: [&str; 3] = ["trace_id", "span_id", "local_root_span_id"];

/// The sum of the segments so far, and the number of signals behind it.
#[derive(Clone, Debug)]
pub(super) struct Growing {
    profile: Profile,
    signals: u64,
}

impl Growing {
    /// Of one segment.
    pub(super) fn new(profile: Profile, signals: u64) -> Self {
        Self { profile, signals }
    }

    /// Adds the segment behind it.
    pub(super) fn add(&mut self, part: &Growing) {
        let left_out: &[&str] = if self.profile.samples().len() > MOST_SAMPLES { &OF_TRACES } else { &[] };
        // Of one kind, so that there is nothing which could differ.
        let _ = self.profile.merge_without(&part.profile, left_out);
        // That of the end, as in one segment.
        self.profile.period = part.profile.period;
        self.signals += part.signals;
    }

    /// About how many bytes it holds.
    pub(super) fn memory(&self) -> usize {
        self.profile.memory()
    }

    /// The profile, with the tags of the deployment.
    pub(super) fn finish(self, tags: &BTreeMap<String, String>) -> Profile {
        let mut profile = self.profile;
        profile.tags = tags.clone();
        profile.tell_signals(self.signals);
        profile
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Kind, Label};

    fn segment(spans: std::ops::Range<usize>) -> Growing {
        let mut profile = Profile::new(Kind::Cpu);
        let stack = profile.stack(&[]);
        for span in spans {
            let span = Label::text("span_id", span.to_string());
            let labels = profile.labels(&[span, Label::text("tenant", "a")]);
            profile.add(stack, labels, &[1, 10]);
        }
        Growing::new(profile, 1)
    }

    #[test]
    fn segments_sum_up_and_too_many_spans_are_one() {
        let mut sum = segment(0..3);
        sum.add(&segment(2..5));
        assert_eq!((sum.profile.totals(), sum.profile.samples().len()), (vec![6, 60], 5));
        sum.add(&segment(0..MOST_SAMPLES + 1));
        let rows = sum.profile.samples().len();
        sum.add(&segment(MOST_SAMPLES + 1..MOST_SAMPLES + 1000));
        assert_eq!(sum.profile.samples().len(), rows + 1, "what comes now has the tenant alone");
        assert_eq!(sum.profile.totals()[0], 6 + MOST_SAMPLES as i64 + 1 + 999);
        assert_eq!(sum.signals, 4);
        assert!(sum.memory() > MOST_SAMPLES);
    }
}
