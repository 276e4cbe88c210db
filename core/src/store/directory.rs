//! The write side of the profile directory.
//!
//! Called by the file exporter on everprof's own thread, once a period. Several processes may write into the
//! same directory, and any of them may be killed at any moment: a file gets its final name only when it is
//! complete and its data is on the disk, so that what has a final name can be read. A name is never used
//! twice.
//!
//! A full disk is reported, and deletes nothing: what fills a disk is seldom the profiles, and the profiles
//! from before are those that tell why it filled. What exceeds the retention is dropped all the same, and
//! room made in this way is used.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::descriptor::Kept;
use crate::encode::json;
use crate::encode::{Encoded, ProfileId, Set};
use crate::error::{Error, ErrorKind, Result};

use super::{names, prune};

/// How long profiles are kept, and how much room they may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Sets that are older than this are dropped. Default 30 days.
    pub age: Duration,
    /// The oldest sets are dropped while all of them together take more bytes than this. Default 1 GiB.
    pub bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { age: Duration::from_secs(30 * 86_400), bytes: 1 << 30 }
    }
}

/// A profile directory to write into.
///
/// ```
/// use everprof::encode::{Encoded, Set};
/// use everprof::profile::{Kind, Profile};
/// use everprof::store::{Directory, Query, Retention, list};
/// let dir = std::env::temp_dir().join(format!("everprof-doc-directory-{}", std::process::id()));
/// let mut profile = Profile::new(Kind::Cpu);
/// profile.time_nanos = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as i64;
/// let profiles = vec![Encoded::pprof(Kind::Cpu, &profile)];
/// let set = Set { time_nanos: profile.time_nanos, profiles, ..Set::default() };
/// Directory::new(&dir, Retention::default()).write(&set).unwrap();
/// assert_eq!(list(&dir, &Query::default()).unwrap().len(), 1);
/// # std::fs::remove_dir_all(&dir).ok();
/// ```
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    retention: Retention,
    /// Stands in for the instance where the tags name none.
    instance: String,
    /// What this process has written since it pruned.
    written_bytes: u64,
}

/// How often the processes of a directory prune it at least, all of them together: it takes a tenth of a
/// second when the directory is full.
const PRUNE_INTERVAL: Duration = Duration::from_secs(600);
/// An empty file at the top of the directory; its age says when somebody pruned last.
const PRUNED: &str = ".pruned";

impl Directory {
    /// The directory at `path`, which need not exist yet: it is created with the first set.
    pub fn new(path: impl AsRef<Path>, retention: Retention) -> Self {
        let instance = ProfileId::new().to_string().chars().take(8).collect();
        Self { path: path.as_ref().to_owned(), retention, instance, written_bytes: 0 }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the profiles of one period and the file with their tags, and drops what exceeds the retention:
    /// every ten minutes, whichever process comes first, and whenever this one has written a hundredth of the
    /// byte limit.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`] with the path that could not be written and the reason. Profiles of the set
    /// that were written before stay, and so does everything else in the directory.
    pub fn write(&mut self, set: &Set) -> Result<()> {
        let mut written = self.write_set(set);
        if written.as_ref().is_err_and(Failure::is_for_lack_of_room) {
            // What is due to go makes room; nothing else is touched.
            self.prune();
            written = self.write_set(set);
        }
        if written.is_ok() && (self.written_bytes >= self.retention.bytes / 100 || self.is_prune_due()) {
            self.prune();
        }
        written.map_err(Failure::into_error)
    }

    /// Whether nobody has pruned lately. A time in the future is of a clock that was put right since.
    fn is_prune_due(&self) -> bool {
        let pruned = fs::symlink_metadata(self.path.join(PRUNED)).and_then(|file| file.modified());
        pruned.map_or(true, |pruned| pruned.elapsed().map_or(true, |age| age >= PRUNE_INTERVAL))
    }

    fn prune(&mut self) {
        self.written_bytes = 0;
        // Where this fails, each process prunes for itself; nothing depends on it. A link in its place is not
        // followed.
        let mark = self.path.join(PRUNED);
        let create = !fs::symlink_metadata(&mark).is_ok_and(|found| found.is_file());
        let mark = OpenOptions::new().write(true).create_new(create).open(mark);
        let _ = mark.and_then(|mark| mark.set_modified(SystemTime::now()));
        match prune(&self.path, self.retention) {
            Ok(pruned) if pruned.failed > 0 => {
                log::warn!("{} old profiles in {} could not be removed", pruned.failed, self.path.display());
            }
            Ok(_) => {}
            Err(error) => log::warn!("old profiles were not removed: {error}"),
        }
    }

    fn write_set(&mut self, set: &Set) -> std::result::Result<(), Failure> {
        let instance = match set.tag("instance") {
            "" => format!("{}.{}", std::process::id(), self.instance),
            instance => instance.to_owned(),
        };
        let service = names::service_folder(set.tag("service"));
        let stem = names::set_stem(set, &instance);
        let day = names::day_folder(set.time_nanos);
        for profile in &set.profiles {
            let name = format!("{stem}.{}.{}", profile.kind.name(), profile.format.extension());
            self.write_file([&service, &day, &name], &profile.bytes)?;
        }
        self.write_file([&service, &day, &format!("{stem}.json")], description(set, &stem).as_bytes())
    }

    fn write_file(
        &mut self,
        [service, day, name]: [&str; 3],
        bytes: &[u8],
    ) -> std::result::Result<(), Failure> {
        let service = self.path.join(service);
        let folder = service.join(day);
        let mut tries = 0;
        loop {
            fs::create_dir_all(&self.path).map_err(|error| Failure::of_directory(&self.path, error))?;
            create_folder(&service)?;
            create_folder(&folder)?;
            match write_and_rename(&folder, name, bytes) {
                // Another process has removed the folder in between, because it was empty.
                // Or the program has closed the file.
                Err(error)
                    if [io::ErrorKind::NotFound, io::ErrorKind::Interrupted].contains(&error.kind())
                        && tries < 3 =>
                {
                    tries += 1
                }
                Err(error) => return Err(Failure::new(&folder.join(name), error)),
                Ok(()) => break,
            }
        }
        self.written_bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Creates one of our folders, unless it is there. What leads out of the directory is refused.
fn create_folder(path: &Path) -> std::result::Result<(), Failure> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let found = fs::symlink_metadata(path);
            if found.is_ok_and(|found| !found.is_dir()) {
                let what = "it is not a folder, and symbolic links are not followed here";
                return Err(Failure::new(path, io::Error::new(io::ErrorKind::NotADirectory, what)));
            }
            Ok(())
        }
        // The folder above was removed meanwhile; writing finds out, and tries again.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|error| Failure::new(path, error)),
    }
}

