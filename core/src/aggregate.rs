//! The sums of one period: raw samples by stack, thread and labels, before any address has a name.
//!
//! Filled by the drain on our thread, sample by sample; closed at the end of a period and named elsewhere. Stacks are
//! stored once, as the words of `everprof_probe::sample`, together with the epoch of the address space that they are
//! to be read in: a library that was unloaded may leave its addresses to another one.
//!
//! What a period keeps is bounded: beyond 32 MiB of stacks new ones have no room, and beyond so many spans as the option says,
//! or 262,144 sums, samples are no longer told apart by trace and span. Nothing that is counted is lost for it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use everprof_probe::awaiting::{Registered, STACKS};
use everprof_probe::sample::Trace;

use crate::labels::LabelSet;

/// Words of stacks that one period keeps.
const MOST_WORDS: usize = 4 << 20;
/// A stack of so few words always has room: there are only as many as a program has instructions.
const ALWAYS_WORDS: usize = 3;
/// Sums that one period keeps by trace and span.
const MOST_ROWS: usize = 256 << 10;

/// What a sum is kept for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// Place in [`Aggregate::stack`].
    pub(crate) stack: u32,
    /// The thread's number in the drain's table of names.
    pub(crate) thread: u32,
    /// Place in [`Aggregate::labels`]; 0 is the empty set.
    pub(crate) labels: u32,
    /// Whether it was taken when its thread was discovered. Such samples are weighed only when the period closes; their
    /// counts are nanoseconds of short lives that they speak for.
    pub(crate) unclaimed: bool,
    /// Place in [`Aggregate::trace`]; 0 is none.
    pub(crate) trace: u32,
}

/// Summed periods and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) count: u64,
    pub(crate) nanos: u64,
}

impl Sums {
    /// Adds to them.
    pub(crate) fn add(&mut self, more: Sums) {
        self.count = self.count.saturating_add(more.count);
        self.nanos = self.nanos.saturating_add(more.nanos);
    }
}

/// In what a thread waited, or a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Waited {
    /// The number of the system call; none for a page that had to be read.
    pub(crate) call: Option<u32>,
    /// `everprof_probe::os::WaitFor` as a number.
    pub(crate) wait: u8,
    /// Of a task, how it said so; none for a thread.
    pub(crate) task: Option<Registered>,
    /// And the places in [`Aggregate::stack`] of the other stacks at which it did, plus one; 0 where there are no more.
    pub(crate) others: [u32; STACKS - 1],
}

impl Waited {
    /// The wait of a task.
    pub(crate) fn task(registered: Registered, others: [u32; STACKS - 1]) -> Self {
        Self { task: Some(registered), others, ..Self::default() }
    }
}

/// The sums of one period.
#[derive(Debug, Default)]
pub(crate) struct Aggregate {
    words: Vec<u64>,
    stacks: Vec<Stack>,
    stack_index: HashMap<u64, u32, BuildHasherDefault<Hashed>>,
    labels: Vec<LabelSet>,
    label_index: HashMap<LabelSet, u32>,
    traces: Vec<Trace>,
    trace_index: HashMap<Trace, u32>,
    /// How many spans are told apart, where that is bounded, and how often one was not.
    most_traces: Option<usize>,
    traces_left_out: u64,
    rows: HashMap<Key, Sums>,
    waits: HashMap<(Key, Waited), Sums>,
}

#[derive(Clone, Copy, Debug)]
struct Stack {
    start: u32,
    len: u32,
    epoch: u32,
    /// The next stack with the same hash, plus one; 0 where there is none.
    next: u32,
}

impl Aggregate {
    /// Stores a stack once and returns its place; `None` where there is no room for a new one of more than a few words.
    pub(crate) fn intern_stack(&mut self, epoch: u32, words: &[u64]) -> Option<u32> {
        let hash = words.iter().fold(u64::from(epoch), |hash, word| mix(hash ^ word));
        let first = self.stack_index.get(&hash).copied();
        let mut place = first;
        while let Some(at) = place {
            if self.is_stack(at, epoch, words) {
                return Some(at);
            }
            place = self.stacks.get(at as usize).and_then(|stack| stack.next.checked_sub(1));
        }
        if words.len() > ALWAYS_WORDS && self.words.len() + words.len() > MOST_WORDS {
            return None;
        }
        let at = self.stacks.len() as u32;
        let start = self.words.len() as u32;
        self.words.extend_from_slice(words);
        let next = first.map_or(0, |first| first + 1);
        self.stacks.push(Stack { start, len: words.len() as u32, epoch, next });
        self.stack_index.insert(hash, at);
        Some(at)
    }

