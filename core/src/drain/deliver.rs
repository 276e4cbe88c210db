//! Delivery: the encoded profiles of a period go to the exporters, to each on a thread of its own.
//!
//! A disk that hangs, or a server that does not answer, holds up nobody else: neither what comes next, nor who waits for a
//! recording or a snapshot, nor the other exporters. The publisher hands over. A thread, `everprof-send` ([`super::send`]),
//! begins with the first set; where none can be had, the publisher exports itself, with one try. What waits for an exporter is bounded
//! ([`super::queue`]), and one that panics has failed with this set alone. In a fork's child there are no sets of the
//! parent: its queues are the parent's to send.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::queue::Queue;
use super::send::{Sender, attempt, evict, lose};
use crate::encode::{Dialect, Set};
use crate::export::spool::{Spool, Terms};
use crate::export::{Exporter, Loss, Outcome};
use crate::profile::{Kind, Profile};
use crate::stats::Counters;

/// The ways to the exporters.
pub(super) struct Delivery {
    lanes: Vec<Lane>,
    counters: Arc<Counters>,
}

/// The way to one of them.
struct Lane {
    name: String,
    dialect: Dialect,
    shared: Arc<Shared>,
    /// Until there is a thread.
    exporter: Option<Box<dyn Exporter>>,
    /// How its sets may wait on disk, and under which name; none where they may not.
    spool: Option<(Terms, String)>,
}

/// What the publisher and the thread of a lane share.
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) changed: Condvar,
}

pub(super) struct State {
    pub(super) queue: Queue,
    /// The bytes that the counters have of it.
    told: u64,
    /// Who waits until all sets before that number were exported, lost, kept on disk, or tried in vain.
    pub(super) asked: Vec<(u64, Arc<Done>)>,
    /// Since when no more sets will come.
    pub(super) closed: Option<Instant>,
}

/// Says so once the last of its holders is done with it.
pub(super) struct Done(mpsc::Sender<()>);

impl Drop for Done {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Delivery {
    /// To these, of which so many bytes may wait for each, and on disk where `spool` says so.
    pub(super) fn new(
        exporters: Vec<Box<dyn Exporter>>,
        most: u64,
        spool: Option<Terms>,
        counters: Arc<Counters>,
    ) -> Self {
        let mut names: Vec<String> = Vec::new();
        let lane = |exporter: Box<dyn Exporter>| {
            let state = State { queue: Queue::new(most), told: 0, asked: Vec::new(), closed: None };
            let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
            // Code of the host's, which may panic.
            let asked = catch_unwind(AssertUnwindSafe(|| (exporter.name(), exporter.dialect())));
            let (name, dialect) = asked.unwrap_or_else(|_| ("an exporter".to_string(), Dialect::Pprof));
            let spool = spool.clone().and_then(|terms| {
                let name = catch_unwind(AssertUnwindSafe(|| exporter.spool_name())).ok()??;
                let count = names.iter().filter(|known| **known == name).count();
                names.push(name.clone());
                // In one folder, one would take over what is the other's, after a restart.
                Some((terms, if count == 0 { name } else { format!("{name}#{}", count + 1) }))
            });
            Lane { name, dialect, shared, exporter: Some(exporter), spool }
        };
        Self { lanes: exporters.into_iter().map(lane).collect(), counters }
    }

    /// Takes the profiles of a period, of which `set` has everything else.
    pub(super) fn take(&mut self, set: &Set, profiles: &[(Kind, Profile)]) {
        let mut dialects: Vec<(Dialect, Arc<Set>)> = Vec::new();
        for lane in &mut self.lanes {
            let known = dialects.iter().find(|(dialect, _)| *dialect == lane.dialect);
            let set = match known {
                Some((_, set)) => set.clone(),
                None => {
                    let profiles = lane.dialect.encode(profiles);
                    let set = Arc::new(Set { profiles, ..set.clone() });
                    dialects.push((lane.dialect, set.clone()));
                    set
                }
            };
            lane.take(set, &self.counters);
        }
    }

    /// `done` hears when everything that was taken before is exported, or could not be.
    pub(super) fn reply(&self, done: mpsc::Sender<()>) {
        let done = Arc::new(Done(done));
        for lane in self.lanes.iter().filter(|lane| lane.exporter.is_none()) {
            let mut state = lane.shared.lock();
            let number = state.queue.number();
            state.asked.push((number, done.clone()));
            lane.shared.changed.notify_one();
        }
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        for lane in &self.lanes {
            lane.shared.lock().closed = Some(Instant::now());
            lane.shared.changed.notify_one();
        }
    }
}

impl Lane {
    fn take(&mut self, set: Arc<Set>, counters: &Arc<Counters>) {
        self.begin(counters);
        if let Some(exporter) = &mut self.exporter {
            match attempt(exporter, &set) {
                Outcome::Sent => _ = counters.exported.fetch_add(1, Ordering::Relaxed),
                Outcome::Lost(loss, error) => lose(counters, &self.name, loss, &error),
                Outcome::Later(error, _) => lose(counters, &self.name, Loss::Failed, &error),
            }
            return;
        }
        let mut state = self.shared.lock();
        let evicted = state.queue.push(set);
        state.tell(counters);
        drop(state);
        self.shared.changed.notify_one();
        evict(counters, &self.name, evicted);
    }

