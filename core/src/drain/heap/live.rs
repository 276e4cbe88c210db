//! The sampled blocks that live: by site, by age, and as they were when they were most.
//!
//! Our thread. Births and ends come in the order in which they happened, so the sum is known after each of them, and the
//! highest one of a period is that of the period, not of some moment at which somebody looked. The state at it is kept
//! without a copy of everything: only the sites that changed since the highest sum before are brought up to date, and
//! only when the sum begins to fall. An end that there was no room to tell of is found by looking at the block.

use std::collections::{HashMap, HashSet};

use everprof_probe::heap::{self, Handle};

use super::Amount;
use crate::drain::setup::wall_clock;
use crate::drain::sites::Same;
use crate::drain::tallies::Amounts;

/// A sampled block.
#[derive(Debug)]
struct Block {
    site: Same,
    bytes: u64,
    /// The mean distance of samples that it stands by.
    mean: u64,
    /// The period in which it was allocated.
    born: u64,
}

impl Block {
    fn amount(&self) -> Amount {
        Amount::of(self.bytes, self.mean)
    }
}

/// The blocks of a site.
#[derive(Clone, Copy, Debug, Default)]
struct OfSite {
    amount: Amount,
    blocks: u32,
}

/// The blocks that live, as far as is known.
#[derive(Debug, Default)]
pub(super) struct Live {
    blocks: HashMap<Handle, Block>,
    by_site: HashMap<Same, OfSite>,
    total: Amount,
    /// The number of the period at hand.
    period: u64,
    /// The highest state of the period at hand, by [`PERIOD`], and of recordings, where those are wanted.
    peaks: HashMap<u64, Peak>,
}

/// In place of a recording's number, which begin at 1: the period.
pub(super) const PERIOD: u64 = 0;

/// The state in which there was most.
#[derive(Clone, Debug, Default)]
pub(super) struct Peak {
    pub(super) rows: HashMap<Same, Amount>,
    bytes: f64,
    /// When, in nanoseconds since the epoch: as precise as we look.
    pub(super) at: i64,
    /// Sites that have changed since.
    changed: HashSet<Same>,
    /// The sum rises above it: what is kept is not up to date.
    is_rising: bool,
}

impl Live {
    /// A block was born.
    pub(super) fn add(&mut self, handle: Handle, site: Same, bytes: u64, mean: u64) {
        let block = Block { site, bytes, mean, born: self.period };
        // Whose handle this was is gone, and nobody has told so.
        if let Some(old) = self.blocks.remove(&handle) {
            self.take(&old);
        }
        self.put(&block);
        self.blocks.insert(handle, block);
    }

    /// A block is gone.
    pub(super) fn remove(&mut self, handle: Handle) {
        if let Some(block) = self.blocks.remove(&handle) {
            self.take(&block);
        }
    }

    /// Looks for blocks of whose ends nobody could tell.
    pub(super) fn sweep(&mut self) {
        let gone: Vec<Handle> = self.blocks.keys().copied().filter(|handle| !heap::lives(*handle)).collect();
        gone.into_iter().for_each(|handle| self.remove(handle));
    }

    /// Whether there are many more than the probe knows of.
    pub(super) fn is_behind(&self) -> bool {
        self.blocks.len() > heap::count_live() as usize + 1024
    }

    /// Ends the period: blocks are a period older from now on.
    pub(super) fn end_period(&mut self) {
        self.period += 1;
    }

