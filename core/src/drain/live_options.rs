//! Options that change while the profiler runs (those that the table calls live).
//!
//! Our thread. A period has the kinds that it began with, so that a change of kinds ends it. Everything else holds from now
//! on: a sample carries what it stands for, so profiles are right across the change.

use std::sync::mpsc::Sender;

use super::fleet::Fleet;
use super::hooks::HookOptions;
use super::sampler::Sampler;
use super::wall::WallOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::options::{Kinds, Options};
use crate::profile::Kind;
use crate::report;

impl Sampler {
    /// Goes on with these options, and says on `done` whether they can be had: where one cannot, all are as they were.
    pub(super) fn set(&mut self, options: &Options, done: &Sender<Result<()>>) {
        let _ = done.send(self.change(options));
    }

    fn change(&mut self, options: &Options) -> Result<()> {
        // A host may change options often: what was sampled by now is not to wait for room.
        self.drain();
        let before = (self.hook_options, self.wall_options);
        let (wanted, budget_before) = (self.governor.wanted(), self.governor.budget());
        self.hook_options = HookOptions::of(options, self.hook_options.max_words);
        self.wall_options = WallOptions::of(options, &self.kinds);
        let period = options.rate_hz.period().as_nanos() as u32;
        self.want(options.cpu_budget_percent.fraction(), period);
        if let Err(error) = self.change_kinds(self.fleet.with(options)) {
            (self.hook_options, self.wall_options) = before;
            self.want(budget_before, wanted);
            return Err(error);
        }
        report::set_level(options.log.filter());
        self.period = options.period_s.duration();
        self.apply(self.governor.period());
        self.apply_hooks();
        self.switch_hooks();
        let wall_options = self.wall_options;
        self.wall.iter_mut().for_each(|wall| wall.set(wall_options));
        self.judge();
        Ok(())
    }

    /// Tells the governor what was asked for.
    fn want(&mut self, budget: f64, period: u32) {
        let HookOptions { interval, threshold, .. } = self.hook_options;
        self.governor.want(budget, period, interval, threshold);
    }

    /// Goes on with other kinds, or the same at other times; an error where one of them cannot be had.
    fn change_kinds(&mut self, mut fleet: Fleet) -> Result<()> {
        let kinds = fleet.kinds();
        if kinds == self.kinds && fleet.marks() == self.fleet.marks() {
            self.fleet = fleet;
            return Ok(());
        }
        self.acquire(&kinds)?;
        self.end_period(&kinds);
        self.fleet = fleet;
        self.enter(kinds);
        self.switch_looks();
        self.switch_hooks();
        Ok(())
    }

    /// Begins what these kinds need and was not needed before, or where that cannot be had, nothing.
    fn acquire(&mut self, kinds: &Kinds) -> Result<()> {
        let before = std::mem::replace(&mut self.kinds, kinds.clone());
        self.rise_to_work();
        let new = |needs: fn(Kind) -> bool| kinds.iter().any(needs) && !before.iter().any(needs);
        let switched = match (new(Kind::needs_allocations), new(Kind::needs_locks)) {
            (true, true) => self.switch_heap().and_then(|()| self.switch_locks()),
            (true, false) => self.switch_heap(),
            (false, true) => self.switch_locks(),
            (false, false) => Ok(()),
        };
        self.wall_options.always |= kinds.iter().any(Kind::needs_looks);
        let looks = switched.and_then(|()| if self.switch_looks() { Ok(()) } else { Err(no_memory()) });
        // The period that ends has the kinds before.
        self.kinds = before;
        if looks.is_err() {
            self.wall_options.always = self.kinds.iter().any(Kind::needs_looks);
            self.switch_looks();
            self.switch_hooks();
        }
        looks
    }
}

fn no_memory() -> Error {
    Error::new(ErrorKind::Unsupported, "there is no memory to look at threads that wait")
}
