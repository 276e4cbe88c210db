//! The profiles of waits of threads for each other.
//!
//! What a futex is for, only the functions know that wait for it: those of the standard library and of parking_lot are told
//! by their names. Contention is a wait for a lock, or for an initialisation, that another thread has begun; a condition, a
//! parked thread and a channel are waited for as long as there is nothing to do.
//!
//! A semaphore may be anything. Where it is the lock of a runtime, that runtime tells by its own frames what the wait was for.
//!
//! Nothing is guessed: between the call and the function that says what it is for may stand only what is known to do nothing
//! else. Where such functions have no names, or an optimiser has made them part of the program's own, what they wait for is
//! unknown, and counts as no contention.

use std::sync::atomic::{AtomicBool, Ordering};

use everprof_probe::lock::Object;

use super::super::locks::{LockRow, LocksCut, Waits};
use super::super::names::Names;
use super::super::tallies::Amounts;
use super::{Builder, order};
use crate::profile::{Kind, Label, Profile, StackId};
use crate::report;
use crate::symbolize;
use crate::symbolize::runtime::{self, RuntimeWait};

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
    Join,
    Barrier,
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
            For::Join => "join",
            For::Barrier => "barrier",
            For::Unknown => "unknown",
        }
    }

    fn is_contention(self) -> bool {
        matches!(self, For::Mutex | For::RwLock | For::Once)
    }

    fn of_runtime(wait: RuntimeWait) -> Self {
        match wait {
            RuntimeWait::Lock => For::Mutex,
            RuntimeWait::Once => For::Once,
            RuntimeWait::Condition => For::Condition,
            RuntimeWait::Channel => For::Channel,
            RuntimeWait::Semaphore => For::Semaphore,
            RuntimeWait::Barrier => For::Barrier,
            RuntimeWait::Join => For::Join,
        }
    }

    /// What the functions are for that wait for a futex, leaf first.
    fn of<'n>(names: impl Iterator<Item = &'n str>) -> Self {
        let mut names = names.skip_while(|name| is_one_of(name, &PLUMBING));
        let Some(first) = names.next() else { return For::Unknown };
        let known = |table: &[(&str, For)], name: &str| {
            table.iter().find(|(part, _)| name.contains(part)).map(|(_, what)| *what)
        };
        match known(&FUNCTIONS, first) {
            // Of what is made of these as well.
            Some(part @ (For::Condition | For::Park)) => {
                let mut more = names.take_while(|name| is_one_of(name, &LIBRARIES));
                more.find_map(|name| known(&WHOLES, name)).unwrap_or(part)
            }
            Some(whole) => whole,
            None => For::Unknown,
        }
    }
}

/// Functions that wait, by what is part of their names.
const FUNCTIONS: [(&str, For); 19] = [
    ("mutex::futex::Mutex", For::Mutex),
    ("rwlock::futex::RwLock", For::RwLock),
    ("once::futex::Once", For::Once),
    ("raw_mutex::RawMutex", For::Mutex),
    ("raw_fair_mutex::RawFairMutex", For::Mutex),
    ("raw_rwlock::RawRwLock", For::RwLock),
    ("parking_lot::once::Once", For::Once),
    ("condvar::futex::Condvar", For::Condition),
    ("parking_lot::condvar::Condvar", For::Condition),
    ("raw_condvar::RawCondvar", For::Condition),
    ("barrier::Barrier", For::Barrier),
    ("thread_parking::", For::Park),
    ("thread::park", For::Park),
    ("thread::functions::park", For::Park),
    ("thread::current::park", For::Park),
    ("thread::Thread::park", For::Park),
    ("thread::Thread>::park", For::Park),
    ("std::sync::poison::condvar::Condvar", For::Condition),
    ("std::sync::nonpoison::condvar::Condvar", For::Condition),
];

/// Those that are made of conditions and parks.
const WHOLES: [(&str, For); 7] = [
    ("sync::mpmc::", For::Channel),
    ("sync::mpsc::", For::Channel),
    ("crossbeam_channel::", For::Channel),
    ("flume::", For::Channel),
    ("barrier::Barrier", For::Barrier),
    ("wait_group::WaitGroup", For::Barrier),
    ("thread::scoped::scope", For::Join),
];

/// Where those are, and what may stand between.
const LIBRARIES: [&str; 6] = ["std::", "core::", "alloc::", "parking_lot", "crossbeam_", "flume::"];

/// The functions between a wait and what it is for, which do nothing else.
const PLUMBING: [&str; 6] = [
    "everprof_probe::",
    "std::sys::pal::unix::futex",
    "std::sys::futex",
    "parking_lot_core::",
    "lock_api::",
    "syscall",
];

