//! The samples of a part by the rules of a dialect: some of them, some of their values, with labels spelled right. Their
//! stacks stay where they are, in the profile.

use std::collections::{BTreeSet, HashMap};

use super::{Common, LabelSets, Rules, labels_of, series_keys};
use crate::encode::pprof::{Locations, cut};
use crate::profile::{LabelsId, LocationId, Profile, Sample, Samples, StackId};

const TOO_MANY: &str = "samples lack labels: they had more than the server takes";

pub(super) struct Rewrite<'a> {
    from: &'a Profile,
    /// The part's types, times, tags and label sets.
    pub(super) head: Profile,
    rules: &'a Rules,
    columns: &'a [usize],
    /// What the series tells, and the samples need not.
    common: &'a Common,
    sets: &'a LabelSets,
    taken: BTreeSet<String>,
    /// By stacks of `from` and label sets of `head`.
    samples: Samples,
    /// The new handle of each label set of `from` that was met.
    labels: Vec<Option<LabelsId>>,
    /// The first of the stacks that are the same once they are cut.
    cut: HashMap<Vec<LocationId>, StackId>,
    values: Vec<i64>,
}

impl<'a> Rewrite<'a> {
    pub(super) fn new(
        from: &'a Profile,
        rules: &'a Rules,
        columns: &'a [usize],
        common: &'a Common,
        sets: &'a LabelSets,
    ) -> Self {
        let types: Vec<_> = columns.iter().map(|column| from.sample_types[*column].clone()).collect();
        let default = match types.iter().any(|known| known.name == from.default_sample_type) {
            true => from.default_sample_type.clone(),
            false => types.last().map_or(String::new(), |last| last.name.clone()),
        };
        let mut head = Profile::with_types(types, from.period_type.clone(), default);
        (head.time_nanos, head.duration_nanos) = (from.time_nanos, from.duration_nanos);
        head.tags.clone_from(&from.tags);
        head.comments.clone_from(&from.comments);
        head.comments.extend(sets.told());
        Self {
            from,
            head,
            rules,
            columns,
            common,
            sets,
            taken: series_keys(rules, from),
            samples: Samples::new(columns.len()),
            labels: Vec::new(),
            cut: HashMap::new(),
            values: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, sample: &Sample<'_>) {
        let (stack, labels) = (self.stack(sample.stack), self.label_set(sample.labels));
        self.values.clear();
        self.values.extend(self.columns.iter().map(|column| sample.values[*column]));
        self.samples.add(stack, labels, &self.values);
    }

    pub(super) fn samples(&self) -> impl Iterator<Item = Sample<'_>> {
        self.samples.iter()
    }

    /// The locations that the samples need.
    pub(super) fn locations(&self) -> Locations<'a> {
        let from = self.from;
        Locations::of(from, self.samples().map(|sample| from.get_stack(sample.stack)), self.rules.frames)
    }

    /// A stack that reads the same in the file.
    fn stack(&mut self, id: StackId) -> StackId {
        match cut(self.from.get_stack(id), self.rules.frames) {
            (_, None) => id,
            (leaf, Some(root)) => *self.cut.entry([leaf, root].concat()).or_insert(id),
        }
    }

    fn label_set(&mut self, id: LabelsId) -> LabelsId {
        if let Some(Some(known)) = self.labels.get(id.index()) {
            return *known;
        }
        let mut labels = labels_of(self.rules, &self.taken, self.from.get_labels(id));
        labels.retain(|label| self.common.iter().all(|(key, _)| *key != label.key));
        if self.sets.choose(&mut labels) && !self.head.comments.iter().any(|comment| comment == TOO_MANY) {
            self.head.comments.push(TOO_MANY.to_string());
        }
        let made = self.head.labels(&labels);
        if self.labels.len() <= id.index() {
            self.labels.resize(id.index() + 1, None);
        }
        self.labels[id.index()] = Some(made);
        made
    }
}
