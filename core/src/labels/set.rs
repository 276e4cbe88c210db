//! The labels of one set as one text, the form in which sets are compared, hashed and kept.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::pairs;

/// Most labels in one set; of more, the last by key are left out.
const MAX_LABELS: usize = 32;
/// Ends each key and each value; neither holds control characters.
const END: char = '\0';

/// The labels of a set, sorted by key: what the drain keeps for a sample.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LabelSet(Arc<str>);

impl LabelSet {
    /// The labels, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        pairs_of(&self.0)
    }

    pub(super) fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn share(&self) -> Arc<str> {
        self.0.clone()
    }
}

/// The text of a set of these labels, made valid; empty for none.
pub(super) fn text<K: AsRef<str>, V: AsRef<str>>(labels: impl IntoIterator<Item = (K, V)>) -> String {
    let mut sorted: Vec<(K, V)> = labels.into_iter().collect();
    let fits = |(key, value): &(K, V)| {
        pairs::check_key(key.as_ref()).is_ok() && pairs::check_value(value.as_ref()).is_ok()
    };
    if !sorted.iter().all(fits) {
        let clean = sorted.iter().filter_map(|(key, value)| {
            Some((pairs::sanitised_key(key.as_ref())?, pairs::sanitised_value(value.as_ref())))
        });
        return text(clean.collect::<Vec<_>>());
    }
    // Stable: of one key given twice the last stays last.
    sorted.sort_by(|a, b| a.0.as_ref().cmp(b.0.as_ref()));
    let last_of_key =
        |at: &usize| sorted.get(at + 1).is_none_or(|next| next.0.as_ref() != sorted[*at].0.as_ref());
    let kept = (0..sorted.len()).filter(last_of_key).map(|at| (sorted[at].0.as_ref(), sorted[at].1.as_ref()));
    joined(kept)
}

/// The text of `outer` with the labels of `inner` on top.
pub(super) fn merged(outer: &LabelSet, inner: &LabelSet) -> String {
    let mut both: BTreeMap<&str, Cow<'_, str>> = BTreeMap::new();
    both.extend(outer.iter().map(|(key, value)| (key, value.into())));
    // With too many the inner ones stay, since they say more.
    let room = MAX_LABELS.saturating_sub(inner.iter().filter(|(key, _)| !both.contains_key(key)).count());
    while both.len() > room {
        both.pop_last();
    }
    both.extend(inner.iter().map(|(key, value)| (key, value.into())));
    joined(both.iter().map(|(key, value)| (*key, value.as_ref())))
}

fn joined<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::with_capacity(64);
    for (key, value) in labels.take(MAX_LABELS) {
        for part in [key, value] {
            text.push_str(part);
            text.push(END);
        }
    }
    text
}

fn pairs_of(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut parts = text.split_terminator(END);
    std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        pairs_of(text).map(|(key, value)| format!("{key}={value} ")).collect()
    }

    #[test]
    fn sets_are_sorted_and_the_last_value_of_a_key_counts() {
        assert_eq!(shown(&text([("b", "1"), ("a", ""), ("b", "2"), ("c", "3")])), "a= b=2 c=3 ");
        assert_eq!(text::<&str, &str>([]), "");
    }

    #[test]
    fn labels_are_made_to_fit() {
        let long = "x".repeat(1_000);
        let text = text([("bad key", "a\0b\n"), ("ok", &long), ("é", "dropped")]);
        assert_eq!(shown(&text), format!("bad_key=a b ok={} ", "x".repeat(256)));
        let many = (0..100).map(|number| (format!("k{number:02}"), "v"));
        assert_eq!(pairs_of(&super::text(many)).count(), MAX_LABELS);
    }

    #[test]
    fn the_inner_set_wins() {
        let set = |labels: &[(&str, &str)]| LabelSet::new(&text(labels.iter().copied()));
        let outer = set(&[("a", "1"), ("b", "1")]);
        assert_eq!(shown(&merged(&outer, &set(&[("b", "2"), ("c", "2")]))), "a=1 b=2 c=2 ");
        let full = LabelSet::new(&text((0..MAX_LABELS).map(|number| (format!("k{number:02}"), "v"))));
        let both = merged(&full, &set(&[("k00", "inner"), ("z", "inner")]));
        assert_eq!(pairs_of(&both).count(), MAX_LABELS);
        assert!(shown(&both).contains("k00=inner ") && shown(&both).contains("z=inner "));
    }
}
