//! The accounts that the hooks of calls feed, of the heap and of waits for locks: when there is one, and who is told of it.
//!
//! Our thread. An account is there while its profiles are among the kinds, or somebody records one of them; hooks are
//! installed and samples taken no longer than that. Unlike sums of CPU time, which are cut for all at once, an account has
//! a tally for each of those who ask ([`super::tallies`]): a recording begins and ends at once, and waits for nobody.

use std::sync::mpsc::Sender;
use std::time::Duration;

use everprof_probe::os::{Clock, gettid};
use everprof_probe::unwind;

use super::build;
use super::close::Cut;
use super::heap::{Heap, HeapCut, Wanted};
use super::locks::{Locks, LocksCut};
use super::names::Names;
use super::period::Period;
use super::publish::Job;
use super::sampler::Sampler;
use crate::error::{Error, ErrorKind, Result};
use crate::options::Options;
use crate::profile::{Kind, Profile};
use crate::report;
use crate::symbolize;

/// How the hooks sample.
#[derive(Clone, Copy, Debug)]
pub(super) struct HookOptions {
    /// The mean distance of samples of allocations in bytes, and the nanoseconds from which on each wait is a sample; 0: none
    /// are taken.
    pub(super) interval: u64,
    pub(super) threshold: u64,
    /// Where allocations are to be seen.
    pub(super) sources: Wanted,
    /// Whether the locks of C are hooked as well.
    pub(super) c_locks: bool,
    /// The longest stack.
    pub(super) max_words: usize,
    /// How many spans a profile tells apart, of whatever kind.
    pub(super) traces: usize,
}

impl HookOptions {
    pub(super) fn of(options: &Options, max_words: usize) -> Self {
        let interval = options.interval_bytes.get();
        let threshold = options.lock_threshold_ns.get().into();
        let traces = options.trace_spans.get() as usize;
        Self {
            interval,
            threshold,
            sources: Wanted::of(options),
            c_locks: options.c_locks,
            max_words,
            traces,
        }
    }
}

/// What an account has to tell, ready to be named.
pub(super) enum Account {
    Heap(HeapCut),
    Locks(LocksCut),
}

/// Whom it is for.
pub(super) enum To {
    /// The period at hand.
    Period,
    /// Somebody who waits for it.
    One(Sender<Result<Profile>>),
}

impl Account {
    /// What is needed to name it.
    pub(super) fn names(&self) -> &Period {
        match self {
            Account::Heap(cut) => &cut.names,
            Account::Locks(cut) => &cut.names,
        }
    }

    /// How many samples it is made of.
    pub(super) fn samples(&self) -> u64 {
        match self {
            Account::Heap(cut) => cut.samples,
            Account::Locks(cut) => cut.samples,
        }
    }

    /// Whether there is nothing to tell.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Account::Heap(cut) => cut.rows.is_empty() && cut.lost.objects == 0.0,
            Account::Locks(cut) => cut.rows.is_empty() && cut.lost.nanos == 0.0,
        }
    }

    /// Its profile of a kind.
    pub(super) fn profile(&self, kind: Kind, names: &Names<'_>, mode: symbolize::Mode) -> Profile {
        match self {
            Account::Heap(cut) => build::heap(kind, cut, names, mode),
            Account::Locks(cut) => build::locks(kind, cut, names, mode),
        }
    }
}

impl Sampler {
    /// Begins the accounts that are wanted, and tells where one cannot be had: once, not at each turn of it.
    pub(super) fn begin_hooks(&mut self) {
        for error in [self.switch_heap(), self.switch_locks()].into_iter().filter_map(Result::err) {
            self.trouble_once(error.to_string());
        }
    }

    /// Begins or ends the accounts, as kinds and recordings need them.
    pub(super) fn switch_hooks(&mut self) {
        // Whoever wanted one that cannot be had was told.
        let _ = (self.switch_heap(), self.switch_locks());
        self.switch_work();
    }

    fn are_wanted(&self, needs: fn(Kind) -> bool) -> bool {
        self.kinds.iter().chain(self.recordings.kinds()).any(needs)
    }

