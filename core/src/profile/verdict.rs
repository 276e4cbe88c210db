//! The verdict: whether a service is bound by its processors or by waiting, and for what.
//!
//! Read from a profile of kind `wall`, whose samples carry the labels `state` and `wait`. Threads of one name, but for a
//! number at its end, are one group. Not every wait is one that anybody waits for: a worker without work, an event loop
//! without events and a thread that sleeps between two rounds are idle. They are told by what they wait in and, for a lock
//! or a message, by the functions on their stack; but a wait under a label of the application belongs to a request, and is
//! never idle.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use super::{Label, LabelValue, LocationId, Profile, Sample};
use crate::error::{Error, ErrorKind, Result};

/// What a thread did with its time on the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Activity {
    /// It ran.
    OnCpu,
    /// It was ready to run and had no processor.
    Runnable,
    /// It waited for a socket.
    Network,
    /// It waited for a file or a page of memory.
    Disk,
    /// It waited for a lock.
    Lock,
    /// It waited for another thread: a condition, a message, its end.
    Thread,
    /// It slept for a time.
    Timer,
    /// It waited for anything else: a pipe, another process, a signal.
    Other,
    /// It waited for work.
    Idle,
}

impl Activity {
    /// Every activity, in the order in which they are told.
    pub const ALL: [Activity; 9] = [
        Activity::OnCpu,
        Activity::Runnable,
        Activity::Network,
        Activity::Disk,
        Activity::Lock,
        Activity::Thread,
        Activity::Timer,
        Activity::Other,
        Activity::Idle,
    ];

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Activity::OnCpu => "on CPU",
            Activity::Runnable => "ready, without a processor",
            Activity::Network => "waiting for the network",
            Activity::Disk => "waiting for the disk",
            Activity::Lock => "waiting for a lock",
            Activity::Thread => "waiting for another thread",
            Activity::Timer => "waiting for a timer",
            Activity::Other => "waiting for something else",
            Activity::Idle => "idle",
        }
    }

    fn is_wait(self) -> bool {
        !matches!(self, Activity::OnCpu | Activity::Runnable | Activity::Idle)
    }
}

/// What bounds a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Bound {
    /// Its threads mostly run or want to: the profile of kind `cpu` says where.
    Cpu,
    /// They mostly wait for this: the profile of kind `wall` says where.
    Wait(Activity),
    /// They do both.
    Mixed(Activity),
    /// They are hardly at work.
    Idle,
}

/// How a group of threads spent its time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Group {
    /// The threads' name, without a number at its end.
    pub name: String,
    /// Nanoseconds by activity.
    pub nanos: BTreeMap<Activity, u64>,
}

impl Group {
    /// Nanoseconds of all activities.
    pub fn total(&self) -> u64 {
        self.nanos.values().sum()
    }

    /// The part of the group's time that an activity took, 0.0 to 1.0.
    pub fn share(&self, activity: Activity) -> f64 {
        self.of(activity) as f64 / self.total().max(1) as f64
    }

    fn of(&self, activity: Activity) -> u64 {
        self.nanos.get(&activity).copied().unwrap_or_default()
    }

    fn busy(&self) -> u64 {
        self.of(Activity::OnCpu) + self.of(Activity::Runnable)
    }

    fn waited(&self) -> u64 {
        self.nanos.iter().filter(|(activity, _)| activity.is_wait()).map(|(_, nanos)| nanos).sum()
    }
}

/// What a profile of kind `wall` says of a service: from [`Profile::verdict`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Verdict {
    /// What bounds it.
    pub bound: Bound,
    /// All of its threads together.
    pub all: Group,
    /// Groups of threads, those that were most at work first.
    pub groups: Vec<Group>,
    /// The functions of the application in which the threads waited most for what bounds them, innermost first, three at
    /// most; none where they are not bound by waiting.
    pub waits_in: Vec<String>,
}

/// A service is at work for this part of its threads' time at least, or it is idle.
pub(crate) const AT_WORK: f64 = 0.01;
/// Of the time at work, the processors have this part or more where they are the bound; the waits, where they are.
pub(crate) const MOST: f64 = 0.6;
/// A group that is busy for less of its time is asleep when it sleeps.
const AWAKE: f64 = 0.01;

