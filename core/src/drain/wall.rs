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
mod met;
mod place;
mod watched;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use everprof_probe::os::{self, Clock, gettid, monotonic};
use everprof_probe::ring::MAX_STACK_WORDS;
use everprof_probe::sample::Header;
use everprof_probe::waiting::Looker;

use super::awaits::Awaits;
use super::random::Random;
use super::sampler::Sampler;
use super::threads::Census;
use crate::aggregate::{Key, Sums};
use crate::options::{Kinds, Options, WallSignal};
use crate::profile::Kind;
use crate::recorder;

use ask::{Asked, Questions};
use met::Sought;
use watched::{Found, LEAST_OFTEN, Spared, Watched, With};

pub(super) use ask::{FIRST_NUMBER, FIRST_QUEUED};

pub(super) use place::{Place, Seen, Why, name_of};

/// A look takes this part of the processor time that everprof may use, at once, and the next one waits rather than take more.
/// What all kinds cost together is the governor's, which makes their distances longer.
const PART_OF_BUDGET: f64 = 0.5;

/// To look at threads that have just come may take this part of a processor.
const CHURNING_SHARE: u64 = 100;
/// and one that has come waits no longer than this for its first look.
const LONGEST_UNSEEN: u64 = 100_000_000;

/// We sleep no longer than we mean to by so many nanoseconds, unless there is no processor for us, or nobody runs.
const OVERSLEPT: u64 = 250_000_000;
/// What our own thread had to wait for a processor is read again after this long.
const RENEWED: u64 = 1_000_000_000;

/// What the looks are taken with.
#[derive(Clone, Copy, Debug)]
pub(super) struct WallOptions {
    /// Whether there are looks also where nobody records.
    pub(super) always: bool,
    /// Nanoseconds between two looks.
    pub(super) period: u64,
    /// Part of one processor.
    budget: f64,
    /// Whether threads may get a signal to tell where they are.
    pub(super) may_ask: bool,
    /// Whether the waits of tasks are told as well.
    pub(super) awaits: bool,
}

