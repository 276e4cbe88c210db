//! Snapshots: every live thread once, with its name, its state and its stack.
//!
//! Our thread. Nobody is stopped: of a thread that waits the stack is taken from outside, as the wall clock does
//! ([`super::wall`]), and what was found there or by a snapshot before counts again while the thread's CPU clock stands
//! still. A thread that runs is asked by a signal, unless that is forbidden (`wall_signal`), and tells its own stack while
//! we look at the others; one that does not answer in time is there with its name, its state and a mark.
//!
//! Those who ask at the same time get the same snapshot, and snapshots take no more than a part of a processor.

mod looks;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Duration;

use everprof_probe::os::{Clock, gettid, monotonic};
use everprof_probe::sample::{CALL_WORDS, Header, Trace};
use everprof_probe::sigprof;
use everprof_probe::waiting::TOGETHER;

use super::close::Cut;
use super::fleet::Work;
use super::handle::PATIENCE;
use super::period::Period;
use super::publish::Job;
use super::sampler::Sampler;
use super::setup::wall_clock;
use super::tasks;
use super::wall::{FIRST_NUMBER, FIRST_QUEUED, Place};
use crate::aggregate::{Aggregate, Key, Waited};
use crate::error::{Error, ErrorKind, Result};
use crate::labels;
use crate::profile::{Kind, Profile};

use looks::{Looks, Seen};

/// The directory of threads is read in pieces, and threads that end meanwhile make the kernel skip others: so often it is
/// read again.
const ROUNDS: u32 = 3;
/// Threads that were met no longer ago than this may have got their names since.
const YOUNG: u64 = 2_000_000_000;
/// How long to wait for threads that run to tell their stacks, in nanoseconds, and how long at a time.
const ANSWERING: u64 = 5_000_000;
const NAP: Duration = Duration::from_micros(100);
/// A question that was not answered for so long is asked again, in nanoseconds, where signals do not pile up.
const LOST_AFTER: u64 = 2_000_000_000;
/// So many may wait for the next one.
const MOST_WAITING: usize = 1_000;
/// So many may wait for their names before the next one is taken, and how long to wait then, in nanoseconds.
const MOST_UNNAMED: u64 = 2;
const PAUSE: u64 = 5_000_000;
/// Snapshots take this part of a processor at most.
const SHARE: u64 = 10;
/// What is kept of a snapshot for the next one is given back after so long, in nanoseconds.
const KEPT_FOR: u64 = 150_000_000_000;

/// What a thread was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It ran.
    OnCpu,
    /// It was ready to run and had no processor.
    Runnable,
    /// It waited, and there.
    OffCpu(Waited),
}

/// One thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Of the snapshot's sums; where there is no stack, its place means nothing.
    pub(super) key: Key,
    pub(super) has_stack: bool,
    pub(super) state: State,
}

/// All threads at one moment.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// What is needed to name them; its sums hold the stacks and the labels alone.
    pub(super) names: Period,
    pub(super) rows: Vec<Row>,
    /// The thread that took it.
    pub(super) own: u32,
}

/// Who waits for a snapshot, and what is kept for the next.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    waiting: Vec<(u64, Sender<Result<Arc<Profile>>>)>,
    /// When the next one may be, and when the last one was, on the monotonic clock.
    next: u64,
    last: u64,
    looks: Option<Looks>,
    /// The number of the questions of this snapshot.
    number: u32,
    /// Threads that were asked and have not answered, with the number and the time.
    asked: HashMap<u32, (u32, u64)>,
    /// What the threads have told that were asked by this snapshot.
    told: HashMap<u32, (Header, Box<[u64]>)>,
}

impl Snapshots {
    /// How long to sleep at most: somebody may wait for a snapshot.
    pub(super) fn rest(&self) -> Duration {
        if self.waiting.is_empty() {
            return Duration::MAX;
        }
        Duration::from_nanos(self.next.saturating_sub(monotonic()))
    }

    /// Whether this is an answer to a question of a snapshot, perhaps of an old one.
    pub(super) fn answered(&mut self, header: &Header, words: &[u64]) -> bool {
        if header.weight < u64::from(FIRST_NUMBER) {
            return false;
        }
        self.asked.remove(&header.tid);
        if header.weight == u64::from(self.number) {
            self.told.insert(header.tid, (*header, words.into()));
        }
        true
    }

    /// Asks a thread that runs for its stack. One that holds the signal back has it already; but a question gets lost
    /// where the thread's timer has just sent the same signal, and an answer where it finds no room.
    fn ask(&mut self, tid: u32) {
        let now = monotonic();
        let is_lost = |at: u64| sigprof::signal() < FIRST_QUEUED && now.saturating_sub(at) > LOST_AFTER;
        if self.asked.get(&tid).is_none_or(|(_, at)| is_lost(*at)) && sigprof::ask(tid, self.number) {
            self.asked.insert(tid, (self.number, now));
        }
    }

