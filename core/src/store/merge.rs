//! Several profiles of a directory as one.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::Entry;
use super::ahead::reading;
use super::levels::{Sum, in_order};
use crate::encode::pprof::{self, Limits, Read};
use crate::error::{Error, ErrorKind, Result};
use crate::profile::Profile;

/// The sum of several profiles, and those that could not be added.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The sum. Its duration is the sum of theirs, and its tags are those that all of them share.
    pub profile: Profile,
    /// How many profiles it is the sum of.
    pub count: usize,
    /// Files that were left out.
    pub skipped: Vec<Skipped>,
}

/// A file that was left out, and why.
#[derive(Debug)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: Error,
}

impl Clone for Skipped {
    fn clone(&self) -> Self {
        // An error of the operating system cannot be cloned; its text can.
        let reason = Error::new(self.reason.kind(), self.reason.to_string());
        Self { path: self.path.clone(), reason }
    }
}

/// A file of more bytes is no profile: that much is the limit even after decompression.
const LARGEST: u64 = 256 << 20;

/// The bytes of a regular file. Anything may lie in a directory: a pipe would be waited for, a device read for ever.
pub(super) fn read_file(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let found = std::fs::metadata(path)?;
    if found.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !found.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a pipe or a device, not a file"));
    }
    let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {most} bytes"));
    if found.len() > most {
        return Err(too_large());
    }
    // It may grow meanwhile.
    let mut bytes = Vec::new();
    File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(too_large()) } else { Ok(bytes) }
}

/// Reads a profile.
///
/// # Errors
/// [`ErrorKind::Storage`] where the file cannot be read or is larger than 256 MiB, [`ErrorKind::InvalidData`] where it is not a
/// profile; both name it.
pub fn read(path: impl AsRef<Path>) -> Result<Profile> {
    read_file_as(path.as_ref(), pprof::decode)
}

/// The same, for whoever adds it to a sum.
pub(super) fn read_loose(path: &Path) -> Result<Read> {
    read_file_as(path, |bytes| pprof::decode_loose(bytes, Limits::default()))
}

fn read_file_as<T>(path: &Path, decode: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
    let bytes = read_file(path, LARGEST)
        .map_err(|error| Error::io(ErrorKind::Storage, format!("cannot read {}", path.display()), error))?;
    decode(&bytes)
        .map_err(|error| Error::new(error.kind(), format!("{} is damaged: {error}", path.display())))
}

/// The sum of the profiles of `entries`. A file that is damaged, gone, or of other sample types than the
/// first one is left out and named in the result: one bad file does not cost the rest.
///
/// Files are read by up to four threads for the time of the call, as many as the process has processors; in memory are
/// one file for each of them, and the sum.
///
/// # Errors
/// [`ErrorKind::InvalidData`] where nothing is left to sum up.
///
/// Levels, such as `inuse_space` of kind `heap` and the number of threads, are of a moment: of each instance that was there at
/// the end the latest counts, and those of several instances add up. [`merge_levels`] says otherwise.
pub fn merge<'e>(entries: impl IntoIterator<Item = &'e Entry>) -> Result<Merged> {
    merge_levels(entries, Levels::Latest)
}

/// What counts of the levels of one instance, which do not add up from period to period: see [`ValueType::is_level`].
///
/// [`ValueType::is_level`]: crate::profile::ValueType::is_level
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Levels {
    /// What there was at the end, of the instances that were there then: whose next profile would not have ended before the
    /// last of all does. Of kind `peak` the highest.
    #[default]
    Latest,
    /// The profile in which there was most.
    Highest,
    /// The mean of all profiles.
    Mean,
}

/// The sum of the profiles of `entries`, as [`merge`] makes it, with a choice of what counts of levels.
///
/// # Errors
/// As [`merge`].
///
/// ```no_run
/// use everprof::store::{self, Levels, Query};
/// let heaps = store::list("everprof", &Query::default().kind("heap"))?;
/// let usual = store::merge_levels(&heaps, Levels::Mean)?.profile;
/// println!("{}", store::top(&usual)?.render(10));
/// # Ok::<(), everprof::Error>(())
/// ```
pub fn merge_levels<'e>(entries: impl IntoIterator<Item = &'e Entry>, levels: Levels) -> Result<Merged> {
    let mut entries: Vec<&Entry> = entries.into_iter().collect();
    in_order(&mut entries);
    let paths: Vec<&Path> = entries.iter().map(|entry| entry.path.as_path()).collect();
    let Sum { profile, count, skipped, .. } = reading(&paths, |next| Sum::of(&entries, levels, false, next));
    match (profile, skipped.first()) {
        (Some(profile), _) => Ok(Merged { profile, count, skipped }),
        (None, None) => Err(Error::new(ErrorKind::InvalidData, "there are no profiles to merge")),
        (None, Some(first)) => {
            let message =
                format!("none of {} profiles can be read, such as: {}", skipped.len(), first.reason);
            Err(Error::new(ErrorKind::InvalidData, message))
        }
    }
}
