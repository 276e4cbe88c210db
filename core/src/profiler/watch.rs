//! The watched file: read at the start, and again whenever it changes, for as long as the profiler runs.
//!
//! A thread of its own, `everprof-config`, which exists where the option `config` names a file: a file system that does not
//! answer holds up nobody else. It looks at the file by its name once a second, through all links, so that a file that is
//! renamed into place and a link that is turned (as Kubernetes does with the files of a ConfigMap) are seen as what is
//! written in place is. A file is read once it has stayed the same for two looks; what is half-written changes. Twice a minute
//! it is read whatever it looks like: times of files are as coarse as their file system has them, and can be set.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Weak};
use std::time::Duration;

use everprof_probe::os;

use super::changes;
use crate::drain::{Handle, be_own_thread};
use crate::error::{Error, ErrorKind};
use crate::options::{Overlay, State};
use crate::report;

/// How often the file is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// After so many looks it is read again, though it seems to be the same.
const READ_AGAIN: u32 = 30;
/// What changes for so many looks in a row is told of.
const RESTLESS: u32 = 10;

/// The start of the profiler, on a thread of the program, waits for the file no longer than this.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched {
    path: PathBuf,
    /// As it was at the last look, and as it was when it was read.
    seen: Option<State>,
    read: Option<State>,
    /// What it said when its options were taken, or refused.
    tried: Option<Overlay>,
    /// What was said of it last.
    told: Option<String>,
    /// How many looks ago it was read, and for how many it has changed at each.
    unread: u32,
    restless: u32,
}

/// Ends the watch when it is dropped.
pub(super) type Watch = Sender<()>;

impl Watched {
    /// Reads the file at the start; nothing is said where it cannot be read, which is told and keeps nobody from starting.
    pub(super) fn begin(path: &Path) -> (Watched, Overlay) {
        // A daemon changes its working directory.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let mut watched = Watched { path, ..Watched::default() };
        let unread = |what: String| {
            let message = format!("options file {} not read: {what}", watched.path.display());
            Error::new(ErrorKind::Storage, message)
        };
        let (answer, first) = mpsc::channel();
        let mut asked = watched.clone();
        let begun = helper(move || {
            let read = asked.first();
            let _ = answer.send((asked, read));
        });
        let read = match begun {
            Err(error) => Err(unread(format!("its thread could not be started: {error}"))),
            Ok(()) => match first.recv_timeout(PATIENCE) {
                Ok((looked, read)) => {
                    watched = looked;
                    read
                }
                Err(_) => Err(unread(format!("no answer within {} s", PATIENCE.as_secs()))),
            },
        };
        let overlay = read.unwrap_or_else(|error| {
            watched.tell(&error);
            None
        });
        watched.tried = overlay.clone();
        (watched, overlay.unwrap_or_default())
    }

    /// Reads it for the first time; none where it is being written.
    fn first(&mut self) -> crate::Result<Option<Overlay>> {
        let state = self.look()?;
        let read = Overlay::read(&self.path, &state);
        // What is wrong is read again when it has changed.
        self.read = (!matches!(read, Ok(None))).then_some(state);
        read
    }

    /// What was wrong with it last.
    pub(super) fn problem(&self) -> Option<String> {
        self.told.clone()
    }

    fn look(&mut self) -> crate::Result<State> {
        let found = State::of(&self.path);
        self.seen = found.as_ref().ok().copied();
        found.map_err(|source| {
            Error::io(ErrorKind::Storage, format!("options file {} not read", self.path.display()), source)
        })
    }

    /// What is new in the file, where it has changed and stays as it is; the error is news.
    fn news(&mut self) -> Option<crate::Result<Overlay>> {
        let overlay = match self.read_news()? {
            Ok(overlay) => overlay,
            error => return Some(error),
        };
        if self.tried.as_ref().is_some_and(|tried| tried.says_as(&overlay)) {
            return None;
        }
        self.tried = Some(overlay.clone());
        Some(Ok(overlay))
    }

    fn read_news(&mut self) -> Option<crate::Result<Overlay>> {
        let before = self.seen;
        let state = match self.look() {
            Ok(state) => state,
            Err(error) => {
                self.read = None;
                return self.is_news(&error).then_some(Err(error));
            }
        };
        self.unread = self.unread.saturating_add(1);
        if before != Some(state) {
            return self.restless();
        }
        if self.read == Some(state) && self.unread < READ_AGAIN {
            self.restless = 0;
            return None;
        }
        let Some(read) = Overlay::read(&self.path, &state).transpose() else { return self.restless() };
        self.read = Some(state);
        (self.unread, self.restless) = (0, 0);
        match read {
            Ok(overlay) => {
                self.told = None;
                Some(Ok(overlay))
            }
            Err(error) => self.is_news(&error).then_some(Err(error)),
        }
    }

    /// It has changed since the last look: what does so for long is never read, which is told.
    fn restless(&mut self) -> Option<crate::Result<Overlay>> {
        self.restless = self.restless.saturating_add(1);
        if self.restless < RESTLESS {
            return None;
        }
        let what = "it changes all the time: leave it as it is for two seconds";
        let error =
            Error::new(ErrorKind::Storage, format!("options file {} not read: {what}", self.path.display()));
        self.is_news(&error).then_some(Err(error))
    }

