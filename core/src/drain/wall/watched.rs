//! One thread between two looks: what it did with its time, as far as it is known.

use std::sync::Arc;

use everprof_probe::os::{self, Clock, State};
use everprof_probe::waiting::Looker;

use super::ask::{Asked, Questions};
use super::met::{Rest, Sought};
use super::place::{Place, Seen};

/// A thread that has waited for a time is looked at again after this part of it,
const LESS_OFTEN: u64 = 8;
/// and after this long at the latest, in nanoseconds.
pub(super) const LEAST_OFTEN: u64 = 2_000_000_000;
/// One that runs all the time, but for such a part of it, is looked at less often in the same way,
const MOSTLY_RUNS: u64 = 32;
/// and after this long at the latest.
const LEAST_OFTEN_RUNNING: u64 = 500_000_000;
/// Those that are due after so long or more are due together, so that our thread wakes once for all.
const TOGETHER: u64 = 500_000_000;

/// A thread that was asked and has not answered for so long holds the signal back, or waits where none reaches it.
const PATIENCE: u64 = 1_000_000_000;
/// To answer, and to go back to its wait, takes a thread less than so many nanoseconds.
const ANSWERING: u64 = 1_000_000;

/// A thread between two looks. Times are in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// When the last look was, and when the next one is due.
    pub(super) at: u64,
    pub(super) due: u64,
    /// Since when its clock stands still, or since when it runs without a pause; 0 while it does not.
    since: u64,
    runs_since: u64,
    /// What it had used of the processors at the last look, and how long it had been ready without one.
    pub(super) used: u64,
    ready: u64,
    /// Time that it waited, at a place that no look has found yet. While a thread is in the queue for a processor, the
    /// kernel has not counted that yet, and this is too much by it; it is right again once the thread waits.
    pending: i64,
    /// Time that it waited at its place, and that is not told yet: as long as it does not move, it is told at once.
    rested: u64,
    /// Where it waits; none while it runs.
    pub(super) place: Option<Place>,
    /// Where it waited when it was last seen waiting, if it has run since.
    last: Option<Place>,
    pub(super) asked: Asked,
    /// It has run since it told its place, perhaps only to tell it.
    is_doubtful: bool,
    /// Another signal of ours may have interrupted the wait at hand.
    pub(super) spared: Spared,
    /// What is told of the time after the last look, if it ends.
    rest: Rest,
    /// It has ended, and is there only because others of the process go on.
    pub(super) is_over: bool,
    /// As it was last counted.
    pub(super) name: Option<Arc<str>>,
    pub(super) round: u32,
}

/// Whether a thread must not be asked, because it got another signal of ours: when it was met, or for a snapshot. It ran by
/// then, but may have begun to wait before the signal came, and one wait is not to be interrupted twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Spared {
    #[default]
    No,
    /// It got the signal, or is about to.
    Signalled,
    /// It was seen waiting since. The wait after this one is another.
    Waits,
}

/// What a look has found out about the time since the one before.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// It was ready to run, and had no processor.
    pub(super) ready: u64,
    /// It waited where it waits now,
    pub(super) waited: u64,
    /// and before that elsewhere.
    pub(super) rested: Option<(u64, Place)>,
    /// It is gone.
    pub(super) is_end: bool,
}

/// What a look is taken with, and when.
pub(super) struct With<'w> {
    pub(super) looker: &'w mut Looker,
    pub(super) words: &'w mut [u64],
    pub(super) questions: &'w mut Questions,
    pub(super) now: u64,
    /// All that is known is to be told.
    pub(super) to_tell: bool,
    /// Nanoseconds between two looks.
    pub(super) period: u64,
    /// It has announced itself: its first look came by that.
    pub(super) is_announced: bool,
}

/// Whether a thread is there only because others of the process go on.
fn has_ended(tid: u32) -> bool {
    os::standing(tid).is_some_and(|standing| standing.state == State::Ended)
}

/// When a thread is due that may be left alone for `gap`; 0 where that is not longer than the period.
fn due(now: u64, gap: u64, period: u64) -> u64 {
    match gap {
        TOGETHER.. => (now + gap).next_multiple_of(TOGETHER),
        _ if gap > period => now + gap,
        _ => 0,
    }
}

