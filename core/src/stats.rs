//! What the profiler says about itself.

mod fields;

pub use fields::{StatSpec, StatValue};

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::profile::Verdict;

fields::table! {
/// A picture of the running profiler, from [`crate::Profiler::stats`].
///
/// Counters begin with the profiler; after a fork the child's begin anew.
///
/// ```no_run
/// let profiler = everprof::Profiler::start()?;
/// let stats = profiler.stats();
/// println!("{} samples, {} lost, {:?} of CPU time used by everprof", stats.samples, stats.lost, stats.own_cpu());
/// # Ok::<(), everprof::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Whether a profiler runs in this process.
    pub running: bool,
    /// Whether this instance takes profiles of periods now; requests and recordings are answered in any case.
    pub active: bool,
    /// Why it does, or does not: `fleet_share` and the window at hand.
    pub active_reason: String,
    /// The kinds that it takes now: those of `kinds` whose turn it is by `fleet_share` and `duty`.
    pub active_kinds: Vec<&'static str>,
    /// Samples taken from the ring.
    pub samples: u64,
    /// CPU time that the samples stand for, losses and unsampled time included.
    pub sampled_cpu: Duration,
    /// CPU time of the process since the profiler began.
    pub process_cpu: Duration,
    /// Periods whose samples were dropped, for whatever reason; each is in the profile as a frame that names it.
    pub lost: u64,
    /// Of them: the ring had no room.
    pub lost_ring_full: u64,
    /// Of them: more handlers at once than scratch buffers.
    pub lost_no_scratch: u64,
    /// Stacks deeper than `max_frames`, whose middle is missing and marked.
    pub truncated: u64,
    /// Stacks that ended before the thread's first frame, or may lack callers of code without call-frame information; each
    /// has a mark where frames are missing.
    pub incomplete: u64,
    /// Of them: the thread ran on a stack that is neither its own nor its alternate one, such as a coroutine's, and that
    /// nobody had told of by [`crate::StackRange`].
    pub incomplete_unknown_stack: u64,
    /// CPU time of threads that were gone, or not yet known, without any sample: a frame of the profile.
    pub unsampled_cpu: Duration,
    /// The rate in force, in Hz: lower than asked for while the governor holds it down.
    pub rate_hz: f64,
    /// The rate that was asked for, in Hz.
    pub wanted_rate_hz: f64,
    /// Signals per second of CPU time really delivered: at most the kernel's tick with the clock `timer`. Each signal
    /// carries the weight of the expiries it stands for, so totals are right at any rate.
    pub effective_rate_hz: f64,
    /// Looks per second at each thread for what it waits for, in Hz: lower than `wall_rate_hz` while the governor holds it
    /// down; 0 where there are none.
    pub wall_rate_hz: f64,
    /// Whether the governor holds down the rate, samples of allocations or of waits for locks, or looks at threads that wait,
    /// because of `cpu_budget_percent`.
    pub throttled: bool,
    /// Signals handled.
    pub signals: u64,
    /// CPU time of everprof's own threads.
    pub threads_cpu: Duration,
    /// Time spent on the application's threads: in the handler, and on the stacks of futures that wait.
    pub handler_time: Duration,
    /// Estimated cost of delivering the signals, which the handler cannot see: 3 microseconds each.
    pub delivery_time: Duration,
    /// About how many bytes everprof holds: rings, tables, stacks and names.
    pub memory_bytes: u64,
    /// Live threads of the process.
    pub threads: u64,
    /// Live threads without a timer of their own, whose CPU time is told as that of threads without samples.
    pub threads_untimed: u64,
    /// Signals sent to threads that waited, because the kernel did not tell where, or their stack was not whole: see
    /// `wall_signal`.
    pub wall_signals: u64,
    /// Looks at threads that waited of which the kernel did not tell where, or did not let their stacks be read.
    pub wall_untold: u64,
    /// Waits of tasks that are in no profile, because more began in a moment than there is room for: at any time 4,096 of
    /// those that were watched can be told. Each is counted for as many as it would have stood for.
    pub awaits_lost: u64,
    /// Samples that are told without their trace and span, because a period had more spans than `trace_spans`, or more of them
    /// allocated or waited at more places than there is room for.
    pub spans_left_out: u64,
    /// The signal in use.
    pub signal: i32,
    /// The clock in use: `timer` or `perf_event`.
    pub cpu_clock: &'static str,
    /// Profile sets that each exporter has brought where they belong, and profiles that Google Cloud Profiler has asked for
    /// and got.
    pub exported: u64,
    /// The bytes of their profiles, encoded and compressed as they were sent.
    pub exported_bytes: u64,
    /// Profile sets that did not arrive whole, by each exporter, and profiles that Google Cloud Profiler did not get.
    pub export_failures: u64,
    /// Of them: given up because more than `push_queue_bytes` waited, the oldest first.
    pub export_evicted: u64,
    /// Of them: the server does not want them.
    pub export_refused: u64,
    /// Of them: they had become too old for the server.
    pub export_expired: u64,
    /// Of them: sent and not answered; with `push_delivery = at_most_once` they are not sent again, and may be there.
    pub export_unknown: u64,
    /// Of them: given up after several attempts that broke off or failed, while others arrived.
    pub export_broken: u64,
    /// Of them: still waiting when the profiler ended.
    pub export_unsent: u64,
    /// Of them: kept on disk (`push_spool`) and not readable any more.
    pub export_unreadable: u64,
    /// Attempts to export that failed and were made again.
    pub export_retries: u64,
    /// Profile sets that wait on disk (`push_spool`), those of processes before included.
    pub spool_sets: u64,
    /// Their bytes.
    pub spool_bytes: u64,
    /// Whether the service was bound by its processors or by waiting in the last period that was closed; none before the
    /// first one, and where `wall` is not among `kinds`. Found on everprof's thread when the period is named.
    pub verdict: Option<Verdict>,
    /// Where the pull side listens, such as `127.0.0.1:6060`; none where it does not.
    pub serve_address: Option<String>,
    /// Requests that it answered, refused ones included.
    pub serve_requests: u64,
    /// Requests and connections that it refused, for their form or for lack of room.
    pub serve_refused: u64,
    /// What went wrong last: a fallback that was taken, or an export that failed.
    pub last_problem: Option<String>,
    /// Samples of allocations that were taken.
    pub alloc_samples: u64,
    /// Those that were lost: they are in the profile as a frame that says so.
    pub alloc_lost: u64,
    /// Sampled blocks that are not followed, because too many live at once near each other: the live heap has them as a
    /// frame, in the period in which they were allocated.
    pub alloc_unfollowed: u64,
    /// Where allocations are seen: `rust` (the program's allocator is everprof's), `c` (calls of `malloc` and its kin), both
    /// as `rust, c`, or empty.
    pub alloc_sources: &'static str,
    /// Calls of `malloc` and its kin from one library into another that are seen.
    pub alloc_slots: u64,
    /// Those that are not, because they lead to somebody else's hook, or to a fifth allocator.
    pub alloc_slots_foreign: u64,
    /// Those that are not, because the kernel does not let us change them.
    pub alloc_slots_refused: u64,
    /// Samples of waits for locks that were taken.
    pub lock_samples: u64,
    /// Samples of waits for locks that were lost: they are in the profiles as a frame that says so.
    pub lock_lost: u64,
    /// Slots of functions that wait for locks, in all loaded objects, that are hooked.
    pub lock_slots: u64,
    /// Such slots that hold somebody else's function, or an older version, and are left alone.
    pub lock_slots_foreign: u64,
    /// Such slots that the system did not let be changed.
    pub lock_slots_refused: u64,
    /// Time spent on the application's threads for samples of allocations and of waits for locks.
    pub hooks_time: Duration,
    /// The mean distance of samples of allocations in force, in bytes: more than `interval_bytes` while the governor holds it
    /// up, or where more blocks live than can be followed otherwise; 0 where none are taken.
    pub interval_bytes: u64,
    /// How long a wait for a lock is at least that is always a sample: more than `lock_threshold_ns` while the governor holds
    /// it up; 0 where none are taken.
    pub lock_threshold: Duration,
}
}

