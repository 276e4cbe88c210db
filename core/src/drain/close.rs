//! The end of a period: its sums with everything needed to name them, and the CPU time that no sample stands for.

use std::time::{Duration, Instant};

use everprof_probe::loss::{self, Loss};
use everprof_probe::os::Clock;
use everprof_probe::timer::ClockKind;

use super::period::Period;
use super::publish::Job;
use super::sampler::Sampler;
use super::setup::wall_clock;
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
            recorded: recorder::take(),
        };
        self.threads.rename();
        if !(period.sums.is_empty() && period.frames.is_empty() && period.recorded.is_empty()) {
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
}
