//! Keeping the profile directory within its bounds.
//!
//! Called after a write, and by whoever wants to. Several processes may prune one directory at once: each
//! sees the same sets in the same order, a file that another has removed counts as removed, and so none
//! removes more than one alone would have.
//!
//! Only regular files are removed, only where this crate puts them (`<dir>/<service>/<day>/`) and only with
//! names that it makes. Symbolic links are never followed below `dir`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Retention;
use super::names;
use crate::error::{Error, ErrorKind, Result};

/// After this time an unfinished file that nobody holds a lock on is a dead writer's.
const ABANDONED: Duration = Duration::from_secs(60);
/// The same where the file system knows no locks.
const SURELY_ABANDONED: Duration = Duration::from_secs(86_400);

const DAY_NANOS: i64 = 86_400_000_000_000;

/// What [`prune`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Sets that were removed.
    pub sets: u64,
    /// Unfinished files of dead writers that were removed.
    pub unfinished: u64,
    /// Bytes that all of these had.
    pub bytes: u64,
    /// Files that should have gone and could not be removed.
    pub failed: u64,
    /// Bytes of the sets that remain.
    pub remaining_bytes: u64,
}

/// Removes sets that are older than `retention.age`, then those of a day that is yet to come and the oldest ones while all of them take more than
/// `retention.bytes` (down to 95 % of it, so that this is seldom needed), and what dead writers left
/// unfinished.
///
/// # Errors
/// [`ErrorKind::Storage`] where `dir` cannot be read. A file that cannot be removed is only counted.
///
/// ```
/// use everprof::store::{Retention, prune};
/// let error = prune("/nowhere/at/all".as_ref(), Retention::default()).unwrap_err();
/// assert_eq!(error.kind(), everprof::ErrorKind::Storage);
/// ```
pub fn prune(dir: &Path, retention: Retention) -> Result<Pruned> {
    let now = SystemTime::now();
    let mut pruned = Pruned::default();
    let found = Found::under(dir)?;
    for path in found.unfinished.iter().filter(|path| is_abandoned(path, now)) {
        let bytes = fs::symlink_metadata(path).map_or(0, |file| file.len());
        pruned.unfinished += u64::from(pruned.remove(path, bytes));
    }
    let age = i64::try_from(retention.age.as_nanos()).unwrap_or(i64::MAX);
    let now_nanos = now.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    let oldest = i64::try_from(now_nanos).unwrap_or(i64::MAX).saturating_sub(age);
    let mut total: u64 = found.sets.values().map(|set| set.bytes).sum();
    let target = if total > retention.bytes { retention.bytes - retention.bytes / 20 } else { u64::MAX };
    let mut emptied = BTreeSet::new();
    // What claims to be of a later day was written while a clock was wrong. Where room is short it goes first:
    // it would never be the oldest, and in its place all that is written now would go.
    let latest = i64::try_from(now_nanos).unwrap_or(i64::MAX).saturating_add(DAY_NANOS);
    let is_future = |(key, _): &(&SetKey, &SetFiles)| key.time_nanos > latest;
    let (future, past): (Vec<_>, Vec<_>) = found.sets.iter().partition(is_future);
    for (key, set) in future.into_iter().rev().chain(past) {
        let is_old = key.time_nanos < oldest;
        if !is_old && total <= target {
            continue;
        }
        let removed = set.files.iter().filter(|(path, bytes)| pruned.remove(path, *bytes)).count();
        pruned.sets += u64::from(removed > 0);
        emptied.insert(&key.folder);
        total = total.saturating_sub(set.bytes);
    }
    pruned.remaining_bytes = total;
    for day in emptied {
        // Only an empty folder can be removed, which is what is wanted; the service's goes after its last
        // day.
        if fs::remove_dir(day).is_ok()
            && let Some(service) = day.parent()
        {
            let _ = fs::remove_dir(service);
        }
    }
    Ok(pruned)
}

impl Pruned {
    /// Removes a file; whether this process was the one that did.
    fn remove(&mut self, path: &Path, bytes: u64) -> bool {
        match fs::remove_file(path) {
            Ok(()) => {
                self.bytes += bytes;
                true
            }
            Err(error) => {
                self.failed += u64::from(error.kind() != io::ErrorKind::NotFound);
                false
            }
        }
    }
}

/// Sets in the order in which they are dropped: oldest first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct SetKey {
    time_nanos: i64,
    stem: String,
    folder: PathBuf,
}

#[derive(Default)]
struct SetFiles {
    files: Vec<(PathBuf, u64)>,
    bytes: u64,
}

/// What is ours in a directory.
#[derive(Default)]
struct Found {
    sets: BTreeMap<SetKey, SetFiles>,
    unfinished: Vec<PathBuf>,
}

impl Found {
    fn under(dir: &Path) -> Result<Self> {
        let cannot = |error| Error::io(ErrorKind::Storage, format!("cannot read {}", dir.display()), error);
        let mut found = Self::default();
        for service in folders(fs::read_dir(dir).map_err(cannot)?, names::is_service) {
            for day in fs::read_dir(&service).into_iter().flat_map(|entries| folders(entries, names::is_day))
            {
                found.day(&day);
            }
        }
        Ok(found)
    }

    fn day(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(own) = name.to_str().and_then(names::own) else { continue };
            // The type of the entry itself: a symbolic link is not a file.
            let Some(file) = entry.metadata().ok().filter(|file| file.is_file()) else { continue };
            if own.temporary {
                self.unfinished.push(entry.path());
                continue;
            }
            let key =
                SetKey { time_nanos: own.time_nanos, stem: own.stem.to_owned(), folder: folder.to_owned() };
            let set = self.sets.entry(key).or_default();
            set.files.push((entry.path(), file.len()));
            set.bytes += file.len();
        }
    }
}

/// The real folders among `entries` whose name is of the given sort.
fn folders(entries: fs::ReadDir, is_ours: fn(&str) -> bool) -> impl Iterator<Item = PathBuf> {
    entries.flatten().filter_map(move |entry| {
        let ours = entry.file_name().to_str().is_some_and(is_ours);
        let real = entry.file_type().is_ok_and(|file_type| file_type.is_dir());
        (ours && real).then(|| entry.path())
    })
}

/// Whether the writer of an unfinished file is gone. It holds a lock while it lives, which the system gives
/// back for it however it dies; this also tells between containers, where process numbers say nothing.
fn is_abandoned(path: &Path, now: SystemTime) -> bool {
    let Ok(modified) = fs::symlink_metadata(path).and_then(|file| file.modified()) else { return false };
    let age = now.duration_since(modified).unwrap_or_default();
    age > ABANDONED
        && match File::open(path).map(|file| file.try_lock()) {
            Ok(Ok(())) => true,
            Ok(Err(TryLockError::WouldBlock)) => false,
            Ok(Err(TryLockError::Error(_))) | Err(_) => age > SURELY_ABANDONED,
        }
}
