//! Options that change while the profiler runs (those that the table calls live).
//!
//! Our thread. A period has the kinds that it began with, so that a change of kinds ends it. Everything else holds from now
//! on: a sample carries what it stands for, so profiles are right across the change.

use std::sync::mpsc::Sender;

use super::fleet::Fleet;
use super::governor::Asked;
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
        let asked_before = self.governor.asked();
        self.hook_options = HookOptions::of(options, self.hook_options.max_words);
        self.wall_options = WallOptions::of(options, &self.kinds);
        self.governor.want(asked(options, &self.hook_options, &self.wall_options));
        self.apply_looks();
        if let Err(error) = self.change_kinds(self.fleet.with(options)) {
            (self.hook_options, self.wall_options) = before;
            self.governor.want(asked_before);
            self.apply_looks();
            self.switch_hooks();
            return Err(error);
        }
        report::set_level(options.log.filter());
        self.period = options.period_s.duration();
        self.apply(self.governor.period());
        self.apply_hooks();
        self.switch_hooks();
        self.judge();
        Ok(())
    }

    /// Goes on with other kinds, or the same at other times; an error where one of them cannot be had that was not asked for
    /// before. One that was is told of once, as at the start: a change of its turns is no reason to refuse these.
    fn change_kinds(&mut self, mut fleet: Fleet) -> Result<()> {
        let kinds = fleet.kinds();
        self.acquire(&kinds, fleet.asked())?;
        if kinds == self.kinds && fleet.marks() == self.fleet.marks() {
            self.fleet = fleet;
            return Ok(());
        }
        self.end_period(&kinds);
        self.fleet = fleet;
        self.enter(kinds);
        self.switch_looks();
        self.begin_hooks();
        Ok(())
    }

    /// Begins what these kinds need and was not needed before, and tries what others of those need that are `asked` for, and are
    /// not taken now; or where one of it cannot be had, nothing. What was tried ends with the next [`Sampler::switch_hooks`].
    fn acquire(&mut self, kinds: &Kinds, asked: &Kinds) -> Result<()> {
        let before = std::mem::replace(&mut self.kinds, kinds.clone());
        self.rise_to_work();
        let of_before = self.fleet.asked();
        let new = |needs: fn(Kind) -> bool| asked.iter().any(needs) && !of_before.iter().any(needs);
        let new = (new(Kind::needs_allocations), new(Kind::needs_locks));
        self.kinds = asked.clone();
        let switched = match new {
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

/// What the governor is to go by.
pub(super) fn asked(options: &Options, hooks: &HookOptions, looks: &WallOptions) -> Asked {
    Asked {
        budget: options.cpu_budget_percent.fraction(),
        period: options.rate_hz.period().as_nanos() as u32,
        interval: hooks.interval,
        threshold: hooks.threshold,
        looks: looks.period,
    }
}

fn no_memory() -> Error {
    Error::new(ErrorKind::Unsupported, "there is no memory to look at threads that wait")
}
