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
pub(super) const ROOT: &str = "[awaiting]";

const TIMER: &str = "timer";
/// It waits for nothing but to be polled again.
const TURN: &str = "turn";

/// So many functions from the leaf on say what a task waits for.
const NEAR_LEAF: usize = 16;

/// What functions tell of a wait, by a part of their names; the first that is met from the leaf on counts, and of one
/// function the first line here. Names of tokio, hyper, async-io, async-std's kin and `futures`.
const WAITS: [(&str, &str); 41] = [
    ("task::yield_now", TURN),
    ("coop::", TURN),
    ("tokio::time::", TIMER),
    ("runtime::time::", TIMER),
    ("async_io::Timer", TIMER),
    ("Reactor::insert_timer", TIMER),
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
    ("sync::notify", "task"),
    ("sync::watch", "task"),
    ("sync::broadcast", "task"),
    ("sync::barrier", "task"),
    ("async_channel::", "task"),
    ("flume::", "task"),
    ("async_task::task", "task"),
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
const OURS: [&str; 3] =
    ["everprof_probe::awaiting::", "everprof::labels::polls::", "everprof::labels::context::InContext"];
/// and those of the standard library among them.
const BETWEEN: [&str; 2] = ["std::thread::local::LocalKey", "core::task::wake::"];
/// The future that was watched; what lies to the root of it may be executors.
const WRAP: &str = "everprof::labels::";
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
        let (stack, mut wait) = choose(&self.profile, stacks);
        if waited.task == Some(Registered::Woken) {
            wait = TURN;
        }
        let mut stack = cut(&mut self.profile, &stack);
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

/// Leaves out what is not the task's: our own functions, and from the executor on to the root. Function by function, since
/// in an optimised build one place of the program has the task's functions beside ours and the executor's.
fn cut(profile: &mut Profile, stack: &[LocationId]) -> Vec<LocationId> {
    let has = |name: &str, parts: &[&str]| parts.iter().any(|part| name.contains(part));
    // The waker's own functions, at the leaf.
    let mut after_ours = true;
    let (mut wrapped, mut ended) = (false, false);
    let mut left = Vec::new();
    for &id in stack {
        let mut location = profile.get_location(id).clone();
        let all = location.lines.len();
        location.lines.retain(|line| {
            let name = profile.text(profile.get_function(line.function).name);
            ended |= wrapped && has(name, &EXECUTORS);
            wrapped |= name.contains(WRAP);
            after_ours = has(name, &OURS) || after_ours && has(name, &BETWEEN);
            !ended && !after_ours
        });
        match location.lines.len() {
            // Without a name, it is nobody's.
            0 if all == 0 => {
                after_ours = false;
                left.push(id);
            }
            0 => {}
            some if some == all => left.push(id),
            _ => left.push(profile.location(location)),
        }
        if ended {
            break;
        }
    }
    left
}

fn functions<'p>(profile: &'p Profile, stack: &'p [LocationId]) -> impl Iterator<Item = &'p str> {
    let lines = stack.iter().flat_map(|location| &profile.get_location(*location).lines);
    lines.map(|line| profile.text(profile.get_function(line.function).name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Function, Kind, Line, Location};

    /// A stack of places, each with the functions that are inlined there.
    fn stack(profile: &mut Profile, places: &[&[&str]]) -> Vec<LocationId> {
        let of_place = |(number, names): (usize, &&[&str])| {
            let line = |profile: &mut Profile, name: &str| {
                let name = profile.string(name);
                let function = profile.function(Function { name, ..Function::default() });
                Line { function, line: 0, column: 0 }
            };
            let lines = names.iter().map(|name| line(profile, name)).collect();
            profile.location(Location { lines, address: number as u64 + 1, ..Location::default() })
        };
        places.iter().enumerate().map(of_place).collect()
    }

    fn after_cut(places: &[&[&str]]) -> Vec<String> {
        let mut profile = Profile::new(Kind::Wall);
        let whole = stack(&mut profile, places);
        let left = cut(&mut profile, &whole);
        functions(&profile, &left).map(str::to_owned).collect()
    }

    const POLL: &str = "<everprof::labels::context::InContext<F> as core::future::future::Future>::poll";

    #[test]
    fn of_a_stack_the_task_s_own_functions_are_left() {
        let clone: &[&str] = &["everprof_probe::awaiting::spy::clone", "<core::task::wake::Waker>::clone"];
        let watch: &[&str] = &["everprof::labels::polls::Ticket::watch"];
        let with: &[&str] =
            &["everprof::labels::polls::Ticket::poll", "std::thread::local::LocalKey<T>::with", POLL];
        let executor: &[&str] = &["tokio::runtime::task::core::Core<T,S>::poll"];
        let leaf: &[&str] = &["tokio::runtime::time::entry::TimerEntry::poll_elapsed"];
        let own: &[&str] = &["shop::fetch::{{closure}}"];
        assert_eq!(
            after_cut(&[clone, leaf, own, watch, with, &["shop::outer"], with, executor, &["main"]]),
            [leaf[0], own[0], "shop::outer"]
        );
        // What an optimised build makes of it: one place has functions of everybody.
        let timer: &[&str] = &["core::task::wake::Waker::clone", "async_io::Timer::poll"];
        let inside: &[&str] = &["async_std::task::sleep::{{closure}}", "shop::fetch::{{closure}}", POLL];
        let outside = [with, &["shop::outer"], executor].concat();
        assert_eq!(
            after_cut(&[timer, inside, watch, &outside, &["main"]]),
            ["async_io::Timer::poll", inside[0], inside[1], "shop::outer"]
        );
        assert_eq!(
            after_cut(&[leaf, own, executor]),
            [leaf[0], own[0], executor[0]],
            "where no wrap has a name"
        );
    }

    #[test]
    fn what_a_task_waits_for_is_told_by_the_functions_near_its_leaf() {
        let mut profile = Profile::new(Kind::Wall);
        for (names, wait) in [
            (["async_io::reactor::Reactor::insert_timer", "<async_io::Timer as Stream>::poll_next"], TIMER),
            (["async_io::reactor::Ready<H,T>::poll", "smol::net::TcpStream::read"], "network"),
            (["event_listener::TaskRef::into_task", "async_channel::Recv<T>::poll"], "task"),
            (["event_listener::TaskRef::into_task", "async_lock::mutex::AcquireSlow<B,T>::poll"], "lock"),
            (["tokio::sync::notify::Notified::poll_notified", "shop::work"], "task"),
            (["async_task::header::Header<M>::register", "async_task::task::Task<T,M>::poll_task"], "task"),
            (
                ["futures_channel::oneshot::Inner<T>::recv", "hyper_util::client::legacy::pool::Checkout"],
                "network",
            ),
            (["shop::leaf", "shop::work"], "other"),
        ] {
            let stack = stack(&mut profile, &[&names]);
            assert_eq!(waits_for(&profile, &stack), wait, "{names:?}");
        }
    }
}
