//! The dialects of pprof: one blob does not fit all servers, and what each wants is a row of [`RULES`].
//!
//! Called on the publisher's thread, once a period and dialect. Our own pprof is the master, from which nothing is missing;
//! a dialect leaves out what its server drops or refuses, spells labels as it does, and splits what would be too large for
//! it. Nothing is cut without a sign: samples go into more profiles, never away, and a stack that is too deep has a frame
//! in its middle that says so.

mod datadog;
mod label_sets;
mod rewrite;
mod shared;

use std::collections::{BTreeMap, BTreeSet};

use super::pprof::{self, Content};
use super::{Encoded, Format, ProfileId, gzip, otlp};
use crate::profile::{Kind, Label, LabelValue, Profile, Sample, ValueType};
use label_sets::LabelSets;
use rewrite::Rewrite;
use shared::Shared;

/// Whose pprof it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Dialect {
    /// What `go tool pprof` and everprof itself read: everything as it is.
    #[default]
    Pprof,
    /// Grafana Pyroscope's.
    Pyroscope,
    /// Parca's.
    Parca,
    /// OpenTelemetry's, which is no pprof: each profile is a request of OTLP, [`Format::Otlp`].
    Otlp,
    /// Datadog's.
    Datadog,
}

/// What a server wants.
struct Rules {
    /// What it calls the values of a kind, where not as Go does.
    values: fn(Kind) -> Option<&'static [&'static str]>,
    /// What it calls labels, where not as we do.
    labels: fn(&Label) -> Option<Label>,
    /// Adds what it wants to know besides.
    complete: fn(&mut Vec<Label>),
    /// Bytes that keys of labels may have beside letters, digits and `_`.
    key_bytes: &'static [u8],
    /// Whether labels that are numbers are kept.
    numbers: bool,
    /// Samples of one profile.
    samples: usize,
    /// Bytes of one profile without compression.
    bytes: usize,
    /// Frames of one stack.
    frames: usize,
    /// Labels of a series, and so of the deployment.
    series: usize,
    /// A profile with a duration is one of changes, so that what lives at its end has to be a profile of its own.
    parts_gauges: bool,
    /// A request's profile goes by its first span here, and is to have the samples of all its spans; and an ID under any key
    /// that the server does not know would be a series for each.
    spans_are_roots: bool,
    /// Into how many profiles one is parted by the labels of its samples; those of the rarest stay together.
    label_parts: usize,
    /// Of a series and a time it keeps one profile: those that one was split into have times of their own, [`STEP_NANOS`].
    parts_differ: bool,
    /// Labels of each series that are for the server alone.
    own: &'static [(&'static str, &'static str)],
    /// Labels of samples that it does not get.
    left_out: &'static [&'static str],
    /// Labels of one sample, besides its span.
    sample_labels: usize,
    /// Sets of them in one profile.
    label_sets: usize,
}

/// How much later a part of a split profile is than the whole, for each sample before its first: no two parts of it have one
/// time, however often they are halved, nor does one of a hundred samples have the same millisecond as the next; and each has
/// the same time at each try. All of a large profile are within a second or two.
const STEP_NANOS: i64 = 10_000;

/// The time of a part that has as many samples before it.
pub(super) fn time_of_part(whole: i64, before: usize) -> i64 {
    whole.saturating_add(i64::try_from(before).unwrap_or(i64::MAX).saturating_mul(STEP_NANOS))
}

const RULES: [(Dialect, Rules); 3] = [
    (
        // A push with one label that is spelled otherwise is refused whole by Pyroscope 1, and one in which the spellings of two
        // meet; names of 2 are a superset. What it compacts has one profile of a series and time. It makes a series of each
        // label set of samples, of which the labels count as the series' own do, and before 2.1 of each trace.
        Dialect::Pyroscope,
        Rules {
            values: |_| None,
            labels: |_| None,
            complete: |_| {},
            key_bytes: b"",
            numbers: false,
            samples: 16_000,
            // Of what a tenant may send at once, 2 MiB where nobody allows it more, never mind how long it waits.
            bytes: (2 << 20) - (64 << 10),
            frames: 1_000,
            // 30 with those of a sample.
            series: 20,
            parts_gauges: false,
            spans_are_roots: true,
            label_parts: 1,
            parts_differ: true,
            // Pyroscope 1 would take what was allocated in a period for the sum since the start.
            own: &[("__delta__", "false")],
            left_out: &["trace_id"],
            sample_labels: 9,
            label_sets: 64,
        },
    ),
    (
        // Of what WriteRaw gets, Parca 0.28 keeps the labels of series only.
        Dialect::Parca,
        Rules {
            values: |_| None,
            labels: |_| None,
            complete: |_| {},
            key_bytes: b"",
            numbers: true,
            samples: usize::MAX,
            bytes: 32 << 20,
            frames: usize::MAX,
            series: usize::MAX,
            parts_gauges: true,
            spans_are_roots: false,
            label_parts: 32,
            parts_differ: false,
            own: &[],
            left_out: &[],
            sample_labels: usize::MAX,
            label_sets: usize::MAX,
        },
    ),
    (
        // All kinds are one upload, of which no limit is known; what the tags of the upload say, labels may say otherwise.
        Dialect::Datadog,
        Rules {
            values: datadog::values,
            labels: datadog::label,
            complete: datadog::complete,
            key_bytes: b" ./-",
            numbers: true,
            samples: usize::MAX,
            bytes: usize::MAX,
            frames: usize::MAX,
            series: 0,
            parts_gauges: false,
            spans_are_roots: false,
            label_parts: 1,
            parts_differ: false,
            own: &[],
            left_out: &[],
            sample_labels: usize::MAX,
            label_sets: usize::MAX,
        },
    ),
];

