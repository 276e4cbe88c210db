//! The door for runtimes that sample themselves: ready-made samples, with names, that join the profile of the period.
//!
//! Called on the runtime's own threads, never in a handler; the drain takes what has come together when a period ends.
//! A sample costs a lock and two look-ups. While no profiler runs nothing is kept.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::aggregate::Sums;
use crate::labels::{self, LabelSet};
use crate::profile::Kind;

/// Frames and stacks that one period keeps; beyond, samples are counted as lost.
const MAX_ROWS: usize = 100_000;

/// Whether a profile of waits is being taken.
static WANTS_WAITS: AtomicBool = AtomicBool::new(false);
static RECORDED: Mutex<Option<Recorded>> = Mutex::new(None);
/// Whether pauses are of interest, and whether there is a runtime that tells them.
static PAUSES: [AtomicBool; 2] = [const { AtomicBool::new(false) }; 2];

/// A frame with its name: what a runtime's own profiler knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedFrame {
    /// Function, as the runtime's users write it.
    pub name: String,
    /// Source file; empty where there is none.
    pub file: String,
    /// Line in it; 0 where unknown.
    pub line: u32,
    /// First line of the function; 0 where unknown.
    pub start_line: u32,
}

/// One ready-made sample.
#[derive(Clone, Debug, Default)]
pub struct RecordedSample<'a> {
    /// The stack, leaf first.
    pub stack: &'a [NamedFrame],
    /// The thread's name, or empty.
    pub thread: &'a str,
    /// Whose work it was.
    pub labels: labels::Labels,
    /// How many samples it stands for.
    pub count: u64,
    /// How many nanoseconds it stands for: of CPU time, or that a pause took.
    pub nanos: u64,
}

/// A ready-made sample of a task of a runtime's own that waits.
#[derive(Clone, Debug, Default)]
pub struct RecordedWait<'a> {
    /// Where it waits, leaf first, without what runs its tasks.
    pub stack: &'a [NamedFrame],
    /// Whose work it is.
    pub labels: labels::Labels,
    /// What for: `timer`, `network`, `lock`, `task`, `process`, `disk`, `turn` where it only waits to go on, else `other`.
    pub wait: &'a str,
    /// How many nanoseconds of waiting it stands for.
    pub nanos: u64,
}

/// Takes samples from a runtime that samples itself: of CPU time, or of pauses in which it collects garbage.
///
/// CPU time that is recorded is added to what everprof samples by itself, so a runtime records only time that everprof's own
/// timers do not see, or runs with those off.
///
/// ```
/// use everprof::recorder::{NamedFrame, RecordedSample, Recorder};
/// let recorder = Recorder::new();
/// let stack = [NamedFrame { name: "render".into(), file: "page.js".into(), line: 7, ..Default::default() }];
/// recorder.record(&RecordedSample { stack: &stack, thread: "main", count: 1, nanos: 10_000_000, ..Default::default() });
/// ```
///
/// ```
/// use everprof::recorder::Recorder;
/// let pauses = Recorder::of_pauses();
/// assert!(!pauses.is_wanted(), "no profiler runs that takes the kind gc");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Recorder(Kind);

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl Recorder {
    /// A recorder of CPU time into whatever profiler runs when a sample comes.
    pub fn new() -> Recorder {
        Recorder(Kind::Cpu)
    }

    /// The same of pauses in which the runtime collects garbage: for the kind [`Kind::Gc`].
    pub fn of_pauses() -> Recorder {
        Recorder(Kind::Gc)
    }

    /// Whether samples are of interest now: where not, they are kept by nobody. A look at a word.
    pub fn is_wanted(&self) -> bool {
        let [wanted, _] = &PAUSES;
        self.0 != Kind::Gc || wanted.load(Ordering::Relaxed)
    }

    /// Says whether the runtime tells its pauses from now on. Without one that does, there is nothing to record of them.
    pub fn set_telling(&self, tells: bool) {
        let [_, telling] = &PAUSES;
        if self.0 == Kind::Gc {
            telling.store(tells, Ordering::Relaxed);
        }
    }

    /// Adds a sample to the period at hand; false where no profiler runs, or the period has no more room.
    pub fn record(&self, sample: &RecordedSample<'_>) -> bool {
        self.is_wanted() && lock().as_mut().is_some_and(|recorded| recorded.add(self.0, sample))
    }

    /// Whether waits are of use: while profiles of kind `wall` or `offcpu` are taken. Costs a load.
    pub fn wants_waits(&self) -> bool {
        WANTS_WAITS.load(Ordering::Relaxed)
    }

    /// Adds the wait of a task to the wall profile of the period at hand, under `state=awaiting`; false where none is taken, or
    /// the period has no more room.
    ///
    /// ```
    /// use everprof::recorder::{NamedFrame, RecordedWait, Recorder};
    /// let stack = [NamedFrame { name: "fetch".into(), ..Default::default() }];
    /// let wait = RecordedWait { stack: &stack, wait: "network", nanos: 100_000_000, ..Default::default() };
    /// assert!(!Recorder::new().record_wait(&wait), "no profiler runs");
    /// ```
    pub fn record_wait(&self, wait: &RecordedWait<'_>) -> bool {
        self.wants_waits() && lock().as_mut().is_some_and(|recorded| recorded.add_wait(wait))
    }
}

