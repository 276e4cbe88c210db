//! Finished requests, counted by endpoint: what the CPU time of an endpoint is to be divided by.
//!
//! Counted on the application's threads, while periods are taken; the drain takes the counts of a period together when it
//! ends. An endpoint that was met before costs a hash and an addition: no lock, no allocation. What is new goes into a map
//! behind a lock for which nobody waits. What finds no room, and what comes while somebody else is at the map, is counted
//! under one name that says so. A fork's child begins at nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

use super::fixed::{self, Fixed};
use crate::pairs;

/// Endpoints that are counted without a lock, of the whole life of the process.
const KNOWN: usize = 512;
/// Other endpoints of one period.
const MOST_NEW: usize = 512;
/// How often the lock is tried: it is held for the insertion into a map.
const TRIES: u32 = 100;
/// What stands for endpoints that found no room.
const OVERFLOW: &str = "everprof.endpoints=overflow";

static COUNTERS: Fixed<Counter, KNOWN> = Fixed::new();
static NEW: Mutex<New> = Mutex::new(BTreeMap::new());
static OVERFLOWED: AtomicU64 = AtomicU64::new(0);
static IS_OPEN: AtomicBool = AtomicBool::new(false);

/// Counts of endpoints that have no counter.
pub(crate) type New = BTreeMap<Box<str>, u64>;

struct Counter {
    endpoint: Box<str>,
    count: AtomicU64,
}

/// Counts a finished request of that endpoint, such as `GET /cart/{id}`. Call it once where a request ends, whatever thread
/// that is; with the layer of the feature `tracing` it is called for root spans that name their endpoint.
///
/// Datadog divides by it: the CPU time of an endpoint (the label `endpoint`, `route` or `http.route` of samples) by its
/// requests. The counts of a period go with its profiles ([`Set::endpoint_counts`](crate::encode::Set::endpoint_counts)), so
/// give it the same text as the label. Name the route and not the path: of more than 512 endpoints that are new in a
/// period the rest is counted as `everprof.endpoints=overflow`. The text is made to fit as a label's value is; without text,
/// or while no profile of a period is taken, nothing is counted.
///
/// Takes some tens of nanoseconds, and neither a lock nor an allocation for an endpoint that was counted twice before.
///
/// ```
/// let labels = everprof::Labels::new([("endpoint", "GET /cart/{id}")]);
/// let answer = labels.run(|| "the cart");
/// everprof::count_endpoint("GET /cart/{id}");
/// # assert_eq!(answer, "the cart");
/// ```
pub fn count_endpoint(endpoint: &str) {
    if endpoint.is_empty() || !IS_OPEN.load(Ordering::Relaxed) {
        return;
    }
    let hash = fixed::hash([endpoint, ""]);
    match COUNTERS.find(hash, |counter| *counter.endpoint == *endpoint) {
        Some(counter) => _ = counter.count.fetch_add(1, Ordering::Relaxed),
        None if pairs::check_value(endpoint).is_ok() => count_new(endpoint),
        None => count_new(&pairs::sanitised_value(endpoint)),
    }
}

/// One without a counter, which gets one the second time.
#[cold]
fn count_new(endpoint: &str) {
    let hash = fixed::hash([endpoint, ""]);
    let make = || Counter { endpoint: endpoint.into(), count: AtomicU64::new(0) };
    let is_it = |counter: &Counter| *counter.endpoint == *endpoint;
    let keep = || COUNTERS.keep(hash, is_it, make);
    let mut counter = COUNTERS.find(hash, is_it);
    if counter.is_none() && COUNTERS.is_missed_again(hash) {
        counter = keep();
    }
    if counter.is_none() {
        match try_lock() {
            Some(mut new) => {
                if add(&mut new, endpoint) {
                    return;
                }
            }
            // Somebody has lost the processor with it.
            None => counter = keep(),
        }
    }
    counter.map_or(&OVERFLOWED, |counter| &counter.count).fetch_add(1, Ordering::Relaxed);
}

/// Whether there was room for it.
fn add(new: &mut New, endpoint: &str) -> bool {
    if let Some(count) = new.get_mut(endpoint) {
        *count += 1;
        return true;
    }
    let has_room = new.len() < MOST_NEW;
    if has_room {
        new.insert(endpoint.into(), 1);
    }
    has_room
}

fn try_lock() -> Option<MutexGuard<'static, New>> {
    try_often(TRIES)
}

