//! The end of a period: its sums with everything needed to name them, and the CPU time that no sample stands for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use everprof_probe::loss::{self, Loss};
use everprof_probe::os::Clock;
use everprof_probe::timer::ClockKind;

use super::account::Unmet;
use super::book::part_of;
use super::period::{Period, Stackless};
use super::publish::Job;
use super::sampler::Sampler;
use super::settle::{Placed, Settlement};
use super::setup::wall_clock;
use super::threads::Whose;
use super::wall::Wall;
use crate::aggregate::{Aggregate, Sums};
use crate::labels;
use crate::recorder;

/// Closed periods that may wait for their export.
const MOST_WAITING: u64 = 8;

/// Where the sums are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Within a period, where a recording begins or ends.
    Within,
    /// The same where nobody is timed after it: what there is left is told.
    IntoRest,
    /// At the end of a period.
    Period,
    /// At the end of all: what there is left is told.
    Last,
}

impl Cut {
    /// Whether a period ends there.
    pub(super) fn is_end(self) -> bool {
        matches!(self, Cut::Period | Cut::Last)
    }

    /// Whether no sample that comes later can speak for what was before.
    pub(super) fn is_last(self) -> bool {
        matches!(self, Cut::IntoRest | Cut::Last)
    }
}

impl Sampler {
    /// Gives the sums since the last cut to the publisher and begins anew. A period has one such segment, and more where
    /// recordings begin or end in it.
    ///
    /// Every segment is settled for itself. Within a period that concerns only threads with samples in it: the others'
    /// books stay open, so that what is due to them goes where it would have gone without the cut. Where nobody is timed after
    /// it, there is no later, and they are closed as well.
    pub(super) fn cut(&mut self, cut: Cut) {
        let now = Instant::now();
        let duration = now.duration_since(self.cut_at);
        self.cut_at = now;
        let time_nanos = self.period_time;
        let end = time_nanos.saturating_add(duration.as_nanos() as i64);
        self.period_time = begin_of_next(end, wall_clock());
        self.modules.update();
        // First the clocks, then the samples: of a thread that ended in between, all samples are known.
        self.threads.scan();
        self.drain();
        _ = self.look_around(true);
        self.read_awaits(true);
        let sums = std::mem::replace(&mut self.sums, Aggregate::telling(self.hook_options.traces));
        self.stats.spans_left_out += sums.traces_left_out();
        self.label_places.clear();
        let mut stackless = Vec::new();
        let corrections = self.settle(&sums, &mut stackless, cut);
        let discovered = sums.rows().filter(|(key, _)| key.unclaimed).map(|(_, sums)| sums.count).sum();
        let mut unmet = self.threads.charge_unmet(discovered, cut);
        if !self.sampling.is_timed {
            // Nobody is told of CPU time; the books are closed all the same, since they grow.
            unmet = Unmet::default();
        }
        self.without_stack(&mut stackless, "threads that ended unsampled", None, unmet.unsampled);
        let (first_epoch, epochs) = self.modules.take();
        if let Some(heap) = &mut self.heap {
            heap.keep_epochs(first_epoch, &epochs);
        }
        if let Some(locks) = &mut self.locks {
            locks.keep_epochs(first_epoch, &epochs);
        }
        let mut names: Vec<_> = self.thread_numbers.drain().map(|(name, number)| (number, name)).collect();
        names.sort_unstable_by_key(|(number, _)| *number);
        let period = Period {
            time_nanos,
            duration_nanos: duration.as_nanos() as i64,
            sampling_period: self.sampling.period,
            signals: self.stats.samples - self.samples_closed,
            threads: names.into_iter().map(|(_, name)| name).collect(),
            epochs,
            first_epoch,
            corrections,
            unmet: unmet.sampled,
            stackless,
            wall_period: self.wall.as_ref().map_or(0, Wall::period),
            ready: std::mem::take(&mut self.ready),
            sums,
            recorded: recorder::take(),
        };
        self.samples_closed = self.stats.samples;
        self.told += period.nanos();
        self.stats.sampled_cpu = Duration::from_nanos(self.told);
        // Of the same moment: the two are read beside each other.
        let process = Clock::Process.now().unwrap_or_default();
        self.stats.process_cpu = Duration::from_nanos(process.saturating_sub(self.process_cpu_at_start));
        self.hand_over(period);
        self.snapshot_of_period(cut);
        self.accounts_of_period(cut);
        if cut.is_end() {
            self.period_began = now;
            self.threads.rename(0);
            // Where it is so far behind, they wait where they are: a few more in a map that is bounded.
            let counts = if self.is_publisher_stuck() { BTreeMap::new() } else { labels::take_counts() };
            self.publish(Job::EndPeriod(counts));
        }
        // With the losses that only the end of the period has told.
        self.counters.publish(self.stats.clone());
    }

