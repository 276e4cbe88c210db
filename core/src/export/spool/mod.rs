//! The spool: sets that wait on disk for a server that is away, so that they outlive the process.
//!
//! Used by the thread of one exporter, which alone writes there; nobody else waits for this disk. Each set is a file of its
//! own, written under another name and renamed, with a check over all of it ([`kept`]): a file that changed or broke
//! off is one set that is lost and counted, and no other. Nothing is synced: what was written survives the process, however
//! that ends, and after a power cut the check tells.
//!
//! The newest set goes first: what happens now is what somebody will ask about. Each keeps its times, so that servers put
//! it where it belongs. Sets are bounded by their bytes, the oldest give way, and by their age. Where a profile is not to be
//! counted twice, a set is claimed by a new name before it is sent: if the process dies in between, nobody knows whether it
//! arrived, and who takes over counts it as that. Names hold times and random numbers; what is in the files is what the
//! server gets, without the credentials that it gets it by. Nobody but the user may read them.

mod place;
mod salt;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use self::place::Folder;
pub(crate) use self::place::{Locks, after_fork, before_fork};
use crate::encode::{Set, kept};
use crate::options::{Guarantee, Options};

/// The end of the name of a set that waits, of one that is at the exporter, and of one that is being written.
const WAITS: &str = "set";
const CLAIMED: &str = "sent";
const WRITTEN: &str = "part";
/// A file counts as so much at least, so that there are never too many.
const LEAST_BYTES: u64 = 8 << 10;
/// What Linux says of a place on a disk that cannot be read.
const EIO: i32 = 5;

/// What the options say about it.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// Where.
    pub(crate) dir: PathBuf,
    /// How many bytes each process may keep there for each exporter.
    pub(crate) most: u64,
    /// How old a set may be, where its exporter says nothing else.
    pub(crate) age: Duration,
    /// No set is to arrive twice.
    pub(crate) is_once: bool,
    /// The service, whose sets those are.
    pub(crate) service: String,
}

/// What the options say; none where nothing is to wait on disk.
pub(crate) fn terms(options: &Options, service: &str) -> Option<Terms> {
    Some(Terms {
        dir: options.push_spool.clone()?,
        most: options.push_spool_bytes.get(),
        age: options.push_spool_days.duration(),
        is_once: options.push_delivery == Guarantee::AtMostOnce,
        service: service.to_string(),
    })
}

/// What waits on disk for one exporter.
#[derive(Debug)]
pub(crate) struct Spool {
    place: PathBuf,
    /// Whose sets these are, and for whom.
    words: [String; 2],
    /// The folder for them, once its name is known.
    parent: Option<PathBuf>,
    most: u64,
    age: Duration,
    is_once: bool,
    /// From the first set on.
    folder: Option<Folder>,
    sets: BTreeMap<Key, u64>,
    bytes: u64,
    /// What was lost since somebody asked.
    losses: Losses,
}

/// What a spool has lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Losses {
    /// For lack of room.
    pub(crate) evicted: u64,
    /// For their age.
    pub(crate) expired: u64,
    /// They could not be read back.
    pub(crate) unreadable: u64,
    /// At the exporter when their process died.
    pub(crate) unknown: u64,
}

/// The name of a set: in the order of periods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Nanoseconds since the Unix epoch.
    time: u64,
    sequence: u64,
    /// Of the first profile's ID.
    random: u32,
}

impl Key {
    fn of(set: &Set) -> Self {
        let id = set.profiles.first().map_or(0, |profile| u128::from_be_bytes(profile.id.to_bytes()));
        let now = || UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos() as u64;
        let time = u64::try_from(set.time_nanos).ok().filter(|time| *time > 0).unwrap_or_else(now);
        Self { time, sequence: set.sequence, random: id as u32 }
    }

    fn name(self, end: &str) -> String {
        format!("{:020}-{:010}-{:08x}.{end}", self.time, self.sequence, self.random)
    }

    /// Of the file of that name, and the name's end.
    fn parse(name: &str) -> Option<(Self, &str)> {
        let (stem, end) = name.split_once('.')?;
        let mut parts = stem.splitn(3, '-');
        let (time, sequence) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let key = Self { time, sequence, random: u32::from_str_radix(parts.next()?, 16).ok()? };
        (key.name(end) == name).then_some((key, end))
    }
}