fn try_often(tries: u32) -> Option<MutexGuard<'static, New>> {
    for _ in 0..tries {
        match NEW.try_lock() {
            Ok(new) => return Some(new),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
        }
    }
    None
}

/// `fork` holds it, so that a child finds it free; see the profiler. Nobody waits for it without end: a handler that forks may
/// have interrupted who has it. A child that finds it taken for ever does without it.
pub(crate) fn lock() -> Option<MutexGuard<'static, New>> {
    try_often(100 * TRIES)
}

/// Says whether requests are counted: they are while periods are taken. For the drain.
pub(crate) fn set_counting(is_open: bool) {
    if is_open && !IS_OPEN.load(Ordering::Relaxed) {
        // What came late, of before.
        take();
    }
    IS_OPEN.store(is_open, Ordering::Relaxed);
}

/// The counts since the last time, which begin at nothing again. For the drain, at the end of a period.
pub(crate) fn take() -> BTreeMap<String, u64> {
    taken(try_often(100 * TRIES).map_or_else(New::new, |mut new| std::mem::take(&mut *new)))
}

/// Forgets what the parent has counted, in a fork's child.
pub(crate) fn after_fork(new: Option<MutexGuard<'static, New>>) {
    IS_OPEN.store(false, Ordering::Relaxed);
    taken(new.map_or_else(New::new, |mut new| std::mem::take(&mut *new)));
}

fn taken(new: New) -> BTreeMap<String, u64> {
    let mut counts: BTreeMap<String, u64> =
        new.into_iter().map(|(endpoint, count)| (endpoint.into(), count)).collect();
    let overflowed = (OVERFLOW, OVERFLOWED.swap(0, Ordering::Relaxed));
    let known = COUNTERS.iter().map(|counter| (&*counter.endpoint, counter.count.swap(0, Ordering::Relaxed)));
    for (endpoint, count) in known.chain([overflowed]).filter(|(_, count)| *count > 0) {
        *counts.entry(endpoint.to_string()).or_default() += count;
    }
    counts
}

/// Adds counts to others, which stay bounded.
pub(crate) fn add_counts(to: &mut BTreeMap<String, u64>, counts: BTreeMap<String, u64>) {
    for (endpoint, count) in counts {
        let has_room = to.len() < KNOWN + MOST_NEW || to.contains_key(&endpoint);
        let endpoint = if has_room { endpoint } else { OVERFLOW.to_string() };
        let sum = to.entry(endpoint).or_default();
        *sum = sum.saturating_add(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, since the counts are the process's.
    #[test]
    fn each_request_is_counted_once_by_its_name_or_as_one_that_found_no_room() {
        count_endpoint("GET /early");
        set_counting(true);
        count_endpoint("");
        assert_eq!(take(), BTreeMap::new(), "nothing before, and nothing without a name");
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..10_000).for_each(|_| count_endpoint("GET /a"))))
            .collect();
        (0..3).for_each(|_| count_endpoint("a\nline "));
        threads.into_iter().for_each(|thread| _ = thread.join());
        let mut counts = take();
        // While one of them was at the map, another one may have come.
        let overflowed = counts.remove(OVERFLOW).unwrap_or_default();
        assert_eq!(counts.get("GET /a").map(|count| count + overflowed), Some(40_000));
        assert_eq!(counts.get("a line"), Some(&3));
        count_endpoint("GET /a");
        assert_eq!(take(), [("GET /a".to_string(), 1)].into(), "each period begins at nothing");
        for _ in 0..2 {
            (0..5_000).for_each(|number| count_endpoint(&format!("GET /{number}")));
        }
        let counts = take();
        assert_eq!(counts.values().sum::<u64>(), 10_000);
        assert!(counts.len() <= KNOWN + MOST_NEW + 1 && counts.contains_key(OVERFLOW), "{}", counts.len());
        count_endpoint("GET /a");
        after_fork(lock());
        count_endpoint("GET /a");
        set_counting(true);
        assert_eq!(take(), BTreeMap::new(), "a child's are its own");
        // As in a child whose parent had it in the middle of a handler.
        let held = lock();
        assert!(lock().is_none());
        count_endpoint("GET /held");
        assert_eq!(take().values().sum::<u64>(), 1);
        drop(held);
        count_endpoint("GET /a");
        set_counting(false);
        count_endpoint("GET /a");
        assert_eq!(take(), [("GET /a".to_string(), 1)].into(), "what was counted before the end is told");
    }
}
