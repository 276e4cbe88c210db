//! Directories and sets for the tests.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use everprof::encode::{Encoded, Set};
use everprof::profile::{Kind, Profile};

use crate::profiles;

/// A folder of a test's own, removed when the test has passed.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("store-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }
}

pub fn now_nanos() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64
}

/// The small profile as a set that began `age_s` seconds ago.
pub fn set(sequence: u64, age_s: i64) -> Set {
    let mut profile = profiles::small();
    profile.time_nanos = now_nanos() - age_s * 1_000_000_000;
    set_of(&profile, sequence)
}

pub fn set_of(profile: &Profile, sequence: u64) -> Set {
    let mut tags = profile.tags.clone();
    tags.insert("host".into(), "web-1".into());
    Set {
        tags,
        sequence,
        time_nanos: profile.time_nanos,
        duration_nanos: profile.duration_nanos,
        profiles: vec![Encoded::pprof(Kind::Cpu, profile)],
        ..Set::default()
    }
}

/// All files under `dir`, relative to it, in order, but for the mark of the last pruning.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else if entry.file_name() != ".pruned" {
                found.push(entry.path().strip_prefix(dir).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

pub fn bytes(dir: &Path) -> u64 {
    files(dir).iter().map(|file| std::fs::metadata(dir.join(file)).unwrap().len()).sum()
}
