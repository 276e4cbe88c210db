//! The sampler: everything the drain's thread owns while it runs, and what it does at each wake.

use std::collections::HashMap;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use everprof_probe::loss::{self, Loss};
use everprof_probe::os::{Clock, CpuTimer, gettid};
use everprof_probe::ring::{MAX_STACK_WORDS, Ring};
use everprof_probe::sample::{Frame, Header, Source, frames};
use everprof_probe::thread_block::{self, Facts};
use everprof_probe::timer::ClockKind;
use everprof_probe::{regs, sigprof};

use super::account::Account;
use super::governor::{Governor, Usage};
use super::modules::Modules;
use super::period::Period;
use super::publish::{Job, Publisher};
use super::threads::{Sampling, Threads};
use super::{Plan, report};
use crate::aggregate::{Aggregate, Key, Sums};
use crate::error::{Error, ErrorKind, Result};
use crate::labels;
use crate::options::{CpuClock, SignalChoice, Symbolize};
use crate::stats::{Counters, Stats};
use crate::symbolize::{self, Symbolizer};

/// Words of a ring: 256 KiB each, of which there is one for every processor up to eight.
const RING_WORDS: usize = 32 * 1024;
/// How often the cost is judged and the statistics are renewed.
const JUDGE_EVERY: Duration = Duration::from_secs(2);
/// The kernel looks at CPU timers once a tick, which is no longer than this in nanoseconds (100 Hz).
const LONGEST_TICK: u64 = 10_000_000;
/// The process-wide timer runs this much slower than the others while there is nothing for it to see.
const PROCESS_TIMER_REST: u32 = 8;

static RINGS: OnceLock<Vec<Ring>> = OnceLock::new();

/// The state of the drain's thread.
pub(super) struct Sampler {
    threads: Threads,
    modules: Modules,
    governor: Governor,
    account: Account,
    process_timer: Option<CpuTimer>,
    process_timer_rests: bool,
    sampling: Sampling,
    sums: Aggregate,
    thread_numbers: HashMap<(Arc<str>, Option<u32>), u32>,
    label_places: HashMap<u32, u32>,
    thread_ids: bool,
    buffer: Vec<u64>,
    jobs: Sender<Job>,
    counters: Arc<Counters>,
    stats: Stats,
    period: Duration,
    period_began: Instant,
    period_time: i64,
    began: Instant,
    judged: Instant,
    process_cpu_at_start: u64,
    ticks_at_start: (u64, u64, u64),
    samples_before: (u64, u64),
    /// What [`Sampler::unseen_kernel_time`] has told so far.
    unseen: u64,
}

