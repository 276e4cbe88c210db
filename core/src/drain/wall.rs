//! The wall clock: what threads do while they do not run.
//!
//! Some times a second our thread looks at every other one. Its CPU clock says how much of the time since the last look
//! it ran, the scheduler's statistics how much of it it was ready and had no processor, and the rest it waited: where, is
//! told by its stack, taken from outside without a signal ([`everprof_probe::waiting`]). So every nanosecond of a thread's
//! life is told once, as running, ready or waiting, and only where it waited is left to chance: the place that a look
//! finds stands for the waiting since the look before.
//!
//! A thread whose clock stands still has not moved since the last look, so it is where it was, for the price of reading
//! one clock; and the longer it stands still, the less often it is read.
//!
//! Where the kernel does not tell enough, a thread is asked by a signal ([`ask`]), unless that is forbidden. It runs to
//! answer, and its clock moves. So what it waits between its answer and the next look is told only by the look after
//! that: if the clock stands still by then, it has not moved from the place that it told.

mod ask;
mod place;

use std::collections::HashMap;
use std::sync::Arc;

use everprof_probe::os::{self, Clock, gettid, monotonic};
use everprof_probe::ring::MAX_STACK_WORDS;
use everprof_probe::sample::Header;
use everprof_probe::waiting::Looker;

use super::random::Random;
use super::sampler::Sampler;
use crate::aggregate::{Key, Sums};
use crate::options::{Options, WallSignal};
use crate::profile::Kind;

use ask::{Asked, Questions};

pub(super) use ask::FIRST_NUMBER;

pub(super) use place::{Place, Seen, Why, name_of};

/// A thread that has waited for a time is looked at again after this part of it,
const LESS_OFTEN: u64 = 8;
/// and after this long at the latest, in nanoseconds.
const LEAST_OFTEN: u64 = 2_000_000_000;

/// Looks take this part of the processor time that everprof may use, and come less often rather than take more.
const PART_OF_BUDGET: f64 = 0.5;

/// A thread that was asked and has not answered for so long holds the signal back, or waits where none reaches it.
const PATIENCE: u64 = 1_000_000_000;
/// To answer, and to go back to its wait, takes a thread less than so many nanoseconds.
const ANSWERING: u64 = 1_000_000;

/// What the looks are taken with.
#[derive(Clone, Copy, Debug)]
pub(super) struct WallOptions {
    /// Whether there are looks also where nobody records.
    pub(super) always: bool,
    /// Nanoseconds between two looks.
    period: u64,
    /// Part of one processor.
    budget: f64,
    /// Whether threads may get a signal to tell where they are.
    pub(super) may_ask: bool,
}

impl WallOptions {
    /// As the options say.
    pub(super) fn of(options: &Options) -> Self {
        Self {
            always: options.kinds.iter().any(Kind::needs_looks),
            period: options.wall_rate_hz.period().as_nanos() as u64,
            budget: options.cpu_budget_percent.fraction(),
            may_ask: options.wall_signal == WallSignal::Auto,
        }
    }
}

/// Every thread as the last look found it.
#[derive(Debug)]
pub(super) struct Wall {
    looker: Looker,
    words: Vec<u64>,
    by_id: HashMap<u32, Watched>,
    /// Nanoseconds between two looks.
    period: u64,
    next: u64,
    /// So many nanoseconds pass for each that a look takes.
    rest_for_work: f64,
    /// When we began, and when the last round was.
    began: u64,
    last: u64,
    round: u32,
    /// This is the first round: what threads have done by now is not ours to tell.
    is_first: bool,
    random: Random,
    questions: Questions,
}

/// A thread between two looks. Times are in nanoseconds.
#[derive(Debug, Default)]
struct Watched {
    /// When the last look was, and when the next one is due.
    at: u64,
    due: u64,
    /// Since when its clock stands still.
    since: u64,
    /// What it had used of the processors at the last look, and how long it had been ready without one.
    used: u64,
    ready: u64,
    /// Time that it waited, at a place that no look has found yet. While a thread is in the queue for a processor, the
    /// kernel has not counted that yet, and this is too much by it; it is right again once the thread waits.
    pending: i64,
    /// Where it waits; none while it runs.
    place: Option<Place>,
    asked: Asked,
    /// It has run since it told its place, perhaps only to tell it.
    is_doubtful: bool,
    /// As it was last counted.
    name: Option<Arc<str>>,
    round: u32,
}

/// What a look has found out about the time since the one before.
#[derive(Debug, Default)]
struct Found {
    ready: u64,
    waited: u64,
}

impl Wall {
    /// Looks as often as the period says and the budget allows; `None` where there is no memory.
    pub(super) fn new(options: WallOptions) -> Option<Self> {
        let WallOptions { period, budget, may_ask, .. } = options;
        let now = monotonic();
        Some(Self {
            looker: Looker::new()?,
            words: vec![0; MAX_STACK_WORDS],
            by_id: HashMap::new(),
            period,
            next: now,
            rest_for_work: 1.0 / (budget * PART_OF_BUDGET),
            began: now,
            last: now,
            round: 0,
            is_first: true,
            random: Random::new(),
            questions: Questions::new(may_ask),
        })
    }

