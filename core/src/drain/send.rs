//! The thread of one exporter: what is sent, kept on disk, tried again or given up, and when.
//!
//! Nothing that may take long, or is code of the host's, is done with the lane's lock held: not an attempt, not a word to the
//! log, not a file. With a spool ([`crate::export::spool`]), sets go to disk as soon as the server is away, and at the
//! end of the process before its last try: what was told to wait outlives the process, however that ends. As long as the server
//! is there, the disk is not touched.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use everprof_probe::os::{self, Clock, gettid};

use super::deliver::{Shared, State};
use super::handle::{Own, be_own};
use super::queue::{Next, Waiting};
use super::random::Random;
use crate::encode::Set;
use crate::error::{Error, ErrorKind};
use crate::export::spool::{Losses, Spool};
use crate::export::{Exporter, Loss, Outcome};
use crate::report;
use crate::stats::Counters;

/// How often to look for what dead processes have left.
const ADOPTION: Duration = Duration::from_secs(60);
/// How long sets that wait on disk are sent at the end: who stops the profiler waits for twice that, and the end of the
/// process may come upon one that is being sent, of which nobody knows then whether it arrived.
const LAST: Duration = Duration::from_secs(1);

/// The thread of a lane.
pub(super) struct Sender {
    exporter: Box<dyn Exporter>,
    name: String,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
    cpu: u64,
    begin: Instant,
    random: Random,
    disk: Option<Disk>,
    /// Nothing was sent since the exporter was told so.
    is_idle: bool,
}

/// The spool, and how it is with it.
struct Disk {
    spool: Spool,
    /// What the counters have of it.
    told: (u64, u64),
    /// When dead processes were looked for.
    adopted: Option<Duration>,
    /// A failure was told, and nothing has worked since.
    is_broken: bool,
    /// The number of the next set when it was last full: nothing is tried there until another one comes.
    full: Option<u64>,
}

/// Whether a set is on disk.
enum Kept {
    Yes,
    No,
    /// It alone does not fit there.
    TooLarge,
}

/// Whether there is more to do.
enum After {
    More,
    End,
}

impl Sender {
    pub(super) fn new(
        exporter: Box<dyn Exporter>,
        name: String,
        shared: Arc<Shared>,
        counters: Arc<Counters>,
        spool: Option<Spool>,
    ) -> Self {
        let disk =
            spool.map(|spool| Disk { spool, told: (0, 0), adopted: None, is_broken: false, full: None });
        let (cpu, begin, random) = (0, Instant::now(), Random::new());
        Self { exporter, name, shared, counters, cpu, begin, random, disk, is_idle: true }
    }

    /// Exports until no more will come, and what there is then was tried once more.
    pub(super) fn run(mut self) {
        os::block_signals();
        be_own(Own::Sends);
        while let After::More = self.turn() {
            self.tell_disk();
        }
        self.abandon();
        self.tell_disk();
        self.shared.end();
    }

