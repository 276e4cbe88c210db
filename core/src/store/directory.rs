//! The write side of the profile directory.
//!
//! Called by the file exporter on everprof's own thread, once a period. Several processes may write into the same
//! directory, and any of them may be killed at any moment: a file gets its final name only when it is complete and
//! its data is on the disk, so that what has a final name can be read. A name is never used twice.
//!
//! A full disk is reported, and deletes nothing: what fills a disk is seldom the profiles, and the profiles from before are
//! those that tell why it filled. What exceeds the retention is dropped all the same, and room made in this way is used.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::encode::json;
use crate::encode::{Encoded, ProfileId, Set};
use crate::error::{Error, ErrorKind, Result};

use super::names;

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
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    #[allow(dead_code)]
    retention: Retention,
    /// Stands in for the instance where the tags name none.
    instance: String,
}

impl Directory {
    /// The directory at `path`, which need not exist yet: it is created with the first set.
    pub fn new(path: impl AsRef<Path>, retention: Retention) -> Self {
        let path = path.as_ref().to_owned();
        let instance = ProfileId::new().to_string().chars().take(8).collect();
        Self { path, retention, instance }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the profiles of one period and the file with their tags.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`] with the path that could not be written and the reason. Profiles of the set that were
    /// written before stay.
    pub fn write(&mut self, set: &Set) -> Result<()> {
        let instance = match set.tag("instance") {
            "" => format!("{}.{}", std::process::id(), self.instance),
            instance => instance.to_owned(),
        };
        let folder =
            self.path.join(names::service_folder(set.tag("service"))).join(names::day_folder(set.time_nanos));
        let stem = names::set_stem(set, &instance);
        for profile in &set.profiles {
            let name = format!("{stem}.{}.{}", profile.kind.name(), profile.format.extension());
            self.write_file(&folder, &name, &profile.bytes)?;
        }
        self.write_file(&folder, &format!("{stem}.json"), description(set, &stem).as_bytes())
    }

    fn write_file(&self, folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
        let cannot = |error| {
            Error::io(ErrorKind::Storage, format!("cannot write {}", folder.join(name).display()), error)
        };
        // Another process may remove the folder, because it is empty, between the two steps.
        let mut tries = 0;
        loop {
            fs::create_dir_all(folder).map_err(cannot)?;
            match write_and_rename(folder, name, bytes) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < 3 => tries += 1,
                result => return result.map_err(cannot),
            }
        }
    }
}

fn write_and_rename(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = folder.join(format!(".{name}.tmp"));
    let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
    let written = write_and_sync(&mut file, bytes).and_then(|()| fs::rename(&temporary, folder.join(name)));
    if written.is_err() {
        // The error to report is the first one; what cannot be removed now is pruned later.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write_and_sync(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_data()
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