    /// Starts the thread, the first time. Where that fails, it is tried again with the next set.
    fn begin(&mut self, counters: &Arc<Counters>) {
        let Some(exporter) = self.exporter.take() else { return };
        let (give, taken) = mpsc::channel();
        let (shared, counters, name) = (self.shared.clone(), counters.clone(), self.name.clone());
        let spool = self.spool(exporter.as_ref());
        let work = move || {
            if let Ok(exporter) = taken.recv() {
                Sender::new(exporter, name, shared, counters, spool).run();
            }
        };
        match std::thread::Builder::new().name("everprof-send".to_string()).spawn(work) {
            Ok(_) => _ = give.send(exporter),
            Err(_) => self.exporter = Some(exporter),
        }
    }

    fn spool(&self, exporter: &dyn Exporter) -> Option<Spool> {
        let (terms, name) = self.spool.as_ref()?;
        let age = catch_unwind(AssertUnwindSafe(|| exporter.longest_age())).ok()?;
        Some(Spool::new(terms, name, age))
    }
}

impl State {
    /// Tells those who wait for what is gone by now.
    pub(super) fn answer(&mut self) {
        let queue = &self.queue;
        self.asked.retain(|(number, _)| !queue.is_past(*number));
    }

    /// Brings the bytes of all lanes that wait up to date.
    pub(super) fn tell(&mut self, counters: &Counters) {
        let bytes = self.queue.bytes();
        counters.undelivered_bytes.fetch_add(bytes.wrapping_sub(self.told), Ordering::Relaxed);
        self.told = bytes;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn terms(dir: &Path) -> Terms {
        let age = Duration::from_secs(3600);
        Terms { dir: dir.into(), most: 1 << 30, age, is_once: true, service: String::new() }
    }

    /// A server that takes its time for each set.
    struct Slow;

    impl Exporter for Slow {
        fn name(&self) -> String {
            "slow".to_string()
        }

        fn export(&mut self, _: &Set) -> crate::Result<()> {
            std::thread::sleep(Duration::from_millis(50));
            Ok(())
        }

        fn spool_name(&self) -> Option<String> {
            Some(self.name())
        }
    }

    #[test]
    fn the_end_does_not_wait_for_all_that_is_on_disk() {
        let dir = std::env::temp_dir().join(format!("everprof-deliver-{}-end", std::process::id()));
        let now = UNIX_EPOCH.elapsed().unwrap().as_nanos() as i64;
        let mut dead = Spool::new(&terms(&dir), "slow", None);
        (0..100).for_each(|n| dead.keep(&Set { sequence: n, time_nanos: now, ..Set::default() }).unwrap());
        drop(dead);
        let counters = Arc::<Counters>::default();
        let mut delivery = Delivery::new(vec![Box::new(Slow)], 1 << 20, Some(terms(&dir)), counters.clone());
        delivery.take(&Set::default(), &[]);
        let (done, is_done) = mpsc::channel();
        delivery.reply(done);
        let shared = delivery.lanes[0].shared.clone();
        let begin = Instant::now();
        drop(delivery);
        is_done.recv_timeout(Duration::from_secs(10)).unwrap();
        let took = begin.elapsed();
        assert!(took < Duration::from_millis(1_900), "{took:?}");
        while Arc::strong_count(&shared) > 1 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let (sent, left) =
            (counters.exported.load(Ordering::Relaxed), counters.spool_sets.load(Ordering::Relaxed));
        // The rest waits for who comes next, and none of it as one that may have arrived.
        let mut next = Spool::new(&terms(&dir), "slow", None);
        next.adopt().unwrap();
        assert_eq!((next.size().0, next.losses()), (left, Default::default()));
        assert!(sent > 1 && left > 1 && sent + left == 101, "{sent} sent, {left} left");
        drop(next);
        std::fs::remove_dir_all(&dir).unwrap();
    }

    struct Named(&'static str);

    impl Exporter for Named {
        fn name(&self) -> String {
            self.0.to_string()
        }

        fn export(&mut self, _: &Set) -> crate::Result<()> {
            Ok(())
        }

        fn spool_name(&self) -> Option<String> {
            Some(self.0.to_string())
        }
    }

    #[test]
    fn no_two_exporters_share_a_place_on_disk() {
        let terms = terms(Path::new("/nowhere"));
        let exporters = ["a", "b", "a", "a"].map(|name| Box::new(Named(name)) as Box<dyn Exporter>);
        let delivery = Delivery::new(exporters.into(), 1, Some(terms), Arc::default());
        let names: Vec<&str> =
            delivery.lanes.iter().map(|lane| lane.spool.as_ref().unwrap().1.as_str()).collect();
        assert_eq!(names, ["a", "b", "a#2", "a#3"], "the first as where it is alone");
    }
}
