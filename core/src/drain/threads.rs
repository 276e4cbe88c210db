//! The threads of the process: found, timed, named, and let go.
//!
//! `/proc/self/task` names every thread, also those started by C code or before us. Its link count gives their number
//! for the price of one system call, so the directory is read only when that number changed, and once a second for the
//! case that one thread took another's place. At each such look every thread's CPU clock is read as well; what a thread
//! has used and what of it was told stands in its [`Book`]. Threads that set labels announce themselves, and are met at
//! once: whose work theirs was would else rest on what they do at the moment of their discovery.

mod meet;
mod told;

use std::collections::HashMap;
use std::sync::Arc;

use everprof_probe::os::{Clock, gettid, monotonic, tick};
use everprof_probe::thread::{self, Slot};
use everprof_probe::timer::{ClockKind, ThreadTimer};

use super::account::{Account, Unmet};
use super::book::{Balance, Book, Bounds};
use super::close::Cut;
use super::random::Random;
use super::tasks;
use told::Told;

/// The directory is read again after this long, in nanoseconds, even where the number of threads is the same.
const FULL_SCAN: u64 = 1_000_000_000;
/// Reading the directory may take this part of a processor; with thousands of threads it is read less often.
const SCAN_SHARE: u64 = 2_000;
/// The same while threads come and go: looking for them is then worth one per cent.
const CHURNING_SHARE: u64 = 100;

/// How threads are sampled.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sampling {
    pub(super) clock: ClockKind,
    pub(super) signal: i32,
    pub(super) period: u32,
    /// Whether threads have timers; else it is only known who lives.
    pub(super) is_timed: bool,
    /// Whether a thread that is met may get a signal, though it may have begun to wait meanwhile.
    pub(super) may_interrupt: bool,
}

/// What is known of who lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Census {
    /// Nothing: it is too early to look for others again.
    Unknown,
    /// There are as many as before.
    Counted,
    /// Each was met.
    Taken,
}

/// Every live thread, with its timer.
#[derive(Debug)]
pub(super) struct Threads {
    sampling: Sampling,
    /// Nanoseconds between two looks of the kernel at a CPU timer.
    tick: u64,
    by_id: HashMap<u32, Thread>,
    account: Account,
    /// CPU time that threads had used when they were met.
    met_late: u64,
    /// Threads come and go, or may: every new one matters.
    churning: bool,
    random: Random,
    links: u64,
    scanned_at: u64,
    /// When it was last looked who lives.
    census_at: u64,
    next_scan: u64,
    next_welcome: u64,
    round: u32,
    /// This is the first look: what threads have used by now is not ours to tell.
    opening: bool,
    /// The directory of threads could be read since the beginning: it names us at least.
    has_read: bool,
    /// Threads that were found to have ended since the last look.
    gone: Vec<Ended>,
    /// Threads that ended not long ago: samples of them may be in the rings still.
    ended: HashMap<u32, Ended>,
    /// The balances of threads that ended before, by name and by the number that their samples were counted under.
    folded: HashMap<(Arc<str>, Option<u32>), Balance>,
    /// Names that a runtime told.
    told: Told,
    /// How many threads were met or let go.
    turnover: u64,
    /// What the last timer that could not be made failed with.
    timer_error: Option<i32>,
}

#[derive(Debug)]
struct Thread {
    slot: Option<&'static Slot>,
    timer: Option<ThreadTimer>,
    book: Book,
    name: Arc<str>,
    /// Programs name a thread shortly after starting it, so a young thread's name is read again.
    young: bool,
    /// When we met it, on the monotonic clock.
    met_at: u64,
    /// It got a signal then.
    discovered: bool,
    /// It was met because it had announced itself.
    announced: bool,
    /// At the last look it was behind with its signals, and held them back.
    deaf: bool,
}

/// A thread that is gone, with all that it used.
#[derive(Debug)]
struct Ended {
    /// 0 where another thread has the id now.
    tid: u32,
    name: Arc<str>,
    book: Book,
    used: u64,
    credited: u64,
    deaf: bool,
    /// The rings were emptied since.
    drained: bool,
}

