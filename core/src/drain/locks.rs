//! The account of waits of threads for each other: how long, where, for what, and who ended them.
//!
//! Our thread. A wait that was sampled stands for `threshold / waited` of its kind where it was shorter than the threshold,
//! since it had the chance `waited / threshold` to be a sample, and else for itself. Who ended a wait that was sampled tells it
//! in a sample of its own (`releases`).

use std::sync::{Arc, OnceLock};

use everprof_probe::lock::{self, Config, Object};
use everprof_probe::ring::{MAX_STACK_WORDS, Ring};
use everprof_probe::sample::{AGAIN, ENDED, Header, LOCK_WORDS, Source, TIMED_OUT};

use super::hooked::Hooked;
use super::hooks::HookOptions;
use super::period::{Epoch, Period};
use super::releases::Releases;
use super::sampler::Sampler;
use super::setup::{RING_WORDS, wall_clock};
use super::sites::{Same, Site, Sites};
use super::tallies::{self, Amounts, Tallies, Tally};
use crate::aggregate::Key;
use crate::error::{Error, ErrorKind, Result};
use crate::symbolize::runtime::{self, RuntimeLabel};

static SAMPLES: OnceLock<Ring> = OnceLock::new();

/// Waits and nanoseconds, as far as samples tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Waits {
    pub(super) count: f64,
    pub(super) nanos: f64,
}

impl Waits {
    /// Those that a sample stands for: of a wait that goes on `again`, of no more of them.
    fn of(nanos: u64, threshold: u64, again: bool) -> Self {
        let weight = (threshold as f64 / nanos.max(1) as f64).max(1.0);
        Self { count: if again { 0.0 } else { weight }, nanos: nanos as f64 * weight }
    }
}

impl Amounts for Waits {
    fn add(&mut self, more: Self) {
        self.count += more.count;
        self.nanos += more.nanos;
    }

    fn weight(&self) -> f64 {
        self.nanos
    }
}

/// What an account has to tell, ready to be named.
#[derive(Debug, Default)]
pub(super) struct LocksCut {
    /// What is needed to name it; its sums hold the stacks and the labels alone.
    pub(super) names: Period,
    pub(super) rows: Vec<LockRow>,
    /// The nanoseconds from which on each wait is a sample.
    pub(super) threshold: u64,
    /// How many samples of waits there were.
    pub(super) samples: u64,
    /// Those of places that there is no room for.
    pub(super) rest: Waits,
    /// What lost samples stood for.
    pub(super) lost: Waits,
}

/// The waits of one site.
#[derive(Clone, Copy, Debug)]
pub(super) struct LockRow {
    pub(super) key: Key,
    /// [`lock::Object`] as a number.
    pub(super) object: u64,
    /// What is said of it, where it is a part of the lock by which the threads of a runtime take turns.
    pub(super) turn: Option<RuntimeLabel>,
    /// Who ended them, where that is known.
    pub(super) release: Option<Key>,
    pub(super) waits: Waits,
}

/// What is waited for: [`lock::Object`] as a number, and [`LockRow::turn`].
type Thing = (u64, Option<RuntimeLabel>);

/// A wait's site, its object, and the site of who ended it.
type Place = (Same, Thing, Option<Same>);

/// A wait as its sample tells it: its site, its object, and what it stands for.
type Wait = (Arc<Site>, Thing, Waits);

impl tallies::Place for Place {
    fn untraced(&self) -> Option<Self> {
        let (site, object, release) = self;
        let (own, other) = (site.untraced(), release.as_ref().and_then(Same::untraced));
        if own.is_none() && other.is_none() {
            return None;
        }
        Some((own.unwrap_or_else(|| site.clone()), *object, other.or_else(|| release.clone())))
    }
}

/// The account.
#[derive(Debug)]
pub(super) struct Locks {
    config: Config,
    /// How many spans a profile tells apart.
    traces: usize,
    sites: Sites,
    tallies: Tallies<Place, Waits>,
    releases: Releases<Arc<Site>, Wait>,
    hooked: Hooked,
}

