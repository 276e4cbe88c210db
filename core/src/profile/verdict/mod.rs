//! The verdict: whether a service is bound by its processors or by waiting, and for what.
//!
//! Read from a profile of kind `wall`, whose samples carry the labels `state` and `wait`. Threads of one name, but for a
//! number at its end, are one group. Not every wait is one that anybody waits for: a worker without work, an event loop
//! without events, a connection without a request and a thread that sleeps between two rounds are idle. They are told by
//! what they wait in and by the functions on their stack; and by what their group does besides: one that hardly ever runs
//! waits for nothing that is worth a word but for answers that come (`answers`), and where the application labels its requests, what a thread waits for from
//! outside, between two of them, is the next one. A wait under a label of the application belongs to a request, and is
//! never idle, but where a thread pool or a server's connection waits for work in its own loop.
//!
//! In a service of asynchronous code the threads do not wait for an upstream: its tasks do, and the samples of wrapped
//! futures (`state=awaiting`) say for what. They are a group of their own and count as waits like those of threads, unless
//! the threads are at work nearly all the time: a task that is not polled for that waits for them, whatever it awaited.

mod answers;
mod names;
mod requests;
mod words;

use std::collections::{BTreeMap, HashSet};

use super::{Label, LabelValue, LocationId, Profile, Sample};
use crate::error::{Error, ErrorKind, Result};
pub(crate) use answers::come_soon;
pub(crate) use names::is_of_application;
use names::{place, task_wait, wait, without_number};

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
    /// They are hardly at work; or they are event loops that mostly wait for events, and what their tasks wait for meanwhile
    /// nobody has told (`Labels::wrap`).
    Idle,
}

/// How a group of threads spent its time, or the tasks that await, or the requests of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Group {
    /// The threads' name, without a number at its end; `async tasks`; or the labels of the requests.
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
    /// All of its threads and tasks together; of threads that are at work nearly all the time, without the tasks, which
    /// then wait for them.
    pub all: Group,
    /// Groups of threads, and the tasks, those that were most at work first.
    pub groups: Vec<Group>,
    /// The functions of the application in which it waited most for what bounds it, innermost first, three at most; none
    /// where it is not bound by waiting.
    pub waits_in: Vec<String>,
    /// The kinds of requests, by the labels that the application has set: those that took the most time first, twenty at
    /// most.
    pub requests: Vec<Request>,
    /// It is called idle though it is at work, since nobody tells what its tasks wait for.
    is_unseen: bool,
}

/// How the requests of one kind spent their time: all samples with the same labels of the application.
///
/// What threads did under these labels is here, and what tasks awaited under them. So of a request's latency it says which
/// part is work and which part is waiting, and for what.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Request {
    /// The labels, `key=value` and a comma between two, and the time.
    pub group: Group,
    /// What bounds them.
    pub bound: Bound,
    /// The functions of the application in which they waited most for that, as in [`Verdict::waits_in`].
    pub waits_in: Vec<String>,
}

/// A service is at work for this part of its threads' time at least, or it is idle.
pub(crate) const AT_WORK: f64 = 0.01;
/// Or for this part of the time that passed, as one thread would be, however many others sleep meanwhile.
pub(crate) const WORKS: f64 = 0.1;
/// Of the time at work, the processors have this part or more where they are the bound; the waits, where they are.
pub(crate) const MOST: f64 = 0.6;
/// A group that is busy for less of its time is asleep, whatever wakes it.
const AWAKE: f64 = 0.01;
/// Threads that are busy for so much of their time leave tasks waiting for them.
pub(crate) const CROWDED: f64 = 0.7;
/// The name of the group of tasks that await.
pub(crate) const TASKS: &str = "async tasks";

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
        Ok(Reading::of(self, place).verdict(self.duration_nanos))
    }

    /// What the thread of each sample did, in the order of [`Profile::samples`]; `None` where the profile is not of kind
    /// `wall` or `offcpu`. The waits of everprof's own threads are idle.
    pub(crate) fn activities(&self) -> Option<Vec<Activity>> {
        let place_of = |name: &str| self.sample_types.iter().position(|known| known.name == name);
        let (time, tells_running) = match place_of("wall") {
            Some(wall) => (wall, true),
            None => (place_of("off_cpu")?, false),
        };
        let idle: HashSet<Place> = Reading::of(self, time).find_idle(tells_running).into_iter().collect();
        let activity = |sample: Sample<'_>| {
            let (stack, labels) = (self.get_stack(sample.stack), self.get_labels(sample.labels));
            let activity = activity(self, stack, labels);
            let thread = text(labels, "thread_name").unwrap_or_default();
            if !activity.is_wait() {
                return activity;
            }
            let place = || Place {
                group: without_number(thread).to_owned(),
                activity,
                of_request: is_of_request(labels),
                is_owed: is_owed(labels),
                functions: place(self, stack),
            };
            if is_own_thread(thread) || idle.contains(&place()) { Activity::Idle } else { activity }
        };
        Some(self.samples().map(activity).collect())
    }

    /// The group of threads that samples with these labels belong to, or that of tasks; `None` for everprof's own threads.
    pub(crate) fn thread_group<'l>(&self, labels: &'l [Label]) -> Option<&'l str> {
        if text(labels, "state") == Some("awaiting") {
            return Some(TASKS);
        }
        let thread = text(labels, "thread_name").unwrap_or_default();
        (!is_own_thread(thread)).then(|| without_number(thread))
    }
}

