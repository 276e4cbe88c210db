//! The publisher: names the addresses of what was closed, builds profiles, encodes those of periods for the exporters
//! ([`super::deliver`]), and gives those of recordings to whoever waits for them.
//!
//! Runs on a thread of its own, so that no large symbol table keeps the rings from being emptied. What comes in segments is summed up here, by name, so that each segment is named and built once however many
//! recordings it is part of.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender};

use everprof_probe::os::{Clock, gettid};

use super::build;
use super::deliver::Delivery;
use super::growing::Growing;
use super::hooks::{Account, To};
use super::names::Names;
use super::period::Period;
use super::snapshot::Snapshot;
use crate::encode::Set;
use crate::error::{Error, ErrorKind, Result};
use crate::labels;
use crate::options::Kinds;
use crate::profile::{Kind, Profile};
use crate::stats::Counters;
use crate::symbolize::{self, Symbolizer};

/// All recordings at hand may hold so many bytes.
const MOST_BYTES: usize = 256 << 20;

/// The publisher and what it keeps from period to period.
pub(super) struct Publisher {
    pub(super) tags: BTreeMap<String, String>,
    /// Tags of periods alone: which part they are of what there was.
    pub(super) marks: BTreeMap<String, String>,
    pub(super) symbolizer: Symbolizer,
    pub(super) mode: symbolize::Mode,
    pub(super) kinds: Kinds,
    pub(super) delivery: Delivery,
    pub(super) counters: Arc<Counters>,
    pub(super) sequence: u64,
    pub(super) sums: Open,
}

/// What was summed up and is not at its end yet.
#[derive(Default)]
pub(super) struct Open {
    period: BTreeMap<Kind, Growing>,
    /// What the counts of a kind have left over.
    rests: BTreeMap<Kind, u64>,
    /// Begin and length of the period as far as it came, in nanoseconds.
    time: Option<(i64, i64)>,
    /// Something of the period is to be told.
    is_worth_it: bool,
    /// Requests of periods before of which there was nothing else to tell.
    endpoint_counts: BTreeMap<String, u64>,
    /// By the recording's number; none where it grew too large.
    recordings: HashMap<u64, Option<Growing>>,
}

/// What the publisher is asked to do.
pub(super) enum Job {
    /// Name this segment, and add it to the period at hand and to these recordings.
    Segment { period: Box<Period>, recordings: Vec<(u64, Kind)> },
    /// Name this snapshot, and give it to these, or where there are none to the period.
    Snapshot(Box<Snapshot>, Vec<Sender<Result<Arc<Profile>>>>),
    /// Name this account of the heap or of waits for locks, and give its profiles of these kinds to whom they are for.
    Account { kinds: Vec<Kind>, account: Box<Account>, to: To },
    /// These kinds are taken of each period from now on, which has these tags beside the others.
    Kinds(Kinds, BTreeMap<String, String>),
    /// Publish the period, in which these requests ended.
    EndPeriod(BTreeMap<String, u64>),
    /// Give the profile of this recording to whoever waits for it.
    Finish(u64, Sender<Result<Profile>>),
    /// Forget this recording.
    GiveUp(u64),
    /// Say so once everything before is published.
    Reply(Sender<()>),
}

impl Open {
    /// Gives up recordings, the largest first, until all together hold no more than so many bytes.
    fn bound(&mut self, most: usize) {
        let memory = |sum: &Option<Growing>| sum.as_ref().map_or(0, Growing::memory);
        while self.recordings.values().map(memory).sum::<usize>() > most {
            let Some(largest) = self.recordings.values_mut().max_by_key(|sum| memory(sum)) else { return };
            *largest = None;
        }
    }
}