impl Dialect {
    fn rules(self) -> Option<&'static Rules> {
        RULES.iter().find(|(dialect, _)| *dialect == self).map(|(_, rules)| rules)
    }
}

/// What servers call a profile of that kind: `__name__` of Pyroscope and Parca, the scope of OTLP.
pub(crate) const fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Cpu => "process_cpu",
        Kind::Alloc | Kind::Heap => "memory",
        Kind::OffCpu => "off_cpu",
        _ => kind.name(),
    }
}

impl Dialect {
    /// The profiles of a period in this dialect: as many as it takes, each with an ID of its own. Those that have nothing
    /// to tell are left out, but by [`Dialect::Pprof`].
    ///
    /// ```
    /// use everprof::encode::Dialect;
    /// use everprof::profile::{Kind, Profile};
    /// assert_eq!(Dialect::Pprof.encode(&[(Kind::Cpu, Profile::new(Kind::Cpu))]).len(), 1);
    /// ```
    pub fn encode(self, profiles: &[(Kind, Profile)]) -> Vec<Encoded> {
        match self.rules() {
            Some(rules) => encode(rules, profiles),
            None if self == Dialect::Otlp => otlp::encode(profiles),
            None => profiles.iter().map(|(kind, profile)| Encoded::pprof(*kind, profile)).collect(),
        }
    }
}

fn encode(rules: &Rules, profiles: &[(Kind, Profile)]) -> Vec<Encoded> {
    let has_heap = profiles.iter().any(|(kind, _)| *kind == Kind::Heap);
    let mut encoded = Vec::new();
    for (kind, profile) in profiles {
        // The heap's profile has the allocations too, under the same name: they would be counted twice.
        if *kind == Kind::Alloc && has_heap {
            continue;
        }
        let (groups, views) = (groups(profile, rules), views(profile, rules));
        let shared = Shared::new(profile, groups.len() * views.len());
        let sets = LabelSets::of(profile, rules, &series_keys(rules, profile));
        for view in &views {
            for (labels, samples) in &groups {
                let part = Part { kind: *kind, profile, rules, view, labels, sets: &sets, shared: &shared };
                let mut before = 0;
                for samples in samples.chunks(rules.samples) {
                    part.encode(samples, before, &mut encoded);
                    before += samples.len();
                }
            }
        }
    }
    encoded
}

/// Some of the values of a profile, and whether they are changes.
struct View {
    columns: Vec<usize>,
    is_change: bool,
}

fn views(profile: &Profile, rules: &Rules) -> Vec<View> {
    let all = 0..profile.sample_types.len();
    if !rules.parts_gauges {
        return vec![View { columns: all.collect(), is_change: true }];
    }
    let (levels, changes) = all.partition(|column| profile.sample_types[*column].is_level());
    vec![View { columns: changes, is_change: true }, View { columns: levels, is_change: false }]
}

/// The labels that some samples have in common, as the server spells them.
type Common = Vec<(String, String)>;