impl Profile {
    /// Whether the service is bound by its processors or by waiting, and for what. Threads of everprof do not count.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidData`] where the profile is not of kind `wall`.
    ///
    /// ```
    /// use everprof::profile::{Bound, Kind, Label, Profile};
    /// let mut profile = Profile::new(Kind::Wall);
    /// let stack = profile.stack(&[]);
    /// for (state, wait, nanos) in [("on_cpu", "", 5), ("off_cpu", "network", 95)] {
    ///     let labels = profile.labels(&[Label::text("state", state), Label::text("wait", wait)]);
    ///     profile.add(stack, labels, &[1, nanos]);
    /// }
    /// let verdict = profile.verdict().unwrap();
    /// assert!(verdict.to_string().starts_with("wait-bound: "), "{verdict}");
    /// ```
    pub fn verdict(&self) -> Result<Verdict> {
        let Some(place) = self.sample_types.iter().position(|known| known.name == "wall") else {
            let message =
                "only a profile of kind wall says whether a service runs or waits: take kinds=cpu,wall";
            return Err(Error::new(ErrorKind::InvalidData, message));
        };
        Ok(Reading::of(self, place).verdict())
    }

    /// What the thread of each sample did, in the order of [`Profile::samples`]; `None` where the profile is not of kind
    /// `wall`. The waits of everprof's own threads are idle.
    pub(crate) fn activities(&self) -> Option<Vec<Activity>> {
        let wall = self.sample_types.iter().position(|known| known.name == "wall")?;
        let idle: HashSet<Place> = Reading::of(self, wall).find_idle().into_iter().collect();
        let activity = |sample: Sample<'_>| {
            let (stack, labels) = (self.get_stack(sample.stack), self.get_labels(sample.labels));
            let activity = activity(self, stack, labels);
            let thread = text(labels, "thread_name").unwrap_or_default();
            if !activity.is_wait() {
                return activity;
            }
            let is_idle = is_own_thread(thread)
                || idle.contains(&(without_number(thread).to_owned(), activity, place(self, stack)));
            if is_idle { Activity::Idle } else { activity }
        };
        Some(self.samples().map(activity).collect())
    }

    /// The group of threads that samples with these labels belong to; `None` for everprof's own threads.
    pub(crate) fn thread_group<'l>(&self, labels: &'l [Label]) -> Option<&'l str> {
        let thread = text(labels, "thread_name").unwrap_or_default();
        (!is_own_thread(thread)).then(|| without_number(thread))
    }
}

/// A group of threads, what they wait for, and the functions in which they do.
type Place = (String, Activity, Vec<String>);

fn text<'l>(labels: &'l [Label], key: &str) -> Option<&'l str> {
    labels.iter().find_map(|label| match &label.value {
        LabelValue::Text(text) if label.key == key => Some(text.as_str()),
        _ => None,
    })
}

fn is_own_thread(name: &str) -> bool {
    name.starts_with("everprof")
}

/// What a sample says by itself; some of its waits turn out to be idle by what else its group does.
fn activity(profile: &Profile, stack: &[LocationId], labels: &[Label]) -> Activity {
    let of_request = labels.iter().any(|label| !OWN_LABELS.contains(&label.key.as_str()));
    match text(labels, "state") {
        Some("off_cpu") => wait(profile, stack, text(labels, "wait"), text(labels, "syscall"), of_request),
        Some("runnable") => Activity::Runnable,
        _ => Activity::OnCpu,
    }
}

/// What was read of a profile so far.
#[derive(Default)]
struct Reading {
    groups: BTreeMap<String, Group>,
    /// Where threads wait: nanoseconds by group, activity and function.
    places: BTreeMap<Place, u64>,
}

impl Reading {
    fn of(profile: &Profile, wall: usize) -> Self {
        let mut reading = Self::default();
        for sample in profile.samples() {
            let nanos = sample.values.get(wall).copied().unwrap_or_default().max(0) as u64;
            reading.add(profile, profile.get_stack(sample.stack), profile.get_labels(sample.labels), nanos);
        }
        reading
    }

