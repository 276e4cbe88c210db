//! The part of a profile that was asked for by labels, as of one tenant or one span: `label=span_id:b7ad6b7169203331`.

use std::borrow::Cow;

use super::request::Request;
use crate::profile::{LabelValue, Profile};

/// More labels than this at once are refused.
const MOST: usize = 8;

/// The labels that samples are to have, all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Only(Vec<(String, String)>);

impl Only {
    /// Those of a request; an error says what would be right.
    pub(super) fn of(request: &Request) -> Result<Self, &'static str> {
        // Without it, everybody's profile would be the answer.
        if request.has_unread("label") {
            return Err("bad label: write ; as %3B and % as %25");
        }
        let mut labels = Vec::new();
        for label in request.values("label") {
            match label.split_once(':') {
                Some((key, value)) if !key.is_empty() && labels.len() < MOST => {
                    labels.push((key.to_string(), value.to_string()));
                }
                Some(_) if labels.len() >= MOST => return Err("too many labels: give at most 8"),
                _ => return Err("bad label: give label=key:value, such as label=endpoint:/search"),
            }
        }
        Ok(Self(labels))
    }

    /// What of a profile has them.
    pub(super) fn in_profile<'p>(&self, profile: &'p Profile) -> Cow<'p, Profile> {
        if self.0.is_empty() {
            return Cow::Borrowed(profile);
        }
        let has = |sample: &crate::profile::Sample<'_>, (key, wanted): &(String, String)| {
            profile.get_labels(sample.labels).iter().any(|label| {
                label.key == *key
                    && match &label.value {
                        LabelValue::Text(text) => text == wanted,
                        LabelValue::Number(number, _) => number.to_string() == *wanted,
                    }
            })
        };
        Cow::Owned(profile.filter(|sample| self.0.iter().all(|label| has(sample, label))))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::profile::{Kind, Label};

    fn only(query: &str) -> Result<Only, &'static str> {
        Only::of(&Request { query: query.to_string(), ..Request::default() })
    }

    #[test]
    fn samples_with_all_the_labels_stay() {
        let mut profile = Profile::new(Kind::Cpu);
        let stack = profile.stack(&[]);
        for (number, tenant) in [(1, "a"), (2, "a:b"), (3, "a:b")] {
            let labels =
                profile.labels(&[Label::text("tenant", tenant), Label::number("thread_id", number, "id")]);
            profile.add(stack, labels, &[number, number]);
        }
        for (query, sum) in [
            ("", 6),
            ("label=tenant:a%3Ab", 5),
            ("label=tenant:a:b&seconds=1&label=thread_id:3", 3),
            ("label=tenant:", 0),
            ("label=span_id:00", 0),
        ] {
            assert_eq!(only(query).unwrap().in_profile(&profile).totals(), [sum, sum], "{query}");
        }
        for query in [
            "label=tenant:a;b",
            "label=tenant:a%3",
            "seconds=1&label=tenant:100%",
            "seconds=1;label=tenant:a",
        ] {
            assert!(only(query).unwrap_err().contains("; as %3B"), "{query}");
        }
        assert_eq!(
            only("label=tenant:a%3Bb").unwrap(),
            only("label=tenant:a%3bb&seconds=1;debug=1").unwrap()
        );
        assert!(only("label=tenant").unwrap_err().contains("label=key:value"));
        assert!(only(&"label=a:b&".repeat(9)).unwrap_err().contains("at most 8"));
    }
}