impl Sampler {
    /// Learns the process, installs the handler and times every thread.
    pub(super) fn start(plan: Plan, starter: Option<Facts>, counters: &Arc<Counters>) -> Result<Sampler> {
        report::set_level(plan.options.log.filter());
        if let (Some(starter), Some(own)) = (starter, Facts::here())
            && !thread_block::learn(&starter, &own)
        {
            let problem = "the C library's thread block is of an unknown layout: stacks have their leaf only";
            report::warn(problem);
            counters.problem(problem);
        }
        let signal = choose_signal(plan.options.signal)?;
        let period = plan.options.rate_hz.period().as_nanos() as u32;
        let clock = match plan.options.cpu_clock {
            CpuClock::PerfEvent => ClockKind::PerfEvent,
            _ => ClockKind::Timer,
        };
        let modules = Modules::new();
        let rings = rings()?;
        // Two words a frame at most, and one that says what is missing.
        let max_words = (plan.options.max_frames.get() as usize + 1).min(MAX_STACK_WORDS);
        if !sigprof::start(sigprof::Config { signal, max_words }, rings) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("no handler could be installed for signal {signal}"),
            ));
        }
        labels::set_sampling(true);
        let sampling = Sampling { clock, signal, period };
        let process_cpu = Clock::Process.now().unwrap_or_default();
        let (handled, ticks) = sigprof::cost();
        let now = Instant::now();
        let mut sampler = Sampler {
            threads: Threads::new(sampling),
            modules,
            governor: Governor::new(plan.options.cpu_budget_percent.fraction(), period),
            account: Account::open(process_cpu),
            process_timer: None,
            process_timer_rests: false,
            sampling,
            sums: Aggregate::default(),
            thread_numbers: HashMap::new(),
            label_places: HashMap::new(),
            thread_ids: plan.options.thread_ids,
            buffer: vec![0; MAX_STACK_WORDS],
            jobs: start_publisher(&plan, counters)?,
            counters: counters.clone(),
            stats: Stats { running: true, signal, ..Stats::default() },
            period: plan.options.period_s.duration(),
            period_began: now,
            period_time: wall_clock(),
            began: now,
            judged: now,
            process_cpu_at_start: process_cpu,
            ticks_at_start: (regs::ticks(), handled, ticks),
            samples_before: (0, process_cpu),
            unseen: 0,
        };
        // Threads that live already are charged from now on, not from their birth.
        sampler.threads.scan();
        sampler.fall_back_to_timers();
        sampler.start_process_timer();
        // Starting costs some milliseconds once; the governor judges what comes after.
        let usage = sampler.usage(process_cpu);
        sampler.governor.begin(usage);
        sampler.renew_stats(&usage);
        Ok(sampler)
    }

    /// What is done every tenth of a second.
    pub(super) fn wake(&mut self) {
        self.threads.update();
        self.modules.update();
        self.drain();
        if self.judged.elapsed() >= JUDGE_EVERY {
            self.judge();
        }
        if self.period_began.elapsed() >= self.period {
            self.close();
        }
    }

    /// Closes the period at hand; `done` hears when it is exported.
    pub(super) fn flush(&mut self, done: Sender<()>) {
        self.threads.update();
        self.drain();
        self.judge();
        self.close();
        let _ = self.jobs.send(Job::Reply(done));
    }

    /// Samples with another period from now on.
    pub(super) fn set_rate(&mut self, period: u32) {
        self.governor.want(period);
        self.apply(period);
        self.judge();
    }

    /// Stops sampling and closes the last period; `done` hears when it is exported.
    pub(super) fn stop(mut self, done: Sender<()>) {
        // The handler is closed before the timers go: what they cover must still be readable for the last account.
        sigprof::stop();
        self.drain();
        labels::set_sampling(false);
        self.judge();
        self.close();
        self.process_timer = None;
        self.threads.stop();
        self.stats.running = false;
        self.counters.publish(self.stats);
        let _ = self.jobs.send(Job::Reply(done));
    }

    fn drain(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for ring in rings().unwrap_or_default() {
            ring.drain(&mut buffer, |header, words| self.count(&header, words));
        }
        self.buffer = buffer;
        labels::reclaim();
    }

    fn count(&mut self, header: &Header, words: &[u64]) {
        let nanos = header.weight * u64::from(header.period);
        self.stats.samples += 1;
        for frame in frames(words) {
            match frame {
                Frame::Missing(0) => self.stats.incomplete += 1,
                Frame::Missing(_) => self.stats.truncated += 1,
                _ => {}
            }
        }
        let name = self.threads.name(header.tid);
        let thread = self.thread_number(name, self.thread_ids.then_some(header.tid));
        let key = Key {
            stack: self.sums.intern_stack(self.modules.epoch(), words),
            thread,
            labels: self.label_set(header.labels),
            unclaimed: header.source == Source::Unclaimed as u8,
            trace_id: header.trace_id,
            span_id: header.span_id,
        };
        self.sums.add(key, Sums { count: header.weight, nanos });
        if !key.unclaimed {
            self.stats.sampled_cpu += Duration::from_nanos(nanos);
        }
    }

    /// The place of a label set in the sums; ids are not used again, so what is known of one stays true.
    fn label_set(&mut self, id: u32) -> u32 {
        if id == 0 {
            return 0;
        }
        if let Some(&place) = self.label_places.get(&id) {
            return place;
        }
        let place = labels::resolve(id).map_or(0, |set| self.sums.intern_labels(set));
        self.label_places.insert(id, place);
        place
    }

    fn thread_number(&mut self, name: Arc<str>, tid: Option<u32>) -> u32 {
        let next = self.thread_numbers.len() as u32;
        *self.thread_numbers.entry((name, tid)).or_insert(next)
    }

    /// Gives the sums of the period to the publisher and begins the next one.
    fn close(&mut self) {
        let duration = self.period_began.elapsed();
        let time_nanos = self.period_time;
        self.period_began = Instant::now();
        // The wall clock may be set back; periods must not overlap for it.
        self.period_time = wall_clock().max(time_nanos.saturating_add(duration.as_nanos() as i64));
        let sums = std::mem::take(&mut self.sums);
        self.label_places.clear();
        let nominal = sums.rows().filter(|(key, _)| key.unclaimed).map(|(_, sums)| sums.nanos).sum();
        let process = Clock::Process.now().unwrap_or_default();
        let ended = self.threads.take_ended();
        let exits = ended.len() as u64 * (u64::from(self.sampling.period) + LONGEST_TICK);
        let unclaimed = self.account.charge(process, self.covered(), nominal, exits);
        let settled = unclaimed.sampled + unclaimed.at_exit + unclaimed.unsampled;
        self.stats.sampled_cpu += Duration::from_nanos(settled);
        self.stats.unsampled_cpu += Duration::from_nanos(unclaimed.unsampled);
        let (first_epoch, epochs) = self.modules.take();
        let ids = self.thread_ids;
        let ended =
            ended.into_iter().map(|(name, tid)| self.thread_number(name, ids.then_some(tid))).collect();
        let mut names: Vec<_> = self.thread_numbers.drain().map(|(name, number)| (number, name)).collect();
        names.sort_unstable_by_key(|(number, _)| *number);
        let period = Period {
            time_nanos,
            duration_nanos: duration.as_nanos() as i64,
            sampling_period: self.sampling.period,
            effective_rate_hz: self.stats.effective_rate_hz,
            threads: names.into_iter().map(|(_, name)| name).collect(),
            epochs,
            first_epoch,
            unclaimed: unclaimed.sampled,
            at_exit: unclaimed.at_exit,
            ended,
            frames: self.frames_without_stack(unclaimed.unsampled),
            sums,
        };
        self.threads.rename();
        if !(period.sums.is_empty() && period.frames.is_empty()) {
            let _ = self.jobs.send(Job::Publish(Box::new(period)));
        }
    }

    /// Time in the kernel that a perf event may not see: no signal came for it.
    fn unseen_kernel_time(&mut self) -> u64 {
        if self.sampling.clock == ClockKind::Timer {
            return 0;
        }
        let unseen = self.threads.unsignalled();
        let new = unseen.saturating_sub(self.unseen);
        self.unseen = self.unseen.max(unseen);
        new
    }

    fn frames_without_stack(&mut self, unsampled: u64) -> Vec<(&'static str, u64, u64)> {
        let step = u64::from(self.sampling.period.max(1));
        let mut frames = Vec::new();
        for loss in Loss::ALL {
            let (count, nanos) = loss::take(loss);
            if count != 0 {
                frames.push((loss.name(), count, nanos));
                self.stats.lost += count;
                match loss {
                    Loss::RingFull => self.stats.lost_ring_full += count,
                    Loss::NoScratch => self.stats.lost_no_scratch += count,
                }
                self.stats.sampled_cpu += Duration::from_nanos(nanos);
            }
        }
        let unseen = self.unseen_kernel_time();
        if unseen >= step {
            frames.push(("in the kernel, unseen by perf_event", unseen / step, unseen));
        }
        // Less than one period is the phase of the timers, not a thread.
        if unsampled >= step {
            frames.push(("threads that ended unsampled", unsampled / step, unsampled));
        }
        frames
    }

    /// Lets the governor decide, makes sure that the handler is still ours, and renews the statistics.
    fn judge(&mut self) {
        self.judged = Instant::now();
        self.keep_signal();
        let process = Clock::Process.now().unwrap_or_default();
        let usage = self.usage(process);
        if let Some(period) = self.governor.judge(usage) {
            let held = if self.governor.is_throttled() { "lowered to keep within" } else { "back within" };
            report::info(&format!("the sampling period is {period} ns now, {held} cpu_budget_percent"));
            self.apply(period);
        }
        self.pace_process_timer(process);
        let (samples, at) = (self.stats.samples, process);
        let (samples_before, at_before) = self.samples_before;
        if at.saturating_sub(at_before) > 50_000_000 {
            let seconds = (at - at_before) as f64 / 1e9;
            self.stats.effective_rate_hz = (samples - samples_before) as f64 / seconds;
            self.samples_before = (samples, at);
        }
        self.renew_stats(&usage);
    }

    fn renew_stats(&mut self, usage: &Usage) {
        let (threads, untimed) = self.threads.counts();
        let stats = &mut self.stats;
        stats.process_cpu = Duration::from_nanos(usage.process);
        stats.rate_hz = 1e9 / f64::from(self.governor.period());
        stats.wanted_rate_hz = 1e9 / f64::from(self.governor.wanted());
        stats.throttled = self.governor.is_throttled();
        stats.signals = usage.signals;
        stats.threads_cpu = Duration::from_nanos(usage.threads);
        stats.handler_time = Duration::from_nanos(usage.handler);
        stats.delivery_time = usage.delivery();
        stats.threads = threads as u64;
        stats.threads_untimed = untimed as u64;
        stats.cpu_clock = match self.sampling.clock {
            ClockKind::Timer => "timer",
            ClockKind::PerfEvent => "perf_event",
        };
        self.stats.memory_bytes = self.memory();
        self.counters.publish(self.stats.clone());
    }

    fn usage(&self, process: u64) -> Usage {
        let (first_tick, handled_before, ticks_before) = self.ticks_at_start;
        let (handled, ticks) = sigprof::cost();
        let wall = self.began.elapsed().as_nanos() as u64;
        let nanos_per_tick = wall as f64 / regs::ticks().wrapping_sub(first_tick).max(1) as f64;
        Usage {
            threads: Clock::Thread(gettid()).now().unwrap_or_default(),
            handler: (ticks.wrapping_sub(ticks_before) as f64 * nanos_per_tick) as u64,
            signals: handled.wrapping_sub(handled_before),
            process: process.saturating_sub(self.process_cpu_at_start),
            wall,
        }
    }

    fn memory(&self) -> u64 {
        let rings = rings().unwrap_or_default().len() * RING_WORDS * size_of::<u64>();
        (rings + self.sums.memory() + self.buffer.capacity() * size_of::<u64>()) as u64
    }

    fn apply(&mut self, period: u32) {
        self.sampling.period = period;
        self.threads.set_period(period);
        self.arm_process_timer();
    }

    fn covered(&self) -> u64 {
        self.threads.covered()
    }

    /// The process-wide timer is needed only where threads come and go; elsewhere it would double the signals.
    fn pace_process_timer(&mut self, process: u64) {
        let unclaimed = self.account.unclaimed(process, self.covered());
        let rests = unclaimed * 200 < process.saturating_sub(self.process_cpu_at_start);
        if rests != self.process_timer_rests {
            self.process_timer_rests = rests;
            self.arm_process_timer();
        }
    }

    fn start_process_timer(&mut self) {
        match CpuTimer::new(Clock::Process, self.sampling.signal, sigprof::PROCESS_TIMER) {
            Ok(timer) => self.process_timer = Some(timer),
            Err(errno) => self
                .trouble(format!("no process-wide CPU timer (errno {errno}): short threads have no stacks")),
        }
        self.arm_process_timer();
    }

    fn arm_process_timer(&self) {
        let rest = if self.process_timer_rests { PROCESS_TIMER_REST } else { 1 };
        let period = self.sampling.period.saturating_mul(rest).min(1_000_000_000);
        sigprof::set_process_period(period);
        if let Some(timer) = &self.process_timer {
            let _ = timer.arm(period.into(), period.into());
        }
    }

    /// Another library may have taken our signal while we run; a timer's signal under its default action would then
    /// kill the process. Takes a free signal instead, at once.
    fn keep_signal(&mut self) {
        if sigprof::is_installed() {
            return;
        }
        self.threads.stop();
        self.process_timer = None;
        match choose_signal(SignalChoice::Auto).ok().filter(|signal| sigprof::install(*signal)) {
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
                self.start_process_timer();
            }
        }
    }

    fn fall_back_to_timers(&mut self) {
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

    fn trouble(&self, problem: impl Into<String>) {
        let problem = problem.into();
        report::warn(&problem);
        self.counters.problem(problem);
    }
}

