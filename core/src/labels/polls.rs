//! Polls of wrapped futures: which of them are watched, so that what their tasks wait for is told.
//!
//! Called by [`super::InContext`] on whichever thread polls. A poll is chosen before it is known how it ends, each with the
//! same chance, and a wait that follows a chosen one stands for as many as the chance says: so sums are right whatever
//! the number of polls, and a poll that is not chosen costs a look at two words of its thread and reads no clock. Each
//! thread sets its own chance, anew with each tick of our thread, so as to choose some [`WANTED`] polls a second; with
//! fewer polls than that, each is. Where many threads poll, or many tasks wait, our thread sets the least that a watched
//! poll stands for ([`tick`]), and while cells run short it counts for more: who stands for less is taken with the chance
//! that this leaves.
//!
//! **Wraps in wraps.** A wait is told for the innermost wrapped future that has to wait, which has the labels of the outer
//! ones as well. An outer one tells its own only where none inside of it waits.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};

use everprof_probe::awaiting::{self, CELLS, Wait, Watched};
use everprof_probe::os::monotonic;

use super::slot;

/// How many polls a second are watched on one thread, about.
const WANTED: f64 = 200.0;
/// Within a tick, the chance is halved whenever so many polls were chosen: a flood must not wait for the next tick.
const MANY: u32 = 128;
/// The smallest chance is one in so many.
const RAREST: f64 = (1 << 24) as f64;
/// Nanoseconds to a unit of the tick: an eighth of a second, as a shift.
const TICK_BITS: u32 = 27;

/// Our thread's tick: a coarse clock that stands still while our thread sleeps; 0 while no waits are told.
static TICK: AtomicU32 = AtomicU32::new(0);
/// What a watched poll stands for at least.
static LEAST: AtomicU32 = AtomicU32::new(1);
/// Numbers watched polls, in all threads: a future that said in one of them that it waits may be polled by another thread.
static WATCHED: AtomicU32 = AtomicU32::new(0);
/// What the polls stood for that found no cell, though they had to wait.
static LOST: AtomicU64 = AtomicU64::new(0);

thread_local! {
    // Without a destructor, so that futures may be polled while other thread-locals are destroyed.
    static POLLS: Polls = const { Polls::new() };
}

/// Says that waits are told from now on, that time passes, and what a watched poll stands for at least. Our thread.
pub(crate) fn tick(least: u32) {
    LEAST.store(least, Ordering::Relaxed);
    let now = (monotonic() >> TICK_BITS) as u32;
    TICK.store(now.max(1), Ordering::Relaxed);
}

/// Says that no waits are told. Our thread, or the child of a fork.
pub(crate) fn stop_ticking() {
    TICK.store(0, Ordering::Relaxed);
}

/// How many waits were not told since the process began, because there was no cell for the polls that stood for them.
pub(crate) fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// The wait of one future, while it waits. It ends with the future at the latest.
#[derive(Debug, Default)]
pub(super) struct Ticket {
    /// None where the poll was not watched.
    wait: Option<Wait>,
    /// The watched poll that it said so in, of an outer wrapped future; 0 where there is none.
    said_in: u32,
    /// It tells no wait, and leaves its executor's waker as it is.
    is_silent: bool,
}

impl Ticket {
    /// From now on no wait is told, and no waker is replaced.
    pub(super) fn silence(&mut self) {
        self.end();
        self.is_silent = true;
    }

    /// The future is polled again, or is no more: it waits no more.
    #[inline]
    pub(super) fn end(&mut self) {
        if self.wait.is_some() || self.said_in != 0 {
            self.take_back();
        }
    }

    #[cold]
    fn take_back(&mut self) {
        if let Some(wait) = self.wait.take() {
            wait.end();
        }
        let said_in = std::mem::take(&mut self.said_in);
        POLLS.with(|polls| {
            if said_in != 0 && said_in == polls.watching.get() {
                polls.waits_inside.set(polls.waits_inside.get().saturating_sub(1));
            }
        });
    }

    /// Polls by `poll`, and takes note of a wait that follows.
    #[inline]
    pub(super) fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let tick = TICK.load(Ordering::Relaxed);
        if tick == 0 || self.is_silent {
            return poll(context);
        }
        POLLS.with(|polls| {
            let chosen = polls.is_chosen(tick);
            let outcome = if chosen { self.watch(polls, context, poll) } else { poll(context) };
            let watching = polls.watching.get();
            if watching != 0 && outcome.is_pending() {
                self.said_in = watching;
                polls.waits_inside.set(polls.waits_inside.get() + 1);
            }
            outcome
        })
    }

    #[inline(never)]
    fn watch<T>(
        &mut self,
        polls: &Polls,
        context: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        // What it stands for was settled when it was chosen.
        let weight = polls.weight.get();
        let inside = Inside::begin(polls);
        let (outcome, watched) = awaiting::watch(context, poll);
        // One that waits because a wrapped future inside of it does is told with that one's labels.
        if outcome.is_pending() && polls.waits_inside.get() == 0 {
            match watched {
                Some(watched) => self.begin(watched, weight),
                None => _ = LOST.fetch_add(u64::from(weight), Ordering::Relaxed),
            }
        }
        drop(inside);
        outcome
    }

    fn begin(&mut self, watched: Watched, weight: u32) {
        self.wait = Some(watched.begin(weight, slot::labels(), slot::of(slot::trace())));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.end();
    }
}

