//! Lists: the kinds of profile, and the user's tags.

use std::collections::{BTreeMap, BTreeSet};

use super::value::{Setting, Shape};
use crate::error::{Error, ErrorKind};
use crate::pairs;
use crate::profile::Kind;

/// Kinds of profile, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kinds(BTreeSet<Kind>);

impl Kinds {
    /// Whether profiles of `kind` are asked for.
    pub fn contains(&self, kind: Kind) -> bool {
        self.0.contains(&kind)
    }

    /// Those of them that `keep` says so of; there may be none.
    pub(crate) fn only(&self, keep: impl Fn(Kind) -> bool) -> Kinds {
        Kinds(self.iter().filter(|kind| keep(*kind)).collect())
    }

    /// The kinds asked for, in the order of [`Kind::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = Kind> + '_ {
        self.0.iter().copied()
    }
}

impl Default for Kinds {
    fn default() -> Self {
        Self(BTreeSet::from([Kind::Cpu]))
    }
}

impl Setting for Kinds {
    const SHAPE: Shape = Shape::List;

    fn accepts() -> String {
        format!("one or more of {}", Kind::ALL.map(Kind::name).join(", "))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let kinds: Option<BTreeSet<Kind>> =
            list(text).map(|name| Kind::from_name(&name.to_ascii_lowercase())).collect();
        match kinds {
            Some(kinds) if !kinds.is_empty() => Ok(Self(kinds)),
            _ => Err(format!("give {}", Self::accepts())),
        }
    }

    fn text(&self) -> String {
        self.iter().map(Kind::name).collect::<Vec<_>>().join(",")
    }
}

/// The user's own tags, valid as keys and values of tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserTags(BTreeMap<String, String>);

impl UserTags {
    /// Adds or replaces one tag; an error names a key or value that profiles cannot carry.
    pub fn insert(&mut self, key: &str, value: &str) -> crate::Result<()> {
        self.try_insert(key, value)
            .map_err(|wrong| Error::new(ErrorKind::InvalidOption, format!("tags: {wrong}")))
    }

    /// The tags, by key.
    pub fn as_map(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    fn try_insert(&mut self, key: &str, value: &str) -> Result<(), String> {
        pairs::check_key(key)?;
        pairs::check_value(value)?;
        if self.0.len() >= pairs::MAX_USER_TAGS && !self.0.contains_key(key) {
            return Err(format!("give at most {} tags", pairs::MAX_USER_TAGS));
        }
        self.0.insert(key.to_string(), value.to_string());
        Ok(())
    }
}

impl Setting for UserTags {
    const SHAPE: Shape = Shape::Pairs;

    fn accepts() -> String {
        "key=value,key=value".to_string()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut tags = Self::default();
        for pair in list(text) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err("give key=value,key=value".to_string());
            };
            let (key, value) = (pairs::percent_decode(key.trim())?, pairs::percent_decode(value.trim())?);
            tags.try_insert(&key, &value)?;
        }
        Ok(tags)
    }

    fn text(&self) -> String {
        let pair = |(key, value): (&String, &String)| format!("{key}={}", pairs::percent_encode(value));
        self.0.iter().map(pair).collect::<Vec<_>>().join(",")
    }
}

/// The entries of a list, which may be parted by `;` too, so that a list fits into an agent string.
pub(super) fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ';']).map(str::trim).filter(|entry| !entry.is_empty())
}