    /// Whether threads have not answered this snapshot.
    fn are_open(&self) -> bool {
        self.asked.values().any(|(number, _)| *number == self.number)
    }
}

impl Sampler {
    /// Somebody wants a snapshot.
    pub(super) fn ask_for_snapshot(&mut self, named: Sender<Result<Arc<Profile>>>) {
        if self.snapshots.waiting.len() >= MOST_WAITING {
            let message = format!("{MOST_WAITING} others wait for a snapshot already: try again later");
            let _ = named.send(Err(Error::new(ErrorKind::Unavailable, message)));
            return;
        }
        self.snapshots.waiting.push((monotonic(), named));
    }

    /// Takes the snapshot that somebody waits for, if it is time for one.
    pub(super) fn serve_snapshots(&mut self) {
        let now = monotonic();
        if self.snapshots.waiting.is_empty() {
            if self.snapshots.looks.is_some() && now.saturating_sub(self.snapshots.last) > KEPT_FOR {
                self.snapshots.looks = None;
            }
            return;
        }
        if now < self.snapshots.next {
            return;
        }
        let unnamed = self.counters.snapshots.load(Ordering::Relaxed);
        if unnamed >= MOST_UNNAMED || self.is_publisher_behind() {
            // Who has waited for so long does not any more.
            self.snapshots.waiting.retain(|(since, _)| now - since < PATIENCE.as_nanos() as u64);
            self.snapshots.next = now + PAUSE;
            return;
        }
        let waiting = std::mem::take(&mut self.snapshots.waiting);
        let waiting: Vec<_> = waiting.into_iter().map(|(_, named)| named).collect();
        // Threads tell the ids of label sets, which have to be there until they are looked up.
        let rests = self.work == Work::Idle;
        if rests {
            labels::set_sampling(true);
        }
        let snapshot = self.snapshot();
        if rests {
            labels::set_sampling(false);
        }
        match snapshot {
            Some(snapshot) => {
                self.counters.snapshots.fetch_add(1, Ordering::Relaxed);
                self.publish(Job::Snapshot(Box::new(snapshot), waiting));
            }
            None => waiting.iter().for_each(|named| _ = named.send(Err(no_memory()))),
        }
    }

    /// Takes the snapshot of a period that ends, if one is wanted.
    pub(super) fn snapshot_of_period(&mut self, cut: Cut) {
        if !cut.is_end() || !self.kinds.contains(Kind::Threads) || self.is_publisher_stuck() {
            return;
        }
        if let Some(snapshot) = self.snapshot() {
            self.counters.snapshots.fetch_add(1, Ordering::Relaxed);
            self.publish(Job::Snapshot(Box::new(snapshot), Vec::new()));
        }
    }

    /// Every thread that lives, once; `None` where there is no memory for it.
    fn snapshot(&mut self) -> Option<Snapshot> {
        let mut looks = match self.snapshots.looks.take() {
            Some(looks) => looks,
            None => Looks::new()?,
        };
        let own = gettid();
        let used = || Clock::Thread(own).now().unwrap_or_default();
        let (before, begin) = (used(), monotonic());
        self.modules.update();
        self.snapshots.number = FIRST_NUMBER | (self.snapshots.number + 1) & (FIRST_NUMBER - 1);
        self.snapshots.told.clear();
        let mut shot = Shot { snapshot: Snapshot { own, ..Snapshot::default() }, ..Shot::default() };
        shot.snapshot.names.sums = Aggregate::telling(self.hook_options.traces);
        shot.snapshot.names.time_nanos = wall_clock();
        for round in 0..ROUNDS {
            let links = tasks::links();
            // Where as many live as are known, and each of these is found living, there are no others: to read the
            // directory takes as long as a hundred looks.
            if round > 0 || tasks::count(links) != Some(self.threads.counts().0) {
                self.threads.meet_new();
            }
            self.threads.take_names();
            self.threads.rename(begin.saturating_sub(YOUNG));
            let mut any_gone = false;
            // In the order in which they were made: so they lie in the kernel's memory.
            let mut threads = self.threads.named();
            threads.retain(|(tid, _)| !shot.has_seen(*tid));
            shot.seen.extend(threads.iter().map(|(tid, _)| *tid));
            shot.seen.sort_unstable();
            for some in threads.chunks(TOGETHER) {
                any_gone |= self.see(&mut looks, &mut shot, some);
            }
            if !any_gone && tasks::links() == links {
                break;
            }
        }
        self.hear(&mut looks, &mut shot);
        looks.keep_only(|tid| shot.has_seen(tid));
        let snapshots = &mut self.snapshots;
        snapshots.asked.retain(|tid, _| shot.has_seen(*tid));
        snapshots.looks = Some(looks);
        snapshots.last = monotonic();
        // To wait for answers costs nothing.
        let took = (used() - before).min(snapshots.last - begin);
        snapshots.next = snapshots.last + took * (SHARE - 1);
        let mut snapshot = shot.snapshot;
        (snapshot.names.first_epoch, snapshot.names.epochs) = self.modules.now();
        Some(snapshot)
    }