    /// One attempt, one wait, or one step to the disk.
    fn turn(&mut self) -> After {
        self.adopt();
        let shared = self.shared.clone();
        let kept = self.kept();
        let mut state = shared.lock();
        let (now, is_last) = (self.begin.elapsed(), state.closed.is_some());
        // Who waits for the end waits for a try at what was kept just before it as well.
        if !is_last || kept == 0 {
            state.answer();
        }
        if self.wants_disk(&state) {
            let (sets, number) = (state.queue.take(), state.queue.number());
            state.tell(&self.counters);
            drop(state);
            self.keep_all(sets, number);
            return After::More;
        }
        if (is_last || !state.asked.is_empty()) && !state.queue.hurry(now) {
            state.asked.clear();
            if is_last {
                return After::End;
            }
        }
        match state.queue.next(now) {
            Next::Attempt(set) => {
                drop(state);
                return self.send(&set, is_last);
            }
            Next::Idle if kept > 0 && state.closed.is_some_and(|closed| closed.elapsed() >= LAST) => {
                state.asked.clear();
                return After::End;
            }
            Next::Idle if kept > 0 && state.queue.rest(now).is_none() => {
                drop(state);
                return self.send_kept(is_last);
            }
            Next::Idle if is_last && kept == 0 => return After::End,
            Next::Idle | Next::Wait(_) if !self.is_idle => {
                drop(state);
                self.be_idle();
            }
            Next::Wait(pause) => drop(shared.changed.wait_timeout(state, pause)),
            Next::Idle => match state.queue.rest(now) {
                Some(pause) => drop(shared.changed.wait_timeout(state, pause)),
                None => drop(shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner)),
            },
        }
        After::More
    }

    /// Lets the exporter know that there is nothing to send for now, once.
    fn be_idle(&mut self) {
        // It may be the host's code.
        let _ = catch_unwind(AssertUnwindSafe(|| self.exporter.idle()));
        self.is_idle = true;
    }

    /// Whether what waits in memory is to go to disk now.
    fn wants_disk(&self, state: &State) -> bool {
        let Some(disk) = &self.disk else { return false };
        let is_time = state.closed.is_some() || (state.queue.is_away() && state.asked.is_empty());
        is_time && state.queue.len() > 0 && disk.full != Some(state.queue.number())
    }

    /// Tries to send a set of the queue.
    fn send(&mut self, set: &Arc<Set>, is_last: bool) -> After {
        let outcome = self.attempt(set);
        let (shared, chance) = (self.shared.clone(), self.chance());
        let (problem, is_vain) = match outcome {
            Outcome::Sent => {
                count(&self.counters, set);
                shared.lock().queue.done();
                (None, false)
            }
            Outcome::Lost(loss, error) => {
                lose(&self.counters, &self.name, loss, &error);
                self.after_loss(&mut shared.lock(), loss, chance);
                (None, loss == Loss::Unknown)
            }
            Outcome::Later(..) | Outcome::Cut(_) => {
                let rest = self.rest(set);
                let kept = matches!(self.keep(&rest), Kept::Yes);
                let mut state = shared.lock();
                match (kept, &outcome) {
                    (true, _) => state.queue.leave(),
                    (false, Outcome::Cut(_)) => {
                        state.queue.replace(rest);
                        state.queue.set_aside();
                    }
                    (false, _) => state.queue.replace(rest),
                }
                (self.after_failure(&mut state, outcome, chance), true)
            }
        };
        self.settle(&shared, problem, is_vain, is_last)
    }

    /// Tries to send the newest set that is on disk.
    fn send_kept(&mut self, is_last: bool) -> After {
        let (shared, chance) = (self.shared.clone(), self.chance());
        let Some(disk) = &mut self.disk else { return After::More };
        let (key, set) = match disk.spool.take() {
            Ok(Some(found)) => found,
            Ok(None) => return After::More,
            Err(error) => {
                self.broken(&error);
                let now = self.begin.elapsed();
                shared.lock().queue.failed(now, None, chance);
                return self.settle(&shared, None, true, is_last);
            }
        };
        let set = Arc::new(set);
        let outcome = self.attempt(&set);
        let (problem, is_vain) = match outcome {
            Outcome::Sent => {
                self.with_spool(|spool| spool.done(key));
                count(&self.counters, &set);
                shared.lock().queue.done();
                (None, false)
            }
            Outcome::Lost(loss, error) => {
                self.with_spool(|spool| spool.done(key));
                lose(&self.counters, &self.name, loss, &error);
                self.after_loss(&mut shared.lock(), loss, chance);
                (None, loss == Loss::Unknown)
            }
            Outcome::Later(..) | Outcome::Cut(_) => {
                let rest = self.rest(&set);
                if let Some(Err(error)) = self.with_spool(|spool| spool.put_back(key, &rest, rest == set)) {
                    self.broken(&error);
                }
                (self.after_failure(&mut shared.lock(), outcome, chance), true)
            }
        };
        self.settle(&shared, problem, is_vain, is_last)
    }

    /// What follows for the queue where a set is lost.
    fn after_loss(&self, state: &mut State, loss: Loss, chance: f64) {
        match loss {
            Loss::Unknown => state.queue.gone(self.begin.elapsed(), chance),
            // Nobody was asked.
            Loss::Expired => state.queue.leave(),
            Loss::Failed | Loss::Refused | Loss::Broken => state.queue.done(),
        }
    }

    /// What follows where a set is to be tried again; with what to say about it, the first time.
    fn after_failure(&self, state: &mut State, outcome: Outcome, chance: f64) -> Option<String> {
        let (error, after) = match outcome {
            Outcome::Later(error, after) => (error, after),
            Outcome::Cut(error) => (error, None),
            Outcome::Sent | Outcome::Lost(..) => return None,
        };
        self.counters.export_retries.fetch_add(1, Ordering::Relaxed);
        let problem = format!("a profile is tried again later, to {}: {error}", self.name);
        self.counters.problem(problem.clone());
        (state.queue.failed(self.begin.elapsed(), after, chance) == 1).then_some(problem)
    }

    /// After an attempt: those who wait have seen it, and the end has no time for another after one in vain.
    fn settle(&self, shared: &Shared, problem: Option<String>, is_vain: bool, is_last: bool) -> After {
        let mut state = shared.lock();
        // Who waits for the end, which came meanwhile, waits until the rest is on disk as well.
        if is_vain && (is_last || state.closed.is_none() || self.disk.is_none()) {
            state.asked.clear();
        }
        state.tell(&self.counters);
        drop(state);
        problem.iter().for_each(|problem| report::warn(problem));
        if is_vain && is_last { After::End } else { After::More }
    }

    /// What of a set is still to be sent. The next one that the exporter gets may be another, so that it forgets where it was.
    fn rest(&mut self, set: &Arc<Set>) -> Arc<Set> {
        let unsent = catch_unwind(AssertUnwindSafe(|| self.exporter.unsent(set)));
        let Ok((rest, lost)) = unsent else { return set.clone() };
        if let Some((loss, error)) = lost {
            lose(&self.counters, &self.name, loss, &error);
        }
        if rest == **set { set.clone() } else { Arc::new(rest) }
    }

    /// Puts a set on disk.
    fn keep(&mut self, set: &Set) -> Kept {
        match self.with_spool(|spool| spool.keep(set)) {
            Some(Ok(())) => Kept::Yes,
            Some(Err(error)) => {
                self.broken(&error);
                if error.kind() == std::io::ErrorKind::FileTooLarge { Kept::TooLarge } else { Kept::No }
            }
            None => Kept::No,
        }
    }

    /// Puts these on disk; those that it does not take wait in memory as before.
    fn keep_all(&mut self, sets: Vec<Waiting>, number: u64) {
        let mut left = Vec::new();
        let mut is_broken = false;
        for waiting in sets {
            match if is_broken { Kept::No } else { self.keep(&waiting.set) } {
                Kept::Yes => continue,
                // The next one may fit.
                Kept::TooLarge => {}
                Kept::No => is_broken = true,
            }
            left.push(waiting);
        }
        if let Some(disk) = &mut self.disk {
            disk.full = (!left.is_empty()).then_some(number);
        }
        let mut state = self.shared.lock();
        let evicted = state.queue.give_back(left);
        state.tell(&self.counters);
        drop(state);
        evict(&self.counters, &self.name, evicted);
    }

    fn with_spool<R>(&mut self, work: impl FnOnce(&mut Spool) -> R) -> Option<R> {
        let disk = self.disk.as_mut()?;
        let result = work(&mut disk.spool);
        Some(result)
    }

    fn adopt(&mut self) {
        let now = self.begin.elapsed();
        let Some(disk) = &mut self.disk else { return };
        if disk.adopted.is_some_and(|then| now.saturating_sub(then) < ADOPTION) {
            return;
        }
        disk.adopted = Some(now);
        if let Err(error) = disk.spool.adopt() {
            self.broken(&error);
        }
    }

    /// Sets that wait on disk.
    fn kept(&self) -> u64 {
        self.disk.as_ref().map_or(0, |disk| disk.spool.size().0)
    }

    /// Says that the disk does not do what it should, once.
    fn broken(&mut self, error: &std::io::Error) {
        let Some(disk) = &mut self.disk else { return };
        let problem = format!("profiles for {} cannot wait on disk (push_spool): {error}", self.name);
        if !std::mem::replace(&mut disk.is_broken, true) {
            report::warn(&problem);
        }
        self.counters.problem(problem);
    }

    /// Counts what has changed on disk.
    fn tell_disk(&mut self) {
        let Some(disk) = &mut self.disk else { return };
        let (sets, bytes) = disk.spool.size();
        let add = |to: &std::sync::atomic::AtomicU64, now: u64, told: u64| {
            to.fetch_add(now.wrapping_sub(told), Ordering::Relaxed);
        };
        add(&self.counters.spool_sets, sets, disk.told.0);
        add(&self.counters.spool_bytes, bytes, disk.told.1);
        disk.is_broken &= sets <= disk.told.0;
        disk.told = (sets, bytes);
        let Losses { evicted, expired, unreadable, unknown } = disk.spool.losses();
        evict(&self.counters, &self.name, evicted);
        for (counter, count, why) in [
            (&self.counters.export_expired, expired, "they are too old by now"),
            (&self.counters.export_unreadable, unreadable, "they could not be read back from disk"),
            (&self.counters.export_unknown, unknown, "they were being sent when their process ended"),
        ] {
            if count > 0 {
                counter.fetch_add(count, Ordering::Relaxed);
                give_up(&self.counters, count, &format!("to {}: {why}", self.name));
            }
        }
    }

    /// Nobody is left to try again.
    fn abandon(&mut self) {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        let count = state.queue.clear();
        state.tell(&self.counters);
        drop(state);
        if count > 0 {
            self.counters.export_unsent.fetch_add(count, Ordering::Relaxed);
            give_up(&self.counters, count, &format!("to {}: it could not be sent before the end", self.name));
        }
        let kept = self.kept();
        if kept > 0 {
            report::info(&format!("{kept} sets of profiles wait on disk for {}", self.name));
        }
    }

    fn attempt(&mut self, set: &Set) -> Outcome {
        self.is_idle = false;
        let outcome = attempt(&mut self.exporter, set);
        let cpu = Clock::Thread(gettid()).now().unwrap_or_default();
        self.counters.exporter_cpu.fetch_add(cpu.saturating_sub(self.cpu), Ordering::Relaxed);
        self.cpu = cpu;
        outcome
    }

    fn chance(&mut self) -> f64 {
        f64::from(self.random.below(1 << 16)) / f64::from(1 << 16)
    }
}