impl WallOptions {
    /// As the options say, while these kinds are taken.
    pub(super) fn of(options: &Options, kinds: &Kinds) -> Self {
        Self {
            always: kinds.iter().any(Kind::needs_looks),
            period: options.wall_rate_hz.period().as_nanos() as u64,
            budget: options.cpu_budget_percent.fraction(),
            may_ask: options.wall_signal == WallSignal::Auto,
            awaits: options.async_waits,
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
    /// When all threads were known and looked at, and when a round was that came when it was due.
    sought: u64,
    by_clock: u64,
    /// All that live are known at the round at hand.
    are_known: bool,
    /// How long our own thread had been ready and had no processor not long ago, and when that was.
    own_ready: u64,
    own_ready_at: u64,
    /// Threads to be looked at in each round; and those that have not moved for a while, by when they are due.
    awake: Vec<u32>,
    asleep: BinaryHeap<Reverse<(u64, u32)>>,
    /// How many threads had come and gone when new ones were looked for.
    turnover: u64,
    /// New ones are looked for no sooner than this.
    next_new: u64,
    round: u32,
    /// This is the first round: what threads have done by now is not ours to tell.
    is_first: bool,
    random: Random,
    questions: Questions,
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
            sought: now,
            by_clock: now,
            are_known: true,
            own_ready: os::ready_time(gettid()).unwrap_or_default(),
            own_ready_at: now,
            awake: Vec::new(),
            asleep: BinaryHeap::new(),
            turnover: 0,
            next_new: now,
            round: 0,
            is_first: true,
            random: Random::new(),
            questions: Questions::new(may_ask),
        })
    }

    /// Looks as often as these say from now on: what a look stands for is measured, not reckoned.
    fn set(&mut self, options: WallOptions) {
        self.period = options.period;
        self.rest_for_work = 1.0 / (options.budget * PART_OF_BUDGET);
    }

    /// Nanoseconds until the next look; where `calm`, until one that somebody is due at.
    pub(super) fn rest(&self, calm: bool) -> u64 {
        let due =
            self.asleep.peek().filter(|_| calm && self.awake.is_empty()).map_or(0, |Reverse((at, _))| *at);
        self.next.max(due).saturating_sub(monotonic())
    }

    /// Whether it is time for a look, or threads have come or gone since the last one.
    pub(super) fn is_due(&self, calm: bool, turnover: u64) -> bool {
        self.rest(calm) == 0 || turnover != self.turnover && monotonic() >= self.next_new
    }

    /// No question is to interrupt thread `tid` in the wait at hand: it got another signal, or is about to.
    pub(super) fn spare(&mut self, tid: u32) {
        self.by_id.entry(tid).or_default().spared = Spared::Signalled;
    }

    /// Whether thread `tid` was asked, and has not run by itself since.
    pub(super) fn is_asking(&self, tid: u32) -> bool {
        self.by_id.get(&tid).is_some_and(|thread| thread.asked != Asked::No)
    }

    /// Nanoseconds between two looks.
    pub(super) fn period(&self) -> u64 {
        self.period
    }

    /// The place of a thread, if it has used so much of the processors now as it had when it was found there.
    pub(super) fn place_of(&self, tid: u32, used: u64) -> Option<&Place> {
        let thread = self.by_id.get(&tid).filter(|thread| thread.used == used && !thread.is_over)?;
        thread.place.as_ref().filter(|place| place.is_final() && !place.is_unknown())
    }

    /// Begins a round, which where it `is_early` leaves the time of the next one as it is.
    fn begin(&mut self, now: u64, is_early: bool) {
        self.round = self.round.wrapping_add(1);
        if is_early {
            return;
        }
        // Not in step with anything that the host does by the clock.
        let jitter = self.random.below(self.period as u32);
        self.next = now + self.period / 2 + u64::from(jitter);
    }

    /// A look is over that took so many nanoseconds of our thread's time.
    fn end(&mut self, took: u64, is_early: bool) {
        let rest = (took as f64 * self.rest_for_work) as u64;
        let end = monotonic();
        self.next = self.next.max(end + rest.min(LEAST_OFTEN));
        // Threads that come and go are worth one per cent, as to meet them is: lives that no look sees are told by nothing.
        if is_early {
            self.next_new = end + took.saturating_mul(CHURNING_SHARE).min(LONGEST_UNSEEN);
        }
        self.is_first = false;
        if self.last.saturating_sub(self.own_ready_at) > RENEWED {
            self.own_ready = os::ready_time(gettid()).unwrap_or_default();
            self.own_ready_at = self.last;
        }
    }

    /// For how long nobody has run, if our thread slept `slept` nanoseconds instead of `meant`: a process that is stopped
    /// is not ready to run either, which tells this from a machine that had no processor for us.
    fn stopped_for(&self, slept: u64, meant: u64) -> u64 {
        let late = slept.saturating_sub(meant);
        if late < OVERSLEPT {
            return 0;
        }
        let ready = os::ready_time(gettid()).unwrap_or(u64::MAX).saturating_sub(self.own_ready);
        if ready > late / 4 { 0 } else { late }
    }

    /// Of `all` that live, those that were not known; they all are of this round.
    fn newcomers(&mut self, mut all: Vec<u32>) -> Vec<u32> {
        all.retain(|tid| match self.by_id.get_mut(tid) {
            Some(known) => {
                known.round = self.round;
                known.at == 0
            }
            None => true,
        });
        all
    }

    /// Whom to look at now: of `all`, if they are given, or of those that are due.
    fn whom(&mut self, all: Option<Vec<u32>>, now: u64) -> Vec<u32> {
        let awake = std::mem::take(&mut self.awake);
        if let Some(all) = all {
            self.asleep.clear();
            return all;
        }
        let mut due = awake;
        while let Some(Reverse((at, tid))) = self.asleep.peek().copied().filter(|Reverse((at, _))| *at <= now)
        {
            self.asleep.pop();
            // Of one that was looked at in between, an older entry may be left.
            let is_due = self.by_id.get(&tid).is_some_and(|thread| thread.due == at);
            due.extend(is_due.then_some(tid));
        }
        due
    }

    /// Looks at one thread; `to_tell` what is known of it by then, and not only what is new.
    fn look(&mut self, tid: u32, sought: &Sought, now: u64, to_tell: bool, is_announced: bool) -> Found {
        let Self { by_id, looker, words, questions, round, period, .. } = self;
        let thread = by_id.entry(tid).or_default();
        thread.round = *round;
        let with = With { looker, words, questions, now, to_tell, period: *period, is_announced };
        let found = thread.look(tid, with, sought);
        match thread.due {
            0 if !found.is_end => self.awake.push(tid),
            at if !found.is_end => self.asleep.push(Reverse((at, tid))),
            _ => {}
        }
        found
    }

    /// A thread that was asked tells where it waits, or that it ran. What it waited until it was asked was there.
    fn answer(&mut self, header: &Header, words: &[u64]) -> Option<(Found, Place)> {
        let thread = self.by_id.get_mut(&header.tid)?;
        let Asked::Sent { number, hash, .. } = thread.asked else { return None };
        if u64::from(number) != header.weight {
            return None;
        }
        thread.unsettle();
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
        // Where it ran, the next place that is found will have it.
        let place = place?;
        Some((Found { waited: thread.settle(), ..Found::default() }, place))
    }

    /// Takes out thread `tid`, which has ended since the last round.
    fn take_ended(&mut self, tid: u32, now: u64) -> Option<Watched> {
        let mut thread = self.by_id.remove(&tid)?;
        thread.end(self.sought, now);
        Some(thread)
    }

    /// Those that were not looked at in a round in which all were.
    fn left_out(&self) -> Vec<u32> {
        let left = self.by_id.iter().filter(|(_, thread)| thread.round != self.round);
        left.map(|(tid, _)| *tid).collect()
    }
}