    /// Whether the machine has slept, or its wall clock was put forward, since the period began.
    pub(super) fn has_clock_jumped(&self) -> bool {
        has_jumped(self.period_time, self.cut_at.elapsed(), wall_clock())
    }

    /// Hands a segment to the publisher, unless that is so far behind that it seems to hang: a file of symbols on a disk
    /// that does not answer must not cost the host its memory.
    fn hand_over(&mut self, period: Period) {
        let waiting = self.counters.waiting.fetch_add(1, Ordering::Relaxed);
        if waiting < MOST_WAITING {
            let recordings = self.recordings.open();
            self.publish(Job::Segment { period: Box::new(period), recordings });
            return;
        }
        self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
        self.recordings.damage();
        if !period.is_empty() {
            self.counters.export_failures.fetch_add(1, Ordering::Relaxed);
            self.trouble(format!("a profile was given up: {waiting} others still wait to be named"));
        }
    }

    /// Whether the publisher is so far behind that it is given no more than it must.
    pub(super) fn is_publisher_behind(&self) -> bool {
        self.counters.waiting.load(Ordering::Relaxed) >= MOST_WAITING / 2
    }

    /// Whether it is so far behind that it is given nothing more.
    pub(super) fn is_publisher_stuck(&self) -> bool {
        self.counters.waiting.load(Ordering::Relaxed) >= MOST_WAITING
    }

    /// Brings what samples stand for to what their threads have used: returns what is to be added, by the thread's
    /// number, and adds to `stackless` what no sample stands for.
    fn settle(&mut self, sums: &Aggregate, stackless: &mut Vec<Stackless>, cut: Cut) -> HashMap<u32, i64> {
        let losses: Vec<_> = Loss::ALL.into_iter().map(|loss| (loss, loss::take(loss))).collect();
        let nanos_lost = losses.iter().map(|(_, (_, nanos))| nanos).sum();
        // Whose samples were lost is known only by the balances of all.
        let whose = if cut == Cut::Within && nanos_lost == 0 { Whose::Sampled } else { Whose::All };
        let dues = self.threads.balance(nanos_lost, whose);
        if !self.sampling.is_timed {
            return HashMap::new();
        }
        self.lost(stackless, &losses, dues.iter().map(|due| due.balance.lost).sum());
        let mut sampled: HashMap<u32, u64> = HashMap::new();
        for (key, sums) in sums.rows() {
            *sampled.entry(key.thread).or_default() += sums.nanos;
        }
        let of_number = |number: &u32| sampled.get(number).copied().unwrap_or_default();
        let known = self.thread_numbers.iter();
        let mut settlement =
            Settlement::new(known.map(|((name, _), number)| (name.clone(), *number, of_number(number))));
        for due in dues {
            let thread = (due.name.clone(), (self.thread_ids && due.tid != 0).then_some(due.tid));
            self.without_stack(stackless, self.reason(due.timed), Some(thread.clone()), due.balance.missed);
            match settlement.place(&due) {
                Placed::Samples => {}
                Placed::Nowhere(nanos) if due.tid == 0 => self.threads.add_unmet(nanos),
                // Nothing to wait for: its samples would only speak for what comes after.
                Placed::Nowhere(nanos) if !due.timed => {
                    self.without_stack(stackless, self.reason(false), Some(thread), nanos);
                }
                Placed::Nowhere(nanos) if cut.is_last() => {
                    self.without_stack(stackless, "threads without a sample", Some(thread), nanos);
                }
                Placed::Nowhere(nanos) => self.threads.carry(due.tid, nanos),
            }
        }
        settlement.corrections()
    }

