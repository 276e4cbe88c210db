//! The conversation with Google Cloud Profiler: asks what it wants, takes that, and sends it.
//!
//! On a thread of its own, `everprof-ask`, since the server answers when it wants a profile, which may take minutes. It
//! takes profiles by the door of recordings, beside the periods, and never waits for the program. At the stop nobody waits
//! for it: its connection is shut, and what it was recording is given up.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use everprof_probe::os;
use everprof_probe::own::Own;

use crate::drain::{CHILD_DELAY, Handle};
use crate::encode::pprof;
use crate::error::{Error, ErrorKind, Result};
use crate::export::google::{Agent, Backoff, Pause, Plan, Wanted};
use crate::export::{Hold, Loss};
use crate::options::{Kinds, Options};
use crate::profile::{Kind, Profile};
use crate::report;
use crate::tags::Tags;

/// What the server calls the kinds. It has one sort for waits: by who held the lock, as Go's agent has it, or else by who waited.
const SORTS: [(&str, &[Kind]); 7] = [
    ("CPU", &[Kind::Cpu]),
    ("WALL", &[Kind::Wall]),
    ("HEAP", &[Kind::Heap]),
    ("HEAP_ALLOC", &[Kind::Alloc]),
    ("PEAK_HEAP", &[Kind::Peak]),
    ("THREADS", &[Kind::Threads]),
    ("CONTENTION", &[Kind::Mutex, Kind::Lock]),
];
/// A stretch that is longer is nothing that the server wants.
const LONGEST: Duration = Duration::from_secs(300);

/// What is watched for its peak where the server names no time.
const LEAST_OF_PEAK: Duration = Duration::from_secs(10);

/// Between two questions, whatever the server says: one that asks for profiles of no time would keep the thread busy.
const LEAST: Duration = Duration::from_secs(1);

/// Until kinds are looked at again, of which there may be others by then.
const NOTHING_TO_OFFER: Duration = Duration::from_secs(60);

/// What can be offered of these kinds.
fn sorts(kinds: &Kinds) -> Vec<(&'static str, Kind)> {
    let offered =
        SORTS.iter().filter_map(|(sort, of)| Some((*sort, *of.iter().find(|kind| kinds.contains(**kind))?)));
    offered.collect()
}

/// The thread at work.
pub(super) struct Conversation(Hold);

impl Conversation {
    /// Ends it, without waiting.
    pub(super) fn end(&self) {
        self.0.end();
    }
}

/// Begins the conversation. None where no thread can be had, which is told.
pub(super) fn begin(
    plan: &Plan,
    options: &Options,
    tags: &Tags,
    handle: &Arc<Handle>,
    forked: bool,
) -> Option<Conversation> {
    let kinds = options.kinds.clone();
    let hold = Hold::default();
    let (name, agent) = (plan.name.clone(), Agent::new(plan.clone(), tags.as_map().clone(), hold.clone()));
    let talk = Talk { name, kinds, agent, hold: hold.clone(), handle: handle.clone() };
    let work = move || {
        os::block_signals();
        os::step_back();
        // What it allocates and waits for is nothing of the program's.
        Own::of_this_thread().leave_out();
        // Most children of a fork call `exec` at once: the server is not asked for these.
        if forked && !talk.hold.pause(CHILD_DELAY) {
            return;
        }
        if catch_unwind(AssertUnwindSafe(|| talk.run())).is_err() {
            report::warn("the conversation with Google Cloud Profiler ended: its thread panicked");
        }
    };
    match std::thread::Builder::new().name("everprof-ask".to_string()).spawn(work) {
        Ok(_) => Some(Conversation(hold)),
        Err(error) => {
            handle.problem(format!("{} cannot be asked what it wants: no thread: {error}", plan.name));
            None
        }
    }
}

struct Talk {
    name: String,
    /// Those of the start, until the profiler is known to run.
    kinds: Kinds,
    agent: Agent,
    hold: Hold,
    handle: Arc<Handle>,
}

