//! Folders of a spool: one for each process that writes, and whose it is.
//!
//! `PLACE/KEY/PID-RANDOM/`: the key is a hash of what the sets are for ([`super::salt`]). A folder is
//! its process's as long as that holds the lock of the file `lock` in it; the kernel takes it back however the process
//! ends. So whoever gets the lock knows that the writer is dead, also where process IDs are those of another container, and
//! takes over what is there. A folder comes into being under another name, and gets its own when its lock is held.
//!
//! A lock goes with its open file, of which a fork's child has a copy, and would be held for as long as the child lives:
//! so open files of locks are in one list, which a fork takes, and the child closes what is in it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::descriptor::Kept;
use crate::encode::ProfileId;

/// The lock in each folder.
const LOCK: &str = "lock";
/// What a folder's name begins with until its lock is held.
const NEW: &str = "new-";
/// As long as nobody needs for that.
const OLD: Duration = Duration::from_secs(60);

/// The open files of locks that this process holds.
#[derive(Debug)]
pub(crate) struct Locks {
    files: Vec<Option<Kept<File>>>,
    /// How often the process has forked: a file that was opened meanwhile may have a copy in a child.
    forks: u64,
}

static LOCKS: Mutex<Locks> = Mutex::new(Locks { files: Vec::new(), forks: 0 });

fn locks() -> MutexGuard<'static, Locks> {
    LOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The list, for a fork, to be held through it.
pub(crate) fn before_fork() -> MutexGuard<'static, Locks> {
    let mut locks = locks();
    locks.forks += 1;
    locks
}

/// Closes this process's copies of the parent's locks. In a fork's child, with the list that was held.
pub(crate) fn after_fork(mut locks: MutexGuard<'static, Locks>) {
    locks.files.clear();
}

/// A lock that is held until this is dropped.
#[derive(Debug)]
struct Held(usize);

impl Held {
    /// Opens a file and locks it; none where another has it.
    fn take(path: &Path, create: bool) -> io::Result<Option<Self>> {
        const TRIES: usize = 8;
        for attempt in 0..TRIES {
            // The list is not held meanwhile: a fork must not wait for a disk.
            let forks = locks().forks;
            let is_new = create && attempt == 0;
            let file = OpenOptions::new().read(true).write(true).create_new(is_new).mode(0o600).open(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => return Ok(None),
                Err(fs::TryLockError::Error(error)) => return Err(error),
            }
            // What was opened is what is there: whoever had the lock before may have removed the folder.
            let (there, ours) = (fs::symlink_metadata(path)?, file.metadata()?);
            if (there.dev(), there.ino()) != (ours.dev(), ours.ino()) {
                return Ok(None);
            }
            let mut locks = locks();
            if locks.forks != forks {
                // To give a lock back may wait for a server of files, and a fork waits for the list.
                drop(locks);
                // A child may have a copy by now, which this takes the lock from as well.
                file.unlock()?;
                continue;
            }
            let free = locks.files.iter().position(Option::is_none);
            let place = free.unwrap_or(locks.files.len());
            match locks.files.get_mut(place) {
                Some(free) => *free = Some(Kept::new(file)),
                None => locks.files.push(Some(Kept::new(file))),
            }
            return Ok(Some(Self(place)));
        }
        Ok(None)
    }

    /// Whether the program has closed the file, and given the lock back so.
    fn is_lost(&self) -> bool {
        let locks = locks();
        locks.files.get(self.0).and_then(Option::as_ref).is_none_or(Kept::is_lost)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let file = locks().files.get_mut(self.0).and_then(Option::take);
        // Closed where nobody waits for it.
        drop(file);
    }
}

/// A folder that is ours.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    lock: Held,
}

