//! Keeping the profile directory within its bounds.
//!
//! Called after a write, and by whoever wants to. Several processes may prune one directory at once: each
//! sees the same sets in the same order, a file that another has removed counts as removed, and so none
//! removes more than one alone would have.
//!
//! Only regular files are removed, only where this crate puts them (`<dir>/<service>/<day>/`) and only with
//! names that it makes. Symbolic links are never followed below `dir`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
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

/// Removes sets that are older than `retention.age`, then those of a day that is yet to come and the oldest ones while
/// all of them take more than `retention.bytes` (down to 95 % of it, so that this is seldom needed), and what dead writers
/// left unfinished.
///
/// Held in memory are the names in the folder of one day, and those of some thousand sets.
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
    let age = i64::try_from(retention.age.as_nanos()).unwrap_or(i64::MAX);
    let now_nanos = now.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    let now_nanos = i64::try_from(now_nanos).unwrap_or(i64::MAX);
    let oldest = now_nanos.saturating_sub(age);
    let mut pruned = Pruned::default();
    // What is over is a twentieth and what was written since the last time.
    let (mut room, mut most) = (retention.bytes / 16, FIRST_LIMIT);
    loop {
        let (mut total, mut first) = (0u64, First::new(room, most, now_nanos));
        each_day(dir, |folder| {
            pruned.unfinished(&folder.unfinished, now);
            let path: Rc<Path> = folder.path.into();
            let before = pruned.sets;
            for (stem, set) in folder.sets {
                if set.time_nanos < oldest {
                    pruned.remove_set(&path, &set);
                } else {
                    total = total.saturating_add(set.bytes);
                    first.add(stem, &path, set);
                }
            }
            if pruned.sets > before {
                remove_if_empty(&path);
            }
        })?;
        pruned.remaining_bytes = total;
        if total <= retention.bytes {
            return Ok(pruned);
        }
        let excess = total - (retention.bytes - retention.bytes / 20);
        if first.bytes >= excess || first.has_all() {
            pruned.remaining_bytes -= pruned.drop_first(first, excess);
            return Ok(pruned);
        }
        // Far more than that is over: the limit was lowered. All is looked at again, since others prune as well, and
        // what is dropped must be what was counted.
        (room, most) = (excess.saturating_add(retention.bytes / 16), usize::MAX);
    }
}

/// This many sets take two megabytes.
const FIRST_LIMIT: usize = 4096;

/// Where a set stands in the order of dropping: its time, then its name and its folder.
type Place = ((bool, i64), String, Rc<Path>);

/// The sets that go first when room is short, as far as that may be needed.
struct First {
    sets: BTreeMap<Place, SetFiles>,
    bytes: u64,
    /// More bytes and more sets than this need not be known.
    room: u64,
    most: usize,
    /// What is from here on is not held.
    end: Option<Place>,
    /// Times after this one are still to come.
    latest: i64,
}

impl First {
    fn new(room: u64, most: usize, now: i64) -> Self {
        let latest = now.saturating_add(DAY_NANOS);
        Self { sets: BTreeMap::new(), bytes: 0, room, most, end: None, latest }
    }

    fn add(&mut self, stem: String, folder: &Rc<Path>, set: SetFiles) {
        // What claims to be of a later day was written while a clock was wrong. Where room is short it goes first, the
        // latest before the others: it would never be the oldest, and in its place all that is written now would go.
        let time = set.time_nanos;
        let order = if time > self.latest { (false, time.saturating_neg()) } else { (true, time) };
        let place = (order, stem, folder.clone());
        if self.end.as_ref().is_some_and(|end| place >= *end) {
            return;
        }
        self.bytes = self.bytes.saturating_add(set.bytes);
        self.sets.insert(place, set);
        while let Some((_, last)) = self.sets.last_key_value()
            && (self.bytes - last.bytes >= self.room || self.sets.len() > self.most)
            && let Some((place, last)) = self.sets.pop_last()
        {
            self.bytes -= last.bytes;
            self.end = Some(place);
        }
    }

    /// Whether no set was left out.
    fn has_all(&self) -> bool {
        self.end.is_none()
    }
}

/// Only an empty folder can be removed, which is what is wanted; the service's goes after its last day.
fn remove_if_empty(day: &Path) {
    if fs::remove_dir(day).is_ok()
        && let Some(service) = day.parent()
    {
        let _ = fs::remove_dir(service);
    }
}

impl Pruned {
    /// Removes sets until `excess` bytes are gone; says how many that were.
    fn drop_first(&mut self, first: First, excess: u64) -> u64 {
        let (mut gone, mut emptied) = (0, BTreeSet::new());
        for ((_, _, folder), set) in first.sets {
            if gone >= excess {
                break;
            }
            gone += set.bytes;
            self.remove_set(&folder, &set);
            emptied.insert(folder);
        }
        emptied.iter().for_each(|folder| remove_if_empty(folder));
        gone
    }

    fn unfinished(&mut self, paths: &[PathBuf], now: SystemTime) {
        for path in paths.iter().filter(|path| is_abandoned(path, now)) {
            let bytes = fs::symlink_metadata(path).map_or(0, |file| file.len());
            self.unfinished += u64::from(self.remove(path, bytes));
        }
    }

    fn remove_set(&mut self, folder: &Path, set: &SetFiles) {
        let remove = |(name, bytes): &&(OsString, u64)| self.remove(&folder.join(name), *bytes);
        let removed = set.files.iter().filter(remove).count();
        self.sets += u64::from(removed > 0);
    }

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

/// What is ours in the folder of a day.
struct Day {
    path: PathBuf,
    /// By what the names of all files of the set begin with.
    sets: BTreeMap<String, SetFiles>,
    unfinished: Vec<PathBuf>,
}

struct SetFiles {
    time_nanos: i64,
    files: Vec<(OsString, u64)>,
    bytes: u64,
}

/// Calls `each` with one folder after the other.
fn each_day(dir: &Path, mut each: impl FnMut(Day)) -> Result<()> {
    let cannot = |error| Error::io(ErrorKind::Storage, format!("cannot read {}", dir.display()), error);
    for service in folders(fs::read_dir(dir).map_err(cannot)?, names::is_service) {
        for day in fs::read_dir(&service).into_iter().flat_map(|entries| folders(entries, names::is_day)) {
            each(Day::read(day));
        }
    }
    Ok(())
}

impl Day {
    fn read(path: PathBuf) -> Self {
        let (mut sets, mut unfinished) = (BTreeMap::new(), Vec::new());
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(own) = name.to_str().and_then(names::own) else { continue };
            // The type of the entry itself: a symbolic link is not a file.
            let Some(file) = entry.metadata().ok().filter(|file| file.is_file()) else { continue };
            if own.temporary {
                unfinished.push(entry.path());
                continue;
            }
            let (time_nanos, stem) = (own.time_nanos, own.stem.to_owned());
            let new = || SetFiles { time_nanos, files: Vec::new(), bytes: 0 };
            let set: &mut SetFiles = sets.entry(stem).or_insert_with(new);
            set.bytes += file.len();
            set.files.push((name, file.len()));
        }
        Self { path, sets, unfinished }
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
