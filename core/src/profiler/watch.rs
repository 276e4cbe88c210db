//! The watched file: read at the start, and again whenever it changes, for as long as the profiler runs.
//!
//! A thread of its own, `everprof-config`, which exists where the option `config` names a file: a file system that does not
//! answer holds up nobody else. It looks at the file by its name once a second, through all links, so that a file that is
//! renamed into place and a link that is turned (as Kubernetes does with the files of a ConfigMap) are seen as what is
//! written in place is. A file is read once it has stayed the same for two looks; what is half-written changes.

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

/// The start of the profiler, on a thread of the program, waits for the file no longer than this.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of the file.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched {
    path: PathBuf,
    /// As it was at the last look, and as it was when it was read.
    seen: Option<State>,
    read: Option<State>,
    /// What was said of it last.
    told: Option<String>,
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

    /// Reads the file where it has changed and stays as it is; the error is news.
    fn news(&mut self) -> Option<crate::Result<Overlay>> {
        let before = self.seen;
        let state = match self.look() {
            Ok(state) => state,
            Err(error) => {
                self.read = None;
                return self.is_news(&error).then_some(Err(error));
            }
        };
        if before != Some(state) || self.read == Some(state) {
            return None;
        }
        let read = Overlay::read(&self.path, &state).transpose()?;
        self.read = Some(state);
        match read {
            Ok(overlay) => {
                self.told = None;
                Some(Ok(overlay))
            }
            Err(error) => self.is_news(&error).then_some(Err(error)),
        }
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
                    watched.read = None;
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