    /// Whether that was not said yet.
    fn is_news(&mut self, error: &Error) -> bool {
        let told = error.to_string();
        let is_news = self.told.as_ref() != Some(&told);
        self.told = Some(told);
        is_news
    }

    fn tell(&mut self, error: &Error) {
        report::warn(&format!("{error}; the options are as they would be without it"));
        self.told = Some(error.to_string());
    }
}

/// Watches on, for the profiler that runs.
pub(super) fn begin(watched: Watched, handle: &Arc<Handle>) -> Option<Watch> {
    let (watch, ended) = mpsc::channel();
    let handle = Arc::downgrade(handle);
    let work = move || {
        os::step_back();
        let watch = std::panic::AssertUnwindSafe(|| run(watched, &handle, &ended));
        if std::panic::catch_unwind(watch).is_err() {
            report::warn("the watch over the options file ended: its thread panicked");
        }
    };
    match helper(work) {
        Ok(()) => Some(watch),
        Err(error) => {
            report::warn(&format!(
                "the options file is not watched, its thread could not be started: {error}"
            ));
            None
        }
    }
}

/// Does that on a thread of ours, which may wait for a file system for ever.
fn helper(work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let work = move || {
        os::block_signals();
        be_own_thread();
        work();
    };
    std::thread::Builder::new().name("everprof-config".to_string()).spawn(work).map(drop)
}

fn run(mut watched: Watched, handle: &Weak<Handle>, ended: &Receiver<()>) {
    let mut used = 0;
    while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
        let Some(handle) = handle.upgrade() else { return };
        if let Some(news) = watched.news() {
            let retry = |error: &Error| error.kind() == ErrorKind::Unavailable;
            if let Err(error) = news.and_then(|file| changes::take_file(file, &handle)) {
                if retry(&error) {
                    (watched.read, watched.tried) = (None, None);
                }
                let told = format!("{error}; the options stay as they were");
                report::warn(&told);
                handle.problem(told);
            }
        }
        let cpu = os::Clock::Thread(os::gettid()).now().unwrap_or_default();
        handle.spent(cpu.saturating_sub(used));
        used = cpu;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::options::Options;

    fn watched(name: &str, text: &str) -> (PathBuf, Watched) {
        let path = std::env::temp_dir().join(format!("everprof-watch-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        let (mut watched, overlay) = Watched::begin(&path);
        assert_eq!(overlay.over(&Options::default()).rate_hz.hz(), 19);
        assert!((0..3 * READ_AGAIN).all(|_| watched.news().is_none()), "nothing is new");
        (path, watched)
    }

    /// Written in the tick of the kernel's clock in which it was read, and of the same length; or on a file system that keeps
    /// no such times.
    #[test]
    fn what_the_state_of_a_file_does_not_tell_is_found_all_the_same() {
        let (path, mut watched) = watched("same", "rate_hz = 19");
        std::fs::write(&path, "rate_hz = 20").unwrap();
        watched.seen = State::of(&path).ok();
        watched.read = watched.seen;
        let news = (0..READ_AGAIN).find_map(|_| watched.news()).unwrap().unwrap();
        assert_eq!(news.over(&Options::default()).rate_hz.hz(), 20);
        assert!((0..3 * READ_AGAIN).all(|_| watched.news().is_none()), "and is told once");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_is_wrong_is_told_once_for_as_long_as_it_is() {
        let (path, mut watched) = watched("wrong", "rate_hz = 19");
        for text in ["rate_hz = 0", "rate_hz = 0 # still", "rate_hz = 19\nrate_hz = 19"] {
            std::fs::write(&path, text).unwrap();
            let told: Vec<_> = (0..3 * READ_AGAIN).filter_map(|_| watched.news()).collect();
            let is_new = !text.contains("still");
            assert!(told.len() == usize::from(is_new) && told.iter().all(|told| told.is_err()), "{told:?}");
        }
        // Back to what holds: there is nothing to do.
        std::fs::write(&path, "rate_hz = 19").unwrap();
        assert!((0..3 * READ_AGAIN).all(|_| watched.news().is_none()) && watched.told.is_none());
        std::fs::remove_file(&path).unwrap();
        assert_eq!((0..3 * READ_AGAIN).filter_map(|_| watched.news()).count(), 1);
    }

    #[test]
    fn what_never_rests_is_told_once_and_read_when_it_does() {
        let (path, mut watched) = watched("restless", "rate_hz = 19");
        let mut told = Vec::new();
        for look in 0..3 * RESTLESS {
            std::fs::write(&path, format!("rate_hz = {}", 20 + look)).unwrap();
            watched.seen = None;
            told.extend(watched.news());
        }
        let [Err(error)] = told.as_slice() else { unreachable!("{told:?}") };
        assert!(error.to_string().contains("it changes all the time"), "{error}");
        let news = watched.news().unwrap().unwrap();
        assert_eq!(news.over(&Options::default()).rate_hz.hz(), 19 + 3 * RESTLESS);
        std::fs::remove_file(path).unwrap();
    }
}
