//! The control of a running drain: commands that any thread of the host sends, and what they are answered with.
//!
//! A command waits in a channel and rings the bell; whoever sent it waits for the answer with a limit of time, never for
//! ever. A drain that has ended answers none: that is an error, which says whether it was stopped.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use everprof_probe::bell;
use everprof_probe::thread_block::Facts;

use super::{Plan, guarded, run};
use crate::error::{Error, ErrorKind, Result};
use crate::options::Options;
use crate::profile::{Kind, Profile};
use crate::stats::{Counters, Stats};

/// How long a recording may take to begin, or to be named: the publisher may have large files of symbols to read.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How long a start waits for the end of the drain before, which was told to stop.
const ENDING: Duration = Duration::from_secs(2);

/// Whether there is a drain, at work or about to end.
static EXISTS: AtomicBool = AtomicBool::new(false);

/// The control of a running drain.
#[derive(Debug)]
pub(crate) struct Handle {
    commands: Mutex<Sender<Command>>,
    counters: Arc<Counters>,
    stopped: AtomicBool,
    last_recording: AtomicU64,
}

/// What the drain is asked to do, and where it answers.
#[derive(Debug)]
pub(super) enum Command {
    Flush(Sender<()>),
    Set(Box<Options>, Sender<Result<()>>),
    Record(u64, Kind, Sender<Result<()>>),
    Finish { id: u64, as_change: bool, named: Sender<Result<Profile>> },
    Account(Kind, Sender<Result<Profile>>),
    GiveUp(u64),
    Threads(Sender<Result<Arc<Profile>>>),
    Stop(Sender<()>),
}

/// Threads of ours, which cannot wait for themselves: code of the host runs on them, such as its logger and its exporters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    /// Not one of them.
    No,
    /// It samples, or names: recordings, snapshots and exports wait for it.
    Samples,
    /// It exports.
    Sends,
}

thread_local! {
    static OWN: Cell<Own> = const { Cell::new(Own::No) };
}

/// Says that the calling thread is one of ours.
pub(super) fn be_own(own: Own) {
    OWN.set(own);
    // What it allocates and waits for is nothing of the program's.
    everprof_probe::own::Own::of_this_thread().leave_out();
}

/// Says that the calling thread is one of ours that nothing waits for.
pub(crate) fn be_own_thread() {
    be_own(Own::Sends);
}

/// The drain of the parent is not here. In a fork's child, on its only thread.
pub(super) fn after_fork() {
    EXISTS.store(false, Ordering::SeqCst);
    OWN.set(Own::No);
}

/// The right to be the drain: two at once would share the rings, the handler and the slots of threads.
struct Only;