impl Stats {
    /// Everything that everprof cost: its threads, its handler, its hooks, and the delivery of its signals.
    pub fn own_cpu(&self) -> Duration {
        self.threads_cpu + self.handler_time + self.hooks_time + self.delivery_time
    }

    /// That cost as a share of the process's CPU time, 0.0 to 1.0.
    pub fn own_share(&self) -> f64 {
        match self.process_cpu.as_secs_f64() {
            0.0 => 0.0,
            process => self.own_cpu().as_secs_f64() / process,
        }
    }
}

/// The counters behind [`Stats`] that more than one of our threads writes.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) exported: AtomicU64,
    pub(crate) exported_bytes: AtomicU64,
    pub(crate) export_failures: AtomicU64,
    pub(crate) export_evicted: AtomicU64,
    pub(crate) export_refused: AtomicU64,
    pub(crate) export_expired: AtomicU64,
    pub(crate) export_unknown: AtomicU64,
    pub(crate) export_broken: AtomicU64,
    pub(crate) export_unsent: AtomicU64,
    pub(crate) export_unreadable: AtomicU64,
    pub(crate) export_retries: AtomicU64,
    pub(crate) spool_sets: AtomicU64,
    pub(crate) spool_bytes: AtomicU64,
    pub(crate) publisher_cpu: AtomicU64,
    pub(crate) publisher_memory: AtomicU64,
    pub(crate) exporter_cpu: AtomicU64,
    /// Closed segments of periods that are not named yet.
    pub(crate) waiting: AtomicU64,
    /// Snapshots that are not named yet.
    pub(crate) snapshots: AtomicU64,
    /// Bytes of encoded sets that are not exported yet.
    pub(crate) undelivered_bytes: AtomicU64,
    /// When somebody asked for the end.
    pub(crate) stopping: OnceLock<Instant>,
    latest: Mutex<Stats>,
    problem: Mutex<Option<String>>,
    verdict: Mutex<Option<Verdict>>,
}

