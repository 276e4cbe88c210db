//! Kinds of profile that are on for a part of the time: when, and until when it stays so.
//!
//! Pure: no clock, no thread. Cycles go by the monotonic clock, so that a clock that is set changes nothing. No two kinds
//! begin at the same moment, whatever their cycles: their phases differ by parts of what all cycles have in common.

use std::time::Duration;

use super::rotation::{fnv, mix};
use crate::options::Duties;
use crate::profile::Kind;

/// The cycles of the kinds that have one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cycles(Vec<Cycle>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cycle {
    kind: Kind,
    /// In nanoseconds.
    on: u64,
    length: u64,
    phase: u64,
}

impl Cycles {
    /// As the options say; `instance` has the phases of a fleet differ.
    pub(super) fn new(duties: &Duties, instance: &str) -> Self {
        let nanos = |duration: Duration| duration.as_nanos() as u64;
        let common = duties.iter().map(|(_, duty)| nanos(duty.cycle())).fold(0, gcd);
        let first = mix(fnv(0, instance.as_bytes()));
        let step = common / duties.iter().len().max(1) as u64;
        let cycle = |(place, (kind, duty)): (usize, (Kind, crate::options::Duty))| {
            let length = nanos(duty.cycle());
            let phase = (first % length.max(1) + place as u64 * step) % length.max(1);
            Cycle { kind, on: nanos(duty.on()), length, phase }
        };
        Self(duties.iter().enumerate().map(cycle).collect())
    }

    /// Whether all kinds are on all the time.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a kind is on at that moment of the monotonic clock, in nanoseconds.
    pub(super) fn is_on(&self, kind: Kind, now: u64) -> bool {
        self.0.iter().filter(|cycle| cycle.kind == kind).all(|cycle| cycle.at(now).0)
    }

    /// How long everything stays as it is.
    pub(super) fn left(&self, now: u64) -> Duration {
        self.0.iter().map(|cycle| cycle.at(now).1).min().map_or(Duration::MAX, Duration::from_nanos)
    }
}

impl Cycle {
    /// Whether it is on, and how long that lasts.
    fn at(&self, now: u64) -> (bool, u64) {
        let place = (now % self.length + self.phase) % self.length;
        if place < self.on { (true, self.on - place) } else { (false, self.length - place) }
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::options::Options;

    fn cycles(duty: &str, instance: &str) -> Cycles {
        let mut options = Options::default();
        options.set("duty", duty).unwrap();
        Cycles::new(&options.duty, instance)
    }

    const MS: u64 = 1_000_000;

    #[test]
    fn each_kind_is_on_for_its_part_and_none_begins_with_another() {
        let all = "cpu:7s/30s,wall:50%,offcpu:1s/11s,alloc:10s/60s,lock:3s/90s,mutex:1s/2s,block:100s/7200s";
        for (duty, instances) in [(all, 5), ("cpu:10s/60s,alloc:10s/60s,lock:10s/60s", 500)] {
            for instance in 0..instances {
                let cycles = cycles(duty, &format!("pod-{instance}"));
                let hours = 2 * 3_600_000;
                let mut begins = std::collections::BTreeMap::new();
                for cycle in &cycles.0 {
                    let at = |ms: u64| cycle.at(ms * MS).0;
                    let on = (0..hours).step_by(10).filter(|ms| at(*ms)).count() as f64 / (hours / 10) as f64;
                    let wanted = cycle.on as f64 / cycle.length as f64;
                    assert!(
                        (on - wanted).abs() < cycle.length as f64 / 7.2e12,
                        "{:?}: {on} of {wanted}",
                        cycle.kind
                    );
                    let mut begin = (cycle.length - cycle.phase) % cycle.length;
                    while begin < hours * MS {
                        assert!(cycle.at(begin).0 && !cycle.at(begin + cycle.length - 1).0);
                        let other = begins.insert(begin, cycle.kind);
                        assert_eq!(other, None, "{duty}: {:?} begins with it, pod-{instance}", cycle.kind);
                        begin += cycle.length;
                    }
                }
                if instance > 20 {
                    continue;
                }
                let nearest = begins.keys().zip(begins.keys().skip(1)).map(|(a, b)| b - a).min();
                assert!(nearest >= Some(100 * MS), "{nearest:?}");
            }
        }
    }

    #[test]
    fn a_fleet_does_not_begin_at_one_moment() {
        let at = |instance| cycles("alloc:10s/60s", &format!("pod-{instance}")).is_on(Kind::Alloc, 1);
        let on = (0..6_000).filter(|instance| at(*instance)).count();
        assert!((850..1_150).contains(&on), "{on} of 6,000, of which a sixth should be");
    }

    #[test]
    fn what_has_no_duty_is_on_and_nothing_changes_before_it_is_said() {
        let cycles = cycles("alloc:10s/60s,cpu:1s/7s", "a");
        assert!(cycles.is_on(Kind::Lock, 5) && Cycles::default().is_on(Kind::Alloc, 5));
        assert_eq!(Cycles::default().left(5), Duration::MAX);
        let state = |now| [Kind::Cpu, Kind::Alloc].map(|kind| cycles.is_on(kind, now));
        let mut now = 0;
        for _ in 0..100 {
            let end = now + cycles.left(now).as_nanos() as u64;
            assert_eq!(state(now), state(end - 1));
            assert_ne!(state(now), state(end));
            now = end;
        }
    }
}
