//! The end of a period: its sums with everything needed to name them, and the CPU time that no sample stands for.

use std::time::{Duration, Instant};

use everprof_probe::loss::{self, Loss};
use everprof_probe::os::Clock;
use everprof_probe::timer::ClockKind;

use super::period::{Period, Stackless};
use super::publish::Job;
use super::sampler::Sampler;
use super::setup::wall_clock;
use crate::aggregate::Sums;
use crate::recorder;

/// The kernel looks at CPU timers once a tick, which is no longer than this in nanoseconds (100 Hz).
const LONGEST_TICK: u64 = 10_000_000;

impl Sampler {
    /// Gives the sums of the period to the publisher and begins the next one.
    pub(super) fn close(&mut self) {
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
        self.stats.sampled_cpu += Duration::from_nanos(unclaimed.sampled + unclaimed.at_exit);
        self.stats.unsampled_cpu += Duration::from_nanos(unclaimed.unsampled);
        let (first_epoch, epochs) = self.modules.take();
        let ids = self.thread_ids;
        let ended =
            ended.into_iter().map(|(name, tid)| self.thread_number(name, ids.then_some(tid))).collect();
        let stackless = self.stackless(unclaimed.unsampled);
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
            unclaimed: unclaimed.sampled,
            at_exit: unclaimed.at_exit,
            ended,
            stackless,
            sums,
            recorded: recorder::take(),
        };
        self.samples_closed = self.stats.samples;
        self.threads.rename();
        // With the losses that only the end of the period has told.
        self.counters.publish(self.stats.clone());
        if !(period.sums.is_empty() && period.stackless.is_empty() && period.recorded.is_empty()) {
            let _ = self.jobs.send(Job::Publish(Box::new(period)));
        }
    }

    /// CPU time that has no stack to go to, each part under the reason.
    fn stackless(&mut self, unsampled: u64) -> Vec<Stackless> {
        let step = u64::from(self.sampling.period.max(1));
        let mut found = Vec::new();
        for loss in Loss::ALL {
            let (count, nanos) = loss::take(loss);
            self.stats.lost += count;
            match loss {
                Loss::RingFull => self.stats.lost_ring_full += count,
                Loss::NoScratch => self.stats.lost_no_scratch += count,
            }
            found.push(Stackless { reason: loss.name(), thread: None, sums: Sums { count, nanos } });
        }
        // A perf event does not wait for the tick; what it is behind, it will not make up for.
        let (reason, tolerance) = match self.sampling.clock {
            ClockKind::Timer => ("threads that block the signal", step + LONGEST_TICK),
            ClockKind::PerfEvent => ("in the kernel, unseen by perf_event", step),
        };
        for (name, tid, nanos) in self.threads.write_off(tolerance) {
            let thread = Some(self.thread_number(name, self.thread_ids.then_some(tid)));
            self.stats.unsampled_cpu += Duration::from_nanos(nanos);
            found.push(Stackless { reason, thread, sums: Sums { count: nanos / step, nanos } });
        }
        // Less than one period is the phase of the timers, not a thread.
        if unsampled >= step {
            let sums = Sums { count: unsampled / step, nanos: unsampled };
            found.push(Stackless { reason: "threads that ended unsampled", thread: None, sums });
        }
        found.retain(|part| part.sums.count != 0);
        let nanos = found.iter().map(|part| part.sums.nanos).sum();
        self.stats.sampled_cpu += Duration::from_nanos(nanos);
        found
    }
}
