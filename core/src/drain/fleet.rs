//! What is taken at the moment: of the kinds that were asked for, those whose turn it is, by the rotation of the fleet
//! ([`super::rotation`]) and the duties of kinds ([`super::duty`]); and what that needs of the process.
//!
//! Our thread. Whatever changes ends the period at hand, so that no profile is of two states. Where nothing is taken and
//! nobody records, no thread has a timer, nothing is hooked, and our thread looks at the clock every two seconds; what
//! somebody asks for is there all the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use everprof_probe::loss::{self, Loss};
use everprof_probe::os::{Clock, monotonic};
use everprof_probe::thread;

use super::close::Cut;
use super::duty::Cycles;
use super::publish::Job;
use super::rotation::{Rotation, Turn};
use super::sampler::Sampler;
use super::setup::wall_clock;
use super::threads::Threads;
use crate::aggregate::Aggregate;
use crate::error::{Error, ErrorKind};
use crate::labels;
use crate::options::{Kinds, Options};
use crate::profile::Kind;
use crate::recorder;
use crate::report;

/// How often to look at the clock where there is nothing to do.
const IDLE_REST: Duration = Duration::from_secs(2);
/// A clock that is set to and fro does not end a turn more often than this.
const LEAST_STAY: Duration = Duration::from_secs(1);
/// How often the slots of threads that ended are given back where no thread is looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// What was asked for, and what is taken of it.
#[derive(Debug)]
pub(super) struct Fleet {
    service: String,
    instance: String,
    /// What the options say.
    asked: Kinds,
    rotation: Rotation,
    cycles: Cycles,
    marks: BTreeMap<String, String>,
    share: String,
    /// Whether it is its turn, and since when.
    is_active: bool,
    turned: Instant,
    swept: Instant,
}

/// What our thread does for the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// Nothing.
    Idle,
    /// It knows the threads: something is told of them that needs no timer.
    Knows,
    /// It times them as well.
    Times,
}

impl Fleet {
    /// As the options say, for the process with those tags.
    pub(super) fn new(options: &Options, tags: &BTreeMap<String, String>) -> Self {
        let tag = |key: &str| tags.get(key).cloned().unwrap_or_default();
        Self::of(options, tag("service"), tag("instance"))
    }

    fn of(options: &Options, service: String, instance: String) -> Self {
        let rotation = Rotation::new(&service, &instance, options.fleet_share, options.fleet_window_s);
        let share = options.get("fleet_share").unwrap_or_default();
        let mut marks = BTreeMap::new();
        if !rotation.is_all() {
            marks.insert("fleet_share".to_string(), share.clone());
        }
        if !options.duty.is_empty() {
            marks.insert("duty".to_string(), options.duty.told());
        }
        let now = Instant::now();
        Self {
            asked: options.kinds.clone(),
            rotation,
            cycles: Cycles::new(&options.duty, &instance),
            marks,
            share,
            is_active: rotation.at(wall_clock()).is_active,
            turned: now,
            swept: now,
            service,
            instance,
        }
    }

    /// The same instance by other options.
    pub(super) fn with(&self, options: &Options) -> Self {
        Self::of(options, self.service.clone(), self.instance.clone())
    }

    /// What of that is to be told by the tags of a period.
    pub(super) fn marks(&self) -> BTreeMap<String, String> {
        self.marks.clone()
    }

    /// The kinds that are taken when it is their turn.
    pub(super) fn asked(&self) -> &Kinds {
        &self.asked
    }

    /// The kinds that are taken now.
    pub(super) fn kinds(&mut self) -> Kinds {
        self.turn_at(wall_clock(), Instant::now());
        let now = monotonic();
        self.asked.only(|kind| self.is_active && self.cycles.is_on(kind, now))
    }

    /// Begins or ends its turn, where it is time for that by the wall clock, and has not just been.
    fn turn_at(&mut self, clock: i64, now: Instant) {
        let is_active = self.rotation.at(clock).is_active;
        if is_active != self.is_active && now.saturating_duration_since(self.turned) >= LEAST_STAY {
            (self.is_active, self.turned) = (is_active, now);
        }
    }