/// Where a group of threads waits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Place {
    group: String,
    activity: Activity,
    /// Whether it waits under labels of the application.
    of_request: bool,
    /// Whether it is known to wait for an answer.
    is_owed: bool,
    functions: Vec<String>,
}

fn text<'l>(labels: &'l [Label], key: &str) -> Option<&'l str> {
    labels.iter().find_map(|label| match &label.value {
        LabelValue::Text(text) if label.key == key => Some(text.as_str()),
        _ => None,
    })
}

fn is_of_request(labels: &[Label]) -> bool {
    labels.iter().any(|label| !OWN_LABELS.contains(&label.key.as_str()))
}

fn is_owed(labels: &[Label]) -> bool {
    text(labels, "wait") == Some("answer")
}

fn is_own_thread(name: &str) -> bool {
    name.starts_with("everprof")
}

/// What a sample says by itself; some of its waits turn out to be idle by what else its group does.
fn activity(profile: &Profile, stack: &[LocationId], labels: &[Label]) -> Activity {
    let of_request = is_of_request(labels);
    match text(labels, "state") {
        Some("off_cpu") => wait(profile, stack, text(labels, "wait"), text(labels, "syscall"), of_request),
        Some("awaiting") => task_wait(profile, stack, text(labels, "wait")),
        Some("runnable") => Activity::Runnable,
        _ => Activity::OnCpu,
    }
}