/// A watched poll, during which it is counted who waits inside of it. Also where it panics, the outer one's count goes on.
struct Inside<'p> {
    polls: &'p Polls,
    watching: u32,
    waits_inside: u32,
}

impl<'p> Inside<'p> {
    fn begin(polls: &'p Polls) -> Self {
        let number = WATCHED.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1);
        Self { polls, watching: polls.watching.replace(number), waits_inside: polls.waits_inside.replace(0) }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.polls.watching.set(self.watching);
        self.polls.waits_inside.set(self.waits_inside);
    }
}

/// What a watched poll has to stand for now: twice as much with each halving of what is left of the last half of the
/// cells, so that they suffice until our thread has read them.
fn least() -> u32 {
    let free = CELLS.saturating_sub(awaiting::taken()).max(1);
    let halvings = (CELLS / 2 / free).checked_ilog2().unwrap_or(0);
    LEAST.load(Ordering::Relaxed).saturating_mul(1 << halvings)
}

/// What a thread knows of its polls.
struct Polls {
    /// Polls until one is chosen, that one included; 0 before the first.
    left: Cell<u32>,
    /// What `left` was when the chance was set last or a poll was chosen last.
    drawn: Cell<u32>,
    /// The tick in which it was.
    tick: Cell<u32>,
    /// Polls since the tick began, and those of them that were chosen since the chance was set.
    polled: Cell<u32>,
    chosen: Cell<u32>,
    /// One poll in so many is chosen; and in how many that one was which was chosen last.
    one_in: Cell<u32>,
    weight: Cell<u32>,
    /// The number of the innermost watched poll that is under way, 0 while there is none.
    watching: Cell<u32>,
    /// How many wrapped futures have said in that poll that they wait, and do so still.
    waits_inside: Cell<u32>,
    random: Cell<u64>,
}

impl Polls {
    const fn new() -> Self {
        Self {
            left: Cell::new(0),
            drawn: Cell::new(0),
            tick: Cell::new(0),
            polled: Cell::new(0),
            chosen: Cell::new(0),
            one_in: Cell::new(1),
            weight: Cell::new(1),
            watching: Cell::new(0),
            waits_inside: Cell::new(0),
            random: Cell::new(0),
        }
    }

    #[inline(always)]
    fn is_chosen(&self, tick: u32) -> bool {
        let left = self.left.get();
        if left > 1 && self.tick.get() == tick {
            self.left.set(left - 1);
            return false;
        }
        self.choose(tick)
    }

    /// A new tick has begun, or it is the turn of the one that was drawn.
    #[cold]
    fn choose(&self, tick: u32) -> bool {
        let before = self.tick.replace(tick);
        if before != tick {
            self.set_chance(tick.wrapping_sub(before));
            // A draw does not know how long it has been waited for, so a new one may take its place at any time.
            self.draw();
        }
        let left = self.left.get().saturating_sub(1);
        self.left.set(left);
        if left > 0 {
            return false;
        }
        let weight = self.one_in.get();
        self.polled.set(self.polled.get().saturating_add(self.drawn.get()));
        self.chosen.set(self.chosen.get() + 1);
        if self.chosen.get() >= MANY {
            self.chosen.set(0);
            self.one_in.set(self.one_in.get().saturating_mul(2).min(RAREST as u32));
        }
        self.draw();
        self.is_taken(weight, least())
    }

    /// Whether a poll is watched that was chosen so as to stand for `weight`, where each has to stand for `least`.
    fn is_taken(&self, weight: u32, least: u32) -> bool {
        self.weight.set(weight.max(least));
        weight >= least || self.random() * f64::from(least) <= f64::from(weight)
    }

    /// Sets the chance by the polls of the time since the tick before, some ticks ago.
    fn set_chance(&self, ticks: u32) {
        let begun = self.drawn.get().saturating_sub(self.left.get());
        let polled = self.polled.replace(0).saturating_add(begun);
        let seconds = f64::from(ticks.max(1)) * (1_u64 << TICK_BITS) as f64 / 1e9;
        let one_in = f64::from(polled) / seconds / WANTED;
        self.one_in.set(one_in.clamp(1.0, RAREST) as u32);
        self.chosen.set(0);
    }

