//! Profiles of time: what threads did with all of it, and with that which they were not on a processor.

use everprof_probe::os::{self, WaitFor};

use super::super::book::part_of;
use super::super::names::Names;
use super::super::period::Period;
use super::super::wall;
use super::super::weights::Weights;
use super::{Builder, order, rows};
use crate::aggregate::{Key, Sums, Waited};
use crate::profile::{Kind, Label, Profile, come_soon};
use crate::symbolize;

/// The profile of a period's time on the wall clock: what its threads used of the processors, as in the profile of CPU
/// time; what they were ready for and did not get, spread over the same stacks; and what they waited. `rest` is what the
/// counts have left over of the last profile and leave to the next, so that theirs are right together.
pub(in super::super) fn wall(
    period: &Period,
    names: &Names<'_>,
    mode: symbolize::Mode,
    rest: &mut u64,
) -> Profile {
    time(Kind::Wall, period, names, mode, rest)
}

/// The same without what was used of the processors.
pub(in super::super) fn off_cpu(
    period: &Period,
    names: &Names<'_>,
    mode: symbolize::Mode,
    rest: &mut u64,
) -> Profile {
    time(Kind::OffCpu, period, names, mode, rest)
}

fn time(kind: Kind, period: &Period, names: &Names<'_>, mode: symbolize::Mode, rest: &mut u64) -> Profile {
    let mut builder = Builder::new(kind, period, names, mode);
    builder.profile.period = period.wall_period as i64;
    let mut counts = Counts { period: period.wall_period.max(1), nanos: *rest };
    let weights = Weights::of(period);
    let state = |state: &str| Label::text("state", state);
    let with_cpu = kind == Kind::Wall;
    for (key, sums) in rows(period) {
        if with_cpu {
            let nanos = weights.weigh(&key, sums).nanos;
            builder.add(key, &[state("on_cpu")], counts.of(nanos));
        }
        let ready = period.ready.get(&key.thread).copied().unwrap_or_default();
        let ready = part_of(ready, sums.nanos, weights.of_thread(key.thread));
        if ready > 0 {
            builder.add_ready(key, &[state("runnable")], counts.of(ready));
        }
    }
    let without = period.ready.iter().filter(|(thread, _)| weights.of_thread(**thread) == 0);
    let mut without: Vec<_> = without.collect();
    without.sort_unstable();
    for (thread, nanos) in without {
        builder.add_frame("waiting for a processor", Some(*thread), &[state("runnable")], counts.of(*nanos));
    }
    for part in period.stackless.iter().filter(|_| with_cpu) {
        builder.add_frame(part.reason, part.thread, &[state("on_cpu")], counts.of(part.sums.nanos));
    }
    let mut waits: Vec<(Key, Waited, Sums)> = period.sums.waits().collect();
    waits.sort_unstable_by_key(|(key, waited, _)| (order(key), *waited));
    for (key, waited, sums) in waits {
        match waited.task {
            None => builder.add(key, &wait_labels(known(waited, sums)), counts.of(sums.nanos)),
            Some(_) => builder.add_task(key, waited, counts.of(sums.nanos)),
        }
    }
    let mut waits: Vec<_> = period.recorded.rows(Kind::Wall).collect();
    waits
        .sort_unstable_by(|one, other| (&one.0, one.1, one.3.nanos).cmp(&(&other.0, other.1, other.3.nanos)));
    for (stack, wait, labels, sums) in waits {
        builder.add_recorded_wait(&stack, wait, labels, counts.of(sums.nanos));
    }
    *rest = counts.nanos % counts.period;
    builder.profile
}

/// What is told of waits for an answer that does not come soon is that they are waits for the network: whether anybody owes
/// one by then, or lets who asks wait until there is work, only the application knows.
fn known(waited: Waited, told: Sums) -> Waited {
    let is_late = waited.wait == WaitFor::Answer as u8 && !come_soon(told.count, told.nanos);
    Waited { wait: if is_late { WaitFor::Network as u8 } else { waited.wait }, ..waited }
}

/// How a wait is told.
pub(super) fn wait_labels(waited: Waited) -> Vec<Label> {
    let mut labels = vec![Label::text("state", "off_cpu"), Label::text("wait", wall::name_of(waited.wait))];
    if let Some(call) = waited.call {
        let name = os::call_name(call).map_or_else(|| format!("syscall_{call}"), str::to_owned);
        labels.push(Label::text("syscall", name));
    }
    labels
}

/// Counts of periods whose sum is right, though each row has a part of one.
struct Counts {
    period: u64,
    nanos: u64,
}

impl Counts {
    fn of(&mut self, nanos: u64) -> Sums {
        let before = self.nanos / self.period;
        self.nanos += nanos;
        Sums { count: self.nanos / self.period - before, nanos }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_late_is_told_as_the_network() {
        let wait = |wait: WaitFor, count, millis: u64| {
            let waited = Waited { wait: wait as u8, ..Waited::default() };
            known(waited, Sums { count, nanos: millis * 1_000_000 }).wait
        };
        assert_eq!(wait(WaitFor::Answer, 20, 1_500), WaitFor::Answer as u8, "150 ms each, told twice");
        assert_eq!(wait(WaitFor::Answer, 20, 5_000), WaitFor::Network as u8, "half a second each");
        assert_eq!(
            wait(WaitFor::Client, 1, 60_000),
            WaitFor::Client as u8,
            "that of others is the same at any time"
        );
    }
}
