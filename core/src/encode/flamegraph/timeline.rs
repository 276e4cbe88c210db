//! Pages of many periods: what was counted, by kind, over time, and the flame graph of any stretch of it.
//!
//! A [`Timeline`] takes profiles one after the other and keeps of each what its page needs, so that they need not be in
//! memory together. A directory of profiles becomes a page by [`crate::store::timeline()`], which also sums up neighbours
//! where there are too many.

use std::collections::BTreeMap;
use std::ops::Range;

use super::data::{self, Data, list};
use super::text::json_string;
use super::{PageOptions, assets, orientation, title};
use crate::profile::{Kind, Profile};

/// A page of several periods in the making: the rate of each kind over time, and the flame graph of any stretch of it.
///
/// Of each profile the [`Timeline::rows`] heaviest samples are kept with their stacks; of the others the first callers, so
/// that totals are right. Left out are lines but those of leaves, and labels that are another for each thread or request
/// (`thread_id`, `trace_id`, `span_id`).
///
/// ```
/// use everprof::encode::flamegraph::{PageOptions, Timeline};
/// use everprof::profile::{Kind, Profile};
/// let mut timeline = Timeline::new(PageOptions::default());
/// for minute in 0..3 {
///     let mut profile = Profile::new(Kind::Cpu);
///     profile.time_nanos = 1_790_000_000_000_000_000 + minute * 60_000_000_000;
///     profile.duration_nanos = 60_000_000_000;
///     profile.tags.insert("service".into(), "shop".into());
///     timeline.add("cpu", &profile);
/// }
/// assert!(timeline.html().contains("<title>shop over time</title>"));
/// ```
pub struct Timeline {
    options: PageOptions,
    data: Data<'static>,
    /// Where each profile belongs.
    places: Vec<Place>,
    /// The tags of each instance.
    lanes: Vec<Vec<(String, String)>>,
    /// The stretches of time by their beginning: where they end.
    slots: BTreeMap<i64, i64>,
    notes: Vec<String>,
}

struct Place {
    lane: u32,
    slot: i64,
    /// When it was measured; several times where it is a sum.
    spans: Vec<Span>,
    /// It tells what there was at a moment, not what happened during a time.
    is_snapshot: bool,
}

/// When something was measured, and of which instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) instance: u32,
    pub(crate) start: i64,
    pub(crate) end: i64,
}

/// Rows of each profile, unless told otherwise.
const ROWS: usize = 10_000;
/// A profile that says nothing of its duration is seen as long as this.
const MOMENT: i64 = 1_000_000_000;
/// Tags that differ from period to period without meaning another instance.
const CHANGING: &str = "effective_rate_hz";

impl Timeline {
    /// A page without profiles yet.
    pub fn new(options: PageOptions) -> Self {
        let (places, lanes, slots, notes) = Default::default();
        Self { options, data: Data::of_many(ROWS), places, lanes, slots, notes }
    }

    /// How many samples of each profile that is added from here on keep their stack. Default 10,000.
    pub fn rows(mut self, most: usize) -> Self {
        self.data.set_rows(most.max(1));
        self
    }

    /// Adds a profile. Its kind, such as `cpu`, names what is drawn together; its time and duration say where it lies; its
    /// tags say of which instance and version it is.
    pub fn add(&mut self, kind: &str, profile: &Profile) {
        let start = profile.time_nanos;
        let end = start.saturating_add(profile.duration_nanos.max(0));
        self.add_sum(kind, profile, start..end, vec![Span { instance: 0, start, end }]);
    }

