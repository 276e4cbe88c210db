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
    kind: usize,
    lane: u32,
    slot: i64,
    /// When it was measured; several times where it is a sum.
    spans: Vec<Span>,
}

/// When something was measured: beginning and end.
type Span = (i64, i64);

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
        self.add_sum(kind, profile, start..end, vec![(start, end)]);
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
        self.places.push(Place { kind, lane: lane as u32, slot: slot.start, spans });
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
    places: Vec<(u32, u32)>,
    lanes: Vec<Vec<(String, String)>>,
    /// Beginning and end.
    slots: Vec<(i64, i64)>,
    /// For each kind and slot how many nanoseconds were measured.
    covers: Vec<Vec<i64>>,
    notes: Vec<String>,
}

impl Times {
    fn of(
        places: Vec<Place>,
        lanes: Vec<Vec<(String, String)>>,
        slots: &BTreeMap<i64, i64>,
        notes: Vec<String>,
    ) -> Self {
        let number: BTreeMap<i64, usize> = slots.keys().copied().zip(0..).collect();
        let slot_of = |place: &Place| number.get(&place.slot).copied().unwrap_or(0);
        let next = slots.keys().skip(1).copied().chain([i64::MAX]);
        let kinds = places.iter().map(|place| place.kind + 1).max().unwrap_or(0);
        let of_kind: Vec<Vec<(u32, Span)>> = vec![Vec::new(); slots.len()];
        let mut measured = vec![of_kind; kinds];
        for place in &places {
            let spans = place.spans.iter().map(|&span| (place.lane, span));
            measured[place.kind][slot_of(place)].extend(spans);
        }
        let covers = measured.into_iter().map(|slots| slots.into_iter().map(cover).collect()).collect();
        Self {
            places: places.iter().map(|place| (place.lane, slot_of(place) as u32)).collect(),
            lanes,
            // Where a clock was set back, stretches overlap: each ends where the next begins.
            slots: slots.iter().zip(next).map(|((&start, &end), next)| (start, end.min(next))).collect(),
            covers,
            notes,
        }
    }

    /// Lane and slot of a profile.
    pub(super) fn place(&self, number: usize) -> (u32, u32) {
        self.places.get(number).copied().unwrap_or_default()
    }

    /// Appends members of a JSON object: lanes, slots and covers in microseconds, notes.
    pub(super) fn write(&self, out: &mut String) {
        out.push_str(",\"lanes\":");
        list(out, &self.lanes, |out, lane| data::tags(out, lane));
        out.push_str(",\"slots\":");
        list(out, &self.slots, |out, (start, end)| {
            out.push_str(&format!("{},{}", start.div_euclid(1000), end.div_euclid(1000)));
        });
        out.push_str(",\"covers\":");
        list(out, &self.covers, |out, slots| {
            list(out, slots, |out, nanos| out.push_str(&(nanos / 1000).to_string()));
        });
        out.push_str(",\"notes\":");
        list(out, &self.notes, |out, note| json_string(out, note));
    }
}

/// How long something was measured: the union of times, since instances run beside each other; but where the times of one
/// instance overlap, a clock was set back, and it is their sum.
fn cover(mut spans: Vec<(u32, Span)>) -> i64 {
    let mut of_lane: BTreeMap<u32, i64> = BTreeMap::new();
    for (lane, (start, end)) in &spans {
        let sum = of_lane.entry(*lane).or_default();
        *sum = sum.saturating_add(end.saturating_sub(*start).max(0));
    }
    spans.sort_by_key(|(_, (start, _))| *start);
    let (mut union, mut until) = (0i64, i64::MIN);
    for (_, (start, end)) in spans {
        let from = start.max(until);
        union = union.saturating_add(end.saturating_sub(from).max(0));
        until = until.max(end);
    }
    of_lane.into_values().max().unwrap_or(0).max(union)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_side_by_side_is_measured_once_and_what_was_set_back_twice() {
        assert_eq!(cover(vec![(0, (0, 10)), (1, (5, 15))]), 15);
        assert_eq!(cover(vec![(0, (0, 10)), (0, (20, 30))]), 20);
        assert_eq!(cover(vec![(0, (0, 10)), (0, (2, 12))]), 20);
        assert_eq!(cover(vec![]), 0);
        assert_eq!(cover(vec![(0, (5, 5))]), 0);
    }
}