/// Whose books are closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Everybody's.
    All,
    /// Those of threads with samples since the last balance.
    Sampled,
}

/// What is to be told of a thread, or of several that ended, at the end of a period.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) name: Arc<str>,
    /// 0 for threads that ended.
    pub(super) tid: u32,
    pub(super) timed: bool,
    pub(super) balance: Balance,
}

impl Threads {
    /// Nobody yet. Slots of threads that ended while nothing was sampled are given back.
    pub(super) fn new(sampling: Sampling) -> Self {
        // First the list, of which slots are not given back twice.
        thread::take_new(|_| {});
        thread::sweep(tasks::lives);
        Self {
            sampling,
            tick: tick(),
            by_id: HashMap::new(),
            account: Account::default(),
            met_late: 0,
            churning: true,
            random: Random::new(),
            links: 0,
            scanned_at: 0,
            census_at: monotonic(),
            next_scan: 0,
            next_welcome: 0,
            round: 0,
            opening: false,
            has_read: false,
            gone: Vec::new(),
            ended: HashMap::new(),
            folded: HashMap::new(),
            told: Told::default(),
            turnover: 0,
            timer_error: None,
        }
    }

    /// Looks for new and ended threads, if there is a reason to.
    pub(super) fn update(&mut self) -> Census {
        let now = monotonic();
        if now < self.next_scan {
            return Census::Unknown;
        }
        let links = tasks::links();
        // While threads come and go, one may have taken another's place.
        let are_as_many = links == self.links && tasks::count(links) == Some(self.by_id.len());
        if are_as_many && !self.churning && now - self.scanned_at < FULL_SCAN {
            self.census_at = now;
            return Census::Counted;
        }
        self.links = links;
        let own = || Clock::Thread(gettid()).now().unwrap_or_default();
        let before = own();
        self.scan();
        self.scanned_at = now;
        let share = if self.churning { CHURNING_SHARE } else { SCAN_SHARE };
        self.next_scan = now + (own() - before).saturating_mul(share).min(10 * FULL_SCAN);
        Census::Taken
    }

    /// The same where somebody knows that their number does not tell.
    pub(super) fn update_again(&mut self) -> Census {
        self.links = 0;
        self.update()
    }

    /// When it was last looked who lives, by their number or one by one.
    pub(super) fn census_at(&self) -> u64 {
        self.census_at
    }

    /// How many nanoseconds are left until threads that announce themselves are met again: nobody need be woken before.
    pub(super) fn before_welcome(&self) -> u64 {
        self.next_welcome.saturating_sub(monotonic())
    }

    /// Says whether threads come and go.
    pub(super) fn set_churning(&mut self, churning: bool) {
        self.churning = churning;
    }

    /// Whether threads come and go.
    pub(super) fn is_churning(&self) -> bool {
        self.churning && self.sampling.is_timed
    }

    /// CPU time that threads used before they were met, or without being met, since the beginning.
    pub(super) fn unnoticed(&self) -> u64 {
        self.met_late + self.account.unmet_ever()
    }

    /// Looks for new threads alone: who has ended, and what all have used, waits for the next look.
    pub(super) fn meet_new(&mut self) {
        let now = monotonic();
        for tid in tasks::ids().into_iter().flatten() {
            if !self.by_id.contains_key(&tid) {
                self.meet(tid, now, false);
            }
        }
    }

    /// Looks for new and ended threads now, and at every thread's clock. Where the directory cannot be read any more, since
    /// the process has another root now or no room for one more open file, those that are known are looked at.
    pub(super) fn scan(&mut self) {
        match tasks::ids() {
            Some(ids) => self.look_at(ids),
            None => self.look_at(std::iter::empty()),
        }
    }