impl Locks {
    /// Installs the hooks and begins to sample, one in proportion below so many nanoseconds.
    pub(super) fn start(threshold: u64, options: HookOptions) -> Result<Self> {
        if threshold == 0 {
            let problem = "waits for locks are not sampled: lock_threshold_ns is off; set it to a number of nanoseconds";
            return Err(Error::new(ErrorKind::Unsupported, problem));
        }
        let config = Config { threshold, max_words: options.max_words, c_locks: options.c_locks };
        // What was left of waits before this start is not of it.
        lock::take_lost();
        ring()?.drain(&mut vec![0; MAX_STACK_WORDS], |_, _| {});
        let mut locks = Self {
            config,
            traces: options.traces,
            sites: Sites::default(),
            tallies: Tallies::default(),
            releases: Releases::default(),
            hooked: Hooked::default(),
        };
        locks.hooked.begin(lock::start(config, ring()?));
        match locks.hooked.slots() {
            0 => Err(Error::new(ErrorKind::Unsupported, locks.hooked.problem())),
            _ => Ok(locks),
        }
    }

    /// Hooks the objects that were loaded since, where modules have `changed` or may still be changing. Returns what there is
    /// to tell of it, once.
    pub(super) fn keep_hooked(&mut self, changed: bool) -> Option<String> {
        if self.config.threshold == 0 || !self.hooked.is_due(changed) {
            return None;
        }
        self.hooked.note(lock::hook_again(self.config.c_locks))
    }

    /// How the slots are.
    pub(super) fn hooked(&self) -> &Hooked {
        &self.hooked
    }

    /// Remembers the address spaces that stacks are of.
    pub(super) fn keep_epochs(&mut self, first: u32, epochs: &[Epoch]) {
        self.sites.keep_epochs(first, epochs);
    }

    /// Each wait of so many nanoseconds is a sample from now on; 0: none is, and the hooks are taken out.
    pub(super) fn set_threshold(&mut self, threshold: u64) {
        let before = std::mem::replace(&mut self.config.threshold, threshold);
        match (before, threshold) {
            (_, 0) => lock::stop(),
            (0, _) => {
                let patched = SAMPLES.get().map(|ring| lock::start(self.config, ring));
                patched.into_iter().for_each(|patched| self.hooked.begin(patched));
            }
            _ => lock::set_threshold(threshold),
        }
    }

    /// Begins to count for a recording.
    pub(super) fn begin(&mut self, id: u64) {
        self.settle();
        self.tallies.begin(id);
    }

    /// What a recording has to tell.
    pub(super) fn end(&mut self, id: u64) -> Option<LocksCut> {
        self.settle();
        let tally = self.tallies.end(id)?;
        Some(self.cut(&tally))
    }

    /// Forgets a recording.
    pub(super) fn give_up(&mut self, id: u64) {
        self.tallies.end(id);
    }

    /// What was waited for since the account began.
    pub(super) fn now(&mut self) -> LocksCut {
        self.settle();
        let total = self.tallies.total().clone();
        let mut cut = self.cut(&total);
        // It is of a moment.
        (cut.names.time_nanos, cut.names.duration_nanos) = (wall_clock(), 0);
        cut
    }

    /// Closes the period.
    pub(super) fn close(&mut self) -> LocksCut {
        self.settle();
        let tally = self.tallies.end_period();
        let cut = self.cut(&tally);
        self.releases.forget_old();
        drop(tally);
        self.sites.forget_unused();
        self.hooked.look_again();
        cut
    }

    /// Counts the waits whose other half is not here yet.
    fn settle(&mut self) {
        for wait in self.releases.end_waits() {
            self.count(wait, None);
        }
    }

    fn count(&mut self, (site, object, waits): Wait, release: Option<Arc<Site>>) {
        self.tallies.add((site.into(), object, release.map(Same::from)), waits);
    }

    /// About how many bytes the account holds.
    pub(super) fn memory(&self) -> usize {
        const PLACE: usize = 112;
        self.sites.memory() + self.tallies.places() * PLACE
    }

    fn cut(&self, tally: &Tally<Place, Waits>) -> LocksCut {
        let mut numbering = self.sites.numbering(self.traces);
        let rows = tally.rows.iter().map(|((site, (object, turn), release), waits)| LockRow {
            key: numbering.key(site),
            object: *object,
            turn: *turn,
            release: release.as_ref().map(|site| numbering.key(site)),
            waits: *waits,
        });
        let rows: Vec<LockRow> = rows.collect();
        let mut names = numbering.names;
        (names.time_nanos, names.duration_nanos) = tally.span();
        let Tally { samples, lost, rest, .. } = *tally;
        LocksCut { names, rows, threshold: self.config.threshold, samples, lost, rest }
    }
}