/// The samples of one period.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    frames: Vec<NamedFrame>,
    frame_index: HashMap<NamedFrame, u32>,
    rows: HashMap<Row, Sums>,
    lost: HashMap<Kind, Sums>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Row {
    kind: Kind,
    stack: Box<[u32]>,
    /// The thread's name; of a wait, what it is for.
    thread: Box<str>,
    labels: Option<LabelSet>,
}

/// Opens the door, or closes it and forgets what is behind it.
pub(crate) fn set_open(open: bool) {
    *lock() = open.then(Recorded::default);
}

/// Says whether waits are of use.
pub(crate) fn want_waits(wanted: bool) {
    WANTS_WAITS.store(wanted, Ordering::Relaxed);
}

/// Whether pauses are of interest from now on.
pub(crate) fn want_pauses(are_wanted: bool) {
    let [wanted, _] = &PAUSES;
    wanted.store(are_wanted, Ordering::Relaxed);
}

/// Whether there is a runtime that tells its pauses.
pub(crate) fn tells_pauses() -> bool {
    let [_, telling] = &PAUSES;
    telling.load(Ordering::Relaxed)
}

/// Takes what was recorded; the door stays as it is.
pub(crate) fn take() -> Recorded {
    lock().as_mut().map(std::mem::take).unwrap_or_default()
}

impl Recorded {
    /// Whether nothing was recorded.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.lost.is_empty()
    }

    /// Whether nothing of a kind was recorded.
    pub(crate) fn is_empty_of(&self, kind: Kind) -> bool {
        self.rows(kind).next().is_none() && self.lost(kind) == Sums::default()
    }

    /// What of a kind found no room.
    pub(crate) fn lost(&self, kind: Kind) -> Sums {
        self.lost.get(&kind).copied().unwrap_or_default()
    }

    /// Every sum of a kind with its stack, leaf first, its thread and its labels, in no order. Of waits (`wall`), what they are for
    /// is in the place of the thread.
    pub(crate) fn rows(
        &self,
        kind: Kind,
    ) -> impl Iterator<Item = (Vec<&NamedFrame>, &str, Option<&LabelSet>, Sums)> + '_ {
        self.rows.iter().filter(move |(row, _)| row.kind == kind).map(|(row, sums)| {
            let stack = row.stack.iter().filter_map(|frame| self.frames.get(*frame as usize)).collect();
            (stack, &*row.thread, row.labels.as_ref(), *sums)
        })
    }

    fn add(&mut self, kind: Kind, sample: &RecordedSample<'_>) -> bool {
        let sums = Sums { count: sample.count, nanos: sample.nanos };
        let Some(row) = self.row(kind, sample.stack, sample.thread, &sample.labels) else {
            self.lost.entry(kind).or_default().add(sums);
            return false;
        };
        self.rows.entry(row).or_default().add(sums);
        true
    }

    fn add_wait(&mut self, wait: &RecordedWait<'_>) -> bool {
        let Some(row) = self.row(Kind::Wall, wait.stack, wait.wait, &wait.labels) else { return false };
        self.rows.entry(row).or_default().add(Sums { count: 1, nanos: wait.nanos });
        true
    }

    /// `None` where there is no room.
    fn row(
        &mut self,
        kind: Kind,
        stack: &[NamedFrame],
        thread: &str,
        labels: &labels::Labels,
    ) -> Option<Row> {
        if self.rows.len() >= MAX_ROWS || self.frames.len() >= MAX_ROWS {
            return None;
        }
        let stack = stack.iter().map(|frame| self.frame(frame)).collect();
        let labels = (!labels.is_empty()).then(|| labels::resolve(labels.id())).flatten();
        Some(Row { kind, stack, thread: thread.into(), labels })
    }

    fn frame(&mut self, frame: &NamedFrame) -> u32 {
        if let Some(&at) = self.frame_index.get(frame) {
            return at;
        }
        let at = self.frames.len() as u32;
        self.frames.push(frame.clone());
        self.frame_index.insert(frame.clone(), at);
        at
    }
}

/// Held for a few look-ups at a time. `fork` holds it too, so that a child finds it free; see the profiler.
pub(crate) fn lock() -> MutexGuard<'static, Option<Recorded>> {
    RECORDED.lock().unwrap_or_else(PoisonError::into_inner)
}