impl Publisher {
    /// Works until the other end hangs up.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Segment { period, recordings } => {
                    self.add(&period, &recordings);
                    self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
                }
                Job::Snapshot(snapshot, asked) => {
                    self.snapshot(&snapshot, asked);
                    self.counters.snapshots.fetch_sub(1, Ordering::Relaxed);
                }
                Job::Account { kinds, account, to } => self.account(&kinds, &account, to),
                Job::Kinds(kinds, marks) => (self.kinds, self.marks) = (kinds, marks),
                Job::EndPeriod(counts) => self.publish(counts),
                Job::Finish(id, named) => {
                    let profile = match self.sums.recordings.remove(&id) {
                        Some(Some(sum)) => Ok(sum.finish(&self.tags)),
                        Some(None) => Err(too_large()),
                        None => Err(lost()),
                    };
                    let _ = named.send(profile);
                }
                Job::GiveUp(id) => _ = self.sums.recordings.remove(&id),
                Job::Reply(done) => self.delivery.reply(done),
            }
            let cpu = Clock::Thread(gettid()).now().unwrap_or_default();
            self.counters.publisher_cpu.store(cpu, Ordering::Relaxed);
            let kept = self.symbolizer.stats().kept_bytes;
            self.counters.publisher_memory.store(kept, Ordering::Relaxed);
        }
    }

    /// Names a segment and adds it to what it is part of.
    fn add(&mut self, period: &Period, recordings: &[(u64, Kind)]) {
        // Waits may be there for the recordings alone.
        let tells_waits = self.kinds.iter().any(Kind::needs_looks);
        let is_worth_it = if tells_waits { !period.is_empty() } else { !period.has_no_cpu_time() };
        // It may be of recordings alone.
        self.sums.is_worth_it |= is_worth_it && self.kinds.iter().next().is_some();
        self.sums.time.get_or_insert((period.time_nanos, 0)).1 += period.duration_nanos;
        let names = Names::of(period, &mut self.symbolizer);
        let recorded = recordings.iter().map(|(_, kind)| *kind);
        let mut kinds: BTreeSet<Kind> = self.kinds.iter().chain(recorded).collect();
        kinds.retain(|kind| *kind != Kind::Threads && !kind.needs_hooks());
        for kind in kinds {
            let part = self.build(kind, period, &names);
            for (id, _) in recordings.iter().filter(|(_, of)| *of == kind) {
                match self.sums.recordings.get_mut(id) {
                    Some(recording) => {
                        recording.iter_mut().for_each(|sum| sum.add(&part));
                    }
                    None => _ = self.sums.recordings.insert(*id, Some(part.clone())),
                }
            }
            if !self.kinds.contains(kind) {
                continue;
            }
            match self.sums.period.get_mut(&kind) {
                Some(sum) => sum.add(&part),
                None => _ = self.sums.period.insert(kind, part),
            }
        }
        self.sums.bound(MOST_BYTES);
    }

    fn build(&mut self, kind: Kind, period: &Period, names: &Names<'_>) -> Growing {
        // What runtimes recorded counts as they counted it.
        let recorded: u64 = period.recorded.rows(Kind::Cpu).map(|(_, _, _, sums)| sums.count).sum();
        let signals = period.signals + recorded;
        let rest = self.sums.rests.entry(kind).or_default();
        match kind {
            Kind::Cpu => Growing::new(build::cpu(period, names, self.mode), signals),
            Kind::Wall => {
                let looks: u64 = period.sums.waits().map(|(_, _, sums)| sums.count).sum();
                Growing::new(build::wall(period, names, self.mode, rest), signals + looks)
            }
            Kind::OffCpu => {
                let looks: u64 = period.sums.waits().map(|(_, _, sums)| sums.count).sum();
                Growing::new(build::off_cpu(period, names, self.mode, rest), looks)
            }
            Kind::Gc => Growing::new(build::recorded(kind, period, names, self.mode), 0),
            // Not of a period, but of a moment.
            _ => Growing::new(Profile::new(kind), 0),
        }
    }

    fn snapshot(&mut self, snapshot: &Snapshot, asked: Vec<Sender<Result<Arc<Profile>>>>) {
        let names = Names::of(&snapshot.names, &mut self.symbolizer);
        let sum = Growing::new(build::threads(snapshot, &names, self.mode), 0);
        if asked.is_empty() {
            self.sums.is_worth_it = true;
            self.sums.period.insert(Kind::Threads, sum);
            return;
        }
        let mut profile = Some(Arc::new(sum.finish(&self.tags)));
        let last = asked.len() - 1;
        for (at, named) in asked.into_iter().enumerate() {
            // Not held here when the last one gets it, who then need not copy it.
            let profile = if at == last { profile.take() } else { profile.clone() };
            let _ = profile.map(|profile| named.send(Ok(profile)));
        }
    }

    fn account(&mut self, kinds: &[Kind], account: &Account, to: To) {
        let names = Names::of(account.names(), &mut self.symbolizer);
        let profiles = kinds.iter().map(|kind| {
            let profile = account.profile(*kind, &names, self.mode);
            (*kind, Growing::new(profile, account.samples()))
        });
        match to {
            To::Period => {
                self.sums.is_worth_it |= !account.is_empty();
                self.sums.period.extend(profiles);
            }
            To::One(named) => {
                for (_, sum) in profiles {
                    let _ = named.send(Ok(sum.finish(&self.tags)));
                }
            }
        }
    }

    /// Publishes the period, unless there is nothing to tell of it: then its requests go with the next one that is told.
    fn publish(&mut self, mut endpoint_counts: BTreeMap<String, u64>) {
        let sums = std::mem::take(&mut self.sums.period);
        let time = self.sums.time.take();
        labels::add_counts(&mut endpoint_counts, std::mem::take(&mut self.sums.endpoint_counts));
        if !std::mem::take(&mut self.sums.is_worth_it) {
            self.sums.endpoint_counts = endpoint_counts;
            return;
        }
        let mut tags = self.tags.clone();
        tags.extend(self.marks.clone());
        let profiles: Vec<(Kind, Profile)> =
            sums.into_iter().map(|(kind, sum)| (kind, sum.finish(&tags))).collect();
        // Where no segment is left of the period, what is told of its end knows the time as well.
        let of_first = || profiles.first().map(|(_, profile)| (profile.time_nanos, profile.duration_nanos));
        let (time_nanos, duration_nanos) = time.or_else(of_first).unwrap_or_default();
        let wall = profiles.iter().find(|(kind, _)| *kind == Kind::Wall);
        self.counters.judge(wall.and_then(|(_, profile)| profile.verdict().ok()));
        let set = Set {
            tags,
            sequence: self.sequence,
            time_nanos,
            duration_nanos,
            profiles: Vec::new(),
            endpoint_counts,
        };
        self.sequence += 1;
        self.delivery.take(&set, &profiles);
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Internal, "the recording was lost; see the log")
}

fn too_large() -> Error {
    let message = "the recordings at hand grew beyond 256 MiB, and this one, the largest, was given up: finish it sooner";
    Error::new(ErrorKind::Unavailable, message)
}
