//! The account of the heap: what was allocated, where, and which of it lives.
//!
//! Our thread. Samples of allocations come through a ring of their own, so that a burst of them takes no room from those of
//! CPU time. Each is weighed as it comes, by its size and the mean distance in force: an allocation of `n` bytes is sampled
//! with the probability `p = 1 - exp(-n / mean)` and stands for `1 / p` of its kind, so that sums are unbiased for every
//! size. A sampled block is followed until its end is told, or is seen ([`live`]); its site is kept until then.
//!
//! There is room for so many blocks at once. Before it is used up, samples come half as often, and of the blocks that are
//! followed those are forgotten that would not have been samples then: so a heap of any size is told, less precisely.

mod live;
mod sources;

use std::collections::HashMap;
use std::sync::OnceLock;

use everprof_probe::heap::{self, Handle, ROOM};
use everprof_probe::poisson;
use everprof_probe::ring::{MAX_STACK_WORDS, Ring};
use everprof_probe::sample::{ALLOC_WORDS, Header, Source};

use super::hooks::HookOptions;
use super::period::{Epoch, Period};
use super::sampler::Sampler;
use super::setup::{RING_WORDS, wall_clock};
use super::sites::{Same, Sites};
use super::tallies::{Amounts, Tallies, Tally};
use crate::aggregate::Key;
use crate::error::{Error, ErrorKind, Result};
use crate::profile::Kind;
use live::{Live, PERIOD, Peak};
pub(super) use sources::{Sources, Wanted};

static SAMPLES: OnceLock<Ring> = OnceLock::new();

/// Of the room for live blocks, more than this part is not to be used: they lie where their addresses lead them, and the
/// fuller it is, the more find no place near it.
const FULL: usize = ROOM as usize / 2;
/// With fewer than this, samples may come more often again.
const ROOMY: usize = ROOM as usize / 8;

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

    fn take(&mut self, less: Amount) {
        self.objects -= less.objects;
        self.bytes -= less.bytes;
    }
}

impl Amounts for Amount {
    fn add(&mut self, more: Self) {
        self.objects += more.objects;
        self.bytes += more.bytes;
    }

    fn weight(&self) -> f64 {
        self.bytes
    }
}

/// What an account has to tell, ready to be named.
#[derive(Debug, Default)]
pub(super) struct HeapCut {
    /// What is needed to name it; its sums hold the stacks and the labels alone.
    pub(super) names: Period,
    pub(super) rows: Vec<HeapRow>,
    /// The mean distance of samples in bytes.
    pub(super) interval: u64,
    /// How many samples of allocations there were.
    pub(super) samples: u64,
    /// What lost samples stood for.
    pub(super) lost: Amount,
    /// What was allocated at places that there is no room for.
    pub(super) rest: Amount,
    /// Of the blocks allocated since the period or the recording began, those that could not be followed.
    pub(super) unfollowed: Amount,
    /// Where it is of the moment when there was most: that, in nanoseconds since the epoch.
    pub(super) peak_at: Option<i64>,
}

/// What was allocated and what lives of one site and age.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeapRow {
    pub(super) key: Key,
    /// How many ends of periods the blocks have lived to see, before this one; none where that is not told.
    pub(super) age: Option<u64>,
    pub(super) allocated: Amount,
    pub(super) live: Amount,
}

/// The account.
#[derive(Debug)]
pub(super) struct Heap {
    sites: Sites,
    tallies: Tallies<Same, Amount>,
    live: Live,
    /// What there was when each recording began.
    before: HashMap<u64, Before>,
    /// Blocks that could not be followed, since the account began; and those before the period at hand.
    unfollowed: Amount,
    unfollowed_before: Amount,
    /// The mean distance that was asked for, 0 where nothing is to be sampled.
    wanted: u64,
    /// At least this, lest there are more blocks than there is room for.
    least: u64,
    random: u64,
    /// How many spans a profile tells apart.
    traces: usize,
    /// Ends after everything else.
    sources: Sources,
}

