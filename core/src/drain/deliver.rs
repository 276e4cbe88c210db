//! Delivery: the encoded profiles of a period go to the exporters, to each on a thread of its own.
//!
//! A disk that hangs, or a server that does not answer, holds up nobody else: neither what comes next, nor who waits for a
//! recording or a snapshot, nor the other exporters. The publisher hands over. A thread, `everprof-send`, begins with the
//! first set; where none can be had, the publisher exports itself, with one try. What waits for an exporter is bounded
//! ([`super::queue`]), and one that panics has failed with this set alone. In a fork's child there are no sets of the
//! parent: its queues are the parent's to send.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use everprof_probe::os::{self, Clock, gettid};

use super::handle::{Own, be_own};
use super::queue::{Next, Queue};
use super::random::Random;
use super::report;
use crate::encode::{Dialect, Set};
use crate::error::{Error, ErrorKind};
use crate::export::{Exporter, Loss, Outcome};
use crate::profile::{Kind, Profile};
use crate::stats::Counters;

/// The ways to the exporters.
pub(super) struct Delivery {
    lanes: Vec<Lane>,
    counters: Arc<Counters>,
}

/// The way to one of them.
struct Lane {
    name: String,
    dialect: Dialect,
    shared: Arc<Shared>,
    /// Until there is a thread.
    exporter: Option<Box<dyn Exporter>>,
}

/// What the publisher and the thread of a lane share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    queue: Queue,
    /// The bytes that the counters have of it.
    told: u64,
    /// Who waits until all sets before that number were exported, lost, or tried in vain.
    asked: Vec<(u64, Arc<Done>)>,
    /// No more sets will come.
    is_closed: bool,
}

/// Says so once the last of its holders is done with it.
struct Done(mpsc::Sender<()>);

impl Drop for Done {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Delivery {
    /// To these, of which so many bytes may wait for each.
    pub(super) fn new(exporters: Vec<Box<dyn Exporter>>, most: u64, counters: Arc<Counters>) -> Self {
        let lane = |exporter: Box<dyn Exporter>| {
            let state = State { queue: Queue::new(most), told: 0, asked: Vec::new(), is_closed: false };
            let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
            // Code of the host's, which may panic.
            let asked = catch_unwind(AssertUnwindSafe(|| (exporter.name(), exporter.dialect())));
            let (name, dialect) = asked.unwrap_or_else(|_| ("an exporter".to_string(), Dialect::Pprof));
            Lane { name, dialect, shared, exporter: Some(exporter) }
        };
        Self { lanes: exporters.into_iter().map(lane).collect(), counters }
    }

    /// Takes the profiles of a period, of which `set` has everything else.
    pub(super) fn take(&mut self, set: &Set, profiles: &[(Kind, Profile)]) {
        let mut dialects: Vec<(Dialect, Arc<Set>)> = Vec::new();
        for lane in &mut self.lanes {
            let known = dialects.iter().find(|(dialect, _)| *dialect == lane.dialect);
            let set = match known {
                Some((_, set)) => set.clone(),
                None => {
                    let profiles = lane.dialect.encode(profiles);
                    let set = Arc::new(Set { profiles, ..set.clone() });
                    dialects.push((lane.dialect, set.clone()));
                    set
                }
            };
            lane.take(set, &self.counters);
        }
    }

    /// `done` hears when everything that was taken before is exported, or could not be.
    pub(super) fn reply(&self, done: mpsc::Sender<()>) {
        let done = Arc::new(Done(done));
        for lane in self.lanes.iter().filter(|lane| lane.exporter.is_none()) {
            let mut state = lane.shared.lock();
            let number = state.queue.number();
            state.asked.push((number, done.clone()));
            lane.shared.changed.notify_one();
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        for lane in &self.lanes {
            lane.shared.lock().is_closed = true;
            lane.shared.changed.notify_one();
        }
    }
}

impl Lane {
    fn take(&mut self, set: Arc<Set>, counters: &Arc<Counters>) {
        self.begin(counters);
        if let Some(exporter) = &mut self.exporter {
            match attempt(exporter, &set) {
                Outcome::Sent => _ = counters.exported.fetch_add(1, Ordering::Relaxed),
                Outcome::Lost(loss, error) => lose(counters, &self.name, loss, &error),
                Outcome::Later(error, _) => lose(counters, &self.name, Loss::Failed, &error),
            }
            return;
        }
        let mut state = self.shared.lock();
        let evicted = state.queue.push(set);
        state.tell(counters);
        drop(state);
        self.shared.changed.notify_one();
        if evicted > 0 {
            counters.export_evicted.fetch_add(evicted, Ordering::Relaxed);
            give_up(counters, evicted, &format!("to {}: too much waits there already", self.name));
        }
    }