    /// Draws how many polls it takes until one is chosen: each is with the same chance.
    fn draw(&self) {
        let one_in = f64::from(self.one_in.get());
        let drawn = if one_in <= 1.0 {
            1.0
        } else {
            // Of a chance each time anew, the number of tries has this distribution.
            1.0 + (self.random().ln() / (1.0 - 1.0 / one_in).ln()).floor()
        };
        let drawn = drawn.clamp(1.0, f64::from(u32::MAX)) as u32;
        self.drawn.set(drawn);
        self.left.set(drawn);
    }

    /// A number above 0, up to 1.
    fn random(&self) -> f64 {
        let mut state = self.random.get();
        if state == 0 {
            state = monotonic() ^ std::ptr::from_ref(self).addr() as u64;
        }
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mut word = state;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ word >> 31) >> 11) as f64 / (1_u64 << 53) as f64 + f64::EPSILON / 2.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::task::Waker;

    use super::*;

    /// How many cells are taken decides on what polls stand for: one test at a time.
    fn alone() -> MutexGuard<'static, ()> {
        static ONE: Mutex<()> = Mutex::new(());
        ONE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls by so many a tick of an eighth of a second: what the chosen ones stand for, and how many they are.
    fn poll(polls: &Polls, ticks: std::ops::Range<u32>, each: u32) -> (u64, u32) {
        let (mut stood_for, mut chosen) = (0, 0);
        for tick in ticks {
            for _ in 0..each {
                if polls.is_chosen(tick) {
                    stood_for += u64::from(polls.weight.get());
                    chosen += 1;
                }
            }
        }
        (stood_for, chosen)
    }

    #[test]
    fn few_polls_are_all_chosen_and_of_many_some_that_stand_for_all() {
        let _alone = alone();
        for each in [1, 20, 200, 5_000, 100_000] {
            let polls = Polls::new();
            // The chance is that of the ticks before.
            poll(&polls, 1..3, each);
            let (stood_for, chosen) = poll(&polls, 3..103, each);
            let all = f64::from(each) * 100.0;
            assert!(f64::from(chosen) <= (WANTED * 100.0 / 8.0 * 2.0).max(all), "{each}: {chosen}");
            if each <= 20 {
                assert_eq!((stood_for, f64::from(chosen)), (all as u64, all));
            }
            let deviations = (stood_for as f64 / all - 1.0) * f64::from(chosen).sqrt();
            assert!(deviations.abs() < 4.0, "{each}: {stood_for} of {all} by {chosen}");
        }
    }

    #[test]
    fn who_stands_for_less_than_the_least_is_taken_with_the_chance_of_its_part() {
        let polls = Polls::new();
        for (weight, least) in [(1, 1), (1, 2), (3, 64), (100, 64), (1 << 20, u32::MAX)] {
            const TRIES: u32 = 100_000;
            let taken = (0..TRIES).filter(|_| polls.is_taken(weight, least)).count() as f64;
            assert_eq!(polls.weight.get(), weight.max(least));
            let right = f64::from(weight) * f64::from(TRIES);
            let stood_for = taken * f64::from(polls.weight.get());
            assert!((stood_for / right - 1.0).abs() < 4.0 / taken.sqrt(), "{weight} of {least}: {taken}");
        }
    }

    #[test]
    fn what_finds_no_cell_is_counted_for_as_many_as_it_stands_for() {
        const POLLS: u32 = 200_000;
        let _alone = alone();
        assert!(awaiting::prepare());
        let mut context = Context::from_waker(Waker::noop());
        let claim = |context: &mut Context<'_>| awaiting::watch(context, |_| Poll::<()>::Pending).1;
        let all: Vec<Watched> = std::iter::from_fn(|| claim(&mut context)).collect();
        assert_eq!((all.len(), awaiting::taken()), (CELLS, CELLS));
        let before = lost();
        tick(1);
        let mut ticket = Ticket::default();
        for _ in 0..POLLS {
            assert!(ticket.poll(&mut context, |_| Poll::<()>::Pending).is_pending());
        }
        stop_ticking();
        drop(all);
        assert!(ticket.wait.is_none() && awaiting::taken() == 0);
        // Each is drawn by a chance of one in some thousands, that of the thread's flood and that of the last cell.
        let part = (lost() - before) as f64 / f64::from(POLLS);
        assert!(part > 0.3 && part < 2.0, "{part}");
    }

    #[test]
    fn a_flood_is_noticed_within_its_tick_and_forgotten_after_it() {
        let _alone = alone();
        let polls = Polls::new();
        let (stood_for, chosen) = poll(&polls, 1..2, 1_000_000);
        assert!(chosen < MANY * 16, "{chosen}");
        assert!((stood_for as f64 / 1e6 - 1.0).abs() < 4.0 / f64::from(MANY).sqrt(), "{stood_for}");
        // Nobody polled for a minute: one poll in thousands would not be chosen for hours.
        poll(&polls, 500..501, 1);
        let (_, chosen) = poll(&polls, 502..503, 5);
        assert_eq!(chosen, 5);
    }
}