    fn turn(&self) -> Turn {
        self.rotation.at(wall_clock())
    }

    /// How long to sleep at most until that may change.
    pub(super) fn rest(&self) -> Duration {
        let turn = if self.rotation.is_all() { Duration::MAX } else { self.turn().left };
        turn.min(self.cycles.left(monotonic()))
    }

    /// Why a kind is not followed that was asked for, where these are.
    pub(super) fn rests(&self, kind: Kind, kinds: &Kinds) -> Option<Error> {
        if !self.asked.contains(kind) || kinds.contains(kind) {
            return None;
        }
        let (name, why) = (kind.name(), self.told(kinds));
        let message = format!(
            "{name} is not followed at the moment, {why}: record a stretch of time (by request: seconds=30), or try later"
        );
        Some(Error::new(ErrorKind::Unavailable, message))
    }

    /// Why this instance is active or not, where it takes these kinds.
    fn told(&self, kinds: &Kinds) -> String {
        let turn = self.turn();
        let left = turn.left.as_secs();
        if self.is_active && !self.cycles.is_empty() && *kinds != self.asked {
            let left = self.rest().as_secs();
            return format!("not all kinds are on for {left} s at least (duty)");
        }
        if self.rotation.is_none() {
            return "nothing is taken but what is asked for (fleet_share=0)".to_string();
        }
        match (self.rotation.is_all(), self.is_active) {
            (true, _) => "all instances profile at all times (fleet_share=100)".to_string(),
            (false, true) => {
                format!(
                    "it is this instance's turn for {left} s more (window {}, fleet_share={})",
                    turn.window, self.share
                )
            }
            (false, false) => format!(
                "it is not this instance's turn for {left} s at least (window {}, fleet_share={})",
                turn.window, self.share
            ),
        }
    }
}

impl Sampler {
    /// Takes what it is the turn of from now on. Called often.
    pub(super) fn take_turns(&mut self) {
        let kinds = self.fleet.kinds();
        if kinds == self.kinds {
            return;
        }
        let before = self.kinds.iter().next().is_some();
        self.take_up(kinds);
        let after = self.kinds.iter().next().is_some();
        if before != after {
            report::info(&format!(
                "profiling {}: {}",
                if after { "goes on" } else { "rests" },
                self.fleet.told(&self.kinds)
            ));
        }
        self.take_stock();
    }

    /// Ends the period at hand and takes these kinds from now on; what cannot be had is told.
    fn take_up(&mut self, kinds: Kinds) {
        self.end_period(&kinds);
        self.enter(kinds);
        self.switch_looks();
        self.begin_hooks();
    }

    /// Ends the period, which has the kinds before; the next one is to have these.
    pub(super) fn end_period(&mut self, next: &Kinds) {
        if self.period_began.elapsed() == Duration::ZERO {
            return;
        }
        self.drain();
        // Where nobody is timed after it, everything that there is of CPU time is told now.
        let is_last = self.work == Work::Times && self.work_for(next) != Work::Times;
        self.cut(if is_last { Cut::Last } else { Cut::Period });
    }

    /// These are the kinds of the period that begins.
    pub(super) fn enter(&mut self, kinds: Kinds) {
        self.wall_options.always = kinds.iter().any(Kind::needs_looks);
        self.kinds = kinds.clone();
        labels::set_counting(kinds.iter().next().is_some());
        self.publish(Job::Kinds(kinds, self.fleet.marks()));
        self.switch_work();
    }

    /// What is needed for these kinds and for the recordings at hand.
    fn work_for(&self, kinds: &Kinds) -> Work {
        self.work_of(kinds, self.recordings.kinds())
    }

    /// The same for others.
    pub(super) fn work_of(&self, kinds: &Kinds, recorded: impl Iterator<Item = Kind>) -> Work {
        let mut all = kinds.iter().chain(recorded).peekable();
        if all.peek().is_none() {
            return Work::Idle;
        }
        // What hooks tell has stacks of its own, and a snapshot asks for them.
        let needs_timers = |kind: Kind| !kind.needs_hooks() && kind != Kind::Threads;
        if all.any(needs_timers) { Work::Times } else { Work::Knows }
    }