/// What there was when a recording began: what lived by site, and what could not be followed by then.
#[derive(Debug, Default)]
struct Before {
    live: HashMap<Same, Amount>,
    unfollowed: Amount,
}

/// What of the live heap goes into a cut.
enum Of<'a> {
    /// All of it, by age.
    Now,
    /// What became of it since.
    Since(&'a HashMap<Same, Amount>),
    /// What there was when there was most.
    Peak(Peak),
}

impl Heap {
    /// Begins to sample, where the program's allocations come by us.
    pub(super) fn start(interval: u64, options: HookOptions) -> Result<Self> {
        if interval == 0 {
            let problem = "allocations are not sampled: interval_bytes is off; set it to a number of bytes";
            return Err(Error::new(ErrorKind::Unsupported, problem));
        }
        let ring = ring()?;
        let sources = Sources::start(options.sources)?;
        // What an account before this one has left belongs to nobody.
        ring.drain(&mut vec![0; MAX_STACK_WORDS], |_, _| {});
        heap::take_lost();
        heap::start(interval, options.max_words, ring);
        Ok(Self {
            sites: Sites::default(),
            tallies: Tallies::default(),
            live: Live::default(),
            before: HashMap::new(),
            unfollowed: Amount::default(),
            unfollowed_before: Amount::default(),
            wanted: interval,
            least: 0,
            random: wall_clock() as u64 | 1,
            traces: options.traces,
            sources,
        })
    }

    /// Where allocations are seen.
    pub(super) fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Remembers the address spaces that stacks are of.
    pub(super) fn keep_epochs(&mut self, first: u32, epochs: &[Epoch]) {
        self.sites.keep_epochs(first, epochs);
    }

    /// Samples with another mean distance from now on; 0: not at all.
    pub(super) fn set_interval(&mut self, wanted: u64) {
        self.wanted = wanted;
        let next = if wanted == 0 { 0 } else { wanted.max(self.least) };
        if next != heap::interval() {
            heap::set_interval(next);
        }
    }

    /// The mean distance in force.
    pub(super) fn interval(&self) -> u64 {
        heap::interval()
    }

    /// Whether there is a peak to be told of the period.
    pub(super) fn follow_peak(&mut self, wanted: bool) {
        if wanted && !self.live.has_peak(PERIOD) {
            self.live.begin_peak(PERIOD);
        } else if !wanted {
            self.live.end_peak(PERIOD);
        }
    }

    /// Begins to count for a recording.
    pub(super) fn begin(&mut self, id: u64, kind: Kind) {
        self.tallies.begin(id);
        // What is gone already is not to be told as if it went meanwhile.
        self.live.sweep();
        self.before.insert(id, Before { live: self.live.by_site(), unfollowed: self.unfollowed });
        if kind == Kind::Peak {
            self.live.begin_peak(id);
        }
    }

    /// What a recording has to tell: of the live heap what there is, or with `as_change` what became of it.
    pub(super) fn end(&mut self, id: u64, as_change: bool) -> Option<HeapCut> {
        let tally = self.tallies.end(id)?;
        self.live.sweep();
        let before = self.before.remove(&id).unwrap_or_default();
        let of = match self.live.end_peak(id) {
            Some(peak) => Of::Peak(peak),
            None if as_change => Of::Since(&before.live),
            None => Of::Now,
        };
        Some(self.cut(&tally, of, before.unfollowed))
    }

    /// Forgets a recording.
    pub(super) fn give_up(&mut self, id: u64) {
        self.tallies.end(id);
        self.before.remove(&id);
        self.live.end_peak(id);
    }

    /// What lives now, and what was allocated since the account began.
    pub(super) fn now(&mut self) -> HeapCut {
        self.live.sweep();
        let total = self.tallies.total().clone();
        let mut cut = self.cut(&total, Of::Now, self.unfollowed_before);
        // It is of a moment.
        (cut.names.time_nanos, cut.names.duration_nanos) = (wall_clock(), 0);
        cut
    }