impl Found {
    /// Whether there is anything to tell.
    pub(super) fn is_any(&self) -> bool {
        self.ready > 0 || self.waited > 0 || self.rested.is_some()
    }
}

impl Watched {
    /// Looks at the thread, whose id is `tid`. Of one that is new, all since its birth is told, but nothing from before the
    /// first look of all.
    pub(super) fn look(&mut self, tid: u32, mut with: With<'_>, sought: &Sought) -> Found {
        let now = with.now;
        let Some(used) = Clock::Thread(tid).now() else {
            if self.at == 0 {
                self.missed(sought, with);
            }
            return Found { is_end: true, ..Found::default() };
        };
        if used < self.used || self.is_over && used != self.used && !has_ended(tid) {
            return self.replaced(tid, with, sought);
        }
        if self.is_over {
            self.place = None;
            (self.at, self.used, self.due) = (now, used, due(now, LEAST_OFTEN, with.period));
            return Found::default();
        }
        let is_old = self.at == 0 && sought.is_first;
        match self.at {
            0 if is_old => self.at = now,
            0 => {
                let age = os::standing(tid).map_or(0, |standing| standing.age);
                (self.at, self.rest) = sought.meet(now.saturating_sub(age), now, with.is_announced);
            }
            _ => sought.meet_again(&mut self.rest, now),
        }
        let (elapsed, ran) = (now.saturating_sub(self.at), used.saturating_sub(self.used));
        (self.at, self.used) = (now, used);
        if ran >= ANSWERING || ran > 0 && self.spared == Spared::Waits {
            self.spared = Spared::No;
        }
        if ran == 0 && self.rests(tid, now) {
            let gap = (now.saturating_sub(self.since) / LESS_OFTEN).min(LEAST_OFTEN);
            self.due = due(now, gap, with.period);
            self.pending += elapsed as i64;
            self.rested += self.settle();
            let waited = if with.to_tell { std::mem::take(&mut self.rested) } else { 0 };
            return Found { waited, ..Found::default() };
        }
        (self.since, self.due) = (now, 0);
        let is_idle = elapsed.saturating_sub(ran) > elapsed / MOSTLY_RUNS;
        if is_idle || is_old || with.to_tell || self.asked != Asked::No {
            self.runs_since = 0;
        } else {
            return self.runs_on(now, elapsed, ran, with.period);
        }
        let ready = os::ready_time(tid);
        // Where it cannot be read for the moment, what it says comes with a later look, and nothing is told until then.
        let is_blind = ready.is_none() && self.ready > 0;
        let ready = ready.unwrap_or(self.ready);
        let became_ready = ready.saturating_sub(self.ready);
        self.ready = ready;
        if is_old {
            self.find(tid, &mut with);
            return Found::default();
        }
        self.pending += elapsed as i64 - ran as i64 - became_ready as i64;
        let rested = Some(std::mem::take(&mut self.rested)).filter(|rested| *rested > 0);
        let rested = rested.zip(self.place.clone());
        if !self.is_held(tid, ran) {
            self.find(tid, &mut with);
        }
        let waited = if self.is_sure(now) && !is_blind { self.settle() } else { 0 };
        Found { ready: became_ready, waited, rested, is_end: false }
    }

    /// It was met, and has ended before anybody looked where it waited.
    fn missed(&mut self, sought: &Sought, With { now, is_announced, .. }: With<'_>) {
        self.at = now;
        if !sought.is_first && !is_announced {
            self.rest = sought.missed();
            self.place = Some(Place::unknown());
        }
    }

    /// Another thread has the id now. What the one before had waited until it was seen last is told where it was.
    fn replaced(&mut self, tid: u32, with: With<'_>, sought: &Sought) -> Found {
        let mut before = std::mem::take(self);
        before.unsettle();
        self.round = before.round;
        let mut found = self.look(tid, with, &Sought { is_first: false, ..*sought });
        let waited = before.settle();
        found.rested = before.place.filter(|_| waited > 0).map(|place| (waited, place));
        found
    }

    /// It has run almost all the time since the last look, and what little it did not is told once it waits.
    fn runs_on(&mut self, now: u64, elapsed: u64, ran: u64, period: u64) -> Found {
        if self.runs_since == 0 {
            self.runs_since = now - elapsed;
        }
        let gap = ((now - self.runs_since) / LESS_OFTEN).min(LEAST_OFTEN_RUNNING);
        self.due = due(now, gap, period);
        self.pending += elapsed as i64 - ran as i64;
        self.is_doubtful = false;
        let rested = Some(std::mem::take(&mut self.rested)).filter(|rested| *rested > 0);
        Found { rested: rested.zip(self.place.take()), ..Found::default() }
    }