    /// Lets each block stand for more, as if samples had the mean distance `mean` since ever: keeps one with the chance that
    /// it would have had to be a sample then. `random` gives numbers from 0 to 1. Returns those that are to be forgotten.
    pub(super) fn thin(&mut self, mean: u64, mut random: impl FnMut() -> f64) -> Vec<Handle> {
        let finer: Vec<Handle> =
            self.blocks.iter().filter(|(_, block)| block.mean < mean).map(|(handle, _)| *handle).collect();
        let mut dropped = Vec::new();
        let mut kept = Vec::new();
        // All are taken out before the first one is put back, so that the sum is at no time higher than it will be.
        for handle in finer {
            let Some(block) = self.blocks.remove(&handle) else { continue };
            self.take(&block);
            let stood_for = block.amount().objects;
            let coarser = Block { mean, ..block };
            // Each stands for 1 / p of its kind.
            if random() < stood_for / coarser.amount().objects {
                kept.push((handle, coarser));
            } else {
                dropped.push(handle);
            }
        }
        for (handle, block) in kept {
            self.put(&block);
            self.blocks.insert(handle, block);
        }
        dropped
    }

    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// What lives, by site.
    pub(super) fn by_site(&self) -> HashMap<Same, Amount> {
        self.by_site.iter().map(|(site, of)| (site.clone(), of.amount)).collect()
    }

    /// The same by site and age: for how many ends of periods the blocks have lived.
    pub(super) fn by_age(&self) -> HashMap<(Same, u64), Amount> {
        let mut rows: HashMap<(Same, u64), Amount> = HashMap::new();
        for block in self.blocks.values() {
            let age = age_class(self.period - block.born);
            rows.entry((block.site.clone(), age)).or_default().add(block.amount());
        }
        rows
    }

    /// Begins to look for the highest state from now on, for the period or a recording.
    pub(super) fn begin_peak(&mut self, of: u64) {
        let peak =
            Peak { rows: self.by_site(), bytes: self.total.bytes, at: wall_clock(), ..Peak::default() };
        self.peaks.insert(of, peak);
    }

    pub(super) fn has_peak(&self, of: u64) -> bool {
        self.peaks.contains_key(&of)
    }

    /// The highest state since it began.
    pub(super) fn end_peak(&mut self, of: u64) -> Option<Peak> {
        let mut peak = self.peaks.remove(&of)?;
        peak.keep(&self.by_site);
        Some(peak)
    }

    fn put(&mut self, block: &Block) {
        let (site, amount) = (&block.site, block.amount());
        let of = self.by_site.entry(site.clone()).or_default();
        of.amount.add(amount);
        of.blocks += 1;
        self.total.add(amount);
        for peak in self.peaks.values_mut() {
            peak.changed.insert(site.clone());
            if self.total.bytes > peak.bytes {
                (peak.bytes, peak.is_rising) = (self.total.bytes, true);
            }
        }
    }

    fn take(&mut self, block: &Block) {
        for peak in self.peaks.values_mut() {
            peak.keep(&self.by_site);
            peak.changed.insert(block.site.clone());
        }
        let amount = block.amount();
        self.total.take(amount);
        if let Some(of) = self.by_site.get_mut(&block.site) {
            of.amount.take(amount);
            of.blocks -= 1;
            if of.blocks == 0 {
                self.by_site.remove(&block.site);
            }
        }
        if self.by_site.is_empty() {
            // Sums of numbers that come and go end near 0, not at it.
            self.total = Amount::default();
        }
    }
}

impl Peak {
    /// Brings what is kept up to date, where the sum has just been at its highest.
    fn keep(&mut self, by_site: &HashMap<Same, OfSite>) {
        if !std::mem::take(&mut self.is_rising) {
            return;
        }
        self.at = wall_clock();
        for site in self.changed.drain() {
            match by_site.get(&site) {
                Some(of) => _ = self.rows.insert(site, of.amount),
                None => _ = self.rows.remove(&site),
            }
        }
    }
}