impl Sampler {
    /// Begins or ends the looks, as the options or the recordings at hand need them. True where they are as they must be.
    pub(super) fn switch_looks(&mut self) -> bool {
        let wanted = self.wall_options.always || self.recordings.need_looks();
        if !wanted {
            (self.wall, self.awaits) = (None, None);
        } else if self.wall.is_none() {
            self.wall = Wall::new(self.wall_options);
            self.awaits = if self.wall_options.awaits { Awaits::begin() } else { None };
            // What threads did before is nobody's business.
            self.look_around(true);
        }
        recorder::want_waits(self.wall.is_some());
        wanted == self.wall.is_some()
    }

    /// Brings the time between two looks to what the governor says.
    pub(super) fn apply_looks(&mut self) {
        self.wall_options.period = self.governor.looks();
        let options = self.wall_options;
        self.wall.iter_mut().for_each(|wall| wall.set(options));
    }

    /// Looks at threads if it is time to; `census` says whether all that live are known.
    pub(super) fn look_if_due(&mut self, census: Census, calm: bool) {
        let mut census = census;
        // As many as before live, and one of them does not: then somebody is in its place.
        if self.look_once_if_due(census, calm) && census == Census::Counted {
            census = self.threads.update_again();
            self.look_once_if_due(census, calm);
        }
        if let Some(wall) = &mut self.wall
            && census != Census::Unknown
            && wall.turnover == self.threads.turnover()
        {
            // Who was born since is not known.
            wall.sought = self.threads.census_at();
        }
    }

    /// The same; true where a thread has ended.
    fn look_once_if_due(&mut self, census: Census, calm: bool) -> bool {
        let Some(wall) = &mut self.wall else { return false };
        wall.are_known = census != Census::Unknown;
        wall.is_due(calm, self.threads.turnover()) && self.look_around(false)
    }

