//! The threads of the process: found, timed, named, and let go.
//!
//! `/proc/self/task` names every thread, also those started by C code or before us. Its link count gives their number
//! for the price of one system call, so the directory is read only when that number changed, and once a second for the
//! case that one thread took another's place.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use everprof_probe::os::{Clock, gettid, monotonic};
use everprof_probe::sigprof;
use everprof_probe::thread::{self, Slot};
use everprof_probe::timer::{ClockKind, ThreadTimer};

const TASKS: &str = "/proc/self/task";
/// The directory is read again after this long, in nanoseconds, even where the number of threads is the same.
const FULL_SCAN: u64 = 1_000_000_000;
/// Reading the directory may take this part of a processor; with thousands of threads it is read less often.
const SCAN_SHARE: u64 = 2_000;
/// The same while threads come and go: looking for them is then worth one per cent.
const CHURNING_SHARE: u64 = 100;

/// How threads are sampled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sampling {
    pub(super) clock: ClockKind,
    pub(super) signal: i32,
    pub(super) period: u32,
}

/// Every live thread, with its timer.
#[derive(Debug)]
pub(super) struct Threads {
    sampling: Sampling,
    by_id: HashMap<u32, Thread>,
    /// Threads come and go, or may: every new one matters.
    churning: bool,
    random: Random,
    links: u64,
    scanned_at: u64,
    next_scan: u64,
    round: u32,
    /// CPU time that the timers of threads which are gone accounted for.
    ended_credit: u64,
    /// Timed threads that ended since the last period closed: name and id.
    ended: Vec<(Arc<str>, u32)>,
    /// What the last timer that could not be made failed with.
    timer_error: Option<i32>,
}

#[derive(Debug)]
struct Thread {
    slot: Option<&'static Slot>,
    timer: Option<ThreadTimer>,
    /// Its CPU time when its timer was made.
    timed_from: u64,
    /// CPU time that was told to have no samples.
    written_off: u64,
    name: Arc<str>,
    round: u32,
    /// Programs name a thread shortly after starting it, so a young thread's name is read again.
    young: bool,
}

impl Threads {
    /// Nobody yet. Slots of threads that ended while nothing was sampled are given back.
    pub(super) fn new(sampling: Sampling) -> Self {
        thread::sweep(|tid| fs::exists(format!("{TASKS}/{tid}")).unwrap_or(true));
        Self {
            sampling,
            by_id: HashMap::new(),
            churning: true,
            random: Random::new(),
            links: 0,
            scanned_at: 0,
            next_scan: 0,
            round: 0,
            ended_credit: 0,
            ended: Vec::new(),
            timer_error: None,
        }
    }

    /// Looks for new and ended threads, if there is a reason to.
    pub(super) fn update(&mut self) {
        let now = monotonic();
        if now < self.next_scan {
            return;
        }
        let links = fs::metadata(TASKS).map_or(0, |tasks| tasks.nlink());
        // While threads come and go, one may have taken another's place.
        if links == self.links && !self.churning && now - self.scanned_at < FULL_SCAN {
            return;
        }
        self.links = links;
        let own = || Clock::Thread(gettid()).now().unwrap_or_default();
        let before = own();
        self.scan();
        self.scanned_at = now;
        let share = if self.churning { CHURNING_SHARE } else { SCAN_SHARE };
        self.next_scan = now + (own() - before).saturating_mul(share).min(10 * FULL_SCAN);
    }

    /// Says whether threads come and go.
    pub(super) fn set_churning(&mut self, churning: bool) {
        self.churning = churning;
    }

    /// Whether threads come and go.
    pub(super) fn is_churning(&self) -> bool {
        self.churning
    }

