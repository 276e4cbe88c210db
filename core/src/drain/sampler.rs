//! The sampler: everything the drain's thread owns while it runs, and what it does at each wake.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use everprof_probe::os::Clock;
use everprof_probe::ring::MAX_STACK_WORDS;
use everprof_probe::sample::{Frame, Header, Source, Trace, frames, missing};
use everprof_probe::thread_block::{self, Facts};
use everprof_probe::timer::ClockKind;
use everprof_probe::{awaiting, regs, sigprof, stacks, thread, unwind};

use super::awaits::Awaits;
use super::close::Cut;
use super::fleet::{Fleet, Work};
use super::governor::Governor;
use super::heap::Heap;
use super::hooks::HookOptions;
use super::locks::Locks;
use super::modules::Modules;
use super::publish::Job;
use super::record::Recordings;
use super::setup::{choose_signal, rings, start_publisher, wall_clock};
use super::sites::{Site, Sites};
use super::snapshot::Snapshots;
use super::threads::{Sampling, Threads};
use super::wall::{Wall, WallOptions};
use super::{Plan, live_options::asked, otel, tasks};
use crate::aggregate::{Aggregate, Key, Sums};
use crate::error::{Error, ErrorKind, Result};
use crate::labels;
use crate::options::{CpuClock, Kinds, WallSignal};
use crate::recorder;
use crate::report;
use crate::stats::{Counters, Stats};
use crate::thread_names;

/// How often the rings are emptied.
const WAKE: Duration = Duration::from_millis(200);
/// The same once nothing has changed for [`CALM_AFTER`] wakes: to wake costs more than what there is to do then.
const CALM_WAKE: Duration = Duration::from_millis(500);
const CALM_AFTER: u32 = 25;
/// The shortest sleep, while threads come and go.
const LEAST_REST: Duration = Duration::from_millis(4);
/// How often the cost is judged and the statistics are renewed.
const JUDGE_EVERY: Duration = Duration::from_secs(2);

/// The state of the drain's thread.
pub(super) struct Sampler {
    pub(super) threads: Threads,
    pub(super) modules: Modules,
    pub(super) governor: Governor,
    /// CPU time of the process, and what of it was used by threads before they were met, when births were last watched.
    pub(super) paced: (u64, u64),
    pub(super) paced_at: Instant,
    pub(super) sampling: Sampling,
    pub(super) sums: Aggregate,
    pub(super) thread_numbers: HashMap<(Arc<str>, Option<u32>), u32>,
    pub(super) label_places: HashMap<u32, u32>,
    /// The looks at threads that wait, where those are wanted.
    pub(super) wall: Option<Wall>,
    pub(super) wall_options: WallOptions,
    /// The waits of tasks that go on, where those are wanted.
    pub(super) awaits: Option<Awaits>,
    /// The account of the heap, where that is wanted.
    pub(super) heap: Option<Heap>,
    /// The account of waits for locks, where that is wanted.
    pub(super) locks: Option<Locks>,
    pub(super) hook_options: HookOptions,
    /// Ticks that samples of allocations and of waits had cost when we began.
    pub(super) hook_ticks_at_start: [u64; 2],
    /// By the thread's number: nanoseconds that it was ready to run and had no processor.
    pub(super) ready: HashMap<u32, u64>,
    pub(super) thread_ids: bool,
    /// Nanoseconds that closed periods have told.
    pub(super) told: u64,
    pub(super) buffer: Vec<u64>,
    jobs: Sender<Job>,
    is_alone: bool,
    pub(super) counters: Arc<Counters>,
    pub(super) stats: Stats,
    pub(super) period: Duration,
    pub(super) period_began: Instant,
    /// When the sums were cut last, and that on the wall clock.
    pub(super) cut_at: Instant,
    pub(super) period_time: i64,
    pub(super) recordings: Recordings,
    pub(super) snapshots: Snapshots,
    /// The kinds of profile that are taken of the period at hand: those of [`Sampler::fleet`] whose turn it is.
    pub(super) kinds: Kinds,
    pub(super) fleet: Fleet,
    pub(super) work: Work,
    pub(super) began: Instant,
    pub(super) judged: Instant,
    pub(super) woke: Instant,
    /// For how many wakes nothing has changed, and what would have: threads that came and went, and modules.
    pub(super) calm: u32,
    pub(super) turnover: (u64, u32),
    pub(super) process_cpu_at_start: u64,
    /// CPU nanoseconds of our thread for what somebody has asked for.
    pub(super) requests_cpu: u64,
    /// The same for looks at threads that wait, and for the accounts of the hooks.
    pub(super) looks_cpu: u64,
    pub(super) accounts_cpu: [u64; 2],
    pub(super) ticks_at_start: (u64, u64, u64),
    pub(super) samples_before: (u64, u64),
    /// How many samples there were when the last period ended.
    pub(super) samples_closed: u64,
    pub(super) unknown_stacks_at_start: u64,
    pub(super) awaits_lost_at_start: u64,
    /// It was said that there are threads without a timer.
    pub(super) told_untimed: bool,
    /// Problems that were said, and need not be again.
    pub(super) told_once: BTreeSet<String>,
}

