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

use std::collections::HashMap;

use everprof_probe::os::{self, Clock, WaitFor, gettid, monotonic};
use everprof_probe::ring::MAX_STACK_WORDS;
use everprof_probe::sample::missing;
use everprof_probe::unwind::{self, End};
use everprof_probe::waiting::{Look, Looker};

use super::random::Random;
use super::sampler::Sampler;
use crate::aggregate::{Key, Sums, Waited};
use crate::options::Options;
use crate::profile::Kind;

/// A thread that has waited for a time is looked at again after this part of it,
const LESS_OFTEN: u64 = 8;
/// and after this long at the latest, in nanoseconds.
const LEAST_OFTEN: u64 = 2_000_000_000;

/// Looks take this part of the processor time that everprof may use, and come less often rather than take more.
const PART_OF_BUDGET: f64 = 0.5;

/// What the looks are taken with.
#[derive(Clone, Copy, Debug)]
pub(super) struct WallOptions {
    /// Whether there are looks also where nobody records.
    pub(super) always: bool,
    /// Nanoseconds between two looks.
    period: u64,
    /// Part of one processor.
    budget: f64,
}

impl WallOptions {
    /// As the options say.
    pub(super) fn of(options: &Options) -> Self {
        Self {
            always: options.kinds.iter().any(Kind::needs_looks),
            period: options.wall_rate_hz.period().as_nanos() as u64,
            budget: options.cpu_budget_percent.fraction(),
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
    round: u32,
    random: Random,
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
    round: u32,
}

/// Where a thread waits.
#[derive(Clone, Debug, Default)]
struct Place {
    words: Box<[u64]>,
    labels: u32,
    trace: (u128, u64),
    waited: Waited,
    /// Where the stack is not whole: the tables that it was walked with. With others it may be.
    walked_with: Option<u32>,
}

impl Place {
    /// Whether another look would show the same.
    fn is_final(&self) -> bool {
        self.walked_with.is_none_or(|tables| tables == unwind::generation())
    }
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
        let WallOptions { period, budget, .. } = options;
        Some(Self {
            looker: Looker::new()?,
            words: vec![0; MAX_STACK_WORDS],
            by_id: HashMap::new(),
            period,
            next: monotonic(),
            rest_for_work: 1.0 / (budget * PART_OF_BUDGET),
            round: 0,
            random: Random::new(),
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
        let round = self.round;
        self.by_id.retain(|_, thread| thread.round == round);
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
        let is_new = thread.at == 0;
        let (elapsed, ran) = (now.saturating_sub(thread.at), used.saturating_sub(thread.used));
        (thread.at, thread.used) = (now, used);
        if ran == 0 && !is_new && thread.place.as_ref().is_some_and(Place::is_final) {
            let gap = (now.saturating_sub(thread.since) / LESS_OFTEN).min(LEAST_OFTEN);
            thread.due = if gap > self.period { now + gap } else { 0 };
            thread.pending += elapsed as i64;
            return Found { ready: 0, waited: thread.settle() };
        }
        (thread.since, thread.due) = (now, 0);
        let ready = os::ready_time(tid).unwrap_or_default();
        let became_ready = ready.saturating_sub(thread.ready);
        thread.ready = ready;
        if !is_new {
            thread.pending += elapsed as i64 - ran as i64 - became_ready as i64;
        }
        thread.place = place(&mut self.looker, tid, &mut self.words);
        let waited = if thread.place.is_some() { thread.settle() } else { 0 };
        Found { ready: if is_new { 0 } else { became_ready }, waited }
    }
}

impl Watched {
    /// What is to be told of the place that was found.
    fn settle(&mut self) -> u64 {
        let waited = self.pending.max(0);
        self.pending -= waited;
        waited as u64
    }
}

fn place(looker: &mut Looker, tid: u32, words: &mut [u64]) -> Option<Place> {
    let tables = unwind::generation();
    let waiting = match looker.look(tid, words) {
        Look::Waiting(waiting) => waiting,
        Look::Running => return None,
        // Where the kernel does not tell, that is all there is to be told of it.
        Look::Unknown => return Some(Place { words: [missing(0)].into(), ..Place::default() }),
    };
    let call = waiting.wait.call;
    let wait = os::waits_for(call, &waiting.wait.arguments);
    Some(Place {
        words: words.get(..waiting.words).unwrap_or_default().into(),
        labels: waiting.labels,
        trace: waiting.trace,
        waited: Waited { call, wait: wait as u8 },
        walked_with: (waiting.end != End::Root).then_some(tables),
    })
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
        for tid in self.threads.ids() {
            if tid == own {
                continue;
            }
            let found = wall.look(tid, now, at_all);
            let thread = wall.by_id.get(&tid).and_then(|thread| thread.place.as_ref());
            self.count_wait(tid, &found, thread);
        }
        wall.end(used().saturating_sub(before));
        self.wall = Some(wall);
    }

    fn count_wait(&mut self, tid: u32, found: &Found, place: Option<&Place>) {
        if found.ready == 0 && found.waited == 0 {
            return;
        }
        let name = self.threads.name(tid);
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

/// What a number of [`Waited`] stands for.
pub(super) fn name_of(wait: u8) -> &'static str {
    const NAMES: [(WaitFor, &str); 9] = [
        (WaitFor::Other, "other"),
        (WaitFor::Network, "network"),
        (WaitFor::Disk, "disk"),
        (WaitFor::Thread, "thread"),
        (WaitFor::Lock, "lock"),
        (WaitFor::Timer, "timer"),
        (WaitFor::Pipe, "pipe"),
        (WaitFor::Events, "events"),
        (WaitFor::Process, "process"),
    ];
    NAMES.iter().find(|(known, _)| *known as u8 == wait).map_or("other", |(_, name)| name)
}
