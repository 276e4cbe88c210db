//! What the sampler does for itself: statistics, the governor, the watch over births, and keeping its signal.

use std::time::{Duration, Instant};

use everprof_probe::os::{Clock, gettid};
use everprof_probe::timer::ClockKind;
use everprof_probe::{awaiting, cost, regs, sigprof, stacks};

use super::awaits::Awaits;
use super::fleet::Work;
use super::governor::{Part, Usage};
use super::heap::{Heap, Sources};
use super::locks::Locks;
use super::sampler::Sampler;
use super::setup::{RING_WORDS, choose_signal, rings};
use super::tasks;
use crate::error::{Error, ErrorKind, Result};
use crate::labels;
use crate::options::SignalChoice;
use crate::report;

impl Sampler {
    /// Lets the governor decide, makes sure that the handler is still ours, and renews the statistics.
    pub(super) fn judge(&mut self) {
        self.judged = Instant::now();
        self.keep_signal();
        let usage = self.usage(Clock::Process.now().unwrap_or_default());
        for part in self.governor.judge(usage) {
            if self.governor.is_news(part) {
                self.tell_throttle(part);
            }
            match part {
                Part::Rate => self.apply(self.governor.period()),
                Part::Heap | Part::Locks => self.apply_hooks(),
                Part::Looks => self.apply_looks(),
            }
        }
        self.tell_untimed();
        self.take_stock();
    }

    /// Says what the governor has decided.
    fn tell_throttle(&self, part: Part) {
        let hz = |period: u32| 1e9 / f64::from(period);
        let now = match part {
            Part::Rate => format!("the rate is {:.1} Hz", hz(self.governor.period())),
            Part::Heap => format!("one in {} bytes allocated is a sample", self.governor.interval()),
            Part::Locks => format!("waits for locks are samples from {} ns", self.governor.threshold()),
            Part::Looks => {
                let every = Duration::from_nanos(self.governor.looks()).as_millis();
                format!("threads that wait are looked at every {every} ms")
            }
        };
        let why = match part {
            Part::Rate if self.governor.holds(part) => {
                let wanted = hz(self.governor.asked().period);
                format!(" instead of {wanted:.0} Hz: more would exceed cpu_budget_percent")
            }
            _ if self.governor.holds(part) => ": more would exceed cpu_budget_percent".to_string(),
            _ => ", as it was asked for: that is within cpu_budget_percent again".to_string(),
        };
        report::info(&format!("{now} from now on{why}"));
    }

    /// Renews the statistics, and looks whether threads come and go.
    pub(super) fn take_stock(&mut self) {
        let process = Clock::Process.now().unwrap_or_default();
        let usage = self.usage(process);
        self.watch_births(process);
        let (samples, at) = (self.stats.samples, process);
        let (samples_before, at_before) = self.samples_before;
        if at.saturating_sub(at_before) > 50_000_000 {
            let seconds = (at - at_before) as f64 / 1e9;
            self.stats.effective_rate_hz = (samples - samples_before) as f64 / seconds;
            self.samples_before = (samples, at);
        }
        self.renew_stats(&usage);
    }

