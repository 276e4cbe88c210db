//! The publisher: names the addresses of a closed period, builds its profile, encodes it and hands it to the exporter.
//!
//! Runs on a thread of its own, so that neither a large symbol table nor a slow disk keeps the rings from being
//! emptied.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use everprof_probe::os::{Clock, gettid};

use super::build;
use super::names::Names;
use super::period::Period;
use crate::encode::{Encoded, Set};
use crate::export::Exporter;
use crate::options::Kinds;
use crate::profile::{Kind, Profile};
use crate::stats::Counters;
use crate::symbolize::{self, Symbolizer};

/// The publisher and what it keeps from period to period.
pub(super) struct Publisher {
    pub(super) tags: BTreeMap<String, String>,
    pub(super) symbolizer: Symbolizer,
    pub(super) mode: symbolize::Mode,
    pub(super) kinds: Kinds,
    pub(super) exporters: Vec<Box<dyn Exporter>>,
    pub(super) counters: Arc<Counters>,
    pub(super) sequence: u64,
}

/// What the publisher is asked to do.
pub(super) enum Job {
    /// Publish this period.
    Publish(Box<Period>),
    /// Say so once everything before is published.
    Reply(std::sync::mpsc::Sender<()>),
}

impl Publisher {
    /// Works until the other end hangs up.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Publish(period) => {
                    self.publish(&period);
                    self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
                }
                Job::Reply(done) => {
                    let _ = done.send(());
                }
            }
            let cpu = Clock::Thread(gettid()).now().unwrap_or_default();
            self.counters.publisher_cpu.store(cpu, Ordering::Relaxed);
            let kept = self.symbolizer.stats().kept_bytes;
            self.counters.publisher_memory.store(kept, Ordering::Relaxed);
        }
    }

    fn publish(&mut self, period: &Period) {
        let names = Names::of(period, &mut self.symbolizer);
        // What runtimes recorded counts as they counted it.
        let recorded: u64 = period.recorded.rows().map(|(_, _, _, sums)| sums.count).sum();
        let signals = period.signals + recorded;
        let mut profiles = Vec::new();
        if self.kinds.contains(Kind::Cpu) {
            profiles.push(self.encode(Kind::Cpu, build::cpu(period, &names, self.mode), signals));
        }
        if self.kinds.contains(Kind::Wall) {
            let looks: u64 = period.sums.waits().map(|(_, _, sums)| sums.count).sum();
            profiles.push(self.encode(Kind::Wall, build::wall(period, &names, self.mode), signals + looks));
        }
        let set = Set {
            tags: self.tags.clone(),
            sequence: self.sequence,
            time_nanos: period.time_nanos,
            duration_nanos: period.duration_nanos,
            profiles,
        };
        self.sequence += 1;
        for exporter in &mut self.exporters {
            match exporter.export(&set) {
                Ok(()) => {
                    self.counters.exported.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    self.counters.export_failures.fetch_add(1, Ordering::Relaxed);
                    let problem = format!("a profile was not exported to {}: {error}", exporter.name());
                    super::report::warn(&problem);
                    self.counters.problem(problem);
                }
            }
        }
    }

    fn encode(&self, kind: Kind, mut profile: Profile, signals: u64) -> Encoded {
        profile.tags = self.tags.clone();
        profile.tell_signals(signals);
        Encoded::pprof(kind, &profile)
    }
}
