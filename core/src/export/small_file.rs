//! Reads a file that somebody has named, and that may be anything: keys, certificates.

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::options::O_NONBLOCK;

/// The bytes of a regular file of at most so many. A pipe would keep the reader waiting for who writes it, and a device has no end.
pub(super) fn small_file(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    const NO_FILE: &str = "no regular file: name one";
    let text = |error: std::io::Error| error.to_string();
    // To open a device may do something, as to rewind a tape.
    if !fs::metadata(path).map_err(text)?.is_file() {
        return Err(NO_FILE.to_string());
    }
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path).map_err(text)?;
    if !file.metadata().map_err(text)?.is_file() {
        return Err(NO_FILE.to_string());
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(text)?;
    if bytes.len() as u64 > most {
        return Err(format!("longer than {} KiB: name another one", most >> 10));
    }
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_small_regular_files_are_read() {
        let dir = tempfile_dir();
        let (file, pipe) = (dir.join("file"), dir.join("pipe"));
        fs::write(&file, [7; 1024]).unwrap();
        assert_eq!(small_file(&file, 1024).unwrap(), [7; 1024]);
        assert_eq!(small_file(&file, 1023).unwrap_err(), "longer than 0 KiB: name another one");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for other in [pipe.as_path(), Path::new("/dev/zero"), Path::new("/proc/self")] {
            assert_eq!(small_file(other, 1024).unwrap_err(), "no regular file: name one", "{other:?}");
        }
        assert!(small_file(&dir.join("none"), 1024).unwrap_err().contains("No such file"));
        fs::remove_dir_all(dir).unwrap();
    }

    fn tempfile_dir() -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("everprof-small-file-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }
}
