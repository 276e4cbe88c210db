//! What waits for one exporter, and when the next attempt is due: the rules of delivery, without a thread or a clock.
//!
//! Sets go in the order of their periods, but those that broke off wait until others have been tried as often. Those that wait are bounded by their bytes, and where there is no room the
//! oldest is given up, never the new one: what happens now is what somebody will ask about. The set of an attempt stays in
//! the queue until it is decided about. After a failure the pause is drawn from nothing to twice the longest of before
//! ("full jitter"), so that a fleet does not come back all at once; where the other side named a time, nobody knocks
//! before it. Where a failed attempt costs a profile, since nobody knows whether it arrived, pauses grow longer still.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::encode::Set;

/// The longest pause after a first failure, and after many.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The longest where each attempt costs a profile.
const LONGEST_COSTLY: Duration = Duration::from_secs(600);
/// The longest that another side may ask for.
const LONGEST_MUTE: Duration = Duration::from_secs(600);
/// A set takes so much at least, with what is around its bytes.
const LEAST_BYTES: u64 = 8 << 10;

/// What waits, and since when not to try. Times are since any one moment.
#[derive(Debug)]
pub(super) struct Queue {
    sets: VecDeque<Waiting>,
    most: u64,
    bytes: u64,
    /// The number of the next set to come.
    next: u64,
    /// The number of the set at the exporter.
    busy: Option<u64>,
    /// No attempt before.
    pause_until: Duration,
    /// The part of it that the other side asked for.
    muted_until: Duration,
    failures: u32,
}

/// One set that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    number: u64,
    bytes: u64,
    /// How often it broke off.
    cuts: u32,
    pub(super) set: Arc<Set>,
}

/// What to do now.
#[derive(Debug)]
pub(super) enum Next {
    /// Try to export this one.
    Attempt(Arc<Set>),
    /// Nothing until then.
    Wait(Duration),
    /// Nothing until there is something.
    Idle,
}

impl Queue {
    /// Of at most so many bytes.
    pub(super) fn new(most: u64) -> Self {
        Self {
            sets: VecDeque::new(),
            most,
            bytes: 0,
            next: 0,
            busy: None,
            pause_until: Duration::ZERO,
            muted_until: Duration::ZERO,
            failures: 0,
        }
    }

    /// Takes a set, and says how many were given up for it.
    pub(super) fn push(&mut self, set: Arc<Set>) -> u64 {
        let bytes = set.bytes().max(LEAST_BYTES);
        let mut evicted = 0;
        while self.bytes.saturating_add(bytes) > self.most && self.evict() {
            evicted += 1;
        }
        self.sets.push_back(Waiting { number: self.next, bytes, cuts: 0, set });
        self.bytes += bytes;
        self.next += 1;
        evicted
    }

    /// Gives up the oldest that is not at the exporter.
    fn evict(&mut self) -> bool {
        let Some(place) = self.sets.iter().position(|waiting| Some(waiting.number) != self.busy) else {
            return false;
        };
        let gone = self.sets.remove(place);
        self.bytes -= gone.map_or(0, |gone| gone.bytes);
        true
    }

    /// What is due. What is given out counts as being at the exporter until [`Queue::done`] or [`Queue::failed`].
    pub(super) fn next(&mut self, now: Duration) -> Next {
        let first = self.sets.iter().min_by_key(|waiting| (waiting.cuts, waiting.number));
        let Some(first) = first else { return Next::Idle };
        if let Some(rest) = self.rest(now) {
            return Next::Wait(rest);
        }
        self.busy = Some(first.number);
        Next::Attempt(first.set.clone())
    }

    /// The set at the exporter is sent, or the other side does not want it: it can be reached.
    pub(super) fn done(&mut self) {
        self.failures = 0;
        self.leave();
    }

    /// The set at the exporter is lost, and nobody knows how the other side is: the next one may share its fate.
    pub(super) fn gone(&mut self, now: Duration, chance: f64) {
        self.leave();
        self.pause(now, None, chance, LONGEST_COSTLY);
    }

