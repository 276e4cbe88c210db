//! The account of the heap: what was allocated in the period, where, and which of it lives.
//!
//! Our thread. Samples of allocations come through a ring of their own, so that a burst of them takes no room from those of
//! CPU time. Each is weighed as it comes, by its size and the mean distance in force: an allocation of `n` bytes is sampled
//! with the probability `p = 1 - exp(-n / mean)` and stands for `1 / p` of its kind, so that sums are unbiased for every
//! size. A sampled block lives while its handle does (`everprof_probe::heap::lives`); its site is kept until then.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use everprof_probe::heap::{self, Handle};
use everprof_probe::ring::Ring;
use everprof_probe::sample::{ALLOC_WORDS, Header, Source};

use super::close::Cut;
use super::period::{Epoch, Period};
use super::publish::Job;
use super::sampler::Sampler;
use super::setup::RING_WORDS;
use super::sites::{Site, Sites};
use crate::aggregate::Key;
use crate::error::{Error, ErrorKind, Result};
use crate::profile::Kind;

static SAMPLES: OnceLock<Ring> = OnceLock::new();

/// Objects and bytes, as far as samples tell.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Amount {
    pub(super) objects: f64,
    pub(super) bytes: f64,
}

impl Amount {
    /// What a sample of an allocation of so many bytes stands for, where samples have this mean distance.
    fn of(bytes: u64, mean: u64) -> Self {
        let size = bytes as f64;
        // `exp_m1` is exact for small parts, where 1 - exp(-x) is not.
        let chance = -(-size / mean.max(1) as f64).exp_m1();
        let objects = if chance > 0.0 { 1.0 / chance } else { 1.0 };
        Self { objects, bytes: size * objects }
    }

    fn add(&mut self, more: Amount) {
        self.objects += more.objects;
        self.bytes += more.bytes;
    }
}

/// The account of one period, ready to be named.
#[derive(Debug, Default)]
pub(super) struct HeapCut {
    /// What is needed to name it; its sums hold the stacks and the labels alone.
    pub(super) names: Period,
    pub(super) rows: Vec<HeapRow>,
    /// The mean distance of samples in bytes.
    pub(super) interval: u64,
    /// How many samples of allocations the period had.
    pub(super) samples: u64,
    /// What lost samples stood for.
    pub(super) lost: Amount,
}

/// What was allocated and what lives of one site and age.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeapRow {
    pub(super) key: Key,
    /// How many ends of periods the blocks have lived to see, before this one.
    pub(super) age: u64,
    pub(super) allocated: Amount,
    pub(super) live: Amount,
}

/// A sampled block that lives, as far as is known.
#[derive(Debug)]
struct Block {
    site: Arc<Site>,
    amount: Amount,
    /// The period in which it was allocated.
    born: u64,
}

/// The account.
#[derive(Debug, Default)]
pub(super) struct Heap {
    sites: Sites,
    allocated: HashMap<Arc<Site>, Amount>,
    live: HashMap<Handle, Block>,
    /// The number of the period at hand.
    period: u64,
    /// Samples in it.
    samples: u64,
    lost: Amount,
}

impl Heap {
    /// Begins to sample, where the program's allocations come by us.
    fn start(interval: u64, max_words: usize) -> Result<Self> {
        if !is_hooked() {
            let problem = "allocations are not seen: make everprof's the program's allocator (#[global_allocator] static \
                           ALLOCATOR: everprof::Allocator = everprof::Allocator::new();)";
            return Err(Error::new(ErrorKind::Unsupported, problem));
        }
        heap::start(interval, max_words, ring()?);
        Ok(Self::default())
    }

    /// Remembers the address spaces that stacks are of.
    pub(super) fn keep_epochs(&mut self, first: u32, epochs: &[Epoch]) {
        self.sites.keep_epochs(first, epochs);
    }

    fn add(&mut self, site: Arc<Site>, bytes: u64, mean: u64, handle: Handle) {
        let amount = Amount::of(bytes, mean);
        self.allocated.entry(site.clone()).or_default().add(amount);
        if handle != 0 {
            self.live.insert(handle, Block { site, amount, born: self.period });
        }
        self.samples += 1;
    }