    /// Adds a sum of profiles that were measured during `spans` to a stretch of time.
    pub(crate) fn add_sum(&mut self, kind: &str, profile: &Profile, slot: Range<i64>, spans: Vec<Span>) {
        let tags = profile.tags.iter().filter(|(key, _)| *key != CHANGING);
        let tags: Vec<(String, String)> = tags.map(|(key, value)| (key.clone(), value.clone())).collect();
        let lane = self.lanes.iter().position(|known| *known == tags).unwrap_or_else(|| {
            self.lanes.push(tags);
            self.lanes.len() - 1
        });
        let end = self.slots.entry(slot.start).or_insert(slot.end);
        let least = if slot.is_empty() { MOMENT } else { 1_000 };
        *end = slot.end.max(*end).max(slot.start.saturating_add(least));
        let kind = self.data.kind(kind, profile);
        self.data.copy(profile, kind);
        let is_snapshot = profile.duration_nanos <= 0;
        self.places.push(Place { lane: lane as u32, slot: slot.start, spans, is_snapshot });
    }

    /// Has the page say something about how it was made, such as what was left out.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// The page. Without a profile it says that there is none.
    pub fn html(mut self) -> String {
        if self.data.cut() > 0 {
            let note = format!("{} rare stacks are cut to their first callers", self.data.cut());
            self.notes.push(note);
        }
        if self.data.is_large() {
            self.notes.push("times of stacks are rounded to microseconds".to_owned());
        }
        if self.places.is_empty() {
            self.data.kind("cpu", &Profile::new(Kind::Cpu));
        }
        let title = title(&self.options, || {
            let services = self.lanes.iter().flatten().filter(|(key, _)| key == "service");
            let mut services: Vec<&str> = services.map(|(_, value)| value.as_str()).collect();
            services.sort_unstable();
            services.dedup();
            match services.as_slice() {
                [] => "Profiles over time".to_owned(),
                [service] => format!("{service} over time"),
                [first, ..] => format!("{first} and {} more over time", services.len() - 1),
            }
        });
        let times = Times::of(self.places, self.lanes, &self.slots, self.notes);
        let orientation = orientation(&self.options);
        assets::page(&title, |out| self.data.write(out, "timeline", &title, orientation, Some(&times)))
    }
}

/// What a timeline's page knows of times and instances.
pub(super) struct Times {
    places: Vec<Measured>,
    lanes: Vec<Vec<(String, String)>>,
    /// Beginning and end.
    slots: Vec<(i64, i64)>,
    notes: Vec<String>,
}

/// Where a profile belongs, and when in its slot it was measured.
pub(super) struct Measured {
    lane: u32,
    slot: u32,
    /// How long the instance of it that was measured longest was.
    own: i64,
    /// Of snapshots how many there are of the instance that has most.
    looks: u32,
    /// Within the slot, from its beginning on, apart from each other.
    spans: Vec<(i64, i64)>,
    /// The length of the slot.
    whole: i64,
}

impl Times {
    fn of(
        places: Vec<Place>,
        lanes: Vec<Vec<(String, String)>>,
        slots: &BTreeMap<i64, i64>,
        notes: Vec<String>,
    ) -> Self {
        let number: BTreeMap<i64, usize> = slots.keys().copied().zip(0..).collect();
        let next = slots.keys().skip(1).copied().chain([i64::MAX]);
        // Where a clock was set back, stretches overlap: each ends where the next begins.
        let slots: Vec<(i64, i64)> =
            slots.iter().zip(next).map(|((&start, &end), next)| (start, end.min(next))).collect();
        let measured = |place: &Place| {
            let slot = number.get(&place.slot).copied().unwrap_or(0);
            Measured::of(place, slot as u32, slots.get(slot).copied().unwrap_or_default())
        };
        Self { places: places.iter().map(measured).collect(), lanes, slots, notes }
    }

    /// Appends members of the `number`th profile's JSON object: its lane and slot, and when it was measured in
    /// microseconds, where that is not just the whole slot.
    pub(super) fn write_place(&self, out: &mut String, number: usize) {
        let Some(place) = self.places.get(number) else { return };
        out.push_str(&format!(",\"lane\":{},\"slot\":{}", place.lane, place.slot));
        if place.looks > 0 {
            out.push_str(&format!(",\"looks\":{}", place.looks));
            return;
        }
        let length: i64 = place.spans.iter().map(|(start, end)| end - start).sum();
        if place.own / 1000 != length / 1000 {
            out.push_str(&format!(",\"own\":{}", place.own / 1000));
        }
        if place.spans != [(0, place.whole)] {
            out.push_str(",\"spans\":");
            list(out, &place.spans, |out, (start, end)| {
                out.push_str(&format!("{},{}", start / 1000, end / 1000));
            });
        }
    }