fn start_publisher(plan: &Plan, counters: &Arc<Counters>) -> Result<Sender<Job>> {
    let mode = match plan.options.symbolize {
        Symbolize::Off => symbolize::Mode::Off,
        Symbolize::Names => symbolize::Mode::Names,
        _ => symbolize::Mode::Lines,
    };
    let options = symbolize::Options {
        mode,
        memory_budget: plan.options.symbolize_memory_bytes.get() as usize,
        ..symbolize::Options::default()
    };
    let (jobs, received) = mpsc::channel();
    let exporters = plan.exporters.clone();
    let (tags, counters) = (plan.tags.clone(), counters.clone());
    let work = move || {
        let symbolizer = Symbolizer::new(options);
        let publisher = Publisher { tags, symbolizer, mode, exporters: exporters(), counters, sequence: 0 };
        everprof_probe::os::block_signals();
        super::guarded(|| publisher.run(&received));
    };
    std::thread::Builder::new().name("everprof-out".to_string()).spawn(work).map_err(|error| {
        Error::io(ErrorKind::Unsupported, "everprof's second thread could not be started", error)
    })?;
    Ok(jobs)
}

/// The signal to use: SIGPROF where nobody else has a handler for it.
fn choose_signal(choice: SignalChoice) -> Result<i32> {
    use everprof_probe::os::{Action, Disposition, realtime_range};
    const SIGPROF: i32 = 27;
    let is_free = |signal: i32| {
        Disposition::of(signal)
            .is_some_and(|now| sigprof::is_ours(&now) || !matches!(now.action(), Action::Handler(_)))
    };
    let taken = |signal: i32| {
        Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "signal {signal} has a handler of somebody else: set the option signal to auto, or to a free one"
            ),
        ))
    };
    match choice {
        SignalChoice::Prof if is_free(SIGPROF) => Ok(SIGPROF),
        SignalChoice::Prof => taken(SIGPROF),
        SignalChoice::Number(signal) if is_free(signal) => Ok(signal),
        SignalChoice::Number(signal) => taken(signal),
        _ if is_free(SIGPROF) => Ok(SIGPROF),
        _ => {
            let (first, last) = realtime_range();
            (first..=last).rev().find(|signal| is_free(*signal)).map_or_else(|| taken(SIGPROF), Ok)
        }
    }
}

/// Empties the rings and the counts of losses without looking at them, and closes the handler.
pub(super) fn forget_samples() {
    sigprof::close();
    for ring in RINGS.get().into_iter().flatten() {
        ring.clear();
    }
    for loss in Loss::ALL {
        loss::take(loss);
    }
}

fn rings() -> Result<&'static [Ring]> {
    if let Some(rings) = RINGS.get() {
        return Ok(rings);
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let made: Option<Vec<Ring>> =
        (0..processors.next_power_of_two().min(8)).map(|_| Ring::new(RING_WORDS)).collect();
    let made =
        made.ok_or_else(|| Error::new(ErrorKind::Unsupported, "there is no memory for everprof's rings"))?;
    Ok(RINGS.get_or_init(|| made))
}

fn wall_clock() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as i64)
}