    /// Looks for new and ended threads now.
    pub(super) fn scan(&mut self) {
        self.round = self.round.wrapping_add(1);
        let Ok(tasks) = fs::read_dir(TASKS) else { return };
        for task in tasks.flatten() {
            if let Some(tid) = task.file_name().to_str().and_then(|name| name.parse().ok()) {
                self.meet(tid);
            }
        }
        let round = self.round;
        let mut ended_credit = 0;
        let ended = &mut self.ended;
        self.by_id.retain(|tid, thread| {
            let lives = thread.round == round;
            if !lives {
                if thread.timer.is_some() {
                    ended.push((thread.name.clone(), *tid));
                }
                ended_credit += thread.stop();
                if let Some(slot) = thread.slot {
                    slot.release();
                }
            }
            lives
        });
        self.ended_credit += ended_credit;
    }

    /// Changes the period of every timer.
    pub(super) fn set_period(&mut self, period: u32) {
        self.sampling.period = period;
        for thread in self.by_id.values() {
            let (Some(timer), Some(slot)) = (&thread.timer, thread.slot) else { continue };
            let _ = timer.set_period(slot, period, self.random.below(period));
        }
    }

    /// Makes every timer anew, for another signal or clock.
    pub(super) fn restart(&mut self, sampling: Sampling) {
        self.sampling = sampling;
        self.stop();
        self.scan();
    }

    /// Deletes every timer. Slots stay with their threads, which may have labels in them.
    pub(super) fn stop(&mut self) {
        for (_, mut thread) in self.by_id.drain() {
            self.ended_credit += thread.stop();
        }
    }

    /// The name of a thread; a thread that ended before it was met has none.
    pub(super) fn name(&mut self, tid: u32) -> Arc<str> {
        if let Some(thread) = self.by_id.get(&tid) {
            return thread.name.clone();
        }
        if let Some((name, _)) = self.ended.iter().rev().find(|(_, ended)| *ended == tid) {
            return name.clone();
        }
        if tid == 0 { "".into() } else { read_name(tid) }
    }

    /// Reads the names again, which programs may change. Once a period.
    pub(super) fn rename(&mut self) {
        for (tid, thread) in &mut self.by_id {
            let name = read_name(*tid);
            if !name.is_empty() {
                thread.name = name;
            }
        }
    }

    /// CPU time that timers have accounted for, or soon will: all that living threads used since they were timed, and
    /// what the timers of ended ones had seen by then.
    pub(super) fn covered(&self) -> u64 {
        let live: u64 = self.by_id.iter().filter_map(|(tid, thread)| thread.covered(*tid)).sum();
        self.ended_credit + live
    }

    /// CPU time of living threads that no signal came for, though more than `tolerance` nanoseconds of it were due: the
    /// thread blocks the signal, or the clock is blind to time in the kernel. Each is told once, by name and id.
    pub(super) fn write_off(&mut self, tolerance: u64) -> Vec<(Arc<str>, u32, u64)> {
        let mut told = Vec::new();
        for (tid, thread) in &mut self.by_id {
            let Some(covered) = thread.covered(*tid) else { continue };
            let known = thread.slot.map_or(0, Slot::credited) + thread.written_off;
            let due = covered.saturating_sub(known);
            // One tolerance is what a running thread may always be behind; a little more is no news yet.
            if due > 4 * tolerance {
                let nanos = due - tolerance;
                thread.written_off += nanos;
                told.push((thread.name.clone(), *tid, nanos));
            }
        }
        told
    }

    /// What of a sample's time is new: a thread that takes its signal late brings all the time that it stands for, and
    /// some of that may have been written off.
    pub(super) fn settle(&mut self, tid: u32, nanos: u64) -> u64 {
        let Some(thread) = self.by_id.get_mut(&tid) else { return nanos };
        let old = thread.written_off.min(nanos);
        thread.written_off -= old;
        nanos - old
    }

    /// The timed threads that ended since the last call.
    pub(super) fn take_ended(&mut self) -> Vec<(Arc<str>, u32)> {
        std::mem::take(&mut self.ended)
    }

