//! Which labels samples keep where a server makes a series of each set of them, and takes so many labels and series only.
//!
//! Called on the publisher's thread, once a profile. Pyroscope 1 refuses what is beyond 5,000 series of a tenant, and stores
//! each as a profile of its own; a service with a hundred threads has thousands of a kind. What tells least is left out
//! first, for all samples of the profile alike; no sample is, and the profile's comments say what its samples lack.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Common, Rules, labels_of};
use crate::profile::{Label, LabelValue, LabelsId, Profile};

/// What samples do without, each more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Without {
    Nothing,
    Calls,
    /// `worker-17` is one of `worker`.
    NumbersOfThreads,
    Threads,
    /// The rarest sets are one, without a label.
    RareSets,
}

const WAYS: [Without; 4] = [Without::Nothing, Without::Calls, Without::NumbersOfThreads, Without::Threads];

/// What of a label set goes to the server.
pub(super) struct LabelSets {
    /// Labels of one sample that make its series.
    most: usize,
    without: Without,
    /// Those that stay where the rarest do not.
    kept: BTreeSet<Common>,
    limit: usize,
}

impl LabelSets {
    /// What this profile has to do without.
    pub(super) fn of(profile: &Profile, rules: &Rules, taken: &BTreeSet<String>) -> Self {
        let (most, limit) = (rules.sample_labels, rules.label_sets);
        let mut sets = Self { most, without: Without::Nothing, kept: BTreeSet::new(), limit };
        let mut by_id: HashMap<LabelsId, i64> = HashMap::new();
        if limit < usize::MAX {
            for sample in profile.samples() {
                let weight = by_id.entry(sample.labels).or_default();
                *weight = sample
                    .values
                    .iter()
                    .fold(*weight, |sum, value| sum.saturating_add(value.saturating_abs()));
            }
        }
        if by_id.len() <= limit {
            return sets;
        }
        let mut weights: BTreeMap<Common, i64> = BTreeMap::new();
        for (id, weight) in by_id {
            let of_set = weights.entry(text(&labels_of(rules, taken, profile.get_labels(id)))).or_default();
            *of_set = of_set.saturating_add(weight);
        }
        for without in WAYS {
            sets.without = without;
            weights = sets.chosen(weights);
            if weights.len() <= limit {
                return sets;
            }
        }
        let mut heaviest: Vec<(Common, i64)> = weights.into_iter().collect();
        heaviest.sort_by_key(|(_, weight)| Reverse(*weight));
        sets.kept = heaviest.into_iter().take(limit.saturating_sub(1)).map(|(common, _)| common).collect();
        sets.without = Without::RareSets;
        sets
    }

    /// What becomes of these sets and their weights.
    fn chosen(&self, weights: BTreeMap<Common, i64>) -> BTreeMap<Common, i64> {
        let mut chosen: BTreeMap<Common, i64> = BTreeMap::new();
        for (common, weight) in weights {
            let mut labels: Vec<Label> =
                common.into_iter().map(|(key, value)| Label::text(key, value)).collect();
            self.choose(&mut labels);
            let of_set = chosen.entry(text(&labels)).or_default();
            *of_set = of_set.saturating_add(weight);
        }
        chosen
    }

    /// Takes away what these labels of a sample, spelled as the server does, are too many by. Whether there were too many for
    /// one sample.
    pub(super) fn choose(&self, labels: &mut Vec<Label>) -> bool {
        if self.without >= Without::Calls {
            labels.retain(|label| label.key != "syscall");
        }
        if self.without >= Without::Threads {
            labels.retain(|label| label.key != "thread_name");
        } else if self.without >= Without::NumbersOfThreads {
            labels.iter_mut().for_each(forget_number);
            labels.retain(|label| label.value != LabelValue::Text(String::new()));
        }
        let is_cut = self.fit_one(labels);
        if self.without == Without::RareSets && !self.kept.contains(&text(labels)) {
            labels.retain(|label| !makes_series(label));
        }
        is_cut
    }

    /// Of too many labels those stay that we know, and of the program's the first by their keys.
    fn fit_one(&self, labels: &mut Vec<Label>) -> bool {
        const FIRST: [&str; 3] = ["state", "thread_name", "wait"];
        if labels.iter().filter(|label| makes_series(label)).count() <= self.most {
            return false;
        }
        let mut keys: Vec<String> =
            labels.iter().filter(|label| makes_series(label)).map(|label| label.key.clone()).collect();
        keys.sort_by_key(|key| (!FIRST.contains(&key.as_str()), key.clone()));
        let left_out: BTreeSet<String> = keys.into_iter().skip(self.most).collect();
        labels.retain(|label| !left_out.contains(&label.key));
        true
    }

    /// What is to be said of it.
    pub(super) fn told(&self) -> Option<String> {
        let what = match self.without {
            Without::Nothing => return None,
            Without::Calls => "no syscall",
            Without::NumbersOfThreads => "no syscall, and no numbers at the end of thread_name",
            Without::Threads => "no syscall and no thread_name",
            Without::RareSets => "no syscall and no thread_name, and the rarest have none at all",
        };
        Some(format!("samples have {what}: they had more than {} sets of labels", self.limit))
    }
}

/// Each text of it is a series, but for the spans, which Pyroscope keeps apart.
fn makes_series(label: &Label) -> bool {
    label.key != "span_id" && matches!(&label.value, LabelValue::Text(text) if !text.is_empty())
}

fn text(labels: &[Label]) -> Common {
    let own = labels.iter().filter(|label| makes_series(label));
    let mut common: Common = own
        .filter_map(|label| match &label.value {
            LabelValue::Text(text) => Some((label.key.clone(), text.clone())),
            LabelValue::Number(..) => None,
        })
        .collect();
    common.sort();
    common
}

/// `worker-17` becomes `worker`, and `7` nothing.
fn forget_number(label: &mut Label) {
    if label.key != "thread_name" {
        return;
    }
    if let LabelValue::Text(name) = &mut label.value {
        let stem = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
        if stem.len() < name.len() {
            let stem = stem.trim_end_matches([' ', '-', '_', '#', ':', '.', '/']);
            name.truncate(stem.len());
        }
    }
}