    /// The directory that `ids` come from is read in pieces, and threads that end between two of them make the kernel
    /// skip others. So a thread that is not named there is not taken for ended: its clock says whether it is.
    ///
    /// As long as it was never read, each look is an opening: what threads did that nobody has met yet is not ours to tell.
    fn look_at(&mut self, ids: impl Iterator<Item = u32>) {
        let opening = !self.has_read;
        self.round = self.round.saturating_add(1);
        // Before the threads' own clocks: what is read too low is made up for at the next look.
        let process = Clock::Process.now().unwrap_or_default();
        let now = monotonic();
        self.census_at = now;
        self.opening = opening;
        for tid in ids {
            self.has_read = true;
            self.meet(tid, now, false);
        }
        self.opening = false;
        self.time_the_untimed();
        let mut gone = std::mem::take(&mut self.gone);
        let (patience, sampling) = (self.patience(), self.sampling);
        let left = self.by_id.extract_if(|tid, thread| !thread.look(*tid, now, patience, sampling));
        gone.extend(left.map(|(tid, thread)| thread.end(tid)));
        let by_id = &self.by_id;
        self.told.look(|tid| by_id.contains_key(&tid) || tasks::lives(tid));
        let living: u64 = self.by_id.values().map(|thread| thread.book.seen()).sum();
        let all_gone = process.saturating_sub(living);
        if opening {
            self.account = Account::open(all_gone);
            return;
        }
        self.let_go(gone, all_gone, now);
    }

    /// Changes the period of every timer.
    pub(super) fn set_period(&mut self, period: u32) {
        self.sampling.period = period;
        for (tid, thread) in &mut self.by_id {
            let (Some(timer), Some(slot)) = (&thread.timer, thread.slot) else { continue };
            let first = self.random.first(period, self.tick);
            slot.set_unclaimed(0);
            let timing = self.sampling.timing(*tid, slot, first);
            if timer.set_period(slot, period, first).is_ok() {
                thread.book.arm(Some(timing.armed(*tid)), self.tick);
            }
        }
    }

    /// Makes every timer anew, for another signal or clock.
    pub(super) fn restart(&mut self, sampling: Sampling) {
        self.stop();
        self.sampling = sampling;
        self.timer_error = None;
        let ids: Vec<u32> = self.by_id.keys().copied().collect();
        ids.into_iter().for_each(|tid| self.start_timer(tid, 0));
        self.scan();
    }

    /// Deletes every timer. Slots stay with their threads, which may have labels in them.
    pub(super) fn stop(&mut self) {
        for thread in self.by_id.values_mut() {
            thread.stop_timer();
            thread.book.arm(None, self.tick);
        }
    }

    /// The name of a thread; a thread that ended before it was met has none.
    pub(super) fn name(&self, tid: u32) -> Arc<str> {
        let living = self.by_id.get(&tid).map(|thread| &thread.name);
        match living.or_else(|| self.ended.get(&tid).map(|thread| &thread.name)) {
            Some(name) => name.clone(),
            None if tid == 0 => "".into(),
            None => self.name_now(tid),
        }
    }

    /// Takes the names that a runtime told since the last call.
    pub(super) fn take_names(&mut self) {
        for (tid, name) in self.told.take() {
            if let Some(thread) = self.by_id.get_mut(&tid) {
                thread.name = name;
            } else if let Some(thread) = self.ended.get_mut(&tid) {
                thread.name = name;
            }
        }
    }

    /// As the runtime says, or as the system says.
    fn name_now(&self, tid: u32) -> Arc<str> {
        self.told.name(tid).unwrap_or_else(|| tasks::name(tid))
    }

    /// Reads the names again, which programs may change, of threads that were met at that time or later.
    pub(super) fn rename(&mut self, since: u64) {
        for (tid, thread) in self.by_id.iter_mut().filter(|(_, thread)| thread.met_at >= since) {
            let name = self.told.name(*tid).unwrap_or_else(|| tasks::name(*tid));
            if !name.is_empty() {
                thread.name = name;
            }
        }
    }

    /// Counts a sample of a thread under its `number` in the profile, and returns the nanoseconds that it stands for.
    pub(super) fn count(&mut self, tid: u32, nanos: u64, period: u64, by_timer: bool, number: u32) -> u64 {
        let living = self.by_id.get_mut(&tid).map(|thread| &mut thread.book);
        match living.or_else(|| self.ended.get_mut(&tid).map(|thread| &mut thread.book)) {
            Some(book) => book.count(nanos, period, by_timer, number),
            None => nanos,
        }
    }