/// So many frames from the leaf on may tell what a wait is for.
const NEAR: usize = 16;

/// Whether a function is of one of these paths, itself or as the method of a trait.
fn is_one_of(name: &str, paths: &[&str]) -> bool {
    let name = name.trim_start_matches(['<', '&']);
    paths.iter().any(|path| name.starts_with(path))
}

/// The waits of a period: for [`Kind::Lock`] contention by who waits, for [`Kind::Mutex`] by who let it wait, and for
/// [`Kind::Block`] every wait by who waits; for [`Kind::Gil`] those to take a turn.
pub(in super::super) fn locks(
    kind: Kind,
    cut: &LocksCut,
    names: &Names<'_>,
    mode: symbolize::Mode,
) -> Profile {
    let mut builder = Builder::new(kind, &cut.names, names, mode);
    builder.profile.period = cut.threshold as i64;
    let mut rows: Vec<&LockRow> = cut.rows.iter().collect();
    let (mut told, mut unknown) = (Waits::default(), 0);
    rows.sort_unstable_by_key(|row| (order(&row.key), row.object));
    for row in rows {
        let stack = builder.stack(row.key.stack);
        let cause = builder.waits_for(row.key.stack, stack, row.object);
        unknown += u64::from(cause == For::Unknown);
        // To take turns is no contention for what the program has locks for.
        let is_told = match kind {
            Kind::Block => true,
            Kind::Gil => row.turn.is_some(),
            _ => cause.is_contention() && row.turn.is_none(),
        };
        if !is_told {
            continue;
        }
        if let Some(label) = row.turn.filter(|_| kind == Kind::Block) {
            builder.say(row.key.stack, label);
        }
        let values = [row.waits.count.round() as i64, row.waits.nanos.round() as i64];
        let wait = Label::text("wait", cause.name());
        match (kind, row.release) {
            (Kind::Mutex, Some(release)) => {
                let stack = builder.stack(release.stack);
                let labels = builder.labels(release, &[wait]);
                builder.profile.add(stack, labels, &values);
            }
            // Who let it wait is not known.
            (Kind::Mutex, None) => continue,
            (Kind::Gil, _) => {
                let labels = builder.labels(row.key, &[]);
                builder.profile.add(stack, labels, &values);
            }
            _ => {
                let labels = builder.labels(row.key, &[wait]);
                builder.profile.add(stack, labels, &values);
            }
        }
        told.add(row.waits);
    }
    let all = cut.rows.iter().map(|row| row.waits.nanos).sum::<f64>();
    let part = if all > 0.0 { told.nanos / all } else { 1.0 };
    builder.add_part("lost: too many samples of waits at once", cut.lost, part);
    builder.add_part("lost: too many places", cut.rest, part);
    if unknown * 2 > cut.rows.len() as u64 {
        tell_unknown();
    }
    builder.profile
}

/// Says once that most waits cannot be told apart.
fn tell_unknown() {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        report::warn(
            "most waits are for something unknown, since the functions that wait have no names: in a stripped program, or with \
             symbolize=off. They are told as kind block with wait=unknown, and as no contention",
        );
    }
}