    /// How many threads live, and how many of them have no timer.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.by_id.len(), self.by_id.values().filter(|thread| thread.timer.is_none()).count())
    }

    /// The errno of the last timer that could not be made.
    pub(super) fn timer_error(&self) -> Option<i32> {
        self.timer_error
    }

    fn meet(&mut self, tid: u32) {
        if let Some(thread) = self.by_id.get_mut(&tid) {
            thread.round = self.round;
            if thread.young {
                thread.name = read_name(tid);
                thread.young = false;
            }
            if thread.timer.as_ref().is_none_or(ThreadTimer::is_alive) {
                return;
            }
            // The id was used again by a new thread, which the old timer does not follow. It keeps the slot: it may
            // have found it already and set labels there.
            self.ended.push((thread.name.clone(), tid));
            self.ended_credit += thread.stop();
        }
        let slot = thread::claim(tid);
        let timed_from = Clock::Thread(tid).now().unwrap_or_default();
        let timer = slot.and_then(|slot| match self.start_timer(slot) {
            Ok(timer) => Some(timer),
            // No such thread: it ended since the directory was read.
            Err(libc_errno::EINVAL | libc_errno::ESRCH) => None,
            Err(errno) => {
                self.timer_error = Some(errno);
                None
            }
        });
        // What it used before it had a timer is told by one sample, now. At the first scan that is not ours to tell.
        // Of short lives each sample weighs the same, as moments chosen at random must; by the time used so far, the
        // ends of lives would weigh most.
        if self.round > 1 && timed_from > 0 && slot.is_some() && is_running(tid) {
            sigprof::discover(tid, timed_from.max(self.sampling.period.into()));
        }
        let thread = Thread {
            slot,
            timer,
            timed_from,
            written_off: 0,
            name: read_name(tid),
            round: self.round,
            young: true,
        };
        self.by_id.insert(tid, thread);
    }

    fn start_timer(&mut self, slot: &'static Slot) -> Result<ThreadTimer, i32> {
        let Sampling { clock, signal, period } = self.sampling;
        ThreadTimer::start(slot, clock, signal, period, self.random.below(period))
    }
}

impl Thread {
    /// CPU time since the timer was made; of a thread that is gone, what its timer accounted for. None without a timer.
    fn covered(&self, tid: u32) -> Option<u64> {
        self.timer.as_ref()?;
        let credited = || self.slot.map_or(0, Slot::credited) + self.written_off;
        Some(Clock::Thread(tid).now().map_or_else(credited, |now| now.saturating_sub(self.timed_from)))
    }

    /// Deletes the timer and returns what it accounted for.
    fn stop(&mut self) -> u64 {
        if self.timer.take().is_none() {
            return 0;
        }
        self.slot.map_or(0, Slot::end_timing) + self.written_off
    }
}

/// The two errors that mean "no such thread"; libc is not a dependency of this crate.
mod libc_errno {
    pub(super) const ESRCH: i32 = 3;
    pub(super) const EINVAL: i32 = 22;
}

/// Whether a thread runs or is ready to, by the letter after its name.
fn is_running(tid: u32) -> bool {
    let stat = fs::read(format!("{TASKS}/{tid}/stat")).unwrap_or_default();
    let after_name = stat.iter().rposition(|byte| *byte == b')').and_then(|at| stat.get(at + 2));
    after_name == Some(&b'R')
}

fn read_name(tid: u32) -> Arc<str> {
    let name = fs::read(format!("{TASKS}/{tid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(&name).trim_end_matches('\n').into()
}

/// Random numbers for the phases of timers: SplitMix64 (Steele, Lea, Flood 2014), seeded by the standard library's
/// random keys.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self(RandomState::new().hash_one(monotonic()))
    }

    /// A number from 1 to `limit`.
    pub(super) fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((((word ^ (word >> 31)) >> 32) * u64::from(limit)) >> 32) as u32 + 1
    }
}
