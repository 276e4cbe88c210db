//! The labels of a scope are those of its samples in the profile, and of no others.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::Duration;

use everprof::profile::{Label, LabelValue, Profile};
use everprof::{Labels, Profiler, TraceContext, with_labels};

use common::{burn, directory, profiles, stop, time_in};

/// CPU nanoseconds of samples with exactly these labels, those that everprof adds to every sample aside.
fn time_with(profile: &Profile, labels: &[(&str, &str)]) -> i64 {
    let wanted: Vec<Label> = labels.iter().map(|(key, value)| Label::text(*key, *value)).collect();
    let own = |label: &&Label| label.key != "thread_name";
    let matches = |labels: &[Label]| labels.iter().filter(own).eq(wanted.iter());
    profile
        .samples()
        .filter(|sample| matches(profile.get_labels(sample.labels)))
        .map(|sample| sample.values[1])
        .sum()
}

#[test]
fn samples_carry_the_labels_and_the_trace_in_force() {
    let dir = directory("labels");
    let profiler = Profiler::builder().dir(&dir).start().unwrap();
    let work = Duration::from_millis(600);
    let stage = Labels::new([("stage", "parse")]);
    let trace = TraceContext::new(0xabc << 64, 0xdef);
    // One set in a short-lived handle: the profile is written long after the set is gone.
    with_labels([("tenant", "a")], || stage.run(|| burn(work)));
    with_labels([("tenant", "b")], || {
        let _trace = trace.enter();
        burn(work);
    });
    burn(work);
    stop(profiler);

    let profiles = profiles(&dir);
    let profile = profiles.iter().max_by_key(|profile| profile.totals()[1]).unwrap();
    let (trace_id, span_id) = (trace.trace_id_hex(), trace.span_id_hex());
    let third = time_in(profile, "common::burn") / 3;
    for labels in [
        vec![("stage", "parse"), ("tenant", "a")],
        vec![("span_id", span_id.as_str()), ("tenant", "b"), ("trace_id", trace_id.as_str())],
        vec![],
    ] {
        let time = time_with(profile, &labels);
        assert!((time - third).abs() < third / 3, "{labels:?} has {time} ns, not about {third}");
    }
    let texts = profile.samples().flat_map(|sample| profile.get_labels(sample.labels));
    let values: Vec<_> = texts.filter(|label| label.key == "tenant").map(|label| &label.value).collect();
    assert!(values.iter().all(|value| matches!(value, LabelValue::Text(text) if text == "a" || text == "b")));
    std::fs::remove_dir_all(&dir).unwrap();
}
