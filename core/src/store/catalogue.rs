//! The read side of the profile directory: which profiles there are.
//!
//! A listing reads names and the small JSON files beside the profiles, not the profiles. Profiles that
//! somebody put there without such a file are listed too: their tags and times are then read from the profile
//! itself. Nothing is written and no lock is taken, so a listing may run beside writers; what disappears
//! meanwhile is left out.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::merge::read_file;
use super::names;
use crate::encode::json;
use crate::error::{Error, ErrorKind, Result};

/// Which profiles to list. The default is all of them.
///
/// ```
/// use everprof::store::Query;
/// let query = Query::default().kind("cpu").tag("service", "shop").from_nanos(1_763_814_000_000_000_000);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    kind: Option<String>,
    from_nanos: Option<i64>,
    to_nanos: Option<i64>,
    tags: BTreeMap<String, String>,
}

impl Query {
    /// Only profiles of this kind, such as `cpu`.
    pub fn kind(mut self, kind: impl Into<String>) -> Self {
        self.kind = Some(kind.into());
        self
    }

    /// Only profiles that end after this time, in nanoseconds since the Unix epoch.
    pub fn from_nanos(mut self, from: i64) -> Self {
        self.from_nanos = Some(from);
        self
    }

    /// Only profiles that begin before this time, in nanoseconds since the Unix epoch.
    pub fn to_nanos(mut self, to: i64) -> Self {
        self.to_nanos = Some(to);
        self
    }

    /// Only profiles with this value of this tag; given several times, with all of them.
    pub fn tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }

    fn accepts(&self, entry: &Entry) -> bool {
        let end = entry.time_nanos.saturating_add(entry.duration_nanos.max(1));
        self.from_nanos.is_none_or(|from| end > from)
            && self.to_nanos.is_none_or(|to| entry.time_nanos < to)
            && self.tags.iter().all(|(key, value)| entry.tags.get(key) == Some(value))
    }

    /// Whether a profile that begins at about `time_nanos` is out of the question, however long it is: our
    /// periods are far shorter than a day.
    fn excludes(&self, time_nanos: i64) -> bool {
        const DAY: i64 = 86_400_000_000_000;
        self.from_nanos.is_some_and(|from| time_nanos.saturating_add(DAY) < from)
            || self.to_nanos.is_some_and(|to| time_nanos >= to)
    }
}

/// One profile in a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The file.
    pub path: PathBuf,
    /// Its kind, by its name: `cpu`.
    pub kind: String,
    /// The tags of its set.
    pub tags: Arc<BTreeMap<String, String>>,
    /// Start of the period, nanoseconds since the Unix epoch.
    pub time_nanos: i64,
    /// Length of the period, nanoseconds.
    pub duration_nanos: i64,
    /// Size of the file.
    pub bytes: u64,
}

/// Folders below `dir` that are looked into.
const DEEPEST: usize = 8;

/// The profiles in `dir` that `query` asks for, at any depth, oldest first.
///
/// # Errors
/// [`ErrorKind::Storage`] where `dir` itself cannot be read. What cannot be read below it is left out.
///
/// ```
/// use everprof::store::{Query, list};
/// let error = list("/nowhere/at/all", &Query::default()).unwrap_err();
/// assert!(error.to_string().starts_with("cannot read /nowhere/at/all: "));
/// ```
pub fn list(dir: impl AsRef<Path>, query: &Query) -> Result<Vec<Entry>> {
    let dir = dir.as_ref();
    let entries = fs::read_dir(dir)
        .map_err(|error| Error::io(ErrorKind::Storage, format!("cannot read {}", dir.display()), error))?;
    let mut found = Vec::new();
    list_folder(dir, entries, query, 0, &mut found);
    found.sort_by(|a, b| (a.time_nanos, &a.path).cmp(&(b.time_nanos, &b.path)));
    Ok(found)
}

fn list_folder(folder: &Path, entries: fs::ReadDir, query: &Query, depth: usize, found: &mut Vec<Entry>) {
    // The profiles of a set share its description.
    let mut sets: HashMap<String, Option<Arc<Description>>> = HashMap::new();
    for entry in entries.flatten() {
        let Ok(file_type) = entry.file_type() else { continue };
        let path = entry.path();
        if file_type.is_dir()
            && depth < DEEPEST
            && let Ok(entries) = fs::read_dir(&path)
        {
            list_folder(&path, entries, query, depth + 1, found);
        }
        let name = entry.file_name();
        let Some((stem, kind)) = name.to_str().and_then(names::pprof_kind) else { continue };
        let own = name.to_str().and_then(names::own);
        let excluded = query.kind.as_deref().is_some_and(|wanted| wanted != kind)
            || own.is_some_and(|own| query.excludes(own.time_nanos));
        if excluded || !file_type.is_file() {
            continue;
        }
        let Ok(bytes) = entry.metadata().map(|file| file.len()) else { continue };
        let description = match sets.get(stem) {
            Some(description) => description.clone(),
            None => {
                let read = Description::read(&folder.join(format!("{stem}.json"))).map(Arc::new);
                sets.insert(stem.to_owned(), read.clone());
                read
            }
        };
        // A profile that cannot be read is listed by its name; reading it will say what is wrong with it.
        let described = description.or_else(|| Description::from_profile(&path).map(Arc::new));
        let known = described.unwrap_or_default();
        let entry = Entry {
            kind: kind.to_owned(),
            tags: known.tags.clone(),
            time_nanos: match (known.time_nanos, own) {
                (0, Some(own)) => own.time_nanos,
                (time_nanos, _) => time_nanos,
            },
            duration_nanos: known.duration_nanos,
            bytes,
            path,
        };
        if query.accepts(&entry) {
            found.push(entry);
        }
    }
}

/// Ours have a few hundred bytes a tag.
const LARGEST_DESCRIPTION: u64 = 4 << 20;

/// What the profiles of a set have in common.
#[derive(Debug, Default)]
struct Description {
    tags: Arc<BTreeMap<String, String>>,
    time_nanos: i64,
    duration_nanos: i64,
}

impl Description {
    /// From the JSON file of a set; `None` where there is none that makes sense.
    fn read(path: &Path) -> Option<Self> {
        let text = String::from_utf8(read_file(path, LARGEST_DESCRIPTION).ok()?).ok()?;
        let json = json::parse(&text)?;
        let json::Value::Object(members) = json.get("tags")? else { return None };
        let tag = |(key, value): &(String, json::Value)| match value {
            json::Value::Text(value) => Some((key.clone(), value.clone())),
            _ => None,
        };
        Some(Self {
            tags: Arc::new(members.iter().filter_map(tag).collect()),
            time_nanos: json.get("time_nanos")?.integer()?,
            duration_nanos: json.get("duration_nanos")?.integer()?,
        })
    }

    fn from_profile(path: &Path) -> Option<Self> {
        let profile = super::read(path).ok()?;
        Some(Self {
            tags: Arc::new(profile.tags.clone()),
            time_nanos: profile.time_nanos,
            duration_nanos: profile.duration_nanos,
        })
    }
}