    /// The rings were emptied: of threads that had ended by the time before, no sample will come any more.
    pub(super) fn drained(&mut self) {
        self.told.drained();
        let patience = self.patience();
        for (_, thread) in self.ended.extract_if(|_, thread| std::mem::replace(&mut thread.drained, true)) {
            fold(&mut self.folded, thread, 0.0, patience);
        }
    }

    /// Closes the books of every thread, or only of those with samples since the last time, given the nanoseconds of
    /// samples that were lost, and tells what is due. After a look at the threads, with empty rings.
    pub(super) fn balance(&mut self, lost: u64, whose: Whose) -> Vec<Due> {
        let (patience, sampling) = (self.patience(), self.sampling);
        let living = self.by_id.values().map(|thread| thread.book.dropped(thread.credited()));
        let ended = self.ended.values().map(|thread| thread.book.dropped(thread.credited));
        let dropped: u64 = living.chain(ended).sum();
        let part_lost = (lost as f64 / dropped.max(1) as f64).min(1.0);
        for (_, thread) in self.ended.drain() {
            fold(&mut self.folded, thread, part_lost, patience);
        }
        let is_concerned = |number: Option<u32>| whose == Whose::All || number.is_some();
        let ended = self
            .folded
            .extract_if(|(_, number), _| is_concerned(*number))
            .map(|((name, _), balance)| Due { name, tid: 0, timed: true, balance });
        let living = self.by_id.iter_mut().filter(|(_, thread)| is_concerned(thread.book.number()));
        let living = living.map(|(tid, thread)| Due {
            name: thread.name.clone(),
            tid: *tid,
            timed: thread.timer.is_some(),
            balance: thread.book.balance(thread.book.seen(), thread.credited(), part_lost, patience, || {
                sampling.is_deaf(*tid)
            }),
        });
        ended.chain(living).collect()
    }

    /// Takes back that a thread's time was told: no sample of the period could stand for it.
    pub(super) fn carry(&mut self, tid: u32, nanos: u64) {
        if let Some(thread) = self.by_id.get_mut(&tid) {
            thread.book.carry(nanos);
        }
    }

    /// Adds time of ended threads that had no samples, to be told with that of threads that were never met.
    pub(super) fn add_unmet(&mut self, nanos: u64) {
        self.account.add(nanos);
    }

    /// How the time of threads that were never met is told, given what samples of discovered ones speak for.
    pub(super) fn charge_unmet(&mut self, discovered: u64, cut: Cut) -> Unmet {
        let least = match cut {
            // There may be samples yet.
            Cut::Within => u64::MAX,
            Cut::Period => self.sampling.period.into(),
            Cut::IntoRest | Cut::Last => 0,
        };
        self.account.charge(discovered, least)
    }

    /// Whether thread `tid` was met because it had announced itself.
    pub(super) fn was_announced(&self, tid: u32) -> bool {
        self.by_id.get(&tid).is_some_and(|thread| thread.announced)
    }

    /// Whether thread `tid` got a signal when it was met.
    pub(super) fn was_discovered(&self, tid: u32) -> bool {
        self.by_id.get(&tid).is_some_and(|thread| thread.discovered)
    }

    /// The ids of all that live, as far as they were met.
    pub(super) fn ids(&self) -> Vec<u32> {
        self.by_id.keys().copied().collect()
    }

    /// The same with their names, in the order in which they were made.
    pub(super) fn named(&self) -> Vec<(u32, Arc<str>)> {
        let mut all: Vec<_> = self.by_id.iter().map(|(tid, thread)| (*tid, thread.name.clone())).collect();
        all.sort_unstable_by_key(|(tid, _)| *tid);
        all
    }

