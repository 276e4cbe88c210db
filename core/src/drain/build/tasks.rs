//! The stacks of tasks that wait, as a reader wants to see them, and what they wait for.
//!
//! On the publisher's thread. What was recorded is the stack of a thread while it polled: from the place where a future
//! left its waker, through the futures that wait for it, down to the executor and the thread's first function. The
//! executor has nothing to do with the wait, so it is left out, and such stacks stand on a root of their own, apart from
//! those of threads. What a task waits for is told by the functions near the leaf.

use everprof_probe::awaiting::Registered;
use everprof_probe::sample::frames;

use super::Builder;
use crate::aggregate::{Key, Sums, Waited};
use crate::profile::{Label, LocationId, Profile};

/// The root of stacks of tasks.
const ROOT: &str = "[awaiting]";

const TIMER: &str = "timer";
/// It waits for nothing but to be polled again.
const TURN: &str = "turn";

/// So many functions from the leaf on say what a task waits for.
const NEAR_LEAF: usize = 16;

/// What functions tell of a wait, by a part of their names; the first that is met from the leaf on counts, and of one
/// function the first line here. Names of tokio, hyper, async-io, async-std's kin and `futures`.
const WAITS: [(&str, &str); 33] = [
    ("task::yield_now", TURN),
    ("coop::", TURN),
    ("tokio::time::", TIMER),
    ("runtime::time::", TIMER),
    ("async_io::Timer", TIMER),
    ("futures_timer::", TIMER),
    ("tokio::fs::", "disk"),
    ("tokio::io::blocking", "disk"),
    ("async_fs::", "disk"),
    ("tokio_uring::fs", "disk"),
    ("tokio::process", "process"),
    ("async_process::", "process"),
    ("tokio::signal", "process"),
    ("net::unix::pipe", "pipe"),
    ("scheduled_io", "network"),
    ("runtime::io::", "network"),
    ("tokio::net::", "network"),
    ("async_io::", "network"),
    ("h2::", "network"),
    ("hyper::client", "network"),
    ("hyper::body", "network"),
    ("hyper_util::client", "network"),
    ("reqwest::", "network"),
    ("tonic::", "network"),
    ("quinn", "network"),
    ("sync::mutex", "lock"),
    ("sync::rwlock", "lock"),
    ("batch_semaphore", "lock"),
    ("futures_util::lock", "lock"),
    ("async_lock::", "lock"),
    ("::mpsc", "task"),
    ("::oneshot", "task"),
    ("runtime::task::join", "task"),
];

/// Libraries that speak to other services: a task that waits there for another one waits for the network.
const CLIENTS: [&str; 14] = [
    "hyper::client",
    "hyper_util::client",
    "reqwest::",
    "tonic::",
    "h2::client",
    "tokio_postgres::",
    "sqlx",
    "redis::",
    "mongodb::",
    "async_nats::",
    "lapin::",
    "rdkafka::",
    "aws_smithy",
    "quinn",
];

/// Functions of ours that are on the way to a wrapped future and from it to its waker,
const OURS: [&str; 2] = ["everprof_probe::awaiting::", "everprof::labels::polls::"];
/// and those of the standard library among them.
const BETWEEN: [&str; 2] = ["std::thread::local::LocalKey", "core::task::wake::"];
/// The future that was watched; what lies to the root of it may be executors.
const WRAPS: [&str; 1] = ["everprof::labels::"];
/// Functions in which executors poll their tasks.
const EXECUTORS: [&str; 9] = [
    "tokio::runtime::",
    "tokio::task::local::",
    "async_executor::",
    "async_task::",
    "futures_executor::",
    "async_std::task",
    "smol::",
    "monoio::",
    "glommio::",
];

impl Builder<'_> {
    /// Adds the wait of a task.
    pub(super) fn add_task(&mut self, key: Key, waited: Waited, sums: Sums) {
        let others = waited.others.iter().filter_map(|place| place.checked_sub(1));
        let mut stacks: Vec<Vec<LocationId>> = Vec::new();
        for place in std::iter::once(key.stack).chain(others) {
            let (epoch, words) = self.period.sums.stack(place);
            stacks.push(frames(words).map(|frame| self.location(epoch, frame)).collect());
        }
        let (mut stack, mut wait) = choose(&self.profile, stacks);
        if waited.task == Some(Registered::Woken) {
            wait = TURN;
        }
        cut(&self.profile, &mut stack);
        stack.push(self.named_location(ROOT, "", 0, 0));
        let stack = self.profile.stack(&stack);
        let labels = self.labels(key, &[Label::text("state", "awaiting"), Label::text("wait", wait)]);
        self.profile.add(stack, labels, &[sums.count as i64, sums.nanos as i64]);
    }
}

