//! What a watched file says over everything else, for as long as it says it.
//!
//! Taken whole or not at all: each line is checked when the file is read, so that laying it over options cannot fail
//! half-way. A line that is gone leaves the option as it would be without the file.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::file::{Entry, MOST_BYTES, entries};
use super::{Options, invalid};
use crate::error::{Error, ErrorKind, Result};

/// What cannot stand in such a file.
const NOT_HERE: &str = "config";
/// To open a pipe must not wait for who writes to it.
pub(crate) const O_NONBLOCK: i32 = 0x800;

/// The lines of a watched file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overlay {
    file: PathBuf,
    entries: Vec<Entry>,
}

/// Which file is there, and in which state: another one of the same name, or another content, is another state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl State {
    /// That of the file which the path leads to, through all links.
    pub(crate) fn of(path: &Path) -> io::Result<State> {
        std::fs::metadata(path).map(|found| State::from(&found))
    }
}

impl From<&Metadata> for State {
    fn from(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

impl Overlay {
    /// Reads a file that is in a state; none where it changes meanwhile.
    pub(crate) fn read(path: &Path, state: &State) -> Result<Option<Overlay>> {
        let unread = |source| {
            Error::io(ErrorKind::Storage, format!("options file {} not read", path.display()), source)
        };
        let no_file = || invalid(format!("{} is no regular file: name one", path.display()));
        // To open a device may do something, as to rewind a tape.
        if !std::fs::metadata(path).map_err(unread)?.is_file() {
            return Err(no_file());
        }
        let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path).map_err(unread)?;
        let found = file.metadata().map_err(unread)?;
        if !found.is_file() {
            return Err(no_file());
        }
        let text = text_of(&file).map_err(unread)?;
        let is_same = |found: io::Result<Metadata>| found.is_ok_and(|found| State::from(&found) == *state);
        if !is_same(Ok(found)) || !is_same(file.metadata()) {
            return Ok(None);
        }
        let text = text.map_err(|what| invalid(format!("options file {} is {what}", path.display())))?;
        Overlay::parse(&text, path).map(Some)
    }

    fn parse(text: &str, file: &Path) -> Result<Overlay> {
        let entries = entries(text, &file.display().to_string())?;
        let overlay = Overlay { file: file.to_path_buf(), entries };
        if let Some(entry) = overlay.entries.iter().find(|entry| entry.name == NOT_HERE) {
            return Err(invalid(format!(
                "{}: {NOT_HERE} names this file, and cannot stand in it: remove the line",
                entry.place
            )));
        }
        overlay.try_over(&Options::default())?;
        Ok(overlay)
    }

    /// Options as they are with this file.
    pub(crate) fn over(&self, options: &Options) -> Options {
        // What was wrong would not be here.
        self.try_over(options).unwrap_or_else(|_| options.clone())
    }

    fn try_over(&self, options: &Options) -> Result<Options> {
        let mut changed = options.clone();
        self.entries
            .iter()
            .try_for_each(|entry| changed.set_from(&entry.name, &entry.value, &entry.place))?;
        Ok(changed)
    }

    /// The place where an option is said.
    pub(crate) fn place(&self, name: &str) -> Option<&str> {
        self.entries.iter().find(|entry| entry.name == name).map(|entry| entry.place.as_str())
    }

    /// The names that the two say differently, or one of them does not say.
    pub(crate) fn differing<'a>(&'a self, other: &'a Overlay) -> impl Iterator<Item = &'static str> + 'a {
        let value = |of: &'a Overlay, name: &str| {
            of.entries.iter().find(|entry| entry.name == name).map(|entry| entry.value.as_str())
        };
        let names = Options::table().iter().map(|spec| spec.name);
        names.filter(move |name| value(self, name) != value(other, name))
    }

    /// Whether the two say the same, on the same lines.
    pub(crate) fn says_as(&self, other: &Overlay) -> bool {
        self.entries == other.entries
    }

    /// The file.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }
}

/// What a file of bounded length has in it, or what is wrong with that.
fn text_of(file: &File) -> io::Result<std::result::Result<String, &'static str>> {
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Ok(Err("longer than 64 KiB: name another one"));
    }
    Ok(String::from_utf8(bytes).map_err(|_| "not UTF-8: name another one"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Overlay> {
        Overlay::parse(text, Path::new("a.conf"))
    }

    #[test]
    fn a_line_holds_for_as_long_as_it_is_there() {
        let mut options = Options::default();
        options.set("rate_hz", "250").unwrap();
        let (first, second) = (parsed("rate_hz = 19\nperiod_s=5").unwrap(), parsed("period_s=10").unwrap());
        assert_eq!(first.over(&options).rate_hz.hz(), 19);
        assert_eq!(first.place("rate_hz"), Some("a.conf line 1"));
        assert_eq!(second.over(&options).rate_hz.hz(), 250);
        assert_eq!(first.differing(&second).collect::<Vec<_>>(), ["rate_hz", "period_s"]);
        assert_eq!(first.differing(&first).count(), 0);
    }

    #[test]
    fn one_wrong_line_is_all_wrong_and_is_named() {
        for (text, said) in [
            ("rate_hz=19\nperiod_s=never", "a.conf line 2: period_s is \"never\""),
            ("rate_hz=19\nperiod", "a.conf line 2 has no `=`"),
            ("colour=red", "a.conf line 1: there is no option `colour`"),
            ("\n\nconfig=b.conf", "a.conf line 3: config names this file"),
            ("push_token=a\u{1}b", "push_token is [hidden]"),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let read = |path: &str| Overlay::read(Path::new(path), &State::of(Path::new(path)).unwrap());
        assert!(read("/dev/zero").unwrap_err().to_string().contains("no regular file"));
        assert!(read("/tmp").unwrap_err().to_string().contains("no regular file"));
        let dir = std::env::temp_dir().join(format!("everprof-overlay-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("a.conf");
        std::fs::write(&path, "rate_hz=19").unwrap();
        let state = State::of(&path).unwrap();
        assert!(Overlay::read(&path, &state).unwrap().is_some());
        std::fs::write(&path, "rate_hz=1").unwrap();
        assert!(Overlay::read(&path, &state).unwrap().is_none(), "it is being written");
        for (bytes, said) in [(vec![b'#'; 70_000], "longer than 64 KiB"), (vec![0xff, 0xfe], "not UTF-8")] {
            std::fs::write(&path, bytes).unwrap();
            let error = Overlay::read(&path, &State::of(&path).unwrap()).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("a.conf"), "{error}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
