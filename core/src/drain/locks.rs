//! The account of waits of threads for each other: how long, where, for what, and who ended them.
//!
//! Our thread. A wait that was sampled stands for `threshold / waited` of its kind where it was shorter than the threshold,
//! since it had the chance `waited / threshold` to be a sample, and else for itself. Who ends a wait leaves its stack
//! before it does, so that this comes first.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use everprof_probe::lock::{self, Config};
use everprof_probe::ring::{MAX_STACK_WORDS, Ring};
use everprof_probe::sample::{AGAIN, Header, LOCK_WORDS, Source};

use super::close::Cut;
use super::hooked::Hooked;
use super::period::{Epoch, Period};
use super::publish::Job;
use super::sampler::Sampler;
use super::setup::RING_WORDS;
use super::sites::{Site, Sites};
use crate::aggregate::Key;
use crate::error::{Error, ErrorKind, Result};
use crate::profile::Kind;

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

    pub(super) fn add(&mut self, more: Waits) {
        self.count += more.count;
        self.nanos += more.nanos;
    }
}

/// The account of one period, ready to be named.
#[derive(Debug, Default)]
pub(super) struct LocksCut {
    /// What is needed to name it; its sums hold the stacks and the labels alone.
    pub(super) names: Period,
    pub(super) rows: Vec<LockRow>,
    /// The nanoseconds from which on each wait is a sample.
    pub(super) threshold: u64,
    /// How many samples of waits the period had.
    pub(super) samples: u64,
    /// What lost samples stood for.
    pub(super) lost: Waits,
}

/// The waits of one site.
#[derive(Clone, Copy, Debug)]
pub(super) struct LockRow {
    pub(super) key: Key,
    /// [`lock::Object`] as a number.
    pub(super) object: u64,
    /// Who ended them, where that is known.
    pub(super) release: Option<Key>,
    pub(super) waits: Waits,
}

/// A wait's site, its object, and the site of who ended it.
type Place = (Arc<Site>, u64, Option<Arc<Site>>);

/// The account.
#[derive(Debug)]
pub(super) struct Locks {
    config: Config,
    sites: Sites,
    waits: HashMap<Place, Waits>,
    /// Those who ended waits that are not told yet, by the number of the wait; of this period and of the one before.
    releases: [HashMap<u64, Arc<Site>>; 2],
    samples: u64,
    lost: Waits,
    hooked: Hooked,
}

impl Locks {
    fn start(config: Config) -> Result<Self> {
        // What was left of waits before this start is not of it.
        lock::take_lost();
        ring()?.drain(&mut vec![0; MAX_STACK_WORDS], |_, _| {});
        let mut locks = Self {
            config,
            sites: Sites::default(),
            waits: HashMap::new(),
            releases: Default::default(),
            samples: 0,
            lost: Waits::default(),
            hooked: Hooked::default(),
        };
        locks.hooked.note(lock::start(config, ring()?));
        match locks.hooked.slots() {
            0 => Err(Error::new(ErrorKind::Unsupported, locks.hooked.problem())),
            _ => Ok(locks),
        }
    }

    /// Hooks the objects that were loaded since, where modules have `changed` or may still be changing. Returns what there is
    /// to tell of it, once.
    pub(super) fn keep_hooked(&mut self, changed: bool) -> Option<String> {
        if !self.hooked.is_due(changed) {
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

    fn close(&mut self) -> LocksCut {
        let mut numbering = self.sites.numbering();
        let rows = self.waits.drain().map(|((site, object, release), waits)| LockRow {
            key: numbering.key(&site),
            object,
            release: release.map(|site| numbering.key(&site)),
            waits,
        });
        let rows: Vec<LockRow> = rows.collect();
        let [now, before] = &mut self.releases;
        *before = std::mem::take(now);
        self.sites.forget_unused();
        let (samples, lost) = (std::mem::take(&mut self.samples), std::mem::take(&mut self.lost));
        self.hooked.look_again();
        LocksCut { names: numbering.names, rows, threshold: lock::threshold(), samples, lost }
    }
}

impl Drop for Locks {
    fn drop(&mut self) {
        lock::stop();
    }
}

impl Sampler {
    /// Begins to follow waits for locks, where that is among the kinds.
    pub(super) fn follow_locks(&mut self, config: Config) {
        if !self.kinds.iter().any(Kind::needs_locks) {
            return;
        }
        match Locks::start(config) {
            Ok(locks) => self.locks = Some(locks),
            Err(error) => self.trouble(error.to_string()),
        }
    }

    /// Hooks what was loaded since.
    pub(super) fn keep_locks_hooked(&mut self, changed: bool) {
        let problem = self.locks.as_mut().and_then(|locks| locks.keep_hooked(changed));
        if let Some(problem) = problem {
            self.trouble(problem);
        }
    }

    /// Empties the ring of waits.
    pub(super) fn drain_locks(&mut self, buffer: &mut [u64]) {
        let (Some(mut locks), Some(ring)) = (self.locks.take(), SAMPLES.get()) else { return };
        ring.drain(buffer, |header, words| match header.source {
            source if source == Source::Lock as u8 => self.count_blocked(&mut locks, &header, words),
            source if source == Source::Release as u8 => {
                let Some(([number], stack)) = words.split_first_chunk() else { return };
                let site = self.site(&mut locks.sites, &header, stack);
                let [now, _] = &mut locks.releases;
                now.insert(*number, site);
            }
            _ => {}
        });
        let [samples, count, nanos] = lock::take_lost();
        locks.lost.add(Waits { count: count as f64, nanos: nanos as f64 });
        self.stats.lock_lost += samples;
        let hooked = locks.hooked();
        self.stats.lock_slots = hooked.slots();
        self.stats.lock_slots_foreign = hooked.foreign();
        self.stats.lock_slots_refused = hooked.refused();
        self.locks = Some(locks);
    }

    /// Gives the account of the period that ends to the publisher.
    pub(super) fn locks_of_period(&mut self, cut: Cut) {
        if cut == Cut::Within || self.is_publisher_stuck() {
            return;
        }
        if let Some(locks) = &mut self.locks {
            let cut = locks.close();
            self.publish(Job::Locks(Box::new(cut)));
        }
    }

    fn count_blocked(&mut self, locks: &mut Locks, header: &Header, words: &[u64]) {
        let Some(([nanos, threshold, _address, object, number], stack)) =
            words.split_first_chunk::<LOCK_WORDS>()
        else {
            return;
        };
        let site = self.site(&mut locks.sites, header, stack);
        let release = locks.releases.iter_mut().find_map(|releases| releases.remove(number));
        let waits = Waits::of(*nanos, *threshold, object & AGAIN != 0);
        locks.waits.entry((site, object & !AGAIN, release)).or_default().add(waits);
        locks.samples += 1;
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
