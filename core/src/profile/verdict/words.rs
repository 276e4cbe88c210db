//! The verdict in words.

use std::fmt;

use super::{Activity, Bound, Group, Request, TASKS, Verdict};

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads: u64 = self.groups.iter().filter(|group| group.name != TASKS).map(Group::total).sum();
        let who = if self.all.total() > threads { "threads and tasks" } else { "threads" };
        if self.bound == Bound::Idle {
            let part = 100.0 * at_work(&self.all) as f64 / self.all.total().max(1) as f64;
            let mostly = if self.is_unseen { "mostly " } else { "" };
            write!(f, "{mostly}idle: {who} were at work for {part:.1} % of their time")?;
            return match self.is_unseen {
                true => {
                    write!(f, "; what async tasks wait for is told where they are wrapped (Labels::wrap)")
                }
                false => Ok(()),
            };
        }
        let word = word(self.bound, &self.all);
        write!(f, "{word}: of {:.1} s that {who} were at work, ", at_work(&self.all) as f64 / 1e9)?;
        parts(&self.all, f)?;
        match (self.waits_in.as_slice(), self.bound) {
            ([], Bound::Cpu) => write!(f, ": open the CPU profile"),
            ([], _) => write!(f, ": open the wall profile"),
            (place, _) => {
                write!(f, "; most of the wait is in {}: open the wall profile", place.join(", called by "))
            }
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = at_work(&self.group) as f64 / 1e9;
        write!(f, "{}: {}: of {seconds:.1} s, ", self.group.name, word(self.bound, &self.group))?;
        parts(&self.group, f)?;
        match self.waits_in.as_slice() {
            [] => Ok(()),
            place => write!(f, "; most of the wait is in {}", place.join(", called by ")),
        }
    }
}

fn at_work(group: &Group) -> u64 {
    group.busy() + group.waited()
}

fn word(bound: Bound, group: &Group) -> &'static str {
    let is_short = group.of(Activity::Runnable) > group.of(Activity::OnCpu);
    match bound {
        Bound::Cpu if is_short => "CPU-bound, and short of processors",
        Bound::Cpu => "CPU-bound",
        Bound::Wait(_) => "wait-bound",
        Bound::Mixed(_) if is_short => "short of processors, and waiting",
        Bound::Mixed(_) => "both on CPU and waiting",
        Bound::Idle => "idle",
    }
}

/// What the time at work was spent on, the most first.
fn parts(group: &Group, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let percent = |nanos: u64| 100.0 * nanos as f64 / at_work(group).max(1) as f64;
    let mut parts: Vec<(Activity, u64)> = group.nanos.iter().map(|(of, nanos)| (*of, *nanos)).collect();
    parts.retain(|(activity, nanos)| *activity != Activity::Idle && percent(*nanos) >= 0.5);
    parts.sort_by_key(|(_, nanos)| std::cmp::Reverse(*nanos));
    for (index, (activity, nanos)) in parts.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        write!(f, "{comma}{:.0} % {}", percent(*nanos), activity.name())?;
    }
    Ok(())
}