    pub(super) fn renew_stats(&mut self, usage: &Usage) {
        let (known, untimed) = self.threads.counts();
        // Where nothing is taken, nobody is known by name.
        let counted = if self.work == Work::Idle { tasks::count(tasks::links()) } else { None };
        let threads = counted.unwrap_or(known);
        let stats = &mut self.stats;
        stats.process_cpu = Duration::from_nanos(usage.process);
        stats.rate_hz = 1e9 / f64::from(self.governor.period());
        stats.wanted_rate_hz = 1e9 / f64::from(self.governor.asked().period);
        stats.wall_rate_hz = self.wall.as_ref().map_or(0.0, |wall| 1e9 / wall.period() as f64);
        stats.throttled = self.governor.is_throttled();
        stats.signals = usage.signals;
        stats.threads_cpu = Duration::from_nanos(usage.threads);
        stats.handler_time = Duration::from_nanos(usage.handler);
        stats.delivery_time = usage.delivery();
        stats.hooks_time = Duration::from_nanos(usage.heap + usage.locks);
        stats.interval_bytes = self.heap.as_ref().map_or(0, Heap::interval);
        stats.lock_threshold =
            self.locks.as_ref().map_or(Duration::ZERO, |_| Duration::from_nanos(self.governor.threshold()));
        stats.incomplete_unknown_stack = stacks::unknown() - self.unknown_stacks_at_start;
        stats.awaits_lost = labels::lost() - self.awaits_lost_at_start;
        stats.threads = threads as u64;
        stats.threads_untimed = if self.sampling.is_timed { untimed as u64 } else { 0 };
        stats.cpu_clock = match self.sampling.clock {
            ClockKind::Timer => "timer",
            ClockKind::PerfEvent => "perf_event",
        };
        match &self.heap {
            Some(heap) => heap.sources().tell(&mut self.stats),
            None => Sources::default().tell(&mut self.stats),
        }
        if self.locks.is_none() {
            (self.stats.lock_slots, self.stats.lock_slots_foreign, self.stats.lock_slots_refused) = (0, 0, 0);
        }
        self.tell_fleet();
        self.stats.memory_bytes = self.memory();
        self.counters.publish(self.stats.clone());
    }

    pub(super) fn usage(&self, process: u64) -> Usage {
        let (first_tick, handled_before, ticks_before) = self.ticks_at_start;
        let (handled, ticks) = sigprof::cost();
        let ticks = ticks.wrapping_add(awaiting::cost());
        let wall = self.began.elapsed().as_nanos() as u64;
        let nanos_per_tick = wall as f64 / regs::ticks().wrapping_sub(first_tick).max(1) as f64;
        // By itself, one is done in a tenth of it, unless its stack is thousands of frames deep.
        const LONGEST_SAMPLE: f64 = 100_000.0;
        cost::set_longest((LONGEST_SAMPLE / nanos_per_tick.max(f64::MIN_POSITIVE)) as u64);
        let [heap, locks] = self.hooks_time(nanos_per_tick);
        Usage {
            threads: Clock::Thread(gettid()).now().unwrap_or_default(),
            requests: self.requests_cpu,
            looks: self.looks_cpu,
            accounts: self.accounts_cpu,
            handler: (ticks.wrapping_sub(ticks_before) as f64 * nanos_per_tick) as u64,
            signals: handled.wrapping_sub(handled_before),
            heap: heap.as_nanos() as u64,
            locks: locks.as_nanos() as u64,
            rests: [!self.sampling.is_timed, self.heap.is_none(), self.locks.is_none(), self.wall.is_none()],
            process: process.saturating_sub(self.process_cpu_at_start),
            wall,
        }
    }

    /// Does what somebody has asked for: recordings, and snapshots. That has bounds of its own; the rate of the samples is
    /// not lowered for it, which would make nothing cheaper.
    pub(super) fn answer_requests(&mut self) {
        self.on_request(|own| {
            own.serve();
            own.serve_snapshots();
        });
    }

    pub(super) fn memory(&self) -> u64 {
        let rings = rings().unwrap_or_default().len() * RING_WORDS * size_of::<u64>();
        let awaits = self.awaits.as_ref().map_or(0, Awaits::memory);
        let heap = self.heap.as_ref().map_or(0, Heap::memory);
        let locks = self.locks.as_ref().map_or(0, Locks::memory);
        (rings + awaits + heap + locks + self.sums.memory() + self.buffer.capacity() * size_of::<u64>())
            as u64
    }

    pub(super) fn apply(&mut self, period: u32) {
        self.sampling.period = period;
        self.threads.set_period(period);
    }

    /// Looks whether threads come and go, from the CPU time that they used before they were met: while they do, new ones
    /// are looked for as often as samples are taken.
    pub(super) fn watch_births(&mut self, process: u64) {
        // In less than this nothing is seen of births; a host may ask for a profile as often as it likes.
        const LEAST_TIME: Duration = Duration::from_secs(1);
        const LEAST_CPU: u64 = 50_000_000;
        if self.paced_at.elapsed() < LEAST_TIME && process < self.paced.0 + LEAST_CPU {
            return;
        }
        self.paced_at = Instant::now();
        let unnoticed = self.threads.unnoticed();
        let (process_before, unnoticed_before) = std::mem::replace(&mut self.paced, (process, unnoticed));
        let process = process.saturating_sub(process_before);
        let unnoticed = unnoticed.saturating_sub(unnoticed_before);
        self.threads.set_churning(unnoticed > 1_000_000 && unnoticed * 200 >= process);
    }

