//! The drain: the one thread that turns what handlers leave in the rings into profiles.
//!
//! Five times a second it empties the rings, looks for new threads and new code; every two seconds it judges its
//! own cost; at the end of a period it closes the sums and gives them to the publisher, on a thread of its own, and that
//! the profiles to the exporters, on a third one. It is controlled by the calls of
//! [`Handle`], and woken by these and by threads that set their first label.

mod account;
mod awaits;
mod book;
mod build;
mod close;
mod deliver;
mod duty;
mod fleet;
mod governor;
mod growing;
mod handle;
mod heap;
mod hooked;
mod hooks;
mod live_options;
mod locks;
mod modules;
mod names;
mod otel;
mod period;
mod publish;
mod queue;
mod random;
mod record;
mod releases;
mod rotation;
mod sampler;
mod send;
mod settle;
mod setup;
mod sites;
mod snapshot;
mod tallies;
mod tasks;
mod threads;
mod upkeep;
mod wall;
mod weights;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::Duration;

use everprof_probe::thread_block::Facts;
use everprof_probe::{bell, os};

use crate::error::Result;
use crate::export::Exporter;
use crate::labels;
use crate::options::Options;
use crate::recorder;
use crate::report;
use crate::stats::Counters;
use crate::thread_names;

use handle::{Command, Own, be_own};
pub(crate) use handle::{Handle, be_own_thread, check_thread};
use sampler::Sampler;

/// How long a fork's child waits before it begins: most children call `exec` at once.
pub(crate) const CHILD_DELAY: Duration = Duration::from_millis(20);

/// What a profiler is started with.
pub(crate) struct Plan {
    pub(crate) options: Options,
    pub(crate) tags: BTreeMap<String, String>,
    /// Makes the exporters; called again in a fork's child, where the parent's connections and locks mean nothing.
    pub(crate) exporters: Arc<dyn Fn() -> Vec<Box<dyn Exporter>> + Send + Sync>,
    /// Whether this is a fork's child going on.
    pub(crate) forked: bool,
}

/// Forgets what the parent's handlers left behind. In a fork's child, on its only thread.
pub(crate) fn after_fork() {
    labels::stop_ticking();
    setup::forget_samples();
    heap::after_fork();
    locks::after_fork();
    handle::after_fork();
}

/// A fault of ours ends the profiler, not the host.
fn guarded(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        everprof_probe::sigprof::stop();
        close_doors();
        report::warn("everprof stopped: its own thread panicked");
    }
}

/// Nothing is taken any more of what threads of the host have to tell.
fn close_doors() {
    labels::set_sampling(false);
    labels::set_counting(false);
    everprof_probe::thread::want_new(false);
    recorder::set_open(false);
    recorder::want_waits(false);
    thread_names::set_open(false);
    recorder::want_pauses(false);
}

/// What a fork's child does at first.
enum Begin {
    /// It ends, or was told to.
    Not,
    /// It goes on; with what it was told meanwhile.
    With(Option<Command>),
}

/// Waits whether a fork's child lives long enough to be worth a profile; it must not be held up at its exit.
fn begin_in_child(commands: &Receiver<Command>) -> Begin {
    match commands.recv_timeout(CHILD_DELAY) {
        Err(RecvTimeoutError::Timeout) => Begin::With(None),
        Err(RecvTimeoutError::Disconnected) => Begin::Not,
        Ok(Command::Stop(done)) => {
            let _ = done.send(());
            Begin::Not
        }
        Ok(command) => Begin::With(Some(command)),
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
    be_own(Own::Samples);
    let mut first = None;
    if plan.forked {
        match begin_in_child(commands) {
            Begin::Not => return,
            Begin::With(command) => first = command,
        }
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
    while !sampler.is_alone() {
        let command = match first.take() {
            Some(command) => Ok(command),
            None => commands.try_recv(),
        };
        match command {
            Err(TryRecvError::Empty) => {
                sampler.answer_requests();
                // Threads that announce themselves wake us no more often than this; what they rang is heard after it.
                match commands.recv_timeout(sampler.pause()) {
                    Ok(command) => {
                        first = Some(command);
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => {}
                }
                let (rest, began) = (sampler.rest().as_nanos() as u64, os::monotonic());
                bell::sleep(rest);
                sampler.slept(os::monotonic().saturating_sub(began), rest);
                sampler.wake();
            }
            Ok(Command::Flush(done)) => sampler.flush(done),
            Ok(Command::Set(options, claim, done)) => {
                // Who has given it up was told that nothing has changed.
                if claim.take() {
                    sampler.set(&options, &done);
                }
            }
            Ok(Command::Record(id, kind, begun)) => sampler.record(id, kind, begun),
            Ok(Command::Finish { id, as_change, named }) => sampler.finish(id, as_change, named),
            Ok(Command::Account(kind, named)) => sampler.on_request(|own| own.tell_account(kind, named)),
            Ok(Command::GiveUp(id)) => sampler.give_up(id),
            Ok(Command::Threads(named)) => sampler.ask_for_snapshot(named),
            Ok(Command::Stop(done)) => return sampler.stop(done),
            Err(TryRecvError::Disconnected) => return,
        }
    }
    sampler.end();
}