impl Spool {
    /// For the sets of the exporter of that name, which wants nothing that is older than `age`. Nothing is written yet.
    pub(crate) fn new(terms: &Terms, name: &str, age: Option<Duration>) -> Self {
        Self {
            place: terms.dir.clone(),
            words: [terms.service.clone(), name.to_string()],
            parent: None,
            most: terms.most,
            age: age.unwrap_or(terms.age).min(terms.age),
            is_once: terms.is_once,
            folder: None,
            sets: BTreeMap::new(),
            bytes: 0,
            losses: Losses::default(),
        }
    }

    /// How many sets wait, and their bytes.
    pub(crate) fn size(&self) -> (u64, u64) {
        (self.sets.len() as u64, self.bytes)
    }

    /// What was lost since this was asked.
    pub(crate) fn losses(&mut self) -> Losses {
        std::mem::take(&mut self.losses)
    }

    /// Keeps a set.
    pub(crate) fn keep(&mut self, set: &Set) -> io::Result<()> {
        let kept = self.store(set);
        if kept.is_err() && self.sets.is_empty() {
            // It may have been removed under us: next time it is made anew.
            (self.folder, self.parent) = (None, None);
        }
        kept
    }

    fn store(&mut self, set: &Set) -> io::Result<()> {
        let (key, bytes) = (Key::of(set), kept::write(set));
        let size = (bytes.len() as u64).max(LEAST_BYTES);
        if size > self.most {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than push_spool_bytes"));
        }
        self.expire(SystemTime::now());
        self.forget(key);
        self.evict(self.most - size);
        let written = self.path(key, WRITTEN).and_then(|part| {
            let to = part.with_extension(WAITS);
            write(&part, &bytes)
                .and_then(|()| fs::rename(&part, &to))
                .inspect_err(|_| _ = fs::remove_file(&part))
        });
        written?;
        self.sets.insert(key, size);
        self.bytes += size;
        Ok(())
    }

    /// The newest set, which is at the exporter until [`Spool::done`] or [`Spool::put_back`]; none where none waits. Fails
    /// where it cannot be claimed, or the system cannot open it now.
    pub(crate) fn take(&mut self) -> io::Result<Option<(Key, Set)>> {
        self.expire(SystemTime::now());
        while let Some((&key, _)) = self.sets.last_key_value() {
            let read = self.path(key, WAITS).and_then(|path| read(&path, self.most));
            let set = match read {
                Ok(bytes) => kept::read(&bytes).ok(),
                Err(error) if is_lost(&error) => None,
                // It says nothing about the file: so it would be with all of them.
                Err(error) => return Err(error),
            };
            let Some(set) = set else {
                self.losses.unreadable += 1;
                self.remove(key, WAITS);
                continue;
            };
            if self.is_once {
                fs::rename(self.path(key, WAITS)?, self.path(key, CLAIMED)?)?;
            }
            return Ok(Some((key, set)));
        }
        Ok(None)
    }

    /// That set is sent, or lost.
    pub(crate) fn done(&mut self, key: Key) {
        self.remove(key, if self.is_once { CLAIMED } else { WAITS });
    }