impl Talk {
    fn run(mut self) {
        let mut backoff = Backoff::new();
        let mut failures = 0;
        let (mut has_told, mut has_failed) = (false, false);
        while !self.hold.is_over() {
            let sorts = self.sorts();
            if sorts.is_empty() {
                self.tell("it takes none of the kinds that are taken here".to_string(), !has_told);
                has_told = true;
                self.hold.pause(NOTHING_TO_OFFER);
                continue;
            }
            let names: Vec<&str> = sorts.iter().map(|(sort, _)| *sort).collect();
            let pause = match self.agent.poll(&names) {
                Ok(wanted) => {
                    (backoff, failures) = (Backoff::new(), 0);
                    let is_sent = self.answer(&wanted, &sorts, !has_failed);
                    has_failed = !is_sent;
                    Duration::ZERO
                }
                Err(Pause::Asked(pause)) => pause,
                Err(Pause::Failed(_)) if self.hold.is_over() => return,
                Err(Pause::Failed(problem)) => {
                    failures += 1;
                    self.tell(format!("asked again later what it wants: {problem}"), failures == 1);
                    backoff.next(chance())
                }
            };
            if !self.hold.pause(pause.max(LEAST)) {
                return;
            }
        }
    }

    /// What can be offered now: blocks that live are known where they are followed.
    fn sorts(&self) -> Vec<(&'static str, Kind)> {
        let mut offered = sorts(&super::kinds().unwrap_or_else(|| self.kinds.clone()));
        if offered.iter().any(|(_, kind)| *kind == Kind::Heap) {
            let active = self.handle.stats().active_kinds;
            offered.retain(|(_, kind)| *kind != Kind::Heap || active.contains(&Kind::Heap.name()));
        }
        offered
    }

    /// Takes what is wanted and sends it; false where that failed. It is given up then: another replica is asked next.
    fn answer(&mut self, wanted: &Wanted, sorts: &[(&str, Kind)], is_new: bool) -> bool {
        let sent = match self.take(wanted, sorts) {
            Ok(profile) => {
                let bytes = pprof::encode(&profile);
                self.agent.upload(wanted, &bytes).map(|()| bytes.len() as u64)
            }
            Err(error) => Err((Loss::Failed, error.to_string())),
        };
        match sent {
            Ok(bytes) => self.handle.sent(bytes),
            Err(_) if self.hold.is_over() => {}
            Err((loss, problem)) => {
                self.handle.lost(loss);
                self.tell(format!("a profile of {} is given up: {problem}", wanted.sort), is_new);
                return false;
            }
        }
        true
    }

    fn take(&self, wanted: &Wanted, sorts: &[(&str, Kind)]) -> Result<Profile> {
        let kind = sorts.iter().find(|(sort, _)| *sort == wanted.sort).map(|(_, kind)| *kind);
        match kind {
            None => Err(Error::new(ErrorKind::Unsupported, "it is not among what was offered")),
            // Of a moment.
            Some(Kind::Threads) => self.handle.threads(),
            Some(Kind::Heap) => self.handle.account(Kind::Heap),
            Some(kind) => {
                // The peak of no time is nothing; the server names none for what it takes for a moment.
                let least = if kind == Kind::Peak { LEAST_OF_PEAK } else { Duration::ZERO };
                let id = self.handle.record(kind)?;
                if self.hold.pause(wanted.duration.clamp(least, LONGEST)) {
                    return self.handle.finish(id);
                }
                self.handle.give_up(id);
                Err(Error::new(ErrorKind::Unavailable, "the profiler was stopped"))
            }
        }
    }

    fn tell(&self, problem: String, is_new: bool) {
        let problem = format!("{}: {problem}", self.name);
        if is_new {
            report::warn(&problem);
        }
        self.handle.problem(problem);
    }
}

/// A number from 0 to 1, other for each replica: the hash of a time with the system's random keys.
fn chance() -> f64 {
    use std::hash::BuildHasher;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let bits = std::hash::RandomState::new().hash_one((now, std::process::id()));
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