    pub(super) fn switch_heap(&mut self) -> Result<()> {
        if !self.are_wanted(Kind::needs_allocations) {
            self.heap = None;
        } else if self.heap.is_none() {
            self.know_own_code();
            let heap = Heap::start(self.governor.interval(), self.hook_options)?;
            if let Some(problem) = heap.sources().problem() {
                self.trouble_once(problem);
            }
            self.heap = Some(heap);
        }
        let peaks = self.kinds.contains(Kind::Peak);
        self.heap.iter_mut().for_each(|heap| heap.follow_peak(peaks));
        Ok(())
    }

    pub(super) fn switch_locks(&mut self) -> Result<()> {
        if !self.are_wanted(Kind::needs_locks) {
            self.locks = None;
        } else if self.locks.is_none() {
            self.know_own_code();
            self.locks = Some(Locks::start(self.governor.threshold(), self.hook_options)?);
        }
        Ok(())
    }

    /// The stacks of what hooks take begin in ours.
    fn know_own_code(&mut self) {
        unwind::begin_in_ours();
        self.modules.update();
    }

    /// Empties the rings of the hooks.
    pub(super) fn drain_hooks(&mut self, buffer: &mut [u64]) {
        let (_, heap) = self.timed(|own| own.drain_heap(buffer));
        let (_, locks) = self.timed(|own| own.drain_locks(buffer));
        self.accounts_cpu[0] += heap;
        self.accounts_cpu[1] += locks;
    }

    /// Brings the accounts up to date: all samples are counted, and the address spaces known that they are of.
    fn bring_up_to_date(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        self.drain_hooks(&mut buffer);
        self.buffer = buffer;
        self.modules.update();
        let (first, epochs) = self.modules.known();
        self.heap.iter_mut().for_each(|heap| heap.keep_epochs(first, &epochs));
        self.locks.iter_mut().for_each(|locks| locks.keep_epochs(first, &epochs));
    }

    /// Gives the accounts of the period that ends to the publisher. Where that is stuck, they go on into the next one.
    pub(super) fn accounts_of_period(&mut self, cut: Cut) {
        if !cut.is_end() || self.is_publisher_stuck() {
            return;
        }
        let kinds = |needs: fn(Kind) -> bool| -> Vec<Kind> {
            self.kinds.iter().filter(|kind| needs(*kind)).collect()
        };
        let (of_heap, of_locks) = (kinds(Kind::needs_allocations), kinds(Kind::needs_locks));
        let (peak, of_heap): (Vec<Kind>, Vec<Kind>) =
            of_heap.into_iter().partition(|kind| *kind == Kind::Peak);
        let mut accounts = Vec::new();
        if let Some(heap) = &mut self.heap {
            let (cut, most) = heap.close();
            accounts.push((of_heap, Account::Heap(cut)));
            accounts.extend(most.map(|cut| (peak, Account::Heap(cut))));
        }
        if let Some(locks) = &mut self.locks {
            accounts.push((of_locks, Account::Locks(locks.close())));
        }
        for (kinds, account) in accounts.into_iter().filter(|(kinds, _)| !kinds.is_empty()) {
            self.publish(Job::Account { kinds, account: Box::new(account), to: To::Period });
        }
    }

    /// Begins to count for a recording; an error where there is nothing to count.
    pub(super) fn begin_to_count(&mut self, id: u64, kind: Kind) -> Result<()> {
        self.switch_work();
        if kind.needs_allocations() { self.switch_heap() } else { self.switch_locks() }?;
        self.bring_up_to_date();
        if kind.needs_allocations() {
            self.heap.iter_mut().for_each(|heap| heap.begin(id, kind));
        } else {
            self.locks.iter_mut().for_each(|locks| locks.begin(id));
        }
        Ok(())
    }