    /// That set is to be tried again, or what of it is left. Where that fails, the set is as before if it may be sent twice,
    /// and else it is lost, and counted.
    pub(crate) fn put_back(&mut self, key: Key, rest: &Set, is_whole: bool) -> io::Result<()> {
        if is_whole {
            return match self.is_once {
                true => self.unclaim(key).inspect_err(|_| self.losses.unreadable += self.give_up(key)),
                false => Ok(()),
            };
        }
        // It does not count while its rest is kept: others would give way to it, or it to its rest.
        let size = self.sets.get(&key).copied();
        self.forget(key);
        match self.store(rest) {
            Ok(()) if self.is_once => _ = self.path(key, CLAIMED).and_then(fs::remove_file),
            Ok(()) if Key::of(rest) != key => _ = self.path(key, WAITS).and_then(fs::remove_file),
            Ok(()) => {}
            Err(error) => {
                match size {
                    Some(size) if !self.is_once => {
                        self.sets.insert(key, size);
                        self.bytes += size;
                    }
                    // Some of it has arrived.
                    _ => self.losses.evicted += self.give_up(key),
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn unclaim(&mut self, key: Key) -> io::Result<()> {
        fs::rename(self.path(key, CLAIMED)?, self.path(key, WAITS)?)
    }

    /// Removes a set that was claimed, and says how many sets that loses: one that stays is counted by who comes next.
    fn give_up(&mut self, key: Key) -> u64 {
        self.forget(key);
        let removed = self.path(key, CLAIMED).and_then(fs::remove_file);
        u64::from(removed.map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |()| true))
    }

    /// Takes over what dead processes have left.
    pub(crate) fn adopt(&mut self) -> io::Result<()> {
        for dead in self.parent(false)?.iter().flat_map(|parent| place::dead(parent)) {
            for file in fs::read_dir(dead.path())?.flatten() {
                self.adopt_file(&file)?;
            }
        }
        self.expire(SystemTime::now());
        self.evict(self.most);
        Ok(())
    }

    fn adopt_file(&mut self, file: &fs::DirEntry) -> io::Result<()> {
        let name = file.file_name();
        let Some((key, end)) = name.to_str().and_then(Key::parse) else { return Ok(()) };
        let is_file = file.file_type().is_ok_and(|found| found.is_file());
        match end {
            // One that stays would be counted each time that somebody looks.
            CLAIMED if self.is_once => self.losses.unknown += u64::from(fs::remove_file(file.path()).is_ok()),
            WAITS | CLAIMED if is_file && !self.sets.contains_key(&key) => {
                let size = file.metadata()?.len().max(LEAST_BYTES);
                fs::rename(file.path(), self.path(key, WAITS)?)?;
                self.sets.insert(key, size);
                self.bytes += size;
            }
            // Never whole, or here already.
            WAITS | CLAIMED | WRITTEN => _ = fs::remove_file(file.path()),
            _ => {}
        }
        Ok(())
    }

    /// Gives up the oldest until all that is left has no more bytes than this.
    fn evict(&mut self, most: u64) {
        while self.bytes > most
            && let Some((&key, _)) = self.sets.first_key_value()
        {
            self.losses.evicted += 1;
            self.remove(key, WAITS);
        }
    }

    /// Gives up what is too old by now. A clock that was put right meanwhile may say anything about the future.
    fn expire(&mut self, now: SystemTime) {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        while let Some((&key, _)) = self.sets.first_key_value()
            && now.saturating_sub(Duration::from_nanos(key.time)) > self.age
        {
            self.losses.expired += 1;
            self.remove(key, WAITS);
        }
    }

    fn remove(&mut self, key: Key, end: &str) {
        // What cannot be removed is not sent either: it is forgotten here, and found by the next process.
        let _ = self.path(key, end).and_then(fs::remove_file);
        self.forget(key);
    }

    fn forget(&mut self, key: Key) {
        self.bytes -= self.sets.remove(&key).unwrap_or_default();
    }

    fn path(&mut self, key: Key, end: &str) -> io::Result<PathBuf> {
        if self.folder.as_mut().is_some_and(|folder| !folder.keep()) {
            // Another process has taken it over, and sends what was in it.
            (self.folder, self.bytes) = (None, 0);
            self.sets.clear();
        }
        if self.folder.is_none()
            && let Some(parent) = self.parent(true)?
        {
            self.folder = Some(Folder::new(&parent)?);
        }
        let folder = self.folder.as_ref().ok_or(io::ErrorKind::NotFound)?;
        Ok(folder.path().join(key.name(end)))
    }

    /// Where the folders of these sets are; none where there are none yet, unless one is to be made.
    fn parent(&mut self, make: bool) -> io::Result<Option<PathBuf>> {
        if self.parent.is_none() {
            self.parent = salt::name(&self.place, &self.words, make)?.map(|name| self.place.join(name));
        }
        Ok(self.parent.clone())
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let _ = fs::remove_file(path);
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
}

/// A file's bytes, of which there are no more than that.
fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    // Nothing that would hang: a pipe of that name.
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether what cannot be read for this can never be. No descriptors, no memory and a server of files that is away pass.
fn is_lost(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData)
        || error.raw_os_error() == Some(EIO)
}

#[cfg(test)]
mod tests;