    /// The set at the exporter is none of those that wait here any more.
    pub(super) fn leave(&mut self) {
        let busy = self.busy.take();
        let place = self.sets.iter().position(|waiting| Some(waiting.number) == busy);
        if let Some(gone) = place.and_then(|place| self.sets.remove(place)) {
            self.bytes -= gone.bytes;
        }
    }

    fn busy(&mut self) -> Option<&mut Waiting> {
        let busy = self.busy?;
        self.sets.iter_mut().find(|waiting| waiting.number == busy)
    }

    /// What is left of the set at the exporter.
    pub(super) fn replace(&mut self, rest: Arc<Set>) {
        if let Some(waiting) = self.busy() {
            waiting.set = rest;
        }
    }

    /// The set at the exporter broke off: the others are to be tried before it.
    pub(super) fn set_aside(&mut self) {
        if let Some(waiting) = self.busy() {
            waiting.cuts = waiting.cuts.saturating_add(1);
        }
    }

    /// The set at the exporter is to be tried again, after `asked` at the earliest. `chance` is from 0 to 1. Says how
    /// many failures there were in a row.
    pub(super) fn failed(&mut self, now: Duration, asked: Option<Duration>, chance: f64) -> u32 {
        self.busy = None;
        self.pause(now, asked, chance, LONGEST_PAUSE)
    }

    fn pause(&mut self, now: Duration, asked: Option<Duration>, chance: f64, most: Duration) -> u32 {
        self.failures = self.failures.saturating_add(1);
        let longest = FIRST_PAUSE.saturating_mul(1 << (self.failures - 1).min(16)).min(most);
        let pause = longest.mul_f64(chance.clamp(0.0, 1.0));
        self.muted_until = now + asked.unwrap_or_default().min(LONGEST_MUTE);
        self.pause_until = self.muted_until + pause;
        self.failures
    }

    /// Whether the last attempt failed.
    pub(super) fn is_away(&self) -> bool {
        self.failures > 0
    }

    /// How long not to try; none where an attempt is due.
    pub(super) fn rest(&self, now: Duration) -> Option<Duration> {
        (now < self.pause_until).then(|| self.pause_until - now)
    }

    /// Takes out everything, in its order, to be put somewhere else.
    pub(super) fn take(&mut self) -> Vec<Waiting> {
        (self.bytes, self.busy) = (0, None);
        self.sets.drain(..).collect()
    }

    /// What could not be put there: it waits on, before all that came since. Says how many were given up for it.
    pub(super) fn give_back(&mut self, sets: Vec<Waiting>) -> u64 {
        self.bytes += sets.iter().map(|waiting| waiting.bytes).sum::<u64>();
        sets.into_iter().rev().for_each(|waiting| self.sets.push_front(waiting));
        let mut evicted = 0;
        while self.bytes > self.most && self.sets.len() > 1 && self.evict() {
            evicted += 1;
        }
        evicted
    }

    /// Somebody waits for what there is: tries now what waits for no reason but our own patience. Says whether a try makes
    /// sense.
    pub(super) fn hurry(&mut self, now: Duration) -> bool {
        self.pause_until = self.pause_until.min(self.muted_until.max(now));
        now >= self.muted_until
    }

    /// The number that the next set will have: all before it are here, or gone.
    pub(super) fn number(&self) -> u64 {
        self.next
    }

    /// Whether no set before that number waits.
    pub(super) fn is_past(&self, number: u64) -> bool {
        self.sets.front().is_none_or(|front| front.number >= number)
    }