    /// Stores a label set once and returns its place, from 1; the empty set is 0.
    pub(crate) fn intern_labels(&mut self, set: LabelSet) -> u32 {
        if set.iter().next().is_none() {
            return 0;
        }
        if let Some(&at) = self.label_index.get(&set) {
            return at;
        }
        self.labels.push(set.clone());
        let at = self.labels.len() as u32;
        self.label_index.insert(set, at);
        at
    }

    /// Sums that tell so many spans apart at most.
    pub(crate) fn telling(most_traces: usize) -> Self {
        Self { most_traces: Some(most_traces), ..Self::default() }
    }

    /// Stores the numbers of a span once and returns their place, from 1; 0 is none, and each that there is no room for.
    pub(crate) fn intern_trace(&mut self, trace: Trace) -> u32 {
        let most = self.most_traces.unwrap_or(MOST_ROWS);
        if trace.span_id == 0 || most == 0 {
            return 0;
        }
        if let Some(&at) = self.trace_index.get(&trace) {
            return at;
        }
        if self.traces.len() >= most {
            self.traces_left_out += 1;
            return 0;
        }
        self.traces.push(trace);
        let at = self.traces.len() as u32;
        self.trace_index.insert(trace, at);
        at
    }

    /// The numbers of a span's place; none for 0.
    pub(crate) fn trace(&self, at: u32) -> Option<&Trace> {
        self.traces.get(at.checked_sub(1)? as usize)
    }

    /// How many samples came without their span because there were too many.
    pub(crate) fn traces_left_out(&self) -> u64 {
        self.traces_left_out
    }

    /// Adds to the sums of `key`.
    pub(crate) fn add(&mut self, mut key: Key, sums: Sums) {
        if self.rows.len() >= MOST_ROWS && !self.rows.contains_key(&key) {
            key.trace = 0;
        }
        self.rows.entry(key).or_default().add(sums);
    }

    /// Adds to what was waited at the stack of `key`; its counts are of looks.
    pub(crate) fn add_wait(&mut self, mut key: Key, waited: Waited, sums: Sums) {
        if self.waits.len() >= MOST_ROWS && !self.waits.contains_key(&(key, waited)) {
            key.trace = 0;
        }
        self.waits.entry((key, waited)).or_default().add(sums);
    }

    /// Every key of a wait with its sums, in no order.
    pub(crate) fn waits(&self) -> impl Iterator<Item = (Key, Waited, Sums)> + '_ {
        self.waits.iter().map(|((key, waited), sums)| (*key, *waited, *sums))
    }

    /// The epoch and the words of a stack.
    pub(crate) fn stack(&self, at: u32) -> (u32, &[u64]) {
        let Some(stack) = self.stacks.get(at as usize) else { return (0, &[]) };
        let start = stack.start as usize;
        (stack.epoch, self.words.get(start..start + stack.len as usize).unwrap_or_default())
    }

    /// How many stacks there are; their places are 0 up to this.
    pub(crate) fn stack_count(&self) -> u32 {
        self.stacks.len() as u32
    }

    /// The labels of a place; none for the empty set.
    pub(crate) fn labels(&self, at: u32) -> Option<&LabelSet> {
        self.labels.get(at.checked_sub(1)? as usize)
    }

    /// Every key with its sums, in no order.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (Key, Sums)> + '_ {
        self.rows.iter().map(|(key, sums)| (*key, *sums))
    }

    /// About how many bytes it holds.
    pub(crate) fn memory(&self) -> usize {
        self.words.capacity() * size_of::<u64>()
            + self.stacks.capacity() * (size_of::<Stack>() + 2 * size_of::<(u64, u32)>())
            + self.traces.capacity() * (3 * size_of::<Trace>() + 4)
            + self.rows.capacity() * (size_of::<(Key, Sums)>() + 1)
            + self.waits.capacity() * (size_of::<(Key, Waited, Sums)>() + 1)
    }

    fn is_stack(&self, at: u32, epoch: u32, words: &[u64]) -> bool {
        self.stack(at) == (epoch, words)
    }
}