/// Ages that differ by less than half count as one: a profile is to have no more rows than can be told apart.
fn age_class(age: u64) -> u64 {
    age.checked_ilog2().map_or(0, |log| 1 << log)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::drain::sites::Sites;

    #[test]
    fn ages_come_in_classes() {
        assert_eq!([0, 1, 2, 3, 4, 7, 8, 1000].map(age_class), [0, 1, 2, 2, 4, 4, 8, 512]);
    }

    fn sites<const N: usize>() -> [Same; N] {
        let mut sites = Sites::default();
        std::array::from_fn(|number| {
            sites.site(0, &[number as u64], ("t".into(), None), None, Default::default()).into()
        })
    }

    /// Blocks that are always sampled stand for themselves.
    const SURE: u64 = 1;

    fn told(peak: &Peak) -> f64 {
        peak.rows.values().map(|amount| amount.bytes).sum()
    }

    #[test]
    fn the_peak_is_the_state_in_which_there_was_most() {
        let [a, b] = sites();
        let mut live = Live::default();
        live.begin_peak(PERIOD);
        live.add(1, a.clone(), 1_000, SURE);
        live.add(2, b.clone(), 5_000, SURE);
        live.remove(1);
        live.add(3, a.clone(), 4_000, SURE);
        live.remove(2);
        live.add(4, a.clone(), 100, SURE);
        let peak = live.end_peak(PERIOD).unwrap();
        assert_eq!((peak.rows[&a].bytes, peak.rows[&b].bytes, told(&peak)), (4_000.0, 5_000.0, 9_000.0));
        assert!(live.end_peak(PERIOD).is_none());
        // A period in which nothing happens has its peak at the beginning.
        live.begin_peak(PERIOD);
        live.remove(3);
        live.remove(4);
        assert_eq!(told(&live.end_peak(PERIOD).unwrap()), 4_100.0);
        assert_eq!((live.total.bytes, live.by_site.len()), (0.0, 0));
    }

    #[test]
    fn a_peak_by_chance_is_that_of_a_full_copy() {
        let sites: [Same; 7] = sites();
        let mut live = Live::default();
        live.begin_peak(PERIOD);
        let (mut most, mut state, mut there) = (HashMap::new(), 1, Vec::new());
        let mut highest = 0.0;
        for handle in 1..20_000 {
            state = everprof_probe::poisson::next(state);
            let random = everprof_probe::poisson::bits(state);
            if random & 1 == 0 && !there.is_empty() {
                live.remove(there.swap_remove(random as usize / 2 % there.len()));
            } else {
                let (site, bytes) = (&sites[random as usize % 7], 100 + random % 9_900);
                live.add(handle, site.clone(), bytes, SURE);
                there.push(handle);
            }
            if live.total.bytes > highest {
                (highest, most) = (live.total.bytes, live.by_site());
            }
        }
        let peak = live.end_peak(PERIOD).unwrap();
        assert_eq!(peak.rows, most);
        assert!((told(&peak) - highest).abs() < 1.0);
    }

    /// Blocks of 1 to 100 KB at 16 KiB, thinned twice: what is left tells the same sum.
    #[test]
    fn thinned_blocks_tell_the_same_sum() {
        let [site] = sites();
        let mut state = 5;
        let mut random = move || {
            state = everprof_probe::poisson::next(state);
            (everprof_probe::poisson::bits(state) >> 11) as f64 / (1_u64 << 53) as f64
        };
        let (mut ratios, rounds) = (Vec::new(), 50);
        for _ in 0..rounds {
            let mut live = Live::default();
            let mut truth = 0.0;
            for handle in 1..20_000 {
                let bytes = 1_000 + (random() * 99_000.0) as u64;
                truth += bytes as f64;
                if random() < 1.0 / Amount::of(bytes, 16 << 10).objects {
                    live.add(handle, site.clone(), bytes, 16 << 10);
                }
            }
            let before = live.len();
            let gone = live.thin(64 << 10, &mut random).len() + live.thin(1 << 20, &mut random).len();
            assert_eq!(live.len() + gone, before);
            assert!(live.len() < before / 8, "{} of {before}", live.len());
            ratios.push(live.total.bytes / truth);
        }
        let mean = ratios.iter().sum::<f64>() / f64::from(rounds);
        let variance = ratios.iter().map(|ratio| (ratio - mean).powi(2)).sum::<f64>() / f64::from(rounds - 1);
        assert!((mean - 1.0).abs() < 4.0 * (variance / f64::from(rounds)).sqrt(), "{mean}, {variance}");
    }
}
