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
use crate::export::Loss;
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
    Set(Box<Options>, Claim, Sender<Result<()>>),
    Record(u64, Kind, Sender<Result<()>>),
    Finish { id: u64, as_change: bool, named: Sender<Result<Profile>> },
    Account(Kind, Sender<Result<Profile>>),
    GiveUp(u64),
    Threads(Sender<Result<Arc<Profile>>>),
    Stop(Sender<()>),
}

/// What one side does or the other gives up, whichever takes it first.
#[derive(Clone, Debug, Default)]
pub(super) struct Claim(Arc<AtomicBool>);

impl Claim {
    /// True for the first who asks.
    pub(super) fn take(&self) -> bool {
        !self.0.swap(true, Ordering::SeqCst)
    }
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
        self.set_within(options, PATIENCE)
    }

    /// What was not begun in that time will not be; what was is waited for as long again.
    fn set_within(&self, options: &Options, patience: Duration) -> Result<()> {
        check_thread()?;
        let claim = Claim::default();
        let (done, wait) = mpsc::channel();
        let command = Command::Set(Box::new(options.clone()), claim.clone(), done);
        self.send(command).map_err(|_| self.ended())?;
        if let Some(answer) = self.answer(&wait, patience) {
            return answer;
        }
        if claim.take() {
            return Err(unanswered(patience, "; nothing has changed"));
        }
        self.answer(&wait, patience)
            .unwrap_or_else(|| Err(unanswered(2 * patience, "; the change is under way and may hold")))
    }

    /// Stops sampling, exports what there is, and waits for that no longer than `budget`.
    pub(crate) fn stop(&self, budget: Duration) -> Result<()> {
        let (done, wait) = mpsc::channel();
        self.stopped.store(true, Ordering::SeqCst);
        let _ = self.counters.stopping.set(Instant::now());
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

    /// Counts a profile of so many bytes that was sent beside the periods.
    pub(crate) fn sent(&self, bytes: u64) {
        self.counters.sent(bytes);
    }

    /// Counts one that was not.
    pub(crate) fn lost(&self, loss: Loss) {
        super::send::tally(&self.counters, loss);
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
        self.answer(&wait, PATIENCE).unwrap_or_else(|| {
            // It may just have begun: the answer is lost, and the number is known.
            recording.into_iter().for_each(|id| self.give_up(id));
            Err(unanswered(PATIENCE, ""))
        })
    }

    /// What the drain answers; none where it does not in time.
    fn answer<T>(&self, wait: &Receiver<Result<T>>, patience: Duration) -> Option<Result<T>> {
        match wait.recv_timeout(patience) {
            Ok(answer) => Some(answer),
            Err(RecvTimeoutError::Disconnected) => Some(Err(self.ended())),
            Err(RecvTimeoutError::Timeout) => None,
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

fn unanswered(patience: Duration, what: &str) -> Error {
    let message =
        format!("everprof did not answer within {patience:?}: it reads symbols, or has no processor{what}");
    Error::new(ErrorKind::Unavailable, message)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(200);

    /// A handle whose drain is the test.
    fn handle() -> (Arc<Handle>, Receiver<Command>) {
        let (commands, received) = mpsc::channel();
        let handle = Handle {
            commands: Mutex::new(commands),
            counters: Arc::default(),
            stopped: AtomicBool::new(false),
            last_recording: AtomicU64::new(0),
        };
        (Arc::new(handle), received)
    }

    #[test]
    fn options_that_were_given_up_are_not_set_later() {
        let (handle, received) = handle();
        let error = handle.set_within(&Options::default(), PATIENCE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("nothing has changed"), "{error}");
        let Ok(Command::Set(_, claim, _)) = received.recv() else { unreachable!() };
        assert!(!claim.take(), "it is not done any more");
    }

    #[test]
    fn options_that_are_being_set_are_waited_for_and_told_as_they_are() {
        for (late, in_it) in [(PATIENCE * 3 / 2, None), (PATIENCE * 4, Some("may hold"))] {
            let (handle, received) = handle();
            let setting = handle.clone();
            let asked = std::thread::spawn(move || setting.set_within(&Options::default(), PATIENCE));
            let Ok(Command::Set(_, claim, done)) = received.recv() else { unreachable!() };
            assert!(claim.take());
            std::thread::sleep(late);
            let _ = done.send(Ok(()));
            let told = asked.join().unwrap().map_err(|error| error.to_string());
            match in_it {
                None => assert_eq!(told, Ok(())),
                Some(in_it) => assert!(told.clone().is_err_and(|told| told.contains(in_it)), "{told:?}"),
            }
        }
    }
}