/// One call of the exporter, which is the host's code or ours.
pub(super) fn attempt(exporter: &mut Box<dyn Exporter>, set: &Set) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| exporter.attempt(set))).unwrap_or_else(|_| {
        Outcome::Lost(Loss::Failed, Error::new(ErrorKind::Internal, "the exporter panicked"))
    })
}

/// Counts what has arrived.
pub(super) fn count(counters: &Counters, set: &Set) {
    let bytes = set.profiles.iter().map(|profile| profile.bytes.len() as u64).sum();
    counters.sent(bytes);
}

pub(super) fn lose(counters: &Counters, name: &str, loss: Loss, error: &Error) {
    tally(counters, loss);
    tell(counters, format!("a profile was not exported to {name}: {error}"));
}

/// Counts what was lost.
pub(super) fn tally(counters: &Counters, loss: Loss) {
    let of_its_own = match loss {
        Loss::Refused => Some(&counters.export_refused),
        Loss::Expired => Some(&counters.export_expired),
        Loss::Unknown => Some(&counters.export_unknown),
        Loss::Broken => Some(&counters.export_broken),
        Loss::Failed => None,
    };
    of_its_own.map(|counter| counter.fetch_add(1, Ordering::Relaxed));
    counters.export_failures.fetch_add(1, Ordering::Relaxed);
}

/// Counts and tells what was given up for lack of room.
pub(super) fn evict(counters: &Counters, name: &str, count: u64) {
    if count > 0 {
        counters.export_evicted.fetch_add(count, Ordering::Relaxed);
        give_up(counters, count, &format!("to {name}: too much waits there already"));
    }
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
