//! The drain: the one thread that turns what handlers leave in the rings into profiles.
//!
//! Five times a second it empties the rings, looks for new threads and new code; every two seconds it judges its
//! own cost; at the end of a period it closes the sums and gives them to the publisher. It is controlled by three
//! calls, [`Handle::stop`], [`Handle::flush`] and [`Handle::set_rate`], and woken by these and by threads that set their
//! first label.

mod account;
mod book;
mod build;
mod close;
mod governor;
mod modules;
mod names;
mod period;
mod publish;
pub(crate) mod report;
mod sampler;
mod settle;
mod setup;
mod tasks;
mod threads;
mod upkeep;
mod wall;
mod weights;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use everprof_probe::thread_block::Facts;
use everprof_probe::{bell, os};

use crate::error::{Error, ErrorKind, Result};
use crate::export::Exporter;
use crate::options::Options;
use crate::stats::{Counters, Stats};

use sampler::Sampler;

/// How long a fork's child waits before it begins: most children call `exec` at once.
const CHILD_DELAY: Duration = Duration::from_millis(20);

/// What a profiler is started with.
pub(crate) struct Plan {
    pub(crate) options: Options,
    pub(crate) tags: BTreeMap<String, String>,
    /// Makes the exporters; called again in a fork's child, where the parent's connections and locks mean nothing.
    pub(crate) exporters: Arc<dyn Fn() -> Vec<Box<dyn Exporter>> + Send + Sync>,
    /// Whether this is a fork's child going on.
    pub(crate) forked: bool,
}

/// The control of a running drain.
#[derive(Debug)]
pub(crate) struct Handle {
    commands: Mutex<Sender<Command>>,
    counters: Arc<Counters>,
}

#[derive(Debug)]
enum Command {
    Flush(Sender<()>),
    SetRate(u32),
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
        Ok(Handle { commands: Mutex::new(commands), counters })
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
        self.send(Command::Stop(done))?;
        exported(&wait, budget)
    }

    /// What the drain knows of itself.
    pub(crate) fn stats(&self) -> Stats {
        self.counters.stats()
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

/// Forgets what the parent's handlers left behind. In a fork's child, on its only thread.
pub(crate) fn after_fork() {
    setup::forget_samples();
}

/// A fault of ours ends the profiler, not the host.
fn guarded(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        everprof_probe::sigprof::stop();
        report::warn("everprof stopped: its own thread panicked");
    }
}

/// Waits whether a fork's child lives long enough to be worth a profile; it must not be held up at its exit.
fn ends_early(commands: &Receiver<Command>) -> bool {
    match commands.recv_timeout(CHILD_DELAY) {
        Err(RecvTimeoutError::Timeout) | Ok(Command::SetRate(_)) => false,
        Err(RecvTimeoutError::Disconnected) => true,
        Ok(Command::Flush(done)) => {
            let _ = done.send(());
            false
        }
        Ok(Command::Stop(done)) => {
            let _ = done.send(());
            true
        }
    }
}

fn run(
    plan: Plan,
    starter: Option<Facts>,
    counters: &Arc<Counters>,
    commands: &Receiver<Command>,
    started: &Sender<Result<()>>,
) {
    os::block_signals();
    if plan.forked && ends_early(commands) {
        return;
    }
    let mut sampler = match Sampler::start(plan, starter, counters) {
        Ok(sampler) => sampler,
        Err(error) => {
            report::warn(&format!("everprof does not sample: {error}"));
            counters.problem(error.to_string());
            let _ = started.send(Err(error));
            return;
        }
    };
    let _ = started.send(Ok(()));
    loop {
        match commands.try_recv() {
            Err(TryRecvError::Empty) => {
                // Threads that announce themselves wake us no more often than this; what they rang is heard after it.
                std::thread::sleep(sampler.pause());
                bell::sleep(sampler.rest().as_nanos() as u64);
                sampler.wake();
            }
            Ok(Command::Flush(done)) => sampler.flush(done),
            Ok(Command::SetRate(period)) => sampler.set_rate(period),
            Ok(Command::Stop(done)) => return sampler.stop(done),
            Err(TryRecvError::Disconnected) => return,
        }
    }
}