    /// Begins what kinds and recordings need, and ends nothing yet.
    pub(super) fn rise_to_work(&mut self) {
        if self.work_for(&self.kinds) > self.work {
            self.switch_work();
        }
    }

    /// Begins or ends to know and to time the threads, as kinds and recordings need it.
    ///
    /// Each beginning is one like that of the profiler: threads that live are charged from then on.
    pub(super) fn switch_work(&mut self) {
        let pauses = self.kinds.iter().chain(self.recordings.kinds()).any(Kind::needs_recorder);
        recorder::want_pauses(pauses);
        let work = self.work_for(&self.kinds);
        if work == self.work {
            return;
        }
        let before = std::mem::replace(&mut self.work, work);
        self.calm = 0;
        thread::want_new(work != Work::Idle);
        recorder::set_open(work == Work::Times);
        if before == Work::Idle {
            labels::set_sampling(true);
        }
        if before == Work::Times {
            // What handlers in flight leave still is of no period.
            self.sampling.is_timed = false;
            self.threads.stop();
            self.drain();
            self.sums = Aggregate::telling(self.hook_options.traces);
            self.thread_numbers.clear();
            self.label_places.clear();
            self.ready.clear();
            recorder::take();
        }
        self.sampling.is_timed = work == Work::Times;
        self.threads = Threads::new(self.sampling);
        self.paced = (Clock::Process.now().unwrap_or_default(), 0);
        self.paced_at = Instant::now();
        self.fleet.swept = Instant::now();
        if work == Work::Idle {
            // No sample names a label set from here on: who drops one takes it out of the table himself.
            labels::set_sampling(false);
            return;
        }
        for loss in Loss::ALL {
            loss::take(loss);
        }
        if before == Work::Idle {
            self.modules.update();
        }
        self.threads.scan();
    }

    /// What there is to do where nothing is taken.
    pub(super) fn idle(&mut self) {
        self.drain();
        if self.fleet.swept.elapsed() >= SWEEP_EVERY {
            // Of threads that set labels and ended, slots are left.
            self.fleet.swept = Instant::now();
            self.threads = Threads::new(self.sampling);
        }
    }

    /// How long to sleep where nothing is taken.
    pub(super) fn idle_rest(&self) -> Duration {
        IDLE_REST.min(self.fleet.rest())
    }

    /// Tells in the statistics what is taken and why.
    pub(super) fn tell_fleet(&mut self) {
        self.stats.active = self.kinds.iter().next().is_some();
        self.stats.active_reason = self.fleet.told(&self.kinds);
        self.stats.active_kinds = self.kinds.iter().map(Kind::name).collect();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_followed_but_not_to_and_fro() {
        let mut options = Options::default();
        options.set("fleet_share", "50").unwrap();
        let mut fleet = Fleet::new(&options, &BTreeMap::new());
        let clock = 1_800_000_000_000_000_000;
        let ours = |is_active| {
            (0..99)
                .map(|n| clock + n * 600_000_000_000)
                .find(|at| fleet.rotation.at(*at).is_active == is_active)
        };
        let (active, rest) = (ours(true).unwrap(), ours(false).unwrap());
        let mut now = fleet.turned + LEAST_STAY;
        fleet.turn_at(active, now);
        assert!(fleet.is_active);
        let mut turns = 0;
        for step in 0..100 {
            // By days ahead and back, a hundred times a second.
            now += Duration::from_millis(10);
            let before = fleet.is_active;
            fleet.turn_at(if step % 2 == 0 { rest } else { active }, now);
            turns += u32::from(fleet.is_active != before);
        }
        assert!(turns <= 1, "{turns} in a second");
        // And where it stays, that is what holds.
        now += LEAST_STAY;
        fleet.turn_at(rest, now);
        fleet.turn_at(rest, now + LEAST_STAY);
        assert!(!fleet.is_active);
    }
}