    pub(super) fn len(&self) -> u64 {
        self.sets.len() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives all up, and says how many there were.
    pub(super) fn clear(&mut self) -> u64 {
        let count = self.len();
        self.sets.clear();
        (self.bytes, self.busy) = (0, None);
        count
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::encode::Encoded;
    use crate::profile::{Kind, Profile};

    const SECOND: Duration = Duration::from_secs(1);

    fn set(sequence: u64, bytes: usize) -> Arc<Set> {
        let mut profile = Encoded::pprof(Kind::Cpu, &Profile::new(Kind::Cpu));
        profile.bytes = vec![0; bytes];
        Arc::new(Set { sequence, profiles: vec![profile], ..Set::default() })
    }

    fn attempt(queue: &mut Queue, now: Duration) -> Option<u64> {
        match queue.next(now) {
            Next::Attempt(set) => Some(set.sequence),
            _ => None,
        }
    }

    #[test]
    fn the_oldest_gives_way_but_not_the_one_at_the_exporter() {
        let mut queue = Queue::new(100_000);
        assert_eq!((0..10).map(|n| queue.push(set(n, 10_000))).sum::<u64>(), 0);
        assert_eq!(attempt(&mut queue, SECOND), Some(0));
        assert_eq!(queue.push(set(10, 15_000)), 2);
        assert_eq!(queue.bytes(), 95_000);
        queue.done();
        assert_eq!(attempt(&mut queue, SECOND), Some(3), "1 and 2 gave way");
        // Too large for the queue: it is kept with the one at the exporter, or nothing large would ever be sent.
        assert_eq!(queue.push(set(11, 1 << 20)), 7);
        queue.done();
        assert_eq!((attempt(&mut queue, SECOND), queue.len()), (Some(11), 1));
    }

    #[test]
    fn small_sets_are_bounded_too() {
        let mut queue = Queue::new(64 << 10);
        let evicted: u64 = (0..1_000).map(|n| queue.push(set(n, 10))).sum();
        assert_eq!((evicted, queue.len()), (992, 8));
    }

    #[test]
    fn pauses_grow_and_are_by_chance() {
        let mut queue = Queue::new(1 << 20);
        queue.push(set(0, 10));
        let mut now = SECOND;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert_eq!(attempt(&mut queue, now), Some(0));
            queue.failed(now, None, 1.0);
            let Next::Wait(pause) = queue.next(now) else { panic!("no pause") };
            pauses.push(pause.as_secs_f64());
            now += pause;
        }
        assert_eq!(pauses[..8], [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]);
        assert_eq!(pauses[11], 60.0);
        assert_eq!(attempt(&mut queue, now), Some(0));
        queue.failed(now, None, 0.0);
        assert_eq!(attempt(&mut queue, now), Some(0), "chance may say at once");
        queue.done();
        queue.push(set(1, 10));
        assert_eq!(attempt(&mut queue, now), Some(1));
        queue.failed(now, None, 1.0);
        let Next::Wait(pause) = queue.next(now) else { panic!("no pause") };
        assert_eq!(pause.as_secs_f64(), 0.5, "after a success it begins anew");
    }

    #[test]
    fn nobody_knocks_before_the_time_that_the_other_side_named() {
        let mut queue = Queue::new(1 << 20);
        queue.push(set(0, 10));
        assert_eq!(attempt(&mut queue, SECOND), Some(0));
        queue.failed(SECOND, Some(30 * SECOND), 0.0);
        assert!(!queue.hurry(2 * SECOND), "not even at the end of the process");
        assert_eq!(attempt(&mut queue, 30 * SECOND), None);
        assert_eq!(attempt(&mut queue, 31 * SECOND), Some(0));
        queue.failed(31 * SECOND, Some(100_000 * SECOND), 0.0);
        assert_eq!(attempt(&mut queue, 632 * SECOND), Some(0), "ten minutes at the most");
        queue.failed(632 * SECOND, None, 1.0);
        assert!(queue.hurry(632 * SECOND));
        assert_eq!(attempt(&mut queue, 632 * SECOND), Some(0));
        queue.failed(632 * SECOND, Some(SECOND), 1.0);
        assert!(queue.hurry(633 * SECOND), "the rest of the pause is our own patience");
        assert_eq!(attempt(&mut queue, 633 * SECOND), Some(0));
    }

    /// A server that takes requests and never answers costs a profile each time: an hour of it costs few.
    #[test]
    fn what_costs_a_profile_is_tried_ever_more_seldom() {
        let mut queue = Queue::new(1 << 30);
        let (mut now, mut lost) = (Duration::ZERO, 0);
        for minute in 0..60 {
            queue.push(set(minute, 10));
            while attempt(&mut queue, now).is_some() {
                queue.gone(now, 0.5);
                lost += 1;
            }
            now += 60 * SECOND;
        }
        assert!((10..25).contains(&lost), "{lost} of 60");
        assert_eq!(queue.len(), 60 - lost);
        assert!(queue.is_away() && queue.hurry(now) && attempt(&mut queue, now).is_some());
        queue.done();
        assert!(!queue.is_away());
    }

    #[test]
    fn what_breaks_off_lets_others_go_first() {
        let mut queue = Queue::new(1 << 20);
        (0..3).for_each(|n| _ = queue.push(set(n, 10)));
        let mut order = Vec::new();
        for _ in 0..8 {
            let Some(number) = attempt(&mut queue, SECOND) else { break };
            order.push(number);
            match number {
                0 => {
                    queue.set_aside();
                    queue.failed(SECOND, None, 0.0);
                }
                _ => queue.done(),
            }
        }
        assert_eq!(order[..4], [0, 1, 2, 0]);
        assert_eq!((queue.len(), queue.is_past(1)), (1, false));
        queue.push(set(3, 10));
        assert_eq!(attempt(&mut queue, SECOND), Some(3));
        queue.done();
        assert_eq!(attempt(&mut queue, SECOND), Some(0));
        queue.done();
        assert_eq!((queue.bytes(), queue.is_past(4)), (0, true));
    }

    #[test]
    fn what_is_given_back_is_before_what_came_since() {
        let mut queue = Queue::new(100_000);
        (0..5).for_each(|n| _ = queue.push(set(n, 10_000)));
        let taken = queue.take();
        assert_eq!((taken.len(), queue.bytes(), queue.len()), (5, 0, 0));
        (5..9).for_each(|n| _ = queue.push(set(n, 20_000)));
        assert_eq!(queue.give_back(taken), 3, "the oldest gave way");
        assert_eq!(queue.bytes(), 100_000);
        let mut order = Vec::new();
        while let Some(number) = attempt(&mut queue, SECOND) {
            order.push(number);
            queue.done();
        }
        assert_eq!(order, [3, 4, 5, 6, 7, 8]);
    }

    /// An hour without the server: memory stays bounded, the newest are kept, and go in order once it is back.
    #[test]
    fn an_hour_of_outage_keeps_what_fits_in_order() {
        let mut queue = Queue::new(1 << 20);
        let (mut now, mut sequence, mut evicted, mut attempts) = (Duration::ZERO, 0, 0, 0);
        while now < 3600 * SECOND {
            evicted += queue.push(set(sequence, 50_000));
            sequence += 1;
            let end = now + 60 * SECOND;
            while now < end {
                match queue.next(now) {
                    Next::Attempt(_) => {
                        attempts += 1;
                        queue.failed(now, None, 0.5);
                    }
                    Next::Wait(pause) => now = (now + pause).min(end),
                    Next::Idle => now = end,
                }
            }
            assert!(queue.bytes() <= 1 << 20);
        }
        assert!(attempts < 150, "{attempts} attempts in an hour");
        assert_eq!(sequence, evicted + queue.len());
        queue.hurry(now);
        let mut sent = Vec::new();
        while let Some(number) = attempt(&mut queue, now) {
            sent.push(number);
            queue.done();
        }
        assert_eq!(sent, (evicted..sequence).collect::<Vec<_>>());
        assert_eq!(queue.bytes(), 0);
    }
}
