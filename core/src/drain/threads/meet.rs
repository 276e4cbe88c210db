//! Meeting a thread: it gets a slot, a timer and a book, and what it used before is told by one sample.
//!
//! A thread that runs when it is met is asked for that sample by a signal, at once. Between the look and the signal it may
//! begin to wait, and its call may then fail with EINTR. Where that must not be (`wall_signal = never`), its timer
//! expires as soon as it runs instead: the kernel looks at timers at a tick, in the thread's own time, so no thread is
//! woken by one. The sample comes up to a tick later, and from a thread that ends before not at all.

use everprof_probe::os::{self, Clock, monotonic};
use everprof_probe::sigprof;
use everprof_probe::thread::{self, Slot};
use everprof_probe::timer::{ClockKind, ThreadTimer};

use super::super::book::{Book, Timing};
use super::super::tasks;
use super::{Ended, Sampling, Thread, Threads};

/// To meet threads that announce themselves may take this part of a processor; beyond it, they wait a little longer.
const WELCOME_SHARE: u64 = 50;
/// Nanoseconds that pass at least, and at most, before the next of them are met.
const WELCOME_PAUSE: std::ops::RangeInclusive<u64> = 1_000_000..=50_000_000;

impl Threads {
    /// Meets the threads that announced themselves since the last call, and gives back the slots of those that have
    /// ended unmet. Where there were any, the next ones wait for [`Threads::before_welcome`].
    pub(in super::super) fn welcome(&mut self) {
        let begin = monotonic();
        if begin < self.next_welcome || self.round == 0 {
            return;
        }
        let mut any = false;
        thread::take_new(|slot| {
            any = true;
            let tid = slot.tid();
            self.meet(tid, begin, true);
            // Threads that live have a clock, and those that were met are let go at the next look.
            if !self.by_id.contains_key(&tid) && slot.tid() == tid {
                slot.release();
            }
        });
        if any {
            let now = monotonic();
            let pause = ((now - begin) * WELCOME_SHARE).clamp(*WELCOME_PAUSE.start(), *WELCOME_PAUSE.end());
            self.next_welcome = now + pause;
        }
    }

    /// Looks whether a thread is known, still or again, and if not makes it so; `announced` if it said so itself.
    pub(super) fn meet(&mut self, tid: u32, now: u64, announced: bool) {
        // One that has ended by now is let go at the next look, with its slot.
        let Some(used) = Clock::Thread(tid).now() else { return };
        if let Some(thread) = self.by_id.get_mut(&tid) {
            if thread.young {
                thread.name = self.told.name(tid).unwrap_or_else(|| tasks::name(tid));
                thread.young = false;
            }
            let is_alive = thread.timer.as_ref().is_none_or(ThreadTimer::is_alive);
            if is_alive && used >= thread.book.seen() {
                if thread.timer.as_ref().is_some_and(ThreadTimer::is_lost) {
                    thread.stop_timer();
                    self.start_timer(tid, 0);
                }
                return;
            }
            // The id was used again by a new thread, which the old timer does not follow. It keeps the slot: it may
            // have found it already and set labels there.
            self.gone.extend(self.by_id.remove(&tid).map(|mut thread| {
                self.told.reused(tid, &thread.name);
                thread.stop_timer();
                let credited = thread.credited();
                thread.slot = None;
                Ended { credited, ..thread.end(0) }
            }));
        }
        let slot = thread::claim(tid);
        // Also where it says itself that it is there, before anybody could be looked for.
        let told = if self.opening || !self.has_read { used } else { 0 };
        let book = Book::open(used, told, now, slot.map_or(0, Slot::credited));
        let name = self.name_now(tid);
        let thread = Thread {
            slot,
            timer: None,
            book,
            name,
            young: true,
            met_at: now,
            discovered: false,
            // One with labels is about to, or its word waits to be heard.
            announced: announced || slot.is_some_and(|slot| slot.labels() != 0),
            deaf: false,
        };
        self.by_id.insert(tid, thread);
        self.turnover += 1;
        if !self.sampling.is_timed {
            return;
        }
        let before = used.saturating_sub(told);
        self.met_late += before;
        // So little is not worth a sample: the thread's other samples will stand for it.
        let little = u64::from(self.sampling.period) / 100;
        let is_wanted = slot.is_some() && before > if announced { little } else { 0 };
        if self.sampling.may_interrupt {
            self.start_timer(tid, 0);
            // What it used before it had a timer is told by one sample, now.
            if is_wanted && tasks::is_running(tid) {
                let is_sent = sigprof::discover(tid, before);
                self.by_id.entry(tid).and_modify(|thread| thread.discovered = is_sent);
            }
        } else {
            let is_wanted = is_wanted && self.sampling.clock == ClockKind::Timer && tasks::is_running(tid);
            self.start_timer(tid, if is_wanted { before } else { 0 });
        }
    }