/// The samples by their labels that are text, without those of traces, of which each would be a series; the most frequent
/// first. Where there are too many, the last group has samples of all sorts.
fn groups<'p>(profile: &'p Profile, rules: &Rules) -> Vec<(Common, Vec<Sample<'p>>)> {
    if rules.label_parts < 2 {
        return vec![(Vec::new(), profile.samples().collect())];
    }
    let taken = series_keys(rules, profile);
    let mut places: BTreeMap<Common, usize> = BTreeMap::new();
    // The place of each label set that was met.
    let mut of: Vec<Option<usize>> = Vec::new();
    let mut groups: Vec<Vec<Sample<'p>>> = Vec::new();
    for sample in profile.samples() {
        let set = sample.labels.index();
        if of.len() <= set {
            of.resize(set + 1, None);
        }
        let place = *of[set].get_or_insert_with(|| {
            let common = common(rules, &taken, profile.get_labels(sample.labels));
            let count = places.len();
            *places.entry(common).or_insert(count)
        });
        if groups.len() <= place {
            groups.push(Vec::new());
        }
        groups[place].push(sample);
    }
    let mut groups: Vec<(Common, Vec<Sample<'p>>)> =
        places.into_iter().map(|(common, place)| (common, std::mem::take(&mut groups[place]))).collect();
    groups.sort_by_key(|(_, samples)| std::cmp::Reverse(samples.len()));
    if groups.len() > rules.label_parts {
        let rest = groups.split_off(rules.label_parts - 1);
        groups.push((Vec::new(), rest.into_iter().flat_map(|(_, samples)| samples).collect()));
    }
    groups
}

/// Of the labels of a sample those that its series may tell.
fn common(rules: &Rules, taken: &BTreeSet<String>, labels: &[Label]) -> Common {
    let labels = labels_of(rules, taken, labels).into_iter();
    let text = labels.filter_map(|label| match label.value {
        LabelValue::Text(text) if is_common(&label.key) && !text.is_empty() => Some((label.key, text)),
        _ => None,
    });
    text.collect()
}

fn is_common(key: &str) -> bool {
    !matches!(key, "trace_id" | "span_id" | "local_root_span_id")
}

/// The labels of a sample as the server spells them. One of the series would win over one of the same key, and of two of
/// the same sample one would: they get other keys, so that neither is lost.
fn labels_of(rules: &Rules, taken: &BTreeSet<String>, labels: &[Label]) -> Vec<Label> {
    let mut keys = BTreeSet::new();
    let root = labels.iter().find(|label| rules.spans_are_roots && label.key == "local_root_span_id");
    let is_kept = |label: &&Label| {
        (rules.numbers || !matches!(label.value, LabelValue::Number(..)))
            && root.is_none_or(|root| *label != root)
    };
    let mut spell = |label: &Label| {
        if let Some(label) = (rules.labels)(label).filter(|label| !keys.contains(&label.key)) {
            keys.insert(label.key.clone());
            return label;
        }
        let mut key = spelled(rules, &label.key);
        while taken.contains(&key) || !keys.insert(key.clone()) {
            key.insert_str(0, "exported_");
        }
        let of = root.filter(|_| label.key == "span_id").unwrap_or(label);
        Label { key, value: of.value.clone() }
    };
    let mut spelled: Vec<Label> = labels.iter().filter(is_kept).map(&mut spell).collect();
    spelled.retain(|label| !rules.left_out.contains(&label.key.as_str()));
    (rules.complete)(&mut spelled);
    spelled
}

/// What profiles are made of, besides the samples.
struct Part<'a> {
    kind: Kind,
    profile: &'a Profile,
    rules: &'a Rules,
    view: &'a View,
    labels: &'a Common,
    sets: &'a LabelSets,
    shared: &'a Shared<'a>,
}

impl Part<'_> {
    /// Encodes these samples, which come after so many others, in as many profiles as it takes.
    fn encode(&self, samples: &[Sample<'_>], before: usize, encoded: &mut Vec<Encoded>) {
        let tells = |sample: &&Sample<'_>| self.view.columns.iter().any(|column| sample.values[*column] != 0);
        if !samples.iter().any(|sample| tells(&sample)) {
            return;
        }
        let mut rewrite = Rewrite::new(self.profile, self.rules, &self.view.columns, self.labels, self.sets);
        (rewrite.head.period_type, rewrite.head.period) = period(self.kind, self.profile);
        if !self.view.is_change {
            rewrite.head.duration_nanos = 0;
        }
        if self.rules.parts_differ {
            rewrite.head.time_nanos = time_of_part(self.profile.time_nanos, before);
        }
        self.name_values(&mut rewrite.head);
        samples.iter().filter(tells).for_each(|sample| rewrite.add(sample));
        let most = if samples.len() > 1 { self.rules.bytes } else { usize::MAX };
        let Some(bytes) = self.file(&rewrite, most) else {
            let (first, second) = samples.split_at(samples.len() / 2);
            self.encode(first, before, encoded);
            self.encode(second, before + first.len(), encoded);
            return;
        };
        encoded.push(Encoded {
            kind: self.kind,
            format: Format::Pprof,
            bytes,
            time_nanos: rewrite.head.time_nanos,
            duration_nanos: rewrite.head.duration_nanos,
            labels: self.labels.clone(),
            id: ProfileId::new(),
        });
    }

    /// The file. None where it has more bytes without compression than that.
    fn file(&self, rewrite: &Rewrite<'_>, most: usize) -> Option<Vec<u8>> {
        let (head, frames) = (&rewrite.head, self.rules.frames);
        let locations = rewrite.locations();
        let Some(made) = self.shared.with(locations.len()) else {
            let tables = &locations.tables();
            let pieces = Content { head, tables, frames }.whole(rewrite.samples());
            let bytes = pieces.len();
            return (bytes <= most).then(|| gzip::compress_all(pieces.into_iter(), bytes));
        };
        let rest = Content { head, tables: &made.tables, frames }.rest(rewrite.samples());
        let bytes = rest.len();
        (made.bytes + bytes <= most).then(|| made.beginning.with(rest.into_iter(), bytes))
    }

    /// Calls the values what the server calls them.
    fn name_values(&self, profile: &mut Profile) {
        let Some(names) = (self.rules.values)(self.kind) else { return };
        for (value, column) in profile.sample_types.iter_mut().zip(&self.view.columns) {
            let Some(name) = names.get(*column) else { continue };
            if profile.default_sample_type == value.name {
                profile.default_sample_type = (*name).to_string();
            }
            value.name = (*name).to_string();
        }
    }
}