    /// Closes the period: what was allocated in it and lives at its end, and where it is wanted, what there was when there was
    /// most.
    pub(super) fn close(&mut self) -> (HeapCut, Option<HeapCut>) {
        self.live.sweep();
        let tally = self.tallies.end_period();
        let cut = self.cut(&tally, Of::Now, self.unfollowed_before);
        let peak = self.live.end_peak(PERIOD).map(|peak| {
            self.live.begin_peak(PERIOD);
            self.cut(&tally, Of::Peak(peak), self.unfollowed_before)
        });
        self.live.end_period();
        self.unfollowed_before = self.unfollowed;
        self.sites.forget_unused();
        self.sources.look_again();
        (cut, peak)
    }

    /// About how many bytes the account holds.
    pub(super) fn memory(&self) -> usize {
        const PLACE: usize = 64;
        const BLOCK: usize = 96;
        self.sites.memory() + self.tallies.places() * PLACE + self.live.len() * BLOCK
    }

    fn add(&mut self, site: Same, bytes: u64, mean: u64, handle: Handle) {
        let amount = Amount::of(bytes, mean);
        self.tallies.add(site.clone(), amount);
        // A block that outlives its span is not told by it.
        let site = site.untraced().unwrap_or(site);
        match handle {
            0 => self.unfollowed.add(amount),
            // It was a sample by a mean that does not hold any more.
            _ if mean < self.least && !self.is_kept(bytes, mean) => heap::let_go(handle),
            _ => self.live.add(handle, site, bytes, mean.max(self.least)),
        }
    }

    /// Whether a block that was a sample by `mean` would have been one by the mean that holds.
    fn is_kept(&mut self, bytes: u64, mean: u64) -> bool {
        random(&mut self.random) < Amount::of(bytes, mean).objects / Amount::of(bytes, self.least).objects
    }

    /// Keeps room for more live blocks: says the mean distance that is then the least, where that has changed.
    fn keep_room(&mut self) -> Option<u64> {
        if self.live.is_behind() {
            self.live.sweep();
        }
        let blocks = self.live.len();
        if self.wanted == 0 {
            // Nothing is sampled, so that there will be no more.
            return None;
        }
        if blocks > FULL {
            let mean = heap::interval().max(self.wanted).max(self.least).saturating_mul(2);
            self.least = mean;
            let state = &mut self.random;
            self.live.thin(mean, || random(state)).into_iter().for_each(heap::let_go);
        } else if blocks < ROOMY && self.least > self.wanted {
            self.least /= 2;
        } else {
            return None;
        }
        self.set_interval(self.wanted);
        Some(self.least)
    }

    /// `unfollowed` by when that of the cut begins.
    fn cut(&self, tally: &Tally<Same, Amount>, of: Of<'_>, unfollowed: Amount) -> HeapCut {
        let mut rows: HashMap<(Same, Option<u64>), (Amount, Amount)> = HashMap::new();
        let mut row = |site: Same, age, allocated, live| {
            let (known, lives) = rows.entry((site, age)).or_default();
            known.add(allocated);
            lives.add(live);
        };
        let none = Amount::default();
        let ages = matches!(of, Of::Now).then_some(0);
        if !matches!(of, Of::Peak(_)) {
            tally.rows.iter().for_each(|(site, amount)| row(site.clone(), ages, *amount, none));
        }
        let (time_nanos, duration_nanos) = tally.span();
        let mut peak_at = None;
        match of {
            Of::Now => {
                self.live
                    .by_age()
                    .into_iter()
                    .for_each(|((site, age), live)| row(site, Some(age), none, live));
            }
            Of::Since(before) => {
                self.live.by_site().into_iter().for_each(|(site, live)| row(site, None, none, live));
                for (site, gone) in before {
                    row(site.clone(), None, none, Amount { objects: -gone.objects, bytes: -gone.bytes });
                }
            }
            Of::Peak(peak) => {
                peak_at = Some(peak.at);
                peak.rows.into_iter().for_each(|(site, live)| row(site, None, none, live));
            }
        }
        let mut numbering = self.sites.numbering(self.traces);
        let rows = rows.into_iter().map(|((site, age), (allocated, live))| HeapRow {
            key: numbering.key(&site),
            age,
            allocated,
            live,
        });
        let rows: Vec<HeapRow> = rows.collect();
        let mut names = numbering.names;
        (names.time_nanos, names.duration_nanos) = (time_nanos, duration_nanos);
        let Tally { samples, lost, rest, .. } = *tally;
        let mut since = self.unfollowed;
        since.take(unfollowed);
        HeapCut { names, rows, interval: heap::interval(), samples, lost, rest, unfollowed: since, peak_at }
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        heap::set_interval(0);
        // Nobody asks for them any more.
        heap::forget();
    }
}

