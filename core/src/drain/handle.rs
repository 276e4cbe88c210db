//! The control of a running drain: commands that any thread of the host sends, and what they are answered with.
//!
//! A command waits in a channel and rings the bell; whoever sent it waits for the answer with a limit of time, never for
//! ever. A drain that has ended answers none: that is an error, which says whether it was stopped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use everprof_probe::bell;
use everprof_probe::thread_block::Facts;

use super::{Plan, guarded, run};
use crate::error::{Error, ErrorKind, Result};
use crate::profile::{Kind, Profile};
use crate::stats::{Counters, Stats};

/// How long a recording may take to begin, or to be named: the publisher may be in the middle of an export.
const PATIENCE: Duration = Duration::from_secs(30);

/// The control of a running drain.
#[derive(Debug)]
pub(crate) struct Handle {
    commands: Mutex<Sender<Command>>,
    counters: Arc<Counters>,
    stopped: AtomicBool,
}

/// What the drain is asked to do, and where it answers.
#[derive(Debug)]
pub(super) enum Command {
    Flush(Sender<()>),
    SetRate(u32),
    Record(Kind, Sender<Result<u64>>),
    Finish(u64, Sender<Result<Profile>>),
    GiveUp(u64),
    Threads(Sender<Result<Profile>>),
    Stop(Sender<()>),
}

impl Handle {
    /// Starts the drain's thread and waits until it samples, or says why it cannot.
    pub(crate) fn start(plan: Plan) -> Result<Handle> {
        let (commands, received) = mpsc::channel();
        let (started, outcome) = mpsc::channel();
        let counters = Arc::new(Counters::default());
        let shared = counters.clone();
        let forked = plan.forked;
        // In a child the offsets are known already, and the forking thread is not to be kept waiting.
        let starter = if forked { None } else { Facts::here() };
        Builder::new()
            .name("everprof".to_string())
            .spawn(move || guarded(|| run(plan, starter, &shared, &received, &started)))
            .map_err(|error| {
                Error::io(ErrorKind::Unsupported, "everprof's thread could not be started", error)
            })?;
        if !forked {
            outcome
                .recv()
                .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "everprof's thread ended")))?;
        }
        Ok(Handle { commands: Mutex::new(commands), counters, stopped: AtomicBool::new(false) })
    }

    /// Closes the period at hand and waits until it is exported, for `budget` at the most.
    pub(crate) fn flush(&self, budget: Duration) -> Result<()> {
        let (done, wait) = mpsc::channel();
        self.send(Command::Flush(done))?;
        exported(&wait, budget)
    }

    /// Samples with another period from now on, in nanoseconds.
    pub(crate) fn set_rate(&self, period_nanos: u32) -> Result<()> {
        self.send(Command::SetRate(period_nanos))
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

    /// Remembers what went wrong beside the drain.
    pub(crate) fn problem(&self, problem: String) {
        self.counters.problem(problem);
    }

    /// Begins a recording and returns its number.
    pub(crate) fn record(&self, kind: Kind) -> Result<u64> {
        self.ask(|begun| Command::Record(kind, begun))
    }

    /// Ends a recording and waits for its profile.
    pub(crate) fn finish(&self, id: u64) -> Result<Profile> {
        self.ask(|named| Command::Finish(id, named))
    }

    /// Forgets a recording. Waits for nobody.
    pub(crate) fn give_up(&self, id: u64) {
        let _ = self.send(Command::GiveUp(id));
    }

    /// A snapshot of all threads.
    pub(crate) fn threads(&self) -> Result<Profile> {
        self.ask(Command::Threads)
    }

    /// Sends a command that is answered by a result.
    fn ask<T>(&self, command: impl FnOnce(Sender<Result<T>>) -> Command) -> Result<T> {
        let (answer, wait) = mpsc::channel();
        self.send(command(answer)).map_err(|_| self.ended())?;
        wait.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            Err(match error {
                RecvTimeoutError::Disconnected => self.ended(),
                RecvTimeoutError::Timeout => Error::new(
                    ErrorKind::Unavailable,
                    format!("everprof did not answer within {PATIENCE:?}: it is busy with an export"),
                ),
            })
        })
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

fn exported(wait: &Receiver<()>, budget: Duration) -> Result<()> {
    wait.recv_timeout(budget).map_err(|error| match error {
        RecvTimeoutError::Disconnected => gone(),
        RecvTimeoutError::Timeout => Error::new(
            ErrorKind::Unavailable,
            format!("the profile was not exported within {budget:?}; that goes on in the background"),
        ),
    })
}

fn gone() -> Error {
    Error::new(ErrorKind::Internal, "everprof's thread has ended; see the log")
}