    /// Nanoseconds until the next look.
    pub(super) fn rest(&self) -> u64 {
        self.next.saturating_sub(monotonic())
    }

    /// Nanoseconds between two looks.
    pub(super) fn period(&self) -> u64 {
        self.period
    }

    /// The place of a thread, if it has used so much of the processors now as it had when it was found there.
    pub(super) fn place_of(&self, tid: u32, used: u64) -> Option<&Place> {
        let thread = self.by_id.get(&tid).filter(|thread| thread.used == used)?;
        thread.place.as_ref().filter(|place| place.is_final() && !place.is_unknown())
    }

    fn begin(&mut self, now: u64) {
        self.round = self.round.wrapping_add(1);
        // Not in step with anything that the host does by the clock.
        let jitter = self.random.below(self.period as u32);
        self.next = now + self.period / 2 + u64::from(jitter);
    }

    /// A look is over that took so many nanoseconds of our thread's time.
    fn end(&mut self, took: u64) {
        let rest = (took as f64 * self.rest_for_work) as u64;
        self.next = self.next.max(monotonic() + rest.min(LEAST_OFTEN));
        self.is_first = false;
    }

    /// Looks at one thread, if it is due or `anyway`.
    fn look(&mut self, tid: u32, now: u64, anyway: bool) -> Found {
        let thread = self.by_id.entry(tid).or_default();
        thread.round = self.round;
        if now < thread.due && !anyway {
            return Found::default();
        }
        let Some(used) = Clock::Thread(tid).now() else { return Found::default() };
        if used < thread.used {
            // Another thread has its id now.
            *thread = Watched { round: thread.round, ..Watched::default() };
        }
        // What threads did before the first look is not ours to tell; of others, all since their birth.
        let is_old = thread.at == 0 && self.is_first;
        if thread.at == 0 {
            let age = if is_old { 0 } else { os::standing(tid).map_or(0, |standing| standing.age) };
            thread.at = now.saturating_sub(age).max(self.began);
        }
        let (elapsed, ran) = (now.saturating_sub(thread.at), used.saturating_sub(thread.used));
        (thread.at, thread.used) = (now, used);
        if ran == 0 && thread.rests(now) {
            let gap = (now.saturating_sub(thread.since) / LESS_OFTEN).min(LEAST_OFTEN);
            thread.due = if gap > self.period { now + gap } else { 0 };
            thread.pending += elapsed as i64;
            return Found { ready: 0, waited: thread.settle() };
        }
        (thread.since, thread.due) = (now, 0);
        let ready = os::ready_time(tid).unwrap_or_default();
        let became_ready = ready.saturating_sub(thread.ready);
        thread.ready = ready;
        if is_old {
            thread.find(tid, &mut self.looker, &mut self.words, &mut self.questions);
            return Found::default();
        }
        thread.pending += elapsed as i64 - ran as i64 - became_ready as i64;
        if !thread.is_held(ran) {
            thread.find(tid, &mut self.looker, &mut self.words, &mut self.questions);
        }
        Found { ready: became_ready, waited: if thread.is_sure(now) { thread.settle() } else { 0 } }
    }

    /// A thread that was asked tells where it waits, or that it ran. What it waited until it was asked was there.
    fn answer(&mut self, header: &Header, words: &[u64]) -> Option<(Found, Place)> {
        let thread = self.by_id.get_mut(&header.tid)?;
        let Asked::Sent { number, hash, .. } = thread.asked else { return None };
        if u64::from(number) != header.weight {
            return None;
        }
        let outside = thread.place.take().filter(|place| !place.is_unknown());
        let told = Place::told(header, words);
        if let Some(told) = told.as_ref().filter(|_| outside.is_some()) {
            self.questions.answered(hash, told);
        }
        let place = match (told, outside) {
            (Some(told), Some(outside)) => Some(told.with_call_of(&outside)),
            (told, outside) => told.or(outside),
        };
        thread.asked = if place.is_some() { Asked::Answered } else { Asked::No };
        thread.place = place.clone();
        Some((Found { ready: 0, waited: thread.settle() }, place?))
    }

    /// Takes out the threads that have ended since the last round. One that waited when it was last seen waited on until
    /// some moment between the last round and this one.
    fn take_ended(&mut self, now: u64) -> Vec<(u32, Watched)> {
        let (round, last) = (self.round, std::mem::replace(&mut self.last, now));
        let mut ended: Vec<_> = self.by_id.extract_if(|_, thread| thread.round != round).collect();
        for (_, thread) in &mut ended {
            if thread.place.is_some() {
                let until = now.midpoint(last.max(thread.at));
                thread.pending += until.saturating_sub(thread.at) as i64;
            }
        }
        ended
    }
}