impl Drop for Locks {
    fn drop(&mut self) {
        lock::stop();
    }
}

impl Sampler {
    /// Hooks what was loaded since.
    pub(super) fn keep_locks_hooked(&mut self, changed: bool) {
        let problem = self.locks.as_mut().and_then(|locks| locks.keep_hooked(changed));
        if let Some(problem) = problem {
            self.trouble_once(problem);
        }
    }

    /// Empties the ring of waits.
    pub(super) fn drain_locks(&mut self, buffer: &mut [u64]) {
        let (Some(mut locks), Some(ring)) = (self.locks.take(), SAMPLES.get()) else { return };
        ring.drain(buffer, |header, words| match header.event() {
            source if source == Source::Lock as u8 => self.count_blocked(&mut locks, &header, words),
            source if source == Source::Release as u8 => {
                let Some(([number], stack)) = words.split_first_chunk() else { return };
                let site = self.site(&mut locks.sites, &header, stack);
                if let Some((wait, site)) = locks.releases.release(*number, site) {
                    locks.count(wait, Some(site));
                }
            }
            _ => {}
        });
        for wait in locks.releases.end_drain() {
            locks.count(wait, None);
        }
        let [samples, count, nanos] = lock::take_lost();
        locks.tallies.lose(Waits { count: count as f64, nanos: nanos as f64 });
        self.stats.spans_left_out += locks.tallies.take_untraced();
        locks.sites.keep_small();
        self.stats.lock_lost += samples;
        let hooked = locks.hooked();
        self.stats.lock_slots = hooked.slots();
        self.stats.lock_slots_foreign = hooked.foreign();
        self.stats.lock_slots_refused = hooked.refused();
        self.locks = Some(locks);
    }

    fn count_blocked(&mut self, locks: &mut Locks, header: &Header, words: &[u64]) {
        let Some(([nanos, threshold, address, object, number], stack)) =
            words.split_first_chunk::<LOCK_WORDS>()
        else {
            return;
        };
        let site = self.site(&mut locks.sites, header, stack);
        let kind = object & !(AGAIN | ENDED | TIMED_OUT);
        let may_be_turn = [Object::Condition, Object::Mutex].iter().any(|object| *object as u64 == kind);
        let turn = may_be_turn.then(|| runtime::label_of_turn(*address)).flatten();
        // Who waits for a turn looks up from time to time, and waits on.
        let goes_on = object & AGAIN != 0 || turn.is_some() && object & TIMED_OUT != 0;
        let wait = (site, (kind, turn), Waits::of(*nanos, *threshold, goes_on));
        if object & ENDED == 0 {
            // What the table had of it may have been swept away, since it went on to wait for long after it was seen to end.
            let release = locks.releases.known(*number);
            locks.count(wait, release);
        } else if let Some((wait, release)) = locks.releases.wait(*number, wait) {
            locks.count(wait, release);
        }
        self.stats.lock_samples += 1;
    }
}

/// Forgets what the parent's threads left behind. In a fork's child, on its only thread.
pub(super) fn after_fork() {
    if let Some(ring) = SAMPLES.get() {
        ring.clear();
        lock::after_fork();
    }
}

fn ring() -> Result<&'static Ring> {
    if let Some(ring) = SAMPLES.get() {
        return Ok(ring);
    }
    let made = Ring::new(RING_WORDS)
        .ok_or_else(|| Error::new(ErrorKind::Unsupported, "there is no memory for the samples of waits"))?;
    Ok(SAMPLES.get_or_init(|| made))
}

#[cfg(test)]
mod tests {
    use super::Waits;

    #[test]
    fn a_short_wait_stands_for_those_that_were_no_samples() {
        assert_eq!(Waits::of(1_000, 10_000, false), Waits { count: 10.0, nanos: 10_000.0 });
        assert_eq!(Waits::of(50_000, 10_000, false), Waits { count: 1.0, nanos: 50_000.0 });
        assert_eq!(Waits::of(1_000, 10_000, true), Waits { count: 0.0, nanos: 10_000.0 });
    }
}