    /// Closes the period.
    fn close(&mut self) -> HeapCut {
        self.live.retain(|handle, _| heap::lives(*handle));
        let mut rows: HashMap<(Arc<Site>, u64), (Amount, Amount)> = HashMap::new();
        for (site, amount) in self.allocated.drain() {
            rows.entry((site, 0)).or_default().0.add(amount);
        }
        for block in self.live.values() {
            let age = age_class(self.period - block.born);
            rows.entry((block.site.clone(), age)).or_default().1.add(block.amount);
        }
        let mut numbering = self.sites.numbering();
        let rows = rows.into_iter().map(|((site, age), (allocated, live))| HeapRow {
            key: numbering.key(&site),
            age,
            allocated,
            live,
        });
        let rows: Vec<HeapRow> = rows.collect();
        self.period += 1;
        self.sites.forget_unused();
        let (samples, lost) = (std::mem::take(&mut self.samples), std::mem::take(&mut self.lost));
        HeapCut { names: numbering.names, rows, interval: heap::interval(), samples, lost }
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        heap::set_interval(0);
    }
}

impl Sampler {
    /// Begins to follow the heap, where that is among the kinds.
    pub(super) fn follow_heap(&mut self, interval: u64, max_words: usize) {
        if !self.kinds.iter().any(Kind::needs_allocations) {
            return;
        }
        match Heap::start(interval, max_words) {
            Ok(heap) => self.heap = Some(heap),
            Err(error) => self.trouble(error.to_string()),
        }
    }

    /// Empties the ring of allocations.
    pub(super) fn drain_heap(&mut self, buffer: &mut [u64]) {
        let (Some(mut account), Some(ring)) = (self.heap.take(), SAMPLES.get()) else { return };
        ring.drain(buffer, |header, words| {
            if header.source == Source::Alloc as u8 {
                self.count_allocation(&mut account, &header, words);
            }
        });
        let [samples, objects, bytes] = heap::take_lost();
        self.stats.alloc_lost += samples;
        account.lost.add(Amount { objects: objects as f64, bytes: bytes as f64 });
        self.heap = Some(account);
    }

    /// Gives the account of the period that ends to the publisher.
    pub(super) fn heap_of_period(&mut self, cut: Cut) {
        if cut == Cut::Within || self.is_publisher_stuck() {
            return;
        }
        if let Some(heap) = &mut self.heap {
            let cut = heap.close();
            self.publish(Job::Heap(Box::new(cut)));
        }
    }

    fn count_allocation(&mut self, account: &mut Heap, header: &Header, words: &[u64]) {
        let Some(([bytes, handle, mean, _event], stack)) = words.split_first_chunk::<ALLOC_WORDS>() else {
            return;
        };
        let site = self.site(&mut account.sites, header, stack);
        account.add(site, *bytes, *mean, *handle);
        self.stats.alloc_samples += 1;
    }
}

/// Forgets what the parent's threads left behind, and its blocks, of which the child has no account. In a fork's child, on its
/// only thread.
pub(super) fn after_fork() {
    heap::set_interval(0);
    if let Some(ring) = SAMPLES.get() {
        ring.clear();
        heap::forget();
    }
}

/// Ages that differ by less than half count as one: a profile is to have no more rows than can be told apart.
fn age_class(age: u64) -> u64 {
    age.checked_ilog2().map_or(0, |log| 1 << log)
}

fn ring() -> Result<&'static Ring> {
    if let Some(ring) = SAMPLES.get() {
        return Ok(ring);
    }
    let made = Ring::new(2 * RING_WORDS).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, "there is no memory for the samples of allocations")
    })?;
    Ok(SAMPLES.get_or_init(|| made))
}

/// Whether allocations come by us: one of ours would be counted.
fn is_hooked() -> bool {
    let before = heap::left();
    drop(std::hint::black_box(Vec::<u8>::with_capacity(64)));
    heap::left() != before
}

#[cfg(test)]
mod tests {
    use super::{Amount, age_class};

    #[test]
    fn a_sample_stands_for_what_was_not_sampled() {
        // 8 bytes of 512 KiB: one in 65,536.5.
        let small = Amount::of(8, 512 << 10);
        assert!((small.objects - 65_536.5).abs() < 0.01 && (small.bytes - 8.0 * 65_536.5).abs() < 0.1);
        let large = Amount::of(64 << 20, 512 << 10);
        assert_eq!((large.objects, large.bytes), (1.0, f64::from(64 << 20)));
        assert_eq!(Amount::of(0, 512 << 10).objects, 1.0);
    }

    #[test]
    fn ages_come_in_classes() {
        assert_eq!([0, 1, 2, 3, 4, 7, 8, 1000].map(age_class), [0, 1, 2, 2, 4, 4, 8, 512]);
    }
}