    /// Appends members of a JSON object: lanes, slots in microseconds, notes.
    pub(super) fn write(&self, out: &mut String) {
        out.push_str(",\"lanes\":");
        list(out, &self.lanes, |out, lane| data::tags(out, lane));
        out.push_str(",\"slots\":");
        list(out, &self.slots, |out, (start, end)| {
            out.push_str(&format!("{},{}", start.div_euclid(1000), end.div_euclid(1000)));
        });
        out.push_str(",\"notes\":");
        list(out, &self.notes, |out, note| json_string(out, note));
    }
}

/// Periods that follow each other within so many nanoseconds are told as one.
const JOINED: i64 = 10_000_000;

impl Measured {
    fn of(place: &Place, slot: u32, (begin, end): (i64, i64)) -> Self {
        // What runs side by side is another instance; where the times of one overlap, its clock was set back.
        let mut of_instance: BTreeMap<u32, (i64, u32)> = BTreeMap::new();
        for span in &place.spans {
            let (sum, looks) = of_instance.entry(span.instance).or_default();
            *sum = sum.saturating_add(span.end.saturating_sub(span.start).max(0));
            *looks += 1;
        }
        let looks = of_instance.values().map(|(_, looks)| *looks).max().unwrap_or(0);
        let within = |time: i64| time.clamp(begin, end.max(begin)).saturating_sub(begin);
        let mut spans: Vec<(i64, i64)> =
            place.spans.iter().map(|span| (within(span.start), within(span.end))).collect();
        spans.retain(|(start, end)| start < end);
        spans.sort_unstable();
        spans.dedup_by(|(start, end), (_, until)| {
            let joins = *start <= until.saturating_add(JOINED);
            *until = if joins { (*until).max(*end) } else { *until };
            joins
        });
        Self {
            lane: place.lane,
            slot,
            own: of_instance.into_values().map(|(sum, _)| sum).max().unwrap_or(0),
            looks: if place.is_snapshot { looks } else { 0 },
            spans,
            whole: end.saturating_sub(begin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(spans: &[(u32, i64, i64)], slot: (i64, i64)) -> (i64, Vec<(i64, i64)>) {
        let spans = spans.iter().map(|&(instance, start, end)| Span {
            instance,
            start: start * JOINED * 2,
            end: end * JOINED * 2,
        });
        let place = Place { lane: 0, slot: 0, spans: spans.collect(), is_snapshot: false };
        let found = Measured::of(&place, 0, (slot.0 * JOINED * 2, slot.1 * JOINED * 2));
        let small = |nanos: i64| nanos / (JOINED * 2);
        (small(found.own), found.spans.into_iter().map(|(start, end)| (small(start), small(end))).collect())
    }

    #[test]
    fn what_runs_side_by_side_is_measured_once_and_what_was_set_back_twice() {
        assert_eq!(measured(&[(0, 0, 10), (1, 5, 15)], (0, 15)), (10, vec![(0, 15)]));
        assert_eq!(measured(&[(0, 0, 10), (0, 20, 30)], (0, 30)), (20, vec![(0, 10), (20, 30)]));
        assert_eq!(measured(&[(0, 0, 10), (0, 2, 12)], (0, 12)), (20, vec![(0, 12)]));
        assert_eq!(measured(&[], (0, 1)), (0, vec![]));
        assert_eq!(measured(&[(0, 5, 5)], (5, 6)), (0, vec![]));
    }

    #[test]
    fn a_period_that_reaches_out_of_its_stretch_is_told_within_it() {
        assert_eq!(measured(&[(0, 4, 14), (0, 14, 24)], (10, 20)), (20, vec![(0, 10)]));
        assert_eq!(measured(&[(0, 0, 5)], (10, 20)), (5, vec![]));
    }
}