    fn add(&mut self, profile: &Profile, stack: &[LocationId], labels: &[Label], nanos: u64) {
        let Some(name) = profile.thread_group(labels) else { return };
        let activity = activity(profile, stack, labels);
        let group = self.groups.entry(name.to_owned()).or_default();
        *group.nanos.entry(activity).or_default() += nanos;
        if activity.is_wait() || activity == Activity::Idle {
            let function = place(profile, stack);
            *self.places.entry((name.to_owned(), activity, function)).or_default() += nanos;
        }
    }

    fn verdict(mut self) -> Verdict {
        let idle = self.find_idle();
        self.move_idle(idle);
        let mut all = Group::default();
        for (name, group) in &mut self.groups {
            name.clone_into(&mut group.name);
            for (activity, nanos) in &group.nanos {
                *all.nanos.entry(*activity).or_default() += nanos;
            }
        }
        let (busy, waited) = (all.busy() as f64, all.waited() as f64);
        let longest = Activity::ALL.into_iter().filter(|activity| activity.is_wait());
        let longest = longest.max_by_key(|activity| all.of(*activity)).unwrap_or(Activity::Other);
        let bound = if busy + waited < AT_WORK * all.total() as f64 || all.total() == 0 {
            Bound::Idle
        } else if busy >= MOST * (busy + waited) {
            Bound::Cpu
        } else if waited >= MOST * (busy + waited) {
            Bound::Wait(longest)
        } else {
            Bound::Mixed(longest)
        };
        let waits_in = match bound {
            Bound::Wait(for_what) | Bound::Mixed(for_what) => self.longest_place(for_what),
            _ => Vec::new(),
        };
        let mut groups: Vec<Group> = self.groups.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse((group.busy() + group.waited(), group.total())));
        Verdict { bound, all, groups, waits_in }
    }

    /// Finds what is idle only by what its group does besides: sleeping, and taking turns to wait for work.
    fn find_idle(&self) -> Vec<Place> {
        let asleep = |group: &Group| (group.busy() as f64) < AWAKE * group.total() as f64;
        self.places
            .keys()
            .filter(|(name, activity, function)| match activity {
                Activity::Timer => self.groups.get(name).is_some_and(asleep),
                Activity::Lock => {
                    !function.is_empty()
                        && self.places.contains_key(&(name.clone(), Activity::Idle, function.clone()))
                }
                _ => false,
            })
            .cloned()
            .collect()
    }

    fn move_idle(&mut self, idle: Vec<Place>) {
        for place in idle {
            let (nanos, (name, activity, _)) = (self.places.remove(&place).unwrap_or_default(), place);
            let Some(group) = self.groups.get_mut(&name) else { continue };
            if let Some(before) = group.nanos.get_mut(&activity) {
                *before = before.saturating_sub(nanos);
            }
            *group.nanos.entry(Activity::Idle).or_default() += nanos;
        }
    }

    fn longest_place(&self, for_what: Activity) -> Vec<String> {
        let mut by_place: BTreeMap<&Vec<String>, u64> = BTreeMap::new();
        for ((_, activity, place), nanos) in &self.places {
            if *activity == for_what && !place.is_empty() {
                *by_place.entry(place).or_default() += nanos;
            }
        }
        by_place
            .into_iter()
            .max_by_key(|(_, nanos)| *nanos)
            .map(|(place, _)| place.clone())
            .unwrap_or_default()
    }
}

/// The keys of labels that everprof sets by itself: any other means that a request is at hand.
const OWN_LABELS: [&str; 5] = ["state", "syscall", "thread_id", "thread_name", "wait"];

/// Functions whose wait is for a lock. Names of the standard library, parking_lot, and the C library.
const LOCKS: [&str; 8] = [
    "lock_contended",
    "lock_slow",
    "lock_shared_slow",
    "lock_exclusive_slow",
    "pthread_mutex_lock",
    "pthread_mutex_timedlock",
    "pthread_rwlock_",
    "lll_lock_wait",
];
/// So many functions from the leaf on say what a thread waits for.
const NEAR_LEAF: usize = 12;