impl Counters {
    /// Replaces the part that the drain keeps.
    pub(crate) fn publish(&self, stats: Stats) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    /// The drain has ended, in whatever way.
    pub(crate) fn end(&self) {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).running = false;
    }

    /// Something of so many bytes has arrived.
    pub(crate) fn sent(&self, bytes: u64) {
        self.exported.fetch_add(1, Ordering::Relaxed);
        self.exported_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Remembers what went wrong.
    pub(crate) fn problem(&self, problem: impl Into<String>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem.into());
    }

    /// Replaces the verdict.
    pub(crate) fn judge(&self, verdict: Option<Verdict>) {
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = verdict;
    }

    /// The whole picture.
    pub(crate) fn stats(&self) -> Stats {
        let mut stats = self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        stats.exported = self.exported.load(Ordering::Relaxed);
        stats.exported_bytes = self.exported_bytes.load(Ordering::Relaxed);
        stats.export_failures = self.export_failures.load(Ordering::Relaxed);
        stats.export_evicted = self.export_evicted.load(Ordering::Relaxed);
        stats.export_refused = self.export_refused.load(Ordering::Relaxed);
        stats.export_expired = self.export_expired.load(Ordering::Relaxed);
        stats.export_unknown = self.export_unknown.load(Ordering::Relaxed);
        stats.export_broken = self.export_broken.load(Ordering::Relaxed);
        stats.export_unsent = self.export_unsent.load(Ordering::Relaxed);
        stats.export_unreadable = self.export_unreadable.load(Ordering::Relaxed);
        stats.export_retries = self.export_retries.load(Ordering::Relaxed);
        stats.spool_sets = self.spool_sets.load(Ordering::Relaxed);
        stats.spool_bytes = self.spool_bytes.load(Ordering::Relaxed);
        for cpu in [&self.publisher_cpu, &self.exporter_cpu] {
            stats.threads_cpu += Duration::from_nanos(cpu.load(Ordering::Relaxed));
        }
        stats.memory_bytes += self.publisher_memory.load(Ordering::Relaxed);
        stats.memory_bytes += self.undelivered_bytes.load(Ordering::Relaxed);
        stats.verdict = self.verdict.lock().unwrap_or_else(PoisonError::into_inner).clone();
        stats.last_problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        stats
    }
}