/// Of the stacks at which a future left its waker during a poll, the one that it waits in, and what it waits for there.
///
/// There are several where it awaits several at once, and where it went on from one to the next: a timer takes the waker
/// before it looks whether its time is over, and a wait may be given up for another one. What the stacks have in common
/// tells which: an `async fn` awaits one after the other, whatever else polls, polls all that it has.
fn choose(profile: &Profile, stacks: Vec<Vec<LocationId>>) -> (Vec<LocationId>, &'static str) {
    let mut timed = stacks.into_iter().map(|stack| (waits_for(profile, &stack), stack));
    let Some(mut best) = timed.next() else { return (Vec::new(), "other") };
    for next in timed {
        let in_turn = is_in_turn(profile, &best.1, &next.1);
        let replaces = match (best.0 == TIMER, next.0 == TIMER) {
            // A timer beside something else is there to end the wait.
            (true, false) => true,
            // Where inlined functions have no names, a timer that ends a wait looks like one that follows it.
            (false, true) => in_turn && knows_inlined(profile, &best.1, &next.1),
            _ => in_turn,
        };
        if replaces {
            best = next;
        }
    }
    (best.1, best.0)
}

/// Whether the innermost function that two stacks have in common awaits one thing after the other.
fn is_in_turn(profile: &Profile, one: &[LocationId], other: &[LocationId]) -> bool {
    let [one, other] = [one, other].map(|stack| {
        let mut names: Vec<&str> = functions(profile, stack).collect();
        names.reverse();
        names
    });
    let common = one.iter().zip(&other).take_while(|(one, other)| one == other).count();
    let mut inner = one.iter().take(common).rev();
    match (inner.next(), inner.next()) {
        // The closure of a `select!` or a `join!` is called by this one.
        (Some(_), Some(caller)) if caller.contains("poll_fn") => false,
        (Some(function), _) => function.ends_with("{{closure}}"),
        _ => true,
    }
}

fn knows_inlined(profile: &Profile, one: &[LocationId], other: &[LocationId]) -> bool {
    one.iter().chain(other).any(|location| profile.get_location(*location).lines.len() > 1)
}

fn waits_for(profile: &Profile, stack: &[LocationId]) -> &'static str {
    let near = || functions(profile, stack).take(NEAR_LEAF);
    let told = |function: &str| WAITS.iter().find(|(part, _)| function.contains(part)).map(|(_, wait)| *wait);
    let is_client = |function: &str| CLIENTS.iter().any(|client| function.contains(client));
    match near().find_map(told).unwrap_or("other") {
        "task" | "other" if near().any(is_client) => "network",
        wait => wait,
    }
}

/// Leaves out what is not the task's: our own functions, and from the executor on to the root.
fn cut(profile: &Profile, stack: &mut Vec<LocationId>) {
    let wrap = stack.iter().position(|location| has_any(profile, *location, &WRAPS)).unwrap_or(0);
    let executor = stack.iter().skip(wrap).position(|location| has_any(profile, *location, &EXECUTORS));
    stack.truncate(executor.map_or(stack.len(), |executor| wrap + executor));
    let mut after_ours = true;
    stack.retain(|location| {
        let is_all = |parts: &[&str]| {
            let mut names = functions(profile, std::slice::from_ref(location)).peekable();
            names.peek().is_some() && names.all(|name| parts.iter().any(|part| name.contains(part)))
        };
        after_ours = is_all(&OURS) || after_ours && is_all(&BETWEEN);
        !after_ours
    });
}

fn has_any(profile: &Profile, location: LocationId, parts: &[&str]) -> bool {
    functions(profile, &[location]).any(|name| parts.iter().any(|part| name.contains(part)))
}

fn functions<'p>(profile: &'p Profile, stack: &'p [LocationId]) -> impl Iterator<Item = &'p str> {
    let lines = stack.iter().flat_map(|location| &profile.get_location(*location).lines);
    lines.map(|line| profile.text(profile.get_function(line.function).name))
}