    /// Looks whether threads, modules or full rings ask for attention. Before the rings are emptied.
    pub(super) fn watch_calm(&mut self) {
        const FILLING: u64 = 5;
        let turnover = (self.threads.turnover(), self.modules.epoch());
        let filling = rings().unwrap_or_default().iter().any(|ring| ring.percent_full() > FILLING);
        let is_calm = turnover == self.turnover && !filling;
        self.turnover = turnover;
        self.calm = if is_calm { self.calm.saturating_add(1) } else { 0 };
    }

    /// Another library may have taken our signal while we run; a timer's signal under its default action would then
    /// kill the process. Takes a free signal instead, at once. And the host may have set new handlers of faults.
    pub(super) fn keep_signal(&mut self) {
        if sigprof::is_installed() {
            return sigprof::spare_fault_handlers();
        }
        self.threads.stop();
        match choose_signal(SignalChoice::Auto, self.sampling.clock)
            .ok()
            .filter(|signal| sigprof::install(*signal))
        {
            None => self.trouble(
                "another library took the profiling signal, and none is free: no samples from now on",
            ),
            Some(signal) => {
                self.trouble(format!(
                    "another library took the profiling signal: signal {signal} is used from now on"
                ));
                self.sampling.signal = signal;
                self.stats.signal = signal;
                self.threads.restart(self.sampling);
            }
        }
    }

    pub(super) fn fall_back_to_timers(&mut self) {
        let (threads, untimed) = self.threads.counts();
        let Some(errno) = self.threads.timer_error() else { return };
        if self.sampling.clock == ClockKind::PerfEvent && threads == untimed {
            self.trouble(format!(
                "cpu_clock perf_event is not permitted here (errno {errno}): timers are used"
            ));
            self.sampling.clock = ClockKind::Timer;
            self.threads.restart(self.sampling);
        }
    }

    /// Says once that there are threads without a timer, whose time has no stacks.
    fn tell_untimed(&mut self) {
        let (threads, untimed) = self.threads.counts();
        let is_news = untimed > 0 && !self.told_untimed && self.sampling.is_timed;
        let Some(errno) = self.threads.timer_error().filter(|_| is_news) else {
            return;
        };
        self.told_untimed = true;
        let reason = timer_reason(errno);
        self.trouble(format!("{untimed} of {threads} threads have no CPU timer and no stacks: {reason}"));
    }

    /// The error of a start that found no thread which it could time.
    pub(super) fn check_threads(&self) -> Result<()> {
        let (threads, untimed) = self.threads.counts();
        let reason = match self.threads.timer_error() {
            _ if threads > untimed => return Ok(()),
            Some(errno) => format!("the kernel gives no CPU timers: {}", timer_reason(errno)),
            None => "the threads of the process cannot be found: /proc/self/task cannot be read; mount /proc"
                .into(),
        };
        Err(Error::new(ErrorKind::Unsupported, reason))
    }

    /// Tells a problem that comes again with each turn of a kind, once; other numbers in it make no other problem.
    pub(super) fn trouble_once(&mut self, problem: String) {
        let words = problem.chars().filter(|letter| !letter.is_ascii_digit()).collect();
        if self.told_once.insert(words) {
            self.trouble(problem);
        }
    }

    pub(super) fn trouble(&self, problem: impl Into<String>) {
        let problem = problem.into();
        report::warn(&problem);
        self.counters.problem(problem);
    }
}

/// What the kernel said, and what would help.
fn timer_reason(errno: i32) -> String {
    const EAGAIN: i32 = 11;
    let error = std::io::Error::from_raw_os_error(errno);
    // Each timer holds one queued signal, and they are counted by user.
    let help = if errno == EAGAIN { "; raise the limit of pending signals (ulimit -i)" } else { "" };
    format!("{error}{help}")
}