impl Builder<'_> {
    /// What the wait of the period's stack `at` was for, which is `stack` in the profile.
    fn waits_for(&self, at: u32, stack: StackId, object: u64) -> For {
        const MUTEX: u64 = Object::Mutex as u64;
        const RW_LOCK: u64 = Object::RwLock as u64;
        const CONDITION: u64 = Object::Condition as u64;
        const SEMAPHORE: u64 = Object::Semaphore as u64;
        const JOIN: u64 = Object::Join as u64;
        const BARRIER: u64 = Object::Barrier as u64;
        match object {
            MUTEX => For::Mutex,
            RW_LOCK => For::RwLock,
            CONDITION => For::Condition,
            SEMAPHORE => runtime::wait(self.period.sums.stack(at).1).map_or(For::Semaphore, For::of_runtime),
            JOIN => For::Join,
            BARRIER => For::Barrier,
            _ => self.futex_is_for(stack),
        }
    }

    fn futex_is_for(&self, stack: StackId) -> For {
        let locations = self.profile.get_stack(stack).iter().take(NEAR);
        let lines = locations.flat_map(|id| &self.profile.get_location(*id).lines);
        For::of(lines.map(|line| self.profile.text(self.profile.get_function(line.function).name)))
    }

    /// Adds the part of waits without a place that belongs to this kind, as far as those tell that have one: a pool without
    /// work waits for hours, which is no contention.
    fn add_part(&mut self, reason: &str, waits: Waits, part: f64) {
        let values = [waits.count, waits.nanos].map(|value| (value * part).round() as i64);
        if values[1] != 0 {
            let stack = self.mark(reason);
            let labels = self.profile.labels(&[]);
            self.profile.add(stack, labels, &values);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::locks::{LockRow, LocksCut, Waits};
    use super::super::super::names::Names;
    use super::super::super::sites::Sites;
    use super::{For, Kind, Object, locks};
    use crate::symbolize;

    #[test]
    fn waits_are_told_by_the_function_next_to_the_call() {
        let of = |names: &[&str]| For::of(names.iter().copied());
        const FUTEX: &str = "std::sys::pal::unix::futex::futex_wait";
        const CONDVAR: &str = "std::sys::sync::condvar::futex::Condvar::wait_optional_timeout";
        const ONCE: &str = "std::sys::sync::once::futex::Once::call";
        let mutex = "std::sys::sync::mutex::futex::Mutex::lock_contended";
        assert_eq!(of(&[FUTEX, mutex, "shop::sell"]), For::Mutex);
        // The lock of a condition, after it.
        assert_eq!(
            of(&[FUTEX, mutex, "std::sync::poison::condvar::Condvar::wait", "shop::sell"]),
            For::Mutex
        );
        assert_eq!(of(&[FUTEX, CONDVAR, "std::sync::barrier::Barrier::wait"]), For::Barrier);
        assert_eq!(of(&[FUTEX, ONCE, "std::sync::once_lock::OnceLock<T>::initialize"]), For::Once);
        // What the first thread does in an initialisation is no wait for it.
        let in_once = "std::sync::poison::once::Once::call_once::{{closure}}";
        assert_eq!(of(&[FUTEX, CONDVAR, "shop::ask", in_once, ONCE]), For::Condition);
        assert_eq!(of(&[in_once, ONCE, "shop::sell"]), For::Unknown);
        let park = "std::thread::functions::park";
        let receive = "std::sync::mpmc::list::Channel<T>::recv::{{closure}}";
        assert_eq!(
            of(&[FUTEX, park, "std::sync::mpmc::context::Context::wait_until", receive]),
            For::Channel
        );
        assert_eq!(of(&[FUTEX, park, "shop::idle", receive]), For::Park);
        let slow = "<parking_lot::raw_rwlock::RawRwLock as lock_api::rwlock::RawRwLock>::lock_shared";
        let parked = "parking_lot_core::parking_lot::park::{{closure}}";
        let parker = "<parking_lot_core::thread_parker::imp::ThreadParker as ThreadParkerT>::park";
        assert_eq!(of(&[parker, parked, slow]), For::RwLock);
        // As the standard library's own symbols have it since 1.93.
        let park = "<std::thread::thread::Thread>::park";
        assert_eq!(of(&[park, "std::thread::scoped::scope", "shop::sell"]), For::Join);
        assert_eq!(of(&["<std::sys::sync::mutex::futex::Mutex>::lock_contended"]), For::Mutex);
        assert_eq!(of(&[]), For::Unknown);
        assert_eq!(of(&["shop+0x1234", mutex]), For::Unknown);
    }

    /// A wait for a mutex whose holder is known, one whose holder is not, and one for work.
    #[test]
    fn waits_without_a_place_are_shared_out_as_those_with_one() {
        let mut sites = Sites::default();
        let site = sites.site(0, &[1], ("t".into(), None), None, Default::default());
        let mut numbering = sites.numbering(9);
        let key = numbering.key(&site);
        let row = |object: Object, nanos: f64, release| LockRow {
            key,
            object: object as u64,
            turn: None,
            release,
            waits: Waits { count: 1.0, nanos },
        };
        let turn = LockRow { turn: Some(("gil", "waiting")), ..row(Object::Mutex, 100.0, None) };
        let rows = vec![
            turn,
            row(Object::Mutex, 10.0, Some(key)),
            row(Object::Mutex, 30.0, None),
            row(Object::Condition, 60.0, None),
        ];
        let (rest, lost) = (Waits { count: 10.0, nanos: 1_000.0 }, Waits { count: 100.0, nanos: 10_000.0 });
        let cut = LocksCut { names: numbering.names, rows, rest, lost, ..LocksCut::default() };
        let names = Names::default();
        let totals = |kind| locks(kind, &cut, &names, symbolize::Mode::Off).totals();
        assert_eq!(totals(Kind::Block), [4 + 110, 200 + 11_000]);
        assert_eq!(totals(Kind::Lock), [2 + 22, 40 + 2_200]);
        assert_eq!(totals(Kind::Mutex), [1 + 6, 10 + 550]);
        assert_eq!(totals(Kind::Gil), [1 + 55, 100 + 5_500]);
    }
}