impl Only {
    /// Waits for the drain before to end.
    fn take() -> Result<Only> {
        let begin = Instant::now();
        while EXISTS.swap(true, Ordering::SeqCst) {
            if begin.elapsed() > ENDING {
                let message = "the profiler that was stopped has not ended yet: start again later";
                return Err(Error::new(ErrorKind::AlreadyRunning, message));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(Only)
    }
}

impl Drop for Only {
    fn drop(&mut self) {
        EXISTS.store(false, Ordering::SeqCst);
    }
}

impl Handle {
    /// Starts the drain's thread and waits until it samples, or says why it cannot.
    pub(crate) fn start(plan: Plan) -> Result<Handle> {
        let (commands, received) = mpsc::channel();
        let (started, outcome) = mpsc::channel();
        let counters = Arc::new(Counters::default());
        // Of a fork's child nobody waits for its first picture.
        counters.publish(Stats { running: true, ..Stats::default() });
        let shared = counters.clone();
        let forked = plan.forked;
        // In a child the offsets are known already, and the forking thread is not to be kept waiting.
        let starter = if forked { None } else { Facts::here() };
        let only = Only::take()?;
        let work = move || {
            guarded(|| run(plan, starter, &shared, &received, &started));
            shared.end();
            drop(only);
        };
        Builder::new().name("everprof".to_string()).spawn(work).map_err(|error| {
            Error::io(ErrorKind::Unsupported, "everprof's thread could not be started", error)
        })?;
        if !forked {
            outcome
                .recv()
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "everprof's thread ended")))?;
        }
        let (stopped, last_recording) = (AtomicBool::new(false), AtomicU64::new(0));
        Ok(Handle { commands: Mutex::new(commands), counters, stopped, last_recording })
    }

    /// Closes the period at hand and waits until it is exported, for `budget` at the most.
    pub(crate) fn flush(&self, budget: Duration) -> Result<()> {
        let (done, wait) = mpsc::channel();
        self.send(Command::Flush(done))?;
        exported(&wait, budget)
    }

    /// Goes on with these options, as far as they can change while it runs; where one of them cannot be had, with those before.
    pub(crate) fn set(&self, options: &Options) -> Result<()> {
        self.ask(None, |done| Command::Set(Box::new(options.clone()), done))
    }

    /// Stops sampling, exports what there is, and waits for that no longer than `budget`.
    pub(crate) fn stop(&self, budget: Duration) -> Result<()> {
        let (done, wait) = mpsc::channel();
        self.stopped.store(true, Ordering::SeqCst);
        self.send(Command::Stop(done))?;
        exported(&wait, budget)
    }

    /// What the drain knows of itself.
    pub(crate) fn stats(&self) -> Stats {
        self.counters.stats()
    }

    /// Counts CPU nanoseconds that a thread of ours has used beside the drain.
    pub(crate) fn spent(&self, nanos: u64) {
        self.counters.exporter_cpu.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Remembers what went wrong beside the drain.
    pub(crate) fn problem(&self, problem: String) {
        self.counters.problem(problem);
    }

    /// Begins a recording and returns its number.
    pub(crate) fn record(&self, kind: Kind) -> Result<u64> {
        let id = 1 + self.last_recording.fetch_add(1, Ordering::Relaxed);
        self.ask(Some(id), |begun| Command::Record(id, kind, begun))?;
        Ok(id)
    }

    /// Ends a recording and waits for its profile.
    pub(crate) fn finish(&self, id: u64) -> Result<Profile> {
        self.ask(Some(id), |named| Command::Finish { id, as_change: false, named })
    }

    /// The same, of levels such as that of the live heap how they have changed.
    pub(crate) fn finish_as_change(&self, id: u64) -> Result<Profile> {
        self.ask(Some(id), |named| Command::Finish { id, as_change: true, named })
    }

    /// What is there now of a kind whose samples come from hooks, and what was counted since that is among the kinds.
    pub(crate) fn account(&self, kind: Kind) -> Result<Profile> {
        self.ask(None, |named| Command::Account(kind, named))
    }

    /// Forgets a recording. Waits for nobody.
    pub(crate) fn give_up(&self, id: u64) {
        let _ = self.send(Command::GiveUp(id));
    }

    /// A snapshot of all threads.
    pub(crate) fn threads(&self) -> Result<Profile> {
        // Others may have got the same one. It is copied here, if at all, where it costs none of them their time.
        self.ask(None, Command::Threads).map(Arc::unwrap_or_clone)
    }

    /// Sends a command that is answered by a result. If nobody waits for that any more, `recording` is given up.
    fn ask<T>(
        &self,
        recording: Option<u64>,
        command: impl FnOnce(Sender<Result<T>>) -> Command,
    ) -> Result<T> {
        check_thread()?;
        let (answer, wait) = mpsc::channel();
        self.send(command(answer)).map_err(|_| self.ended())?;
        match wait.recv_timeout(PATIENCE) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Disconnected) => Err(self.ended()),
            Err(RecvTimeoutError::Timeout) => {
                // It may just have begun: the answer is lost, and the number is known.
                recording.into_iter().for_each(|id| self.give_up(id));
                let message = format!(
                    "everprof did not answer within {PATIENCE:?}: it reads symbols, or has no processor"
                );
                Err(Error::new(ErrorKind::Unavailable, message))
            }
        }
    }

    /// Why nobody answers.
    fn ended(&self) -> Error {
        if self.stopped.load(Ordering::SeqCst) {
            Error::new(ErrorKind::Unavailable, "the profiler was stopped: what it recorded ended with it")
        } else {
            gone()
        }
    }

    fn send(&self, command: Command) -> Result<()> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).send(command).map_err(|_| gone())?;
        bell::ring();
        Ok(())
    }
}

/// An error on a thread of ours that would wait for itself.
pub(crate) fn check_thread() -> Result<()> {
    if OWN.get() == Own::Samples { Err(from_own_thread()) } else { Ok(()) }
}

fn exported(wait: &Receiver<()>, budget: Duration) -> Result<()> {
    if OWN.get() != Own::No {
        return Err(from_own_thread());
    }
    wait.recv_timeout(budget).map_err(|error| match error {
        RecvTimeoutError::Disconnected => gone(),
        RecvTimeoutError::Timeout => Error::new(
            ErrorKind::Unavailable,
            format!("the profile was not exported within {budget:?}; that goes on in the background"),
        ),
    })
}

fn from_own_thread() -> Error {
    let message = "everprof's own thread would wait for itself: ask from another thread";
    Error::new(ErrorKind::Unavailable, message)
}

fn gone() -> Error {
    Error::new(ErrorKind::Internal, "everprof's thread has ended; see the log")
}