    /// Gives a thread its timer. Where it has used `unclaimed` nanoseconds before, the timer expires first as soon as the
    /// thread runs, and that sample stands for them.
    pub(super) fn start_timer(&mut self, tid: u32, unclaimed: u64) {
        let Sampling { clock, signal, period, is_timed, .. } = self.sampling;
        if !is_timed {
            return;
        }
        let Some(thread) = self.by_id.get_mut(&tid) else { return };
        let Some(slot) = thread.slot else { return };
        let first = self.random.first(period, self.tick);
        let mut timing = self.sampling.timing(tid, slot, first);
        let mut expiry = first;
        if unclaimed > 0 {
            slot.set_unclaimed((unclaimed / 1_000).clamp(1, u32::MAX.into()) as u32);
            expiry = 1;
            // The first expiry that stands for a period is the next one.
            timing.first = period;
        }
        match ThreadTimer::start(slot, clock, signal, period, expiry) {
            Ok(timer) => {
                thread.timer = Some(timer);
                thread.book.arm(Some(timing.armed(tid)), self.tick);
            }
            // No such thread: it ended since the directory was read.
            Err(libc_errno::EINVAL | libc_errno::ESRCH) => {}
            Err(errno) => {
                slot.set_unclaimed(0);
                self.timer_error = Some(errno);
            }
        }
    }

    /// Tries again where a timer was refused: the limit of pending signals is shared by all processes of a user, and a
    /// table of slots may have been full. One refusal is enough to know.
    pub(super) fn time_the_untimed(&mut self) {
        if !self.sampling.is_timed {
            return;
        }
        let untimed = self.by_id.iter().filter(|(_, thread)| thread.timer.is_none());
        let untimed: Vec<u32> = untimed.map(|(tid, _)| *tid).collect();
        for tid in untimed {
            self.timer_error = None;
            if let Some(thread) = self.by_id.get_mut(&tid).filter(|thread| thread.slot.is_none()) {
                thread.slot = thread::claim(tid);
            }
            self.start_timer(tid, 0);
            if self.timer_error.is_some() {
                return;
            }
        }
    }
}

impl Sampling {
    /// Whether no signal comes to thread `tid` because of what the thread does. The timer's signal it may hold back, which the
    /// kernel tells; but of a thread that runs for a moment now and then, ticks may miss many in a row.
    pub(super) fn is_deaf(&self, tid: u32) -> bool {
        self.clock != ClockKind::Timer || os::holds_back(tid, self.signal).unwrap_or(true)
    }

    /// How the timer of a thread is about to be armed, whose first expiry is to come after `first`.
    pub(super) fn timing(&self, tid: u32, slot: &Slot, first: u32) -> Timing {
        let from = Clock::Thread(tid).now().unwrap_or_default();
        // A perf event begins with a whole period.
        let first = if self.clock == ClockKind::Timer { first } else { self.period };
        Timing { from, until: from, first, period: self.period, credited: slot.credited() }
    }
}

impl Timing {
    /// It was armed just now.
    pub(super) fn armed(self, tid: u32) -> Self {
        Self { until: Clock::Thread(tid).now().unwrap_or_default().max(self.from), ..self }
    }
}

/// The two errors that mean "no such thread"; libc is not a dependency of this crate.
mod libc_errno {
    pub(super) const ESRCH: i32 = 3;
    pub(super) const EINVAL: i32 = 22;
}