    /// Starts the thread, the first time. Where that fails, it is tried again with the next set.
    fn begin(&mut self, counters: &Arc<Counters>) {
        let Some(exporter) = self.exporter.take() else { return };
        let (give, taken) = mpsc::channel();
        let (shared, counters, name) = (self.shared.clone(), counters.clone(), self.name.clone());
        let work = move || {
            if let Ok(exporter) = taken.recv() {
                Sender { exporter, name, shared, counters, cpu: 0 }.run();
            }
        };
        match std::thread::Builder::new().name("everprof-send".to_string()).spawn(work) {
            Ok(_) => _ = give.send(exporter),
            Err(_) => self.exporter = Some(exporter),
        }
    }
}

/// The thread of a lane.
struct Sender {
    exporter: Box<dyn Exporter>,
    name: String,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    cpu: u64,
}

impl Sender {
    /// Exports until no more will come, and what there is then was tried once more.
    fn run(mut self) {
        os::block_signals();
        be_own(Own::Sends);
        let (begin, mut random) = (Instant::now(), Random::new());
        let shared = self.shared.clone();
        let mut state = shared.lock();
        loop {
            let now = begin.elapsed();
            state.answer();
            let is_last = state.is_closed;
            if (is_last || !state.asked.is_empty()) && !state.queue.hurry(now) {
                state.asked.clear();
                if is_last {
                    return self.abandon(&mut state);
                }
            }
            match state.queue.next(now) {
                Next::Attempt(set) => {
                    drop(state);
                    let outcome = attempt(&mut self.exporter, &set);
                    self.account();
                    drop(set);
                    state = shared.lock();
                    let chance = f64::from(random.below(1 << 16)) / f64::from(1 << 16);
                    if !self.decide(&mut state, outcome, begin.elapsed(), chance) {
                        // Whoever waits has seen a try; the end has no time for another.
                        state.asked.clear();
                        if is_last {
                            return self.abandon(&mut state);
                        }
                    }
                    state.tell(&self.counters);
                }
                Next::Wait(pause) => {
                    let waited = shared.changed.wait_timeout(state, pause);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Next::Idle if is_last => return,
                Next::Idle => state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// What follows from an attempt; false where it is to be made again.
    fn decide(&self, state: &mut State, outcome: Outcome, now: Duration, chance: f64) -> bool {
        match outcome {
            Outcome::Sent => {
                self.counters.exported.fetch_add(1, Ordering::Relaxed);
                state.queue.done(true);
            }
            Outcome::Lost(loss, error) => {
                lose(&self.counters, &self.name, loss, &error);
                state.queue.done(true);
            }
            Outcome::Later(error, after) => {
                self.counters.export_retries.fetch_add(1, Ordering::Relaxed);
                let problem = format!("a profile is tried again later, to {}: {error}", self.name);
                if state.queue.failed(now, after, chance) == 1 {
                    report::warn(&problem);
                }
                self.counters.problem(problem);
                return false;
            }
        }
        true
    }

    /// Nobody is left to try again.
    fn abandon(&self, state: &mut State) {
        let count = state.queue.clear();
        state.tell(&self.counters);
        if count > 0 {
            self.counters.export_unsent.fetch_add(count, Ordering::Relaxed);
            give_up(&self.counters, count, &format!("to {}: it could not be sent before the end", self.name));
        }
    }

    fn account(&mut self) {
        let cpu = Clock::Thread(gettid()).now().unwrap_or_default();
        self.counters.exporter_cpu.fetch_add(cpu.saturating_sub(self.cpu), Ordering::Relaxed);
        self.cpu = cpu;
    }
}

impl State {
    /// Tells those who wait for what is gone by now.
    fn answer(&mut self) {
        let queue = &self.queue;
        self.asked.retain(|(number, _)| !queue.is_past(*number));
    }

    /// Brings the bytes of all lanes that wait up to date.
    fn tell(&mut self, counters: &Counters) {
        let bytes = self.queue.bytes();
        counters.undelivered_bytes.fetch_add(bytes.wrapping_sub(self.told), Ordering::Relaxed);
        self.told = bytes;
    }
}

/// One call of the exporter, which is the host's code or ours.
fn attempt(exporter: &mut Box<dyn Exporter>, set: &Set) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| exporter.attempt(set))).unwrap_or_else(|_| {
        Outcome::Lost(Loss::Failed, Error::new(ErrorKind::Internal, "the exporter panicked"))
    })
}

fn lose(counters: &Counters, name: &str, loss: Loss, error: &Error) {
    match loss {
        Loss::Refused => _ = counters.export_refused.fetch_add(1, Ordering::Relaxed),
        Loss::Expired => _ = counters.export_expired.fetch_add(1, Ordering::Relaxed),
        Loss::Unknown => _ = counters.export_unknown.fetch_add(1, Ordering::Relaxed),
        Loss::Failed => {}
    }
    counters.export_failures.fetch_add(1, Ordering::Relaxed);
    tell(counters, format!("a profile was not exported to {name}: {error}"));
}

fn give_up(counters: &Counters, count: u64, why: &str) {
    counters.export_failures.fetch_add(count, Ordering::Relaxed);
    let what = if count == 1 { "a profile was".to_string() } else { format!("{count} profiles were") };
    tell(counters, format!("{what} given up, {why}"));
}

fn tell(counters: &Counters, problem: String) {
    report::warn(&problem);
    counters.problem(problem);
}