fn wait(
    profile: &Profile,
    stack: &[LocationId],
    wait: Option<&str>,
    syscall: Option<&str>,
    of_request: bool,
) -> Activity {
    let idle = |activity| if of_request { activity } else { Activity::Idle };
    match wait.unwrap_or_default() {
        "network" if syscall.is_some_and(|call| call.starts_with("accept")) => idle(Activity::Network),
        "network" => Activity::Network,
        "disk" => Activity::Disk,
        "lock" => Activity::Lock,
        "timer" => Activity::Timer,
        "thread" if functions(profile, stack).take(NEAR_LEAF).any(is_lock) => Activity::Lock,
        "thread" => idle(Activity::Thread),
        "events" => idle(Activity::Network),
        "process" => idle(Activity::Other),
        _ => Activity::Other,
    }
}

fn is_lock(function: &str) -> bool {
    LOCKS.iter().any(|lock| function.contains(lock))
}

fn functions<'p>(profile: &'p Profile, stack: &'p [LocationId]) -> impl Iterator<Item = &'p str> {
    let lines = stack.iter().flat_map(|location| &profile.get_location(*location).lines);
    lines.map(|line| profile.text(profile.get_function(line.function).name))
}

/// How names begin that say nothing of the application: of languages, their runtimes and the C library.
const LIBRARIES: [&str; 12] = [
    "std::",
    "core::",
    "alloc::",
    "<",
    "_",
    "tokio::",
    "mio::",
    "parking_lot",
    "hyper",
    "socket2::",
    "rustix::",
    "[",
];

/// Whether a function is the application's, not that of a library which the application waits in.
pub(crate) fn is_of_application(name: &str) -> bool {
    name.contains("::") && !LIBRARIES.iter().any(|library| name.starts_with(library))
}

/// So many functions of the application tell where it waits.
const PLACE: usize = 3;

/// Where the application waits: the innermost of its functions that are not a library's.
fn place(profile: &Profile, stack: &[LocationId]) -> Vec<String> {
    // A closure is part of the function that has it.
    let whole = |name: &str| {
        let end = [name.find("::{{closure}}"), name.find("::{closure#")].into_iter().flatten().min();
        name.get(..end.unwrap_or(name.len())).unwrap_or(name).to_owned()
    };
    let mut place: Vec<String> = Vec::new();
    for function in functions(profile, stack).filter(|name| is_of_application(name)).map(whole) {
        if place.last() != Some(&function) {
            place.push(function);
        }
        if place.len() == PLACE {
            break;
        }
    }
    place
}