    /// Looks at some threads; true where one has ended.
    fn see(&mut self, looks: &mut Looks, shot: &mut Shot, some: &[(u32, Arc<str>)]) -> bool {
        let own = shot.snapshot.own;
        let mut any_gone = false;
        let mut running = Vec::new();
        let tids: Vec<u32> = some.iter().map(|(tid, _)| *tid).filter(|tid| *tid != own).collect();
        let name_of = |tid| some.iter().find(|(known, _)| *known == tid).map(|(_, name)| name.clone());
        let (wall, epoch) = (self.wall.as_ref(), self.modules.epoch());
        let known = |tid, used| wall?.place_of(tid, used).cloned();
        looks.see(&tids, known, |tid, seen| match seen {
            Seen::Gone => any_gone = true,
            Seen::Waiting(place) => shot.add_waiting(name_of(tid).unwrap_or_default(), tid, epoch, &place),
            Seen::Running { on_cpu } => {
                running.push((tid, if on_cpu { State::OnCpu } else { State::Runnable }))
            }
        });
        if let Some((_, name)) = some.iter().find(|(tid, _)| *tid == own) {
            shot.add(name.clone(), own, State::OnCpu, None);
        }
        for (tid, _) in &running {
            let is_asked = self.wall.as_ref().is_some_and(|wall| wall.is_asking(*tid));
            if self.wall_options.may_ask && !is_asked {
                if let Some(wall) = &mut self.wall {
                    wall.spare(*tid);
                }
                self.snapshots.ask(*tid);
            }
        }
        shot.running.extend(running);
        any_gone
    }

    /// Hears what the threads tell that run, as long as there is time.
    fn hear(&mut self, looks: &mut Looks, shot: &mut Shot) {
        let until = monotonic() + ANSWERING;
        self.drain();
        while self.snapshots.are_open() && monotonic() < until {
            std::thread::sleep(NAP);
            self.drain();
        }
        for (tid, state) in std::mem::take(&mut shot.running) {
            let name = self.threads.name(tid);
            if let Some((header, words)) = self.snapshots.told.remove(&tid) {
                let words = words.get(CALL_WORDS..).unwrap_or_default();
                let stack = Stack { words, labels: header.labels, trace: header.trace };
                shot.add(name, tid, state, Some((self.modules.epoch_of(header.generation), stack)));
                continue;
            }
            // It may have begun to wait.
            let epoch = self.modules.epoch();
            looks.see(
                &[tid],
                |_, _| None,
                |_, seen| match seen {
                    Seen::Gone => {}
                    Seen::Waiting(place) => shot.add_waiting(name.clone(), tid, epoch, &place),
                    Seen::Running { .. } => shot.add(name.clone(), tid, state, None),
                },
            );
        }
    }
}

/// A snapshot in the making.
#[derive(Default)]
struct Shot {
    snapshot: Snapshot,
    /// Whom it has looked at, in order.
    seen: Vec<u32>,
    /// Threads that run, which were asked for their stacks.
    running: Vec<(u32, State)>,
}

/// What was found on a thread.
struct Stack<'a> {
    words: &'a [u64],
    labels: u32,
    trace: Trace,
}

impl Shot {
    fn has_seen(&self, tid: u32) -> bool {
        self.seen.binary_search(&tid).is_ok()
    }

    fn add_waiting(&mut self, name: Arc<str>, tid: u32, epoch: u32, place: &Place) {
        let stack = Stack { words: &place.words, labels: place.labels, trace: place.trace };
        self.add(name, tid, State::OffCpu(place.waited), Some((epoch, stack)));
    }

    /// Adds a thread, with its stack and the epoch that this is of.
    fn add(&mut self, name: Arc<str>, tid: u32, state: State, stack: Option<(u32, Stack<'_>)>) {
        let Snapshot { names, rows, .. } = &mut self.snapshot;
        let sums: &mut Aggregate = &mut names.sums;
        let mut key = Key { thread: names.threads.len() as u32, ..Key::default() };
        names.threads.push((name, Some(tid)));
        let mut has_stack = false;
        if let Some((epoch, stack)) = stack {
            let place = sums.intern_stack(epoch, stack.words);
            (has_stack, key.stack) = (place.is_some(), place.unwrap_or_default());
            let set = if stack.labels == 0 { None } else { labels::resolve(stack.labels) };
            key.labels = set.map_or(0, |set| sums.intern_labels(set));
            key.trace = sums.intern_trace(stack.trace);
        }
        rows.push(Row { key, has_stack, state });
    }
}

fn no_memory() -> Error {
    Error::new(ErrorKind::Unsupported, "there is no memory to look at threads")
}