/// What was read of a profile so far.
#[derive(Default)]
struct Reading {
    groups: BTreeMap<String, Group>,
    /// For how many nanoseconds the threads of a group were busy under labels of the application.
    labelled: BTreeMap<String, u64>,
    /// Groups of threads that wait for events, as the loops of asynchronous code do.
    loops: HashSet<String>,
    /// Where threads wait, and for how many nanoseconds.
    places: BTreeMap<Place, u64>,
    /// By the labels of the application: nanoseconds by activity, and by where they wait.
    requests: requests::Read,
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
        let of_request = is_of_request(labels);
        if of_request && matches!(activity, Activity::OnCpu | Activity::Runnable) {
            *self.labelled.entry(name.to_owned()).or_default() += nanos;
        }
        if activity == Activity::Idle && text(labels, "wait") == Some("events") {
            self.loops.insert(name.to_owned());
        }
        let waits = activity.is_wait() || activity == Activity::Idle;
        let function = if waits { place(profile, stack) } else { Vec::new() };
        if let Some(request) = requests::kind(labels) {
            let (group, places) = self.requests.entry(request).or_default();
            *group.nanos.entry(activity).or_default() += nanos;
            *places.entry((activity, function.clone())).or_default() += nanos;
        }
        if waits {
            let (group, is_owed) = (name.to_owned(), is_owed(labels));
            let place = Place { group, activity, of_request, is_owed, functions: function };
            *self.places.entry(place).or_default() += nanos;
        }
    }

    fn verdict(mut self, duration_nanos: i64) -> Verdict {
        let idle = self.find_idle(true);
        self.move_idle(idle);
        let mut all = Group::default();
        let crowded = self.is_crowded();
        for (name, group) in &mut self.groups {
            name.clone_into(&mut group.name);
            if crowded && name == TASKS {
                continue;
            }
            for (activity, nanos) in &group.nanos {
                *all.nanos.entry(*activity).or_default() += nanos;
            }
        }
        let bound = bound(&all, duration_nanos);
        let is_unseen = bound == Bound::Cpu && self.unseen() > all.busy();
        let bound = if is_unseen { Bound::Idle } else { bound };
        let waits_in = match bound {
            Bound::Wait(for_what) | Bound::Mixed(for_what) => self.longest_place(for_what),
            _ => Vec::new(),
        };
        let requests = requests::told(std::mem::take(&mut self.requests));
        let mut groups: Vec<Group> = self.groups.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse((group.busy() + group.waited(), group.total())));
        Verdict { bound, all, groups, waits_in, requests, is_unseen }
    }

    /// Finds what is idle only by what its group does besides: sleeping, waiting for somebody who hardly ever comes, waiting
    /// for the next request, and taking turns to wait for work.
    ///
    /// Where what ran is not told, in a profile of kind `offcpu`, a thread is asleep only if it waits for the time alone.
    fn find_idle(&self, tells_running: bool) -> Vec<Place> {
        let asleep = |place: &Place| self.is_asleep(&place.group, tells_running);
        // What is said of a task by its stack is all there is to be said.
        let unlabelled = self.places.keys().filter(|place| !place.of_request && place.group != TASKS);
        let is_idle = |place: &&Place| match place.activity {
            Activity::Timer => asleep(place),
            Activity::Other => tells_running && asleep(place),
            Activity::Network => {
                tells_running && asleep(place) && !self.is_answered(place)
                    || self.labels_its_work(&place.group)
            }
            Activity::Lock => {
                let idle = Place { activity: Activity::Idle, is_owed: false, ..(*place).clone() };
                !place.functions.is_empty() && self.places.contains_key(&idle)
            }
            _ => false,
        };
        unlabelled.filter(is_idle).cloned().collect()
    }

    /// For how long event loops waited while nobody told what their tasks did: perhaps these waited for an upstream, so that
    /// what little the loops ran does not say what bounds the service.
    fn unseen(&self) -> u64 {
        if self.groups.contains_key(TASKS) {
            return 0;
        }
        let loops = self.loops.iter().filter(|name| !self.is_asleep(name, true));
        loops.filter_map(|name| self.groups.get(name)).map(|group| group.of(Activity::Idle)).sum()
    }

    /// Whether a group of threads hardly ever runs.
    fn is_asleep(&self, group: &str, tells_running: bool) -> bool {
        let at_work = |group: &Group| match tells_running {
            true => group.busy(),
            false => group.busy() + group.waited().saturating_sub(group.of(Activity::Timer)),
        };
        self.groups.get(group).is_some_and(|group| (at_work(group) as f64) < AWAKE * group.total() as f64)
    }

    /// Whether a group of threads mostly works under labels of the application: then all of its requests have them, and
    /// what is without is no request's.
    fn labels_its_work(&self, group: &str) -> bool {
        let labelled = self.labelled.get(group).copied().unwrap_or_default();
        labelled > 0 && self.groups.get(group).is_some_and(|group| 2 * labelled >= group.busy())
    }

    fn move_idle(&mut self, idle: Vec<Place>) {
        for place in idle {
            let nanos = self.places.remove(&place).unwrap_or_default();
            let Some(group) = self.groups.get_mut(&place.group) else { continue };
            if let Some(before) = group.nanos.get_mut(&place.activity) {
                *before = before.saturating_sub(nanos);
            }
            *group.nanos.entry(Activity::Idle).or_default() += nanos;
        }
    }

    /// Whether the threads that do most of the work do nothing else.
    fn is_crowded(&self) -> bool {
        let threads = || self.groups.iter().filter(|(name, _)| *name != TASKS).map(|(_, group)| group);
        let busy: u64 = threads().map(Group::busy).sum();
        threads().any(|group| {
            2 * group.busy() >= busy && busy > 0 && group.busy() as f64 >= CROWDED * group.total() as f64
        })
    }

    fn longest_place(&self, for_what: Activity) -> Vec<String> {
        longest(self.places.iter().map(|(place, nanos)| (place.activity, &place.functions, *nanos)), for_what)
    }
}

/// Of the places where something was waited for, the one with the most time.
fn longest<'p>(
    places: impl Iterator<Item = (Activity, &'p Vec<String>, u64)>,
    for_what: Activity,
) -> Vec<String> {
    let mut by_place: BTreeMap<&Vec<String>, u64> = BTreeMap::new();
    for (_, place, nanos) in places.filter(|(activity, place, _)| *activity == for_what && !place.is_empty())
    {
        *by_place.entry(place).or_default() += nanos;
    }
    let most = by_place.into_iter().max_by_key(|(_, nanos)| *nanos);
    most.map(|(place, _)| place.clone()).unwrap_or_default()
}

/// What bounds threads and tasks that spent their time so, while so much time passed; 0 where that is not known.
fn bound(all: &Group, duration_nanos: i64) -> Bound {
    let (busy, waited) = (all.busy() as f64, all.waited() as f64);
    let works = duration_nanos > 0 && busy + waited >= WORKS * duration_nanos as f64;
    let longest = Activity::ALL.into_iter().filter(|activity| activity.is_wait());
    let longest = longest.max_by_key(|activity| all.of(*activity)).unwrap_or(Activity::Other);
    if busy + waited < AT_WORK * all.total() as f64 && !works || all.total() == 0 {
        Bound::Idle
    } else if busy >= MOST * (busy + waited) {
        Bound::Cpu
    } else if waited >= MOST * (busy + waited) {
        Bound::Wait(longest)
    } else {
        Bound::Mixed(longest)
    }
}

/// The keys of labels that everprof sets by itself: any other means that a request is at hand.
const OWN_LABELS: [&str; 5] = ["state", "syscall", "thread_id", "thread_name", "wait"];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
