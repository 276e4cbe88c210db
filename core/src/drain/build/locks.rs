//! The profiles of waits of threads for each other.
//!
//! What a futex is for, only the functions know that wait for it: those of the standard library and of parking_lot are told
//! by their names. Contention is a wait for a lock, or for an initialisation, that another thread has begun; a condition, a
//! parked thread and a channel are waited for as long as there is nothing to do.

use everprof_probe::lock::Object;

use super::super::locks::{LockRow, LocksCut};
use super::super::names::Names;
use super::Builder;
use crate::profile::{Kind, Label, Profile, StackId};
use crate::symbolize;

/// What a wait was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    Mutex,
    RwLock,
    Once,
    Condition,
    Semaphore,
    Channel,
    Park,
    Unknown,
}

impl For {
    fn name(self) -> &'static str {
        match self {
            For::Mutex => "mutex",
            For::RwLock => "rwlock",
            For::Once => "once",
            For::Condition => "condition",
            For::Semaphore => "semaphore",
            For::Channel => "channel",
            For::Park => "park",
            For::Unknown => "futex",
        }
    }

    fn is_contention(self) -> bool {
        matches!(self, For::Mutex | For::RwLock | For::Once)
    }
}

/// Functions that wait, by what is part of their names, in the order of their rank: a channel parks its threads.
const FUNCTIONS: [(&str, For); 17] = [
    ("mutex::futex::Mutex", For::Mutex),
    ("rwlock::futex::RwLock", For::RwLock),
    ("once::futex::Once", For::Once),
    ("raw_mutex::RawMutex", For::Mutex),
    ("raw_fair_mutex::RawFairMutex", For::Mutex),
    ("raw_rwlock::RawRwLock", For::RwLock),
    ("parking_lot::once::Once", For::Once),
    ("condvar::futex::Condvar", For::Condition),
    ("parking_lot::condvar::Condvar", For::Condition),
    ("mpmc::", For::Channel),
    ("mpsc::", For::Channel),
    ("crossbeam_channel::", For::Channel),
    ("flume::", For::Channel),
    ("thread_parking::", For::Park),
    ("thread::park", For::Park),
    ("thread::current::park", For::Park),
    ("thread::Thread::park", For::Park),
];

/// The functions between a wait and us.
const PLUMBING: [&str; 3] = ["everprof_probe::", "<everprof_probe::", "std::sys::pal::unix::futex"];

/// So many frames from the leaf on may tell what a wait is for.
const NEAR: usize = 16;

/// The waits of a period: for [`Kind::Lock`] contention by who waits, for [`Kind::Mutex`] by who let it wait, and for
/// [`Kind::Block`] every wait by who waits.
pub(in super::super) fn locks(
    kind: Kind,
    cut: &LocksCut,
    names: &Names<'_>,
    mode: symbolize::Mode,
) -> Profile {
    let mut builder = Builder::new(kind, &cut.names, names, mode);
    builder.profile.period = cut.threshold as i64;
    let mut rows: Vec<&LockRow> = cut.rows.iter().collect();
    rows.sort_unstable_by_key(|row| (row.key.stack, row.key.thread, row.key.labels, row.object));
    for row in rows {
        let stack = builder.stack_without(row.key.stack, &PLUMBING);
        let cause = builder.waits_for(stack, row.object);
        if kind != Kind::Block && !cause.is_contention() {
            continue;
        }
        let values = [row.waits.count.round() as i64, row.waits.nanos.round() as i64];
        let wait = Label::text("wait", cause.name());
        match (kind, row.release) {
            (Kind::Mutex, Some(release)) => {
                let stack = builder.stack_without(release.stack, &PLUMBING);
                let labels = builder.labels(release, &[wait]);
                builder.profile.add(stack, labels, &values);
            }
            // Who let it wait is not known.
            (Kind::Mutex, None) => {}
            _ => {
                let labels = builder.labels(row.key, &[wait]);
                builder.profile.add(stack, labels, &values);
            }
        }
    }
    let rest = [cut.rest.count.round() as i64, cut.rest.nanos.round() as i64];
    // Who let them wait is not known.
    if rest[0] != 0 && kind != Kind::Mutex {
        let stack = builder.mark("lost: too many places");
        let labels = builder.profile.labels(&[]);
        builder.profile.add(stack, labels, &rest);
    }
    builder.profile
}

impl Builder<'_> {
    fn waits_for(&self, stack: StackId, object: u64) -> For {
        const MUTEX: u64 = Object::Mutex as u64;
        const RW_LOCK: u64 = Object::RwLock as u64;
        const CONDITION: u64 = Object::Condition as u64;
        const SEMAPHORE: u64 = Object::Semaphore as u64;
        match object {
            MUTEX => For::Mutex,
            RW_LOCK => For::RwLock,
            CONDITION => For::Condition,
            SEMAPHORE => For::Semaphore,
            _ => self.futex_is_for(stack),
        }
    }

    fn futex_is_for(&self, stack: StackId) -> For {
        let locations = self.profile.get_stack(stack).iter().take(NEAR);
        let lines = locations.flat_map(|id| &self.profile.get_location(*id).lines);
        let names: Vec<&str> =
            lines.map(|line| self.profile.text(self.profile.get_function(line.function).name)).collect();
        let known = FUNCTIONS.iter().find(|(part, _)| names.iter().any(|name| name.contains(part)));
        known.map_or(For::Unknown, |(_, cause)| *cause)
    }
}