/// A thread's name without what numbers it: `worker-12` and `worker-3` are `worker`.
fn without_number(name: &str) -> &str {
    let trimmed = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let trimmed = trimmed.trim_end_matches(['-', '_', '#', ':', '/', ' ', '.']);
    if trimmed.is_empty() { name } else { trimmed }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_work = self.all.busy() + self.all.waited();
        let percent = |nanos: u64| 100.0 * nanos as f64 / at_work.max(1) as f64;
        let word = match self.bound {
            Bound::Cpu if self.all.of(Activity::Runnable) > self.all.of(Activity::OnCpu) => {
                "CPU-bound, and short of processors"
            }
            Bound::Cpu => "CPU-bound",
            Bound::Wait(_) => "wait-bound",
            Bound::Mixed(_) => "both on CPU and waiting",
            Bound::Idle => {
                let part = 100.0 * at_work as f64 / self.all.total().max(1) as f64;
                return write!(f, "idle: threads were at work for {part:.1} % of their time");
            }
        };
        write!(f, "{word}: of {:.1} s that threads were at work,", at_work as f64 / 1e9)?;
        let mut parts: Vec<(Activity, u64)> =
            self.all.nanos.iter().map(|(activity, nanos)| (*activity, *nanos)).collect();
        parts.retain(|(activity, nanos)| *activity != Activity::Idle && percent(*nanos) >= 0.5);
        parts.sort_by_key(|(_, nanos)| std::cmp::Reverse(*nanos));
        for (index, (activity, nanos)) in parts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma} {:.0} % {}", percent(*nanos), activity.name())?;
        }
        match (self.waits_in.as_slice(), self.bound) {
            ([], Bound::Cpu) => write!(f, ": open the CPU profile"),
            ([], _) => write!(f, ": open the wall profile"),
            (place, _) => {
                write!(f, "; most of the wait is in {}: open the wall profile", place.join(", called by "))
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Function, Kind, Line, Location};
    use super::*;

    fn stack(profile: &mut Profile, functions: &[&str]) -> super::super::StackId {
        let locations: Vec<LocationId> = functions
            .iter()
            .map(|name| {
                let name = profile.string(name);
                let function = profile.function(Function { name, ..Function::default() });
                let lines = vec![Line { function, line: 0, column: 0 }];
                profile.location(Location { lines, ..Location::default() })
            })
            .collect();
        profile.stack(&locations)
    }

    fn add(profile: &mut Profile, functions: &[&str], labels: &[(&str, &str)], nanos: i64) {
        let stack = stack(profile, functions);
        let labels: Vec<Label> = labels.iter().map(|(key, value)| Label::text(*key, *value)).collect();
        let labels = profile.labels(&labels);
        profile.add(stack, labels, &[1, nanos]);
    }

    const OFF: (&str, &str) = ("state", "off_cpu");

    #[test]
    fn a_service_that_waits_for_its_upstream_is_wait_bound_and_the_place_is_named() {
        let mut profile = Profile::new(Kind::Wall);
        let worker = |n: &'static str| ("thread_name", n);
        add(
            &mut profile,
            &["recv", "std::net::read", "shop::fetch"],
            &[OFF, ("wait", "network"), worker("w-1")],
            900,
        );
        add(&mut profile, &["shop::render"], &[("state", "on_cpu"), worker("w-2")], 90);
        add(&mut profile, &["syscall", "park"], &[OFF, ("wait", "thread"), worker("pool")], 100_000);
        add(&mut profile, &["epoll_wait"], &[OFF, ("wait", "events"), worker("everprof")], 1_000_000);
        let verdict = profile.verdict().unwrap();
        assert_eq!(verdict.bound, Bound::Idle, "one per cent of the time is work");
        add(&mut profile, &["recv", "shop::fetch"], &[OFF, ("wait", "network"), worker("w-1")], 900);
        let verdict = profile.verdict().unwrap();
        assert_eq!(verdict.bound, Bound::Wait(Activity::Network));
        assert_eq!(verdict.waits_in, ["shop::fetch"]);
        assert_eq!(verdict.groups.first().unwrap().name, "w");
        assert!(verdict.to_string().contains("95 % waiting for the network, 5 % on CPU"), "{verdict}");
    }

    #[test]
    fn locks_are_told_by_their_functions_and_requests_by_their_labels() {
        let mut profile = Profile::new(Kind::Wall);
        let thread = ("wait", "thread");
        add(
            &mut profile,
            &["syscall", "std::sys::sync::mutex::futex::Mutex::lock_contended"],
            &[OFF, thread],
            60,
        );
        add(&mut profile, &["syscall", "std::sync::Condvar::wait"], &[OFF, thread, ("endpoint", "/a")], 30);
        add(&mut profile, &["syscall", "std::sync::Condvar::wait"], &[OFF, thread], 500);
        add(&mut profile, &["clock_nanosleep"], &[OFF, ("wait", "timer")], 200);
        add(&mut profile, &["a::b"], &[("state", "runnable")], 10);
        let verdict = profile.verdict().unwrap();
        let of = |activity| verdict.all.of(activity);
        assert_eq!([of(Activity::Lock), of(Activity::Thread), of(Activity::Idle)], [60, 30, 500]);
        assert_eq!(
            [of(Activity::Timer), of(Activity::Runnable)],
            [200, 10],
            "a thread that works is not asleep"
        );
        assert_eq!(verdict.bound, Bound::Wait(Activity::Timer));
    }

    #[test]
    fn names_lose_their_numbers_but_not_themselves() {
        let names = ["worker-12", "tokio-rt-worker", "pool 3", "7", ""].map(without_number);
        assert_eq!(names, ["worker", "tokio-rt-worker", "pool", "7", ""]);
        assert!(Profile::new(Kind::Cpu).verdict().is_err());
        assert_eq!(Profile::new(Kind::Wall).verdict().unwrap().bound, Bound::Idle);
    }
}