/// The period and what it is measured in: a part of the type's name for servers, and Go's for waits.
pub(super) fn period(kind: Kind, profile: &Profile) -> (ValueType, i64) {
    match kind {
        Kind::Lock | Kind::Mutex | Kind::Block | Kind::Gil => (ValueType::new("contentions", "count"), 1),
        _ => (profile.period_type.clone(), profile.period.max(1)),
    }
}

/// Two profiles with half of the samples each, for a server that found the whole too large. None where it has one sample,
/// or is in another format.
pub(crate) fn halve(dialect: Dialect, whole: &Encoded) -> Option<[Encoded; 2]> {
    match whole.format {
        Format::Pprof => {}
        Format::Otlp => return otlp::halve(whole),
        _ => return None,
    }
    let profile = pprof::decode(&whole.bytes).ok()?;
    let count = profile.samples().len();
    if count < 2 {
        return None;
    }
    let parts_differ = dialect.rules().is_some_and(|rules| rules.parts_differ);
    let half = |before: usize, keep: &dyn Fn(usize) -> bool| {
        let mut place = 0;
        let mut part = profile.filter(|_| {
            place += 1;
            keep(place - 1)
        });
        part.time_nanos = time_of_part(part.time_nanos, if parts_differ { before } else { 0 });
        let (bytes, time_nanos) = (pprof::encode(&part), part.time_nanos);
        Encoded { bytes, time_nanos, id: ProfileId::new(), ..whole.clone() }
    };
    Some([half(0, &|place| place < count / 2), half(count / 2, &|place| place >= count / 2)])
}

/// The labels of a profile's series: those of its own, and the deployment's tags as the server spells them, sorted. What is too many for it is left out,
/// the user's own last, and stays in the profile's comments.
pub(crate) fn series(
    dialect: Dialect,
    profile: &Encoded,
    tags: &BTreeMap<String, String>,
) -> Vec<(String, String)> {
    const FIRST: [&str; 8] = ["service", "version", "env", "host", "pod", "instance", "namespace", "node"];
    let Some(rules) = dialect.rules() else { return Vec::new() };
    let mut labels = vec![("__name__".to_string(), name(profile.kind).to_string())];
    labels.extend(rules.own.iter().map(|(key, value)| (key.to_string(), value.to_string())));
    labels.extend(profile.labels.iter().cloned());
    let of_rank = |key: &str| FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len());
    let mut ranked: Vec<(&String, &String)> = tags.iter().filter(|(_, value)| !value.is_empty()).collect();
    ranked.sort_by_key(|(key, _)| of_rank(key));
    for (key, value) in ranked {
        let key = series_key(rules, key);
        if labels.len() < rules.series && labels.iter().all(|(known, _)| *known != key) {
            labels.push((key, value.clone()));
        }
    }
    labels.sort();
    labels
}

fn series_key(rules: &Rules, key: &str) -> String {
    if key == "service" { "service_name".to_string() } else { spelled(rules, key) }
}

fn series_keys(rules: &Rules, profile: &Profile) -> BTreeSet<String> {
    if rules.series == 0 {
        return BTreeSet::new();
    }
    let own = ["__name__", "service_name"].into_iter().chain(rules.own.iter().map(|(key, _)| *key));
    profile.tags.keys().map(|key| series_key(rules, key)).chain(own.map(String::from)).collect()
}

/// A key of a label as the server spells it.
fn spelled(rules: &Rules, key: &str) -> String {
    let is_right = |letter: char| {
        letter.is_ascii_alphanumeric()
            || letter == '_'
            || letter.is_ascii() && rules.key_bytes.contains(&(letter as u8))
    };
    let mut key: String = key.chars().map(|letter| if is_right(letter) { letter } else { '_' }).collect();
    if key.starts_with(|first: char| !first.is_ascii_alphabetic() && first != '_') {
        key.insert(0, '_');
    }
    key
}

#[cfg(test)]
mod tests;