    /// Gives what was counted for a recording to the publisher, who gives it to `named`.
    pub(super) fn end_to_count(
        &mut self,
        id: u64,
        kind: Kind,
        as_change: bool,
        named: Sender<Result<Profile>>,
    ) {
        self.bring_up_to_date();
        let account = if kind.needs_allocations() {
            self.heap.as_mut().and_then(|heap| heap.end(id, as_change)).map(Account::Heap)
        } else {
            self.locks.as_mut().and_then(|locks| locks.end(id)).map(Account::Locks)
        };
        match account {
            Some(account) => self.name_account(kind, account, named),
            None => {
                let message = "the recording ended when its kind was switched off: begin it anew";
                let _ = named.send(Err(Error::new(ErrorKind::Unavailable, message)));
            }
        }
        self.switch_hooks();
    }

    /// Forgets a recording.
    pub(super) fn count_no_more(&mut self, id: u64) {
        self.heap.iter_mut().for_each(|heap| heap.give_up(id));
        self.locks.iter_mut().for_each(|locks| locks.give_up(id));
        self.switch_hooks();
    }

    /// What an account has counted since it began, and what there is now.
    pub(super) fn tell_account(&mut self, kind: Kind, named: Sender<Result<Profile>>) {
        self.bring_up_to_date();
        let account = match kind {
            Kind::Alloc | Kind::Heap => self.heap.as_mut().map(|heap| Account::Heap(heap.now())),
            _ if kind.needs_locks() => self.locks.as_mut().map(|locks| Account::Locks(locks.now())),
            _ => None,
        };
        match account {
            Some(account) => self.name_account(kind, account, named),
            None => {
                _ = named.send(Err(self.fleet.rests(kind, &self.kinds).unwrap_or_else(|| not_followed(kind))))
            }
        }
    }

    /// Does what somebody has asked for, which is no cost of sampling: fewer samples would not make it cheaper.
    pub(super) fn on_request<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let (done, took) = self.timed(work);
        self.requests_cpu += took;
        done
    }

    /// Does something, and says how many nanoseconds of a processor it took.
    pub(super) fn timed<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> (T, u64) {
        let own = || Clock::Thread(gettid()).now().unwrap_or_default();
        let before = own();
        let done = work(self);
        (done, own().saturating_sub(before))
    }

    fn name_account(&mut self, kind: Kind, account: Account, named: Sender<Result<Profile>>) {
        self.publish(Job::Account { kinds: vec![kind], account: Box::new(account), to: To::One(named) });
    }

    /// Says that allocations are sampled less often, or again more often, for the number of blocks that live.
    pub(super) fn tell_room(&self, least: u64, interval: u64) {
        report::info(&format!(
            "one in {interval} bytes allocated is a sample from now on, {least} being the least at which all blocks that \
             live can be followed"
        ));
    }

    /// What the accounts cost: the time on the program's threads that samples took.
    pub(super) fn hooks_time(&self, nanos_per_tick: f64) -> [Duration; 2] {
        let ticks = [everprof_probe::heap::cost(), everprof_probe::lock::cost()];
        let [heap, locks] = [0, 1].map(|at| ticks[at].wrapping_sub(self.hook_ticks_at_start[at]) as f64);
        [heap, locks].map(|ticks| Duration::from_nanos((ticks * nanos_per_tick) as u64))
    }

    /// Brings the distances of samples to what the governor says.
    pub(super) fn apply_hooks(&mut self) {
        let (interval, threshold) = (self.governor.interval(), self.governor.threshold());
        self.heap.iter_mut().for_each(|heap| heap.set_interval(interval));
        self.locks.iter_mut().for_each(|locks| locks.set_threshold(threshold));
    }
}

fn not_followed(kind: Kind) -> Error {
    let name = kind.name();
    let message = match kind {
        Kind::Threads => "a snapshot of the threads is taken by everprof::threads".to_string(),
        _ if kind.needs_hooks() && kind != Kind::Peak => format!(
            "{name} is not followed: start with kinds=cpu,{name}, set kinds while it runs, or record a stretch of time \
             (by request: seconds=30)"
        ),
        _ => format!("{name} is of a stretch of time: record one (everprof::record)"),
    };
    Error::new(ErrorKind::Unsupported, message)
}