    /// Tells what was lost by its reasons. What threads have really used of it is `nanos`, all reasons together.
    fn lost(&mut self, stackless: &mut Vec<Stackless>, losses: &[(Loss, (u64, u64))], nanos: u64) {
        let all = losses.iter().map(|(_, (_, nanos))| nanos).sum();
        for &(loss, (count, own)) in losses {
            self.stats.lost += count;
            match loss {
                Loss::RingFull => self.stats.lost_ring_full += count,
                Loss::NoScratch => self.stats.lost_no_scratch += count,
            }
            if count != 0 {
                let sums = Sums { count, nanos: part_of(nanos, own, all) };
                stackless.push(Stackless { reason: loss.name(), thread: None, sums });
            }
        }
    }

    /// Why no signal came for the time of a living thread.
    fn reason(&self, timed: bool) -> &'static str {
        match (timed, self.sampling.clock) {
            (false, _) => "threads without a timer",
            (true, ClockKind::Timer) => "threads that block the signal",
            // A perf event does not wait for the tick; what it is behind, it will not make up for.
            (true, ClockKind::PerfEvent) => "in the kernel, unseen by perf_event",
        }
    }

    /// Tells CPU time that has no stack to go to.
    fn without_stack(
        &mut self,
        stackless: &mut Vec<Stackless>,
        reason: &'static str,
        thread: Option<(Arc<str>, Option<u32>)>,
        nanos: u64,
    ) {
        if nanos == 0 {
            return;
        }
        let thread = thread.map(|(name, tid)| self.thread_number(name, tid));
        let count = (nanos / u64::from(self.sampling.period.max(1))).max(1);
        self.stats.unsampled_cpu += Duration::from_nanos(nanos);
        stackless.push(Stackless { reason, thread, sums: Sums { count, nanos } });
    }
}

/// When a period begins on the wall clock, which says `now`, where the one before ends at `end`. A clock that is kept right by
/// small steps makes no periods overlap. One that was set back by more is followed at once: periods come as fast as time goes, so
/// a lead would be kept for ever, and servers refuse what is of the future.
fn begin_of_next(end: i64, now: i64) -> i64 {
    const SMALL: i64 = 1_000_000_000;
    if end.saturating_sub(now) > SMALL { now } else { now.max(end) }
}

/// Whether a period that began at `begin` and has run for so long cannot have come to `now` by itself. While a machine is
/// suspended, the clock that periods are measured by stands still: what comes after it would be told as of before. Such a period
/// ends early, the next one begins at its right time, and no profile stands for what was between.
fn has_jumped(begin: i64, ran: Duration, now: i64) -> bool {
    /// What clocks that are kept right by steps may do.
    const USUAL: i64 = 5_000_000_000;
    now.saturating_sub(begin).saturating_sub(ran.as_nanos() as i64) > USUAL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_slept_is_noticed() {
        const SECOND: i64 = 1_000_000_000;
        let ran = Duration::from_secs(30);
        assert!(!has_jumped(1_000 * SECOND, ran, 1_030 * SECOND));
        assert!(!has_jumped(1_000 * SECOND, ran, 1_034 * SECOND), "a step of the clock");
        assert!(has_jumped(1_000 * SECOND, ran, 1_036 * SECOND));
        assert!(!has_jumped(1_000 * SECOND, ran, 900 * SECOND) && !has_jumped(i64::MAX, ran, i64::MIN));
        assert_eq!(begin_of_next(1_030 * SECOND, 4_630 * SECOND), 4_630 * SECOND);
    }

    #[test]
    fn periods_follow_the_wall_clock_without_overlap() {
        const SECOND: i64 = 1_000_000_000;
        assert_eq!(begin_of_next(1_000, 1_003), 1_003);
        assert_eq!(begin_of_next(SECOND, SECOND - 30_000_000), SECOND, "slewed");
        assert_eq!(begin_of_next(60 * SECOND, 30 * SECOND), 30 * SECOND, "set back by half a period");
        assert_eq!(begin_of_next(4_000 * SECOND, 400 * SECOND), 400 * SECOND, "it was wrong before");
    }
}
