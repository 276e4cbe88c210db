//! What the names of a spool's folders are hashed with: without it, nobody can try out what was hashed.
//!
//! A folder's name is seen by whoever may list the directory, and what it is of may be short: a user, a part of a path that
//! only those know who should. So each user has a file of random bytes in the spool, which nobody else may read, and names are
//! SHA-256 of it and of what they stand for. It is made with the first set that waits, and is the same for all processes of the
//! user: who removes it leaves behind what waits.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::place::{is_shut, not_safe, us};
use crate::encode::{ProfileId, sha256};

/// The beginning of the file's name; the user's number follows.
const SALT: &str = "salt-";
const BYTES: usize = 32;
/// Of the digest, which is more than anybody needs to tell folders apart.
const NAME_BYTES: usize = 16;

/// A folder's name for these words in the spool at `place`, the same in each process. None where nobody has made a name yet,
/// unless one is to be made.
pub(super) fn name(place: &Path, words: &[String], make: bool) -> io::Result<Option<String>> {
    if make {
        DirBuilder::new().recursive(true).mode(0o700).create(place)?;
    }
    let (true, Some(us)) = (is_shut(place), us()) else {
        return if make { Err(not_safe()) } else { Ok(None) };
    };
    let file = place.join(format!("{SALT}{us}"));
    let salt = match read(&file, us) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !make => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create(&file)?;
            read(&file, us)?
        }
        read => read?,
    };
    let mut hashed = salt.to_vec();
    for word in words {
        hashed.extend((word.len() as u64).to_le_bytes());
        hashed.extend(word.as_bytes());
    }
    Ok(Some(sha256(&hashed).iter().take(NAME_BYTES).map(|byte| format!("{byte:02x}")).collect()))
}

/// What is in the file, if nobody but the user can have put it there or read it.
fn read(path: &Path, us: u32) -> io::Result<[u8; BYTES]> {
    let found = fs::symlink_metadata(path)?;
    if !found.is_file() || found.uid() != us || found.mode() & 0o077 != 0 {
        let problem = format!("{SALT}{us} is no file of this user's alone: remove it");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
    }
    let mut salt = [0; BYTES];
    fs::File::open(path)?.read_exact(&mut salt)?;
    Ok(salt)
}

/// Makes the file, unless another process has done so meanwhile: it is there whole, or not at all.
fn create(path: &Path) -> io::Result<()> {
    let [first, second, name] = [(); 3].map(|()| ProfileId::new());
    let new = path.with_extension(name.to_string());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = file.write_all(&[first.to_bytes(), second.to_bytes()].concat());
    let made = written.and_then(|()| match fs::hard_link(&new, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // Not all file systems have links.
        Err(_) => fs::rename(&new, path),
        Ok(()) => Ok(()),
    });
    let _ = fs::remove_file(&new);
    made
}