    /// Looks at every thread that is due, or at all of them. True where one has ended that was due.
    pub(super) fn look_around(&mut self, at_all: bool) -> bool {
        let Some(mut wall) = self.wall.take() else { return false };
        let (now, own) = (monotonic(), gettid());
        let used = || Clock::Thread(own).now().unwrap_or_default();
        let before = used();
        let turnover = self.threads.turnover();
        let any_new = std::mem::replace(&mut wall.turnover, turnover) != turnover;
        let is_full = at_all || wall.is_first;
        // The others are looked at when it is time, however often threads come and go.
        let is_early = !is_full && any_new && wall.next > now;
        wall.begin(now, is_early);
        if wall.questions.are_open() {
            self.wall = Some(wall);
            self.drain();
            let Some(back) = self.wall.take() else { return false };
            wall = back;
        }
        let sought = Sought {
            began: wall.began,
            is_first: wall.is_first,
            last: wall.sought,
            by_clock: wall.by_clock,
            is_by_clock: !is_early,
            is_search: at_all || wall.are_known,
            census: self.threads.census_at(),
        };
        let mut ended = Vec::new();
        let all = (is_full || any_new).then(|| self.threads.ids());
        let whom = if is_early { wall.newcomers(all.unwrap_or_default()) } else { wall.whom(all, now) };
        for tid in whom {
            if tid == own {
                continue;
            }
            if self.threads.was_discovered(tid) && !wall.by_id.contains_key(&tid) {
                wall.spare(tid);
            }
            let found = wall.look(tid, &sought, now, at_all, self.threads.was_announced(tid));
            if found.is_end {
                ended.push(tid);
            } else if let Some(thread) = wall.by_id.get_mut(&tid) {
                // At each look: one that was met before it had its name may wait until it ends, and is told by this one then.
                thread.name = Some(self.threads.name(tid));
                self.count_wait(tid, thread.name.clone(), &found, thread.place.as_ref());
            }
        }
        let any_ended = !ended.is_empty();
        if is_full || any_new {
            ended.extend(wall.left_out());
        }
        for tid in ended {
            let Some(mut thread) = wall.take_ended(tid, now) else { continue };
            let found = Found { waited: thread.settle(), ..Found::default() };
            let place = thread.last_place();
            self.count_wait(tid, thread.name, &found, Some(&place));
        }
        wall.last = now;
        if !is_early {
            wall.by_clock = now;
        }
        if let Some(news) = wall.questions.news() {
            self.trouble(news);
        }
        (self.stats.wall_signals, self.stats.wall_untold) = (wall.questions.sent, wall.questions.untold);
        wall.end(used().saturating_sub(before), is_early);
        self.wall = Some(wall);
        any_ended
    }

    /// We slept so many nanoseconds and meant to sleep `meant`. Where the whole process was stopped meanwhile, that is what
    /// its threads waited for, wherever they were.
    pub(super) fn slept(&mut self, slept: u64, meant: u64) {
        let Some(mut wall) = self.wall.take() else { return };
        let stopped = wall.stopped_for(slept, meant);
        if stopped > 0 {
            // Nobody was born meanwhile.
            wall.sought += stopped;
            wall.by_clock += stopped;
            for (tid, thread) in wall.by_id.iter_mut().filter(|(_, thread)| thread.at != 0) {
                thread.at += stopped;
                let place = thread.place.clone().unwrap_or_else(Place::unknown).stopped();
                let found = Found { waited: stopped, ..Found::default() };
                self.count_wait(*tid, thread.name.clone(), &found, Some(&place));
            }
        }
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
        if !found.is_any() {
            return;
        }
        let name = name.unwrap_or_else(|| self.threads.name(tid));
        let thread = self.thread_number(name, self.thread_ids.then_some(tid));
        if found.ready > 0 {
            *self.ready.entry(thread).or_default() += found.ready;
        }
        if let Some((nanos, place)) = &found.rested {
            self.count_wait_at(place, thread, *nanos);
        }
        if let Some(place) = place.filter(|_| found.waited > 0) {
            self.count_wait_at(place, thread, found.waited);
        }
    }

    fn count_wait_at(&mut self, place: &Place, thread: u32, nanos: u64) {
        // A thread that waits keeps the modules of its stack where they are.
        let key = Key {
            stack: self.stack(self.modules.epoch(), &place.words),
            thread,
            labels: self.label_set(place.labels),
            unclaimed: false,
            trace: self.sums.intern_trace(place.trace),
        };
        self.sums.add_wait(key, place.waited, Sums { count: 1, nanos });
    }
}