impl Folder {
    /// A new one, for this process.
    pub(super) fn new(parent: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        if !is_safe(parent) {
            return Err(not_safe());
        }
        let random: String = ProfileId::new().to_string().chars().take(8).collect();
        let name = format!("{}-{random}", std::process::id());
        let (path, new) = (parent.join(&name), parent.join(format!("{NEW}{name}")));
        DirBuilder::new().mode(0o700).create(&new)?;
        let made = Held::take(&new.join(LOCK), true).and_then(|held| {
            let held = held.ok_or_else(|| io::Error::other("somebody else has the lock of a new folder"))?;
            fs::rename(&new, &path)?;
            Ok(held)
        });
        match made {
            Ok(held) => Ok(Self { path, lock: held }),
            Err(error) => {
                remove(&new);
                Err(error)
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is ours still, or again: where the program has closed the file of its lock, that is taken anew, unless
    /// somebody else has it by now.
    pub(super) fn keep(&mut self) -> bool {
        if self.lock.is_lost() {
            let Ok(Some(held)) = Held::take(&self.path.join(LOCK), false) else { return false };
            self.lock = held;
        }
        true
    }

    /// Another's that is dead; none where it lives.
    fn of_dead(path: PathBuf) -> Option<Self> {
        // Of another user we take nothing over: it would be sent as ours.
        let is_folder = is_ours(&path, us()?);
        let file = path.join(LOCK);
        let is_file = fs::symlink_metadata(&file).is_ok_and(|found| found.is_file());
        let held = if is_folder && is_file { Held::take(&file, false).ok()? } else { None };
        held.map(|lock| Self { path, lock })
    }
}

impl Drop for Folder {
    /// With what is in it, for whoever comes next; where nothing is, without a trace.
    fn drop(&mut self) {
        let is_empty =
            fs::read_dir(&self.path).is_ok_and(|files| files.flatten().all(|file| file.file_name() == LOCK));
        if is_empty {
            remove(&self.path);
        }
    }
}

/// Whether nobody but the user can have put something in this folder's place, or in it: its name is known to all, and others
/// may have made it first, or may exchange it.
fn is_safe(parent: &Path) -> bool {
    let (Some(us), Some(around)) = (us(), parent.parent()) else { return false };
    is_shut(around) && is_ours(parent, us)
}

/// Whether nobody but the user can exchange what the user has in this folder: it may be root's, open to a group that somebody
/// chose, as that of a volume, and open to all where it is sticky.
pub(super) fn is_shut(around: &Path) -> bool {
    let Some(us) = us() else { return false };
    let is_known = |found: &fs::Metadata| [us, 0].contains(&found.uid());
    let is_shut = |found: &fs::Metadata| found.mode() & 0o002 == 0 || found.mode() & 0o1000 != 0;
    // A link is followed where nobody else can have made it.
    fs::symlink_metadata(around).is_ok_and(|found| is_known(&found))
        && fs::metadata(around).is_ok_and(|found| found.is_dir() && is_known(&found) && is_shut(&found))
}

pub(super) fn not_safe() -> io::Error {
    let problem = "somebody else may write there: name a folder of this user's own";
    io::Error::new(io::ErrorKind::PermissionDenied, problem)
}

/// The user that this process makes files as.
pub(super) fn us() -> Option<u32> {
    fs::metadata("/proc/self").ok().map(|found| found.uid())
}

/// Whether that is a folder, and no link to one, to which nobody else may write.
fn is_ours(path: &Path, us: u32) -> bool {
    fs::symlink_metadata(path)
        .is_ok_and(|found| found.is_dir() && found.uid() == us && found.mode() & 0o022 == 0)
}

/// Removes a folder in which nothing but its lock is.
fn remove(folder: &Path) {
    let _ = fs::remove_file(folder.join(LOCK));
    let _ = fs::remove_dir(folder);
}

/// The folders of dead processes beside each other. They are ours as long as they are held, and go with that where they are
/// empty then. None where others may write.
pub(super) fn dead(parent: &Path) -> impl Iterator<Item = Folder> + use<> {
    let found = if is_safe(parent) { fs::read_dir(parent).ok() } else { None };
    let folders = found.into_iter().flatten().flatten();
    folders.filter_map(|folder| {
        let (path, name) = (folder.path(), folder.file_name());
        let name = name.to_string_lossy();
        if name.starts_with(NEW) && !is_old(&path) {
            return None;
        }
        let found = Folder::of_dead(path.clone());
        if found.is_none() && name.starts_with(NEW) && !path.join(LOCK).exists() {
            // Its process died before it had a lock.
            let _ = fs::remove_dir(path);
        }
        found
    })
}

fn is_old(path: &Path) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|folder| folder.modified());
    modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > OLD))
}