impl Sampler {
    /// Hooks what was loaded since.
    pub(super) fn keep_heap_hooked(&mut self, changed: bool) {
        self.heap.iter_mut().for_each(|heap| heap.sources.keep_hooked(changed));
    }

    /// Empties the ring of allocations.
    pub(super) fn drain_heap(&mut self, buffer: &mut [u64]) {
        let (Some(mut account), Some(ring)) = (self.heap.take(), SAMPLES.get()) else { return };
        ring.drain(buffer, |header, words| match header.event() {
            source if source == Source::Alloc as u8 => self.count_allocation(&mut account, &header, words),
            source if source == Source::Free as u8 => {
                words.first().into_iter().for_each(|handle| account.live.remove(*handle));
            }
            _ => {}
        });
        let [samples, objects, bytes] = heap::take_lost();
        self.stats.alloc_lost += samples;
        if samples > 0 {
            account.tallies.lose(Amount { objects: objects as f64, bytes: bytes as f64 });
        }
        self.stats.spans_left_out += account.tallies.take_untraced();
        account.sites.keep_small();
        if let Some(mean) = account.keep_room() {
            self.tell_room(mean, account.interval());
        }
        self.heap = Some(account);
    }

    fn count_allocation(&mut self, account: &mut Heap, header: &Header, words: &[u64]) {
        let Some(([bytes, handle, mean, _event], stack)) = words.split_first_chunk::<ALLOC_WORDS>() else {
            return;
        };
        let site = self.site(&mut account.sites, header, stack);
        account.add(site.into(), *bytes, *mean, *handle);
        self.stats.alloc_samples += 1;
        self.stats.alloc_unfollowed += u64::from(*handle == 0);
    }
}

/// Forgets what the parent's threads left behind, and its blocks, of which the child has no account. In a fork's child, on its
/// only thread.
pub(super) fn after_fork() {
    heap::set_interval(0);
    if let Some(ring) = SAMPLES.get() {
        ring.clear();
        heap::after_fork();
    }
}

/// The next number from 0 to 1 of a sequence.
fn random(state: &mut u64) -> f64 {
    *state = poisson::next(*state);
    (poisson::bits(*state) >> 11) as f64 / (1_u64 << 53) as f64
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

#[cfg(test)]
mod tests {
    use super::Amount;

    #[test]
    fn a_sample_stands_for_what_was_not_sampled() {
        // 8 bytes of 512 KiB: one in 65,536.5.
        let small = Amount::of(8, 512 << 10);
        assert!((small.objects - 65_536.5).abs() < 0.01 && (small.bytes - 8.0 * 65_536.5).abs() < 0.1);
        let large = Amount::of(64 << 20, 512 << 10);
        assert_eq!((large.objects, large.bytes), (1.0, f64::from(64 << 20)));
        assert_eq!(Amount::of(0, 512 << 10).objects, 1.0);
    }
}