impl Sampler {
    /// Learns the process, installs the handler and times every thread.
    pub(super) fn start(plan: Plan, starter: Option<Facts>, counters: &Arc<Counters>) -> Result<Sampler> {
        report::set_level(plan.options.log.filter());
        if !tasks::are_ours() {
            let problem = "/proc is that of another PID namespace, which numbers threads differently: mount a new one \
                           in this namespace (mount -t proc proc /proc, or unshare --mount-proc)";
            return Err(Error::new(ErrorKind::Unsupported, problem));
        }
        if let (Some(starter), Some(own)) = (starter, Facts::here())
            && !thread_block::learn(&starter, &own)
        {
            let problem = "the C library's thread block is of an unknown layout: stacks have their leaf only";
            report::warn(problem);
            counters.problem(problem);
        }
        let period = plan.options.rate_hz.period().as_nanos() as u32;
        let clock = match plan.options.cpu_clock {
            CpuClock::PerfEvent => ClockKind::PerfEvent,
            _ => ClockKind::Timer,
        };
        let signal = choose_signal(plan.options.signal, clock)?;
        let mut fleet = Fleet::new(&plan.options, &plan.tags);
        let kinds = fleet.kinds();
        let wall_options = WallOptions::of(&plan.options, &kinds);
        let modules = Modules::new();
        if !unwind::count().executable {
            let problem = "the executable has no .eh_frame_hdr, by which stacks are walked: those through it are \
                           incomplete, unless it is linked with --eh-frame-hdr";
            report::warn(problem);
            counters.problem(problem);
        }
        let rings = rings()?;
        // Two words a frame at most, and one that says what is missing.
        let max_words = (plan.options.max_frames.get() as usize + 1).min(MAX_STACK_WORDS);
        let hook_options = HookOptions::of(&plan.options, max_words);
        let asked = asked(&plan.options, &hook_options, &wall_options);
        if !sigprof::start(sigprof::Config { signal, max_words }, rings) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("no handler could be installed for signal {signal}"),
            ));
        }
        otel::publish(plan.options.otel_context, &plan.tags);
        labels::set_sampling(true);
        thread::want_new(true);
        recorder::set_open(true);
        thread_names::set_open(true);
        let may_interrupt = plan.options.wall_signal == WallSignal::Auto;
        let sampling = Sampling { clock, signal, period, is_timed: true, may_interrupt };
        let process_cpu = Clock::Process.now().unwrap_or_default();
        let (handled, ticks) = sigprof::cost();
        let ticks = ticks.wrapping_add(awaiting::cost());
        let now = Instant::now();
        let mut sampler = Sampler {
            threads: Threads::new(sampling),
            modules,
            governor: Governor::new(asked),
            paced: (process_cpu, 0),
            paced_at: now,
            sampling,
            sums: Aggregate::telling(hook_options.traces),
            thread_numbers: HashMap::new(),
            label_places: HashMap::new(),
            wall: None,
            wall_options,
            awaits: None,
            heap: None,
            locks: None,
            hook_options,
            hook_ticks_at_start: [everprof_probe::heap::cost(), everprof_probe::lock::cost()],
            ready: HashMap::new(),
            thread_ids: plan.options.thread_ids,
            told: 0,
            buffer: vec![0; MAX_STACK_WORDS],
            jobs: start_publisher(&plan, counters)?,
            is_alone: false,
            counters: counters.clone(),
            stats: Stats { running: true, signal, ..Stats::default() },
            period: plan.options.period_s.duration(),
            period_began: now,
            cut_at: now,
            period_time: wall_clock(),
            recordings: Recordings::default(),
            snapshots: Snapshots::default(),
            kinds: kinds.clone(),
            fleet,
            work: Work::Times,
            began: now,
            judged: now,
            woke: now,
            calm: 0,
            turnover: (0, 0),
            process_cpu_at_start: process_cpu,
            requests_cpu: 0,
            looks_cpu: 0,
            accounts_cpu: [0; 2],
            ticks_at_start: (regs::ticks(), handled, ticks),
            samples_before: (0, process_cpu),
            samples_closed: 0,
            unknown_stacks_at_start: stacks::unknown(),
            awaits_lost_at_start: labels::lost(),
            told_untimed: false,
            told_once: BTreeSet::new(),
        };
        labels::set_counting(kinds.iter().next().is_some());
        sampler.publish(Job::Kinds(kinds, sampler.fleet.marks()));
        // Threads that live already are charged from now on, not from their birth.
        sampler.threads.scan();
        sampler.switch_looks();
        sampler.begin_hooks();
        sampler.fall_back_to_timers();
        if let Err(error) = sampler.check_threads() {
            sampler.end();
            return Err(error);
        }
        // Whether threads can be timed is known now, also where it is not the turn of any kind that needs it.
        sampler.switch_work();
        // Starting costs some milliseconds once; the governor judges what comes after.
        let usage = sampler.usage(process_cpu);
        sampler.governor.begin(usage);
        sampler.renew_stats(&usage);
        Ok(sampler)
    }

    /// Ends what a start has begun. What was not closed by now is lost.
    pub(super) fn end(&mut self) {
        sigprof::stop();
        super::close_doors();
        self.threads.stop();
    }

    /// Whether the publisher is gone, by a fault of ours: nothing that is sampled can be told any more.
    pub(super) fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// Gives the publisher something to do.
    pub(super) fn publish(&mut self, job: Job) {
        self.is_alone |= self.jobs.send(job).is_err();
    }

    /// How long to sleep until the next wake.
    pub(super) fn rest(&self) -> Duration {
        let period = Duration::from_nanos(self.sampling.period.into());
        let rest = match self.calm {
            _ if self.threads.is_churning() => period.clamp(LEAST_REST, WAKE),
            CALM_AFTER.. => CALM_WAKE,
            _ => WAKE,
        };
        let calm = self.is_calm();
        let rest = if self.work == Work::Idle { self.idle_rest() } else { rest.min(self.fleet.rest()) };
        let rest = self.wall.as_ref().map_or(rest, |wall| rest.min(Duration::from_nanos(wall.rest(calm))));
        rest.min(self.recordings.rest()).min(self.snapshots.rest())
    }

    /// How long not even to listen to who announces itself.
    pub(super) fn pause(&self) -> Duration {
        Duration::from_nanos(self.threads.before_welcome())
    }

    /// Whether nothing has come or gone for a while.
    fn is_calm(&self) -> bool {
        self.calm >= CALM_AFTER && !self.threads.is_churning()
    }

    /// Looks for new threads, and five times a second, or twice where nothing comes and goes, does everything else.
    pub(super) fn wake(&mut self) {
        self.take_turns();
        if self.work == Work::Idle {
            self.idle();
            if self.judged.elapsed() >= JUDGE_EVERY {
                self.judge();
            }
            return;
        }
        self.threads.welcome();
        let census = self.threads.update();
        let calm = self.is_calm();
        let (_, took) = self.timed(|own| own.look_if_due(census, calm));
        self.looks_cpu += took;
        // Looks at threads that wait may come more often; the rest is not worth it then.
        let interval = if calm { CALM_WAKE.mul_f64(0.9) } else { WAKE };
        if self.woke.elapsed() < interval {
            // An allocation may have asked: a program's first samples are to have stacks, and there are many at its start.
            if self.heap.is_some() && everprof_probe::heap::wants_table() {
                self.modules.update();
            }
            // Or there is a burst of them.
            if self.heap.is_some() && everprof_probe::heap::is_crowded() {
                let mut buffer = std::mem::take(&mut self.buffer);
                // Nothing else: waits are held from one drain to another for who ended them, who would be given too little time.
                let (_, took) = self.timed(|own| own.drain_heap(&mut buffer));
                self.accounts_cpu[0] += took;
                self.buffer = buffer;
            }
            return;
        }
        self.woke = Instant::now();
        let changed = self.modules.take_news();
        self.keep_locks_hooked(changed);
        self.keep_heap_hooked(changed);
        self.watch_calm();
        self.drain();
        if self.judged.elapsed() >= JUDGE_EVERY {
            self.judge();
        }
        if self.period_began.elapsed() >= self.period || self.has_clock_jumped() {
            self.cut(Cut::Period);
        }
        self.expire_recordings();
    }

    /// Closes the period at hand; `done` hears when it is exported.
    pub(super) fn flush(&mut self, done: Sender<()>) {
        self.drain();
        self.judge();
        self.cut(Cut::Period);
        self.publish(Job::Reply(done));
    }

    /// Stops sampling and closes the last period; `done` hears when it is exported.
    pub(super) fn stop(mut self, done: Sender<()>) {
        // The handler is closed before the timers go: what they accounted for is part of the last account.
        sigprof::stop();
        self.drain();
        self.take_stock();
        self.cut(Cut::Last);
        // Before the reply: the next profiler reads the cells itself.
        self.awaits = None;
        super::close_doors();
        self.heap = None;
        self.locks = None;
        self.threads.stop();
        self.stats.running = false;
        self.counters.publish(self.stats.clone());
        self.publish(Job::Reply(done));
    }

    pub(super) fn drain(&mut self) {
        self.threads.take_names();
        let mut buffer = std::mem::take(&mut self.buffer);
        for ring in rings().unwrap_or_default() {
            ring.drain(&mut buffer, |header, words| self.count(&header, words));
        }
        self.drain_hooks(&mut buffer);
        self.buffer = buffer;
        self.threads.drained();
        self.read_awaits(false);
        labels::reclaim();
    }

    fn count(&mut self, header: &Header, words: &[u64]) {
        if header.source == Source::Wall as u8 {
            if !self.snapshots.answered(header, words) {
                self.count_answer(header, words);
            }
            return;
        }
        if !self.sampling.is_timed {
            // Of a handler that was in flight when the timers went.
            return;
        }
        let unclaimed = header.source == Source::Unclaimed as u8;
        self.stats.samples += 1;
        let lacks = |is: fn(u64) -> bool| {
            u64::from(frames(words).any(|frame| matches!(frame, Frame::Missing(count) if is(count))))
        };
        self.stats.incomplete += lacks(|count| count == 0);
        self.stats.truncated += lacks(|count| count > 0);
        let name = self.threads.name(header.tid);
        let thread = self.thread_number(name, self.thread_ids.then_some(header.tid));
        let (nanos, period) = (header.weight * u64::from(header.period), u64::from(header.period));
        // Of lives too short to be met, the sample of a discovery says as much as the thread used by then, but no more
        // than one period: of threads that have just begun, many wait for the processor, and few use it.
        let step = u64::from(self.sampling.period);
        let (period, count) = if unclaimed { (nanos, nanos.min(step)) } else { (period, header.weight) };
        let nanos = self.threads.count(header.tid, nanos, period, !unclaimed, thread);
        let key = Key {
            stack: self.stack(self.modules.epoch_of(header.generation), words),
            thread,
            labels: self.label_set(header.labels),
            unclaimed,
            trace: self.sums.intern_trace(header.trace),
        };
        self.sums.add(key, Sums { count, nanos });
        self.stats.sampled_cpu += Duration::from_nanos(nanos);
    }

    /// The place of a stack in the sums; of its leaf alone where a period has no room for more.
    pub(super) fn stack(&mut self, epoch: u32, words: &[u64]) -> u32 {
        let place = self.sums.intern_stack(epoch, words).or_else(|| {
            self.stats.truncated += 1;
            self.sums.intern_stack(epoch, &leaf(words))
        });
        place.unwrap_or_default()
    }

    /// The place of a label set in the sums; ids are not used again, so what is known of one stays true.
    pub(super) fn label_set(&mut self, id: u32) -> u32 {
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

    /// The site of a sample's stack in an account of its own.
    pub(super) fn site(&mut self, sites: &mut Sites, header: &Header, stack: &[u64]) -> Arc<Site> {
        let finished =
            header.is_unfinished().then(|| self.modules.finish(header, stack, self.hook_options.max_words));
        let stack = finished.as_deref().unwrap_or(stack);
        let epoch = self.modules.epoch_of(header.generation);
        let thread = (self.threads.name(header.tid), self.thread_ids.then_some(header.tid));
        let trace = if self.hook_options.traces == 0 { Trace::default() } else { header.trace };
        sites.site(epoch, stack, thread, labels::resolve(header.labels), trace)
    }

    pub(super) fn thread_number(&mut self, name: Arc<str>, tid: Option<u32>) -> u32 {
        let next = self.thread_numbers.len() as u32;
        *self.thread_numbers.entry((name, tid)).or_insert(next)
    }
}

/// The leaf of a stack, with a mark for what is missing: for a period that has no room for more.
fn leaf(words: &[u64]) -> Vec<u64> {
    let cut = frames(words).count().saturating_sub(1).max(1) as u64;
    let own = match frames(words).next() {
        Some(Frame::Runtime(..)) => 2,
        _ => 1,
    };
    words.iter().copied().take(own).chain([missing(cut)]).collect()
}