    /// How many threads live, and how many of them have no timer.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.by_id.len(), self.by_id.values().filter(|thread| thread.timer.is_none()).count())
    }

    /// A number that grows with every thread that is met or let go.
    pub(super) fn turnover(&self) -> u64 {
        self.turnover
    }

    /// The errno of the last timer that could not be made.
    pub(super) fn timer_error(&self) -> Option<i32> {
        self.timer_error
    }

    /// A thread that uses more CPU time than this and gets no signal may be a case of its own: it holds the signal back, or
    /// the clock is blind to what it does. A period and a tick are nothing unusual.
    fn patience(&self) -> u64 {
        4 * (u64::from(self.sampling.period) + self.tick)
    }

    /// Settles what threads used that are gone since the last look.
    fn let_go(&mut self, gone: Vec<Ended>, all_gone: u64, now: u64) {
        let bounds: Vec<Bounds> =
            gone.iter().map(|thread| thread.book.bounds(thread.credited, self.tick, now)).collect();
        self.turnover += bounds.len() as u64;
        let ends = self.account.settle(all_gone, &bounds);
        let patience = self.patience();
        for (mut thread, used) in gone.into_iter().zip(ends) {
            thread.used = used;
            if let Some(before) = self.ended.insert(thread.tid, thread) {
                fold(&mut self.folded, before, 0.0, patience);
            }
        }
    }
}

impl Thread {
    /// Reads the thread's clock; false where the thread is gone.
    fn look(&mut self, tid: u32, now: u64, patience: u64, sampling: Sampling) -> bool {
        let Some(used) = Clock::Thread(tid).now() else { return false };
        self.book.look(used, now);
        let is_behind = sampling.is_timed && self.book.is_behind(self.credited(), patience);
        self.deaf = is_behind && (self.deaf || sampling.is_deaf(tid));
        true
    }

    fn credited(&self) -> u64 {
        self.slot.map_or(0, Slot::credited)
    }

    fn stop_timer(&mut self) {
        if self.timer.take().is_some()
            && let Some(slot) = self.slot
        {
            slot.set_period(0);
        }
    }

    /// Gives back what a thread had that is gone. What it has used by its end is not known yet.
    fn end(mut self, tid: u32) -> Ended {
        self.stop_timer();
        let (credited, used) = (self.credited(), self.book.seen());
        if let Some(slot) = self.slot {
            slot.release();
        }
        let Self { name, book, deaf, .. } = self;
        Ended { tid, name, book, used, credited, deaf, drained: false }
    }
}

/// Adds the last balance of an ended thread to that of others of its name.
fn fold(
    folded: &mut HashMap<(Arc<str>, Option<u32>), Balance>,
    mut thread: Ended,
    part_lost: f64,
    patience: u64,
) {
    let balance = thread.book.balance(thread.used, thread.credited, part_lost, patience, || thread.deaf);
    let sum = folded.entry((thread.name, balance.number)).or_default();
    sum.number = balance.number;
    sum.correction += balance.correction;
    sum.missed += balance.missed;
    sum.lost += balance.lost;
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Of which nothing comes in a test: it is ignored, and its period is longer than any.
    const QUIET: Sampling = Sampling {
        clock: ClockKind::Timer,
        signal: 28,
        period: 1_000_000_000,
        is_timed: true,
        may_interrupt: false,
    };

    #[test]
    fn a_thread_that_the_directory_skips_lives_on() {
        let (send, tid) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            let slot = thread::current();
            slot.inspect(|slot| {
                slot.set_labels(7);
            });
            while Clock::Thread(gettid()).now() < Some(20_000_000) {}
            let _ = send.send(gettid());
            let _ = ended.recv();
            slot.map(Slot::labels)
        });
        let tid = tid.recv().unwrap_or_default();
        let mut threads = Threads::new(QUIET);
        threads.look_at([gettid(), tid].into_iter());
        threads.look_at([gettid()].into_iter());
        threads.look_at([gettid(), tid].into_iter());
        let due: i64 = threads.balance(0, Whose::All).iter().map(|due| due.balance.correction).sum();
        assert!(due < 15_000_000, "what it used before the start is told: {due}");
        assert!(threads.by_id.contains_key(&tid));
        drop(end);
        assert_eq!(thread.join().ok().flatten(), Some(7), "it has its slot and its labels still");
        // The kernel lets a joined thread go in its own time.
        while threads.by_id.contains_key(&tid) {
            std::thread::yield_now();
            threads.look_at([gettid()].into_iter());
        }
    }
}
