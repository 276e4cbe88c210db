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
use std::time::{Duration, Instant};

use super::queue::Queue;
use super::send::{Sender, attempt, count, evict, lose};
use crate::encode::{Dialect, Set};
use crate::export::spool::{Spool, Terms};
use crate::export::{Exporter, Interrupt, Loss, Outcome};
use crate::profile::{Kind, Profile};
use crate::stats::Counters;

/// How long after somebody asked for the end an attempt may go on, before what waits behind it goes to disk: whoever stops
/// the profiler, or ends the process, waits for two seconds.
const GRACE: Duration = Duration::from_secs(1);
/// As long at least, where naming the last profile took most of that.
const LEAST_GRACE: Duration = Duration::from_millis(200);

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
    /// Ends its attempt at hand; none where nothing is won by that.
    interrupt: Option<Interrupt>,
}

/// What the publisher and the thread of a lane share.
pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) changed: Condvar,
    over: Condvar,
}

pub(super) struct State {
    pub(super) queue: Queue,
    /// The bytes that the counters have of it.
    told: u64,
    /// Who waits until all sets before that number were exported, lost, kept on disk, or tried in vain.
    pub(super) asked: Vec<(u64, Arc<Done>)>,
    /// Since when no more sets will come.
    pub(super) closed: Option<Instant>,
    /// Nothing is sent any more.
    is_over: bool,
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

    /// The thread ends.
    pub(super) fn end(&self) {
        self.lock().is_over = true;
        self.over.notify_all();
    }

    /// Waits for that, and says whether it came.
    fn wait_for_end(&self, until: Instant) -> bool {
        let mut state = self.lock();
        while !state.is_over {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.over.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
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
            let (queue, asked) = (Queue::new(most), Vec::new());
            let state = Mutex::new(State { queue, told: 0, asked, closed: None, is_over: false });
            let shared = Arc::new(Shared { state, changed: Condvar::new(), over: Condvar::new() });
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
            // What waits in memory alone is lost at the end of the process, and may be sent if it goes on.
            let interrupt = spool
                .as_ref()
                .and_then(|_| catch_unwind(AssertUnwindSafe(|| exporter.interrupt())).unwrap_or_default());
            Lane { name, dialect, shared, exporter: Some(exporter), spool, interrupt }
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
        // On the publisher's thread, for which nobody waits any more.
        let asked = self.counters.stopping.get().copied().unwrap_or_else(Instant::now);
        let end = (asked + GRACE).max(Instant::now() + LEAST_GRACE);
        for lane in self.lanes.iter().filter(|lane| lane.exporter.is_none()) {
            if let Some(interrupt) = &lane.interrupt
                && !lane.shared.wait_for_end(end)
            {
                let _ = catch_unwind(AssertUnwindSafe(interrupt));
            }
        }
    }
}

impl Lane {
    fn take(&mut self, set: Arc<Set>, counters: &Arc<Counters>) {
        self.begin(counters);
        if let Some(exporter) = &mut self.exporter {
            match attempt(exporter, &set) {
                Outcome::Sent => count(counters, &set),
                Outcome::Lost(loss, error) => lose(counters, &self.name, loss, &error),
                Outcome::Later(error, _) | Outcome::Cut(error) => {
                    lose(counters, &self.name, Loss::Failed, &error);
                }
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
        let asked = catch_unwind(AssertUnwindSafe(|| (exporter.longest_age(), exporter.may_repeat())));
        let (age, may_repeat) = asked.ok()?;
        let terms = Terms { is_once: terms.is_once && !may_repeat, ..terms.clone() };
        Some(Spool::new(&terms, name, age))
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
    use crate::encode::Encoded;
    use crate::error::{Error, ErrorKind};

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

    /// One of that many bytes.
    fn set(sequence: u64, bytes: usize) -> Arc<Set> {
        let mut profile = Encoded::pprof(Kind::Cpu, &Profile::new(Kind::Cpu));
        profile.bytes = vec![b'x'; bytes];
        let time_nanos = UNIX_EPOCH.elapsed().unwrap().as_nanos() as i64;
        Arc::new(Set { sequence, time_nanos, profiles: vec![profile], ..Set::default() })
    }

    fn wait_for(what: &str, is_there: impl Fn() -> bool) {
        let begin = Instant::now();
        while !is_there() {
            assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A server that does not bear the first set, or is away.
    struct Delicate {
        is_away: bool,
        taken: mpsc::Sender<u64>,
    }

    impl Exporter for Delicate {
        fn name(&self) -> String {
            "delicate".to_string()
        }

        fn export(&mut self, _: &Set) -> crate::Result<()> {
            Ok(())
        }

        fn attempt(&mut self, set: &Set) -> Outcome {
            let _ = self.taken.send(set.sequence);
            let error = Error::new(ErrorKind::Unavailable, "no");
            match (self.is_away, set.sequence) {
                (true, _) => Outcome::Later(error, None),
                (false, 0) => Outcome::Cut(error),
                _ => Outcome::Sent,
            }
        }

        fn spool_name(&self) -> Option<String> {
            Some(self.name())
        }
    }

    #[test]
    fn a_set_that_breaks_off_is_in_nobodys_way() {
        let (taken, order) = mpsc::channel();
        let counters = Arc::<Counters>::default();
        let exporter = Box::new(Delicate { is_away: false, taken });
        let mut delivery = Delivery::new(vec![exporter], 1 << 20, None, counters.clone());
        (0..5).for_each(|n| delivery.lanes[0].take(set(n, 10), &counters));
        wait_for("the others", || counters.exported.load(Ordering::Relaxed) == 4);
        assert_eq!(counters.exported_bytes.load(Ordering::Relaxed), 40);
        assert_eq!(order.try_iter().filter(|sequence| *sequence > 0).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(counters.export_failures.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_does_not_fit_on_the_disk_keeps_nothing_else_off_it() {
        let dir = std::env::temp_dir().join(format!("everprof-deliver-{}-large", std::process::id()));
        let (taken, _order) = mpsc::channel();
        let counters = Arc::<Counters>::default();
        let exporter = Box::new(Delicate { is_away: true, taken });
        let terms = Terms { most: 100_000, ..terms(&dir) };
        let mut delivery = Delivery::new(vec![exporter], 1 << 20, Some(terms), counters.clone());
        for (n, bytes) in [(0, 200_000), (1, 10), (2, 200_000), (3, 10)] {
            delivery.lanes[0].take(set(n, bytes), &counters);
        }
        wait_for("two on disk", || counters.spool_sets.load(Ordering::Relaxed) == 2);
        assert_eq!(delivery.lanes[0].shared.lock().queue.len(), 2);
        drop(delivery);
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