/// A multiplication that spreads every bit of its input, with the halves of the product folded together.
fn mix(word: u64) -> u64 {
    let product = u128::from(word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
    (product ^ product >> 64) as u64
}

/// The keys of the stack index are hashes already.
#[derive(Debug, Default)]
pub(crate) struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = mix(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn equal_stacks_of_one_epoch_are_one() {
        let mut aggregate = Aggregate::default();
        let first = aggregate.intern_stack(1, &[1, 2, 3]).unwrap();
        assert_eq!(aggregate.intern_stack(1, &[1, 2, 3]), Some(first));
        assert_ne!(aggregate.intern_stack(2, &[1, 2, 3]), Some(first));
        assert_ne!(aggregate.intern_stack(1, &[1, 2]), Some(first));
        assert_eq!(aggregate.stack(first), (1, [1, 2, 3].as_slice()));
        assert_eq!(aggregate.stack_count(), 3);
    }

    #[test]
    fn stacks_with_one_hash_are_told_apart() {
        let mut aggregate = Aggregate::default();
        let first = aggregate.intern_stack(1, &[1]).unwrap();
        // Moves the second stack under the hash of the first, as a collision would.
        let hash = mix(1 ^ 7);
        aggregate.stack_index.insert(hash, first);
        let second = aggregate.intern_stack(1, &[7]).unwrap();
        assert_ne!(first, second);
        assert_eq!(aggregate.intern_stack(1, &[7]), Some(second));
    }

    #[test]
    fn a_period_keeps_no_more_than_its_bound() {
        let mut aggregate = Aggregate::default();
        let mut words = [7; 1000];
        let places = (0..50_000).map(|number| {
            words[500] = number;
            aggregate.intern_stack(1, &words)
        });
        let kept = places.flatten().count();
        assert_eq!(kept, MOST_WORDS / 1000);
        words[500] = 0;
        assert_eq!(aggregate.intern_stack(1, &words), Some(0), "what is known has room");
        let leaf = aggregate.intern_stack(1, &words[..2]).unwrap();
        for span_id in 0..2 * MOST_ROWS as u64 {
            let trace = aggregate.intern_trace(Trace { trace_id: 1, span_id: span_id + 1, local_root: 0 });
            let key = Key { stack: leaf, trace, ..Key::default() };
            aggregate.add(key, Sums { count: 1, nanos: 1 });
        }
        let (rows, count) =
            aggregate.rows().fold((0, 0), |(rows, all), (_, sums)| (rows + 1, all + sums.count));
        assert_eq!((rows, count), (MOST_ROWS + 1, 2 * MOST_ROWS as u64));
        assert!(aggregate.memory() < 128 << 20, "{}", aggregate.memory());
    }

    #[test]
    fn spans_are_told_apart_up_to_a_bound_and_those_beyond_are_counted() {
        let span = |span_id| Trace { trace_id: 1, span_id, local_root: 1 };
        let mut aggregate = Aggregate::telling(2);
        let places = [1, 2, 1, 3, 0].map(|number| aggregate.intern_trace(span(number)));
        assert_eq!((places, aggregate.traces_left_out()), ([1, 2, 1, 0, 0], 1));
        assert_eq!((aggregate.trace(2), aggregate.trace(0)), (Some(&span(2)), None));
        assert_eq!(Aggregate::telling(0).intern_trace(span(1)), 0, "none are wanted");
    }

    #[test]
    fn sums_add_up_by_key() {
        let mut aggregate = Aggregate::default();
        let handle = crate::labels::Labels::new([("tenant", "a")]);
        let set = crate::labels::resolve(handle.id()).unwrap();
        let labels = aggregate.intern_labels(set.clone());
        assert_eq!(aggregate.intern_labels(set), labels);
        let key = Key { labels, ..Key::default() };
        aggregate.add(key, Sums { count: 1, nanos: 10 });
        aggregate.add(key, Sums { count: 2, nanos: 20 });
        assert_eq!(aggregate.rows().collect::<Vec<_>>(), [(key, Sums { count: 3, nanos: 30 })]);
        assert_eq!(aggregate.labels(labels).unwrap().iter().collect::<Vec<_>>(), [("tenant", "a")]);
        assert!(aggregate.labels(0).is_none());
    }
}