impl Watched {
    /// Whether it is where it was, if its clock stands still.
    fn rests(&mut self, now: u64) -> bool {
        self.is_doubtful = false;
        let rests = self.place.as_ref().is_some_and(Place::is_final) && self.is_sure(now);
        if rests && self.asked == Asked::Answered {
            self.asked = Asked::No;
        }
        rests
    }

    /// Whether what it waited is known to have been at its place.
    fn is_sure(&self, now: u64) -> bool {
        let is_open = matches!(self.asked, Asked::Sent { at, .. } if now.saturating_sub(at) < PATIENCE);
        self.place.is_some() && !is_open && !self.is_doubtful
    }

    /// Whether it is not to be looked at now, which has run for so many nanoseconds since the last look: it is asked and
    /// has not answered, or has answered, and ran for that.
    fn is_held(&mut self, ran: u64) -> bool {
        self.is_doubtful = false;
        match self.asked {
            Asked::No => false,
            Asked::Sent { at, .. } => self.at.saturating_sub(at) < PATIENCE,
            Asked::Answered => {
                self.asked = Asked::No;
                // If it does not run any more by the next look, it was there all the time.
                self.is_doubtful = ran < ANSWERING;
                self.is_doubtful
            }
        }
    }

    /// Finds out where it waits, or asks it.
    fn find(&mut self, tid: u32, looker: &mut Looker, words: &mut [u64], questions: &mut Questions) {
        self.place = match Place::seen(looker, tid, words) {
            Seen::Running => None,
            Seen::Waiting(place) => Some(place),
            Seen::Partly(place, why) => {
                self.asked = questions.ask(tid, &place, why, self.asked, self.at);
                Some(place)
            }
        };
    }

    /// What is to be told of the place that was found.
    fn settle(&mut self) -> u64 {
        let waited = self.pending.max(0);
        self.pending -= waited;
        waited as u64
    }
}

impl Sampler {
    /// Begins or ends the looks, as the options or the recordings at hand need them. True where they are as they must be.
    pub(super) fn switch_looks(&mut self) -> bool {
        let wanted = self.wall_options.always || self.recordings.need_looks();
        if !wanted {
            self.wall = None;
        } else if self.wall.is_none() {
            self.wall = Wall::new(self.wall_options);
            // What threads did before is nobody's business.
            self.look_around(true);
        }
        wanted == self.wall.is_some()
    }

    /// Looks at every thread that is due, or at all of them.
    pub(super) fn look_around(&mut self, at_all: bool) {
        let Some(mut wall) = self.wall.take() else { return };
        let (now, own) = (monotonic(), gettid());
        let used = || Clock::Thread(own).now().unwrap_or_default();
        let before = used();
        wall.begin(now);
        if wall.questions.are_open() {
            self.wall = Some(wall);
            self.drain();
            let Some(back) = self.wall.take() else { return };
            wall = back;
        }
        for tid in self.threads.ids() {
            if tid == own {
                continue;
            }
            let found = wall.look(tid, now, at_all);
            if let Some(thread) = wall.by_id.get_mut(&tid).filter(|_| found.ready > 0 || found.waited > 0) {
                thread.name = Some(self.threads.name(tid));
                self.count_wait(tid, thread.name.clone(), &found, thread.place.as_ref());
            }
        }
        for (tid, mut thread) in wall.take_ended(now) {
            let found = Found { ready: 0, waited: thread.settle() };
            let place = thread.place.unwrap_or_else(Place::unknown);
            self.count_wait(tid, thread.name, &found, Some(&place));
        }
        if let Some(news) = wall.questions.news() {
            self.trouble(news);
        }
        (self.stats.wall_signals, self.stats.wall_untold) = (wall.questions.sent, wall.questions.untold);
        wall.end(used().saturating_sub(before));
        self.wall = Some(wall);
    }

    /// A thread that was asked has answered.
    pub(super) fn count_answer(&mut self, header: &Header, words: &[u64]) {
        let Some(mut wall) = self.wall.take() else { return };
        if let Some((found, place)) = wall.answer(header, words) {
            self.count_wait(header.tid, None, &found, Some(&place));
        }
        self.wall = Some(wall);
    }

    /// Counts what thread `tid` did, under `name` or the one that it has now.
    fn count_wait(&mut self, tid: u32, name: Option<Arc<str>>, found: &Found, place: Option<&Place>) {
        if found.ready == 0 && found.waited == 0 {
            return;
        }
        let name = name.unwrap_or_else(|| self.threads.name(tid));
        let thread = self.thread_number(name, self.thread_ids.then_some(tid));
        if found.ready > 0 {
            *self.ready.entry(thread).or_default() += found.ready;
        }
        let Some(place) = place.filter(|_| found.waited > 0) else { return };
        // A thread that waits keeps the modules of its stack where they are.
        let key = Key {
            stack: self.stack(self.modules.epoch(), &place.words),
            thread,
            labels: self.label_set(place.labels),
            unclaimed: false,
            trace_id: place.trace.0,
            span_id: place.trace.1,
        };
        self.sums.add_wait(key, place.waited, Sums { count: 1, nanos: found.waited });
    }
}