fn write_and_rename(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = folder.join(names::temporary(name));
    // A disk takes its time, in which a program may close all descriptors.
    let file = Kept::new(OpenOptions::new().write(true).create_new(true).open(&temporary)?);
    // Tells whoever prunes that this writer lives. Where the file system knows no locks, the file's age has
    // to tell.
    let _ = file.get().map(File::try_lock);
    let written = write_and_sync(&file, bytes).and_then(|()| fs::rename(&temporary, folder.join(name)));
    if written.is_err() {
        // The error to report is the first one; what cannot be removed now is pruned later.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// The data is on the disk before the file gets its name, so that no power cut leaves a name without the
/// data. The name itself may come late: after a power cut the last period may be missing.
fn write_and_sync(file: &Kept<File>, bytes: &[u8]) -> io::Result<()> {
    let closed = || {
        let what = "the program has closed the file that everprof was writing";
        io::Error::new(io::ErrorKind::Interrupted, what)
    };
    file.get().ok_or_else(closed)?.write_all(bytes)?;
    file.get().ok_or_else(closed)?.sync_data()
}

/// Why a set could not be written.
#[derive(Debug)]
struct Failure {
    message: String,
    error: io::Error,
}

impl Failure {
    fn new(path: &Path, error: io::Error) -> Self {
        Self { message: format!("cannot write {}", path.display()), error }
    }

    /// The directory as the user named it could not be created: says what stands in its place.
    fn of_directory(path: &Path, error: io::Error) -> Self {
        let what = match (fs::metadata(path), fs::symlink_metadata(path)) {
            (Ok(found), _) if !found.is_dir() => "it is a file; name a directory",
            (Err(_), Ok(_)) => "it is a symbolic link that leads nowhere",
            _ => return Self { message: format!("cannot create the directory {}", path.display()), error },
        };
        Self::new(path, io::Error::new(io::ErrorKind::NotADirectory, what))
    }

    fn is_for_lack_of_room(&self) -> bool {
        matches!(self.error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    fn into_error(self) -> Error {
        Error::io(ErrorKind::Storage, self.message, self.error)
    }
}

/// The JSON file of a set.
fn description(set: &Set, stem: &str) -> String {
    let tags: Vec<String> = set
        .tags
        .iter()
        .map(|(key, value)| format!("    {}: {}", json::string(key), json::string(value)))
        .collect();
    let profiles: Vec<String> = set.profiles.iter().map(|profile| profile_line(profile, stem)).collect();
    format!(
        "{{\n  \"version\": 1,\n  \"time_nanos\": {},\n  \"duration_nanos\": {},\n  \"sequence\": {},\n  \
         \"tags\": {{\n{}\n  }},\n  \"profiles\": [\n{}\n  ]\n}}\n",
        set.time_nanos,
        set.duration_nanos,
        set.sequence,
        tags.join(",\n"),
        profiles.join(",\n"),
    )
}

fn profile_line(profile: &Encoded, stem: &str) -> String {
    let kind = profile.kind.name();
    format!(
        "    {{\"kind\": {}, \"file\": {}, \"bytes\": {}, \"id\": {}}}",
        json::string(kind),
        json::string(&format!("{stem}.{kind}.{}", profile.format.extension())),
        profile.bytes.len(),
        json::string(&profile.id.to_string()),
    )
}