    /// It has ended between `last` and `now`. If it waited when it was last seen, it waited on until some moment between.
    pub(super) fn end(&mut self, last: u64, now: u64) {
        if self.place.is_some() {
            let last = last.max(self.at);
            self.pending += (last - self.at + self.rest.nanos(last, now)) as i64;
        }
        self.unsettle();
    }

    /// What it waited where it still is goes to the place that is found next.
    pub(super) fn unsettle(&mut self) {
        self.pending += std::mem::take(&mut self.rested) as i64;
    }

    /// Whether it is where it was, if its clock stands still.
    fn rests(&mut self, tid: u32, now: u64) -> bool {
        self.is_doubtful = false;
        let rests = self.place.as_ref().is_some_and(Place::is_final) && self.is_sure(now);
        if rests && self.asked == Asked::Answered {
            if !self.is_back(tid) {
                return false;
            }
            self.asked = Asked::No;
        }
        rests
    }

    /// Whether it has gone back to its wait after its answer: it does not run, nor is ready to, and has not run since its
    /// clock was read. On a crowded machine it may lose its processor on the way.
    fn is_back(&self, tid: u32) -> bool {
        let runs = os::standing(tid).is_some_and(|standing| standing.state == State::Running);
        !runs && Clock::Thread(tid).now() == Some(self.used)
    }

    /// Whether what it waited is known to have been at its place.
    fn is_sure(&self, now: u64) -> bool {
        let is_open = matches!(self.asked, Asked::Sent { at, .. } if now.saturating_sub(at) < PATIENCE);
        self.place.is_some() && !is_open && !self.is_doubtful
    }

    /// Whether it is not to be looked at now, which has run for so many nanoseconds since the last look: it is asked and
    /// has not answered, or has answered, and ran for that.
    fn is_held(&mut self, tid: u32, ran: u64) -> bool {
        self.is_doubtful = false;
        match self.asked {
            Asked::No => false,
            Asked::Sent { at, .. } => self.at.saturating_sub(at) < PATIENCE,
            Asked::Answered if ran < ANSWERING && !self.is_back(tid) => {
                self.is_doubtful = true;
                true
            }
            Asked::Answered => {
                self.asked = Asked::No;
                // If it does not run any more by the next look, it was there all the time.
                self.is_doubtful = ran < ANSWERING;
                self.is_doubtful
            }
        }
    }

    /// Finds out where it waits, or asks it.
    fn find(&mut self, tid: u32, with: &mut With<'_>) {
        let before = self.place.take();
        // Read again: what was read since has taken its time, in which the thread may have begun to wait.
        let used = Clock::Thread(tid).now().unwrap_or(self.used);
        self.place = match Place::seen(with.looker, tid, used, with.words) {
            Seen::Running => None,
            Seen::Ended => {
                // When in between it ended, nobody knows: in the middle.
                (self.is_over, self.pending) = (true, self.pending / 2);
                before.clone().or(self.last.take())
            }
            Seen::Waiting(place) => {
                self.seen_waiting();
                Some(place)
            }
            Seen::Moved(place) => Some(place),
            Seen::Partly(place, _) if self.spared != Spared::No => {
                self.seen_waiting();
                Some(place)
            }
            Seen::Partly(place, why) => {
                self.asked = with.questions.ask(tid, &place, why, self.asked, self.at);
                Some(place)
            }
        };
        if self.place.is_none() {
            self.last = before.or(self.last.take());
        }
    }

    /// Where it waited last, as far as that is known.
    pub(super) fn last_place(&mut self) -> Place {
        self.place.take().or(self.last.take()).unwrap_or_else(Place::unknown)
    }

    fn seen_waiting(&mut self) {
        if self.spared == Spared::Signalled {
            self.spared = Spared::Waits;
        }
    }

    /// What is to be told of the place that was found.
    pub(super) fn settle(&mut self) -> u64 {
        let waited = self.pending.max(0);
        self.pending -= waited;
        waited as u64
    }
}
