//! Delivery: the encoded profiles of a period go to the exporters, on a thread of their own.
//!
//! A disk that hangs, or a server that does not answer, holds up nobody else: what comes next is named meanwhile, and who
//! waits for a recording or a snapshot gets it. The publisher hands over. The thread, `everprof-send`, begins with the
//! first set; where none can be had, the publisher exports itself. Only so many sets wait, so that an exporter which
//! hangs does not cost the host its memory, and one that panics has failed with this set alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, Sender};

use everprof_probe::os::{self, Clock, gettid};

use super::handle::{Own, be_own};
use super::report;
use crate::encode::Set;
use crate::export::Exporter;
use crate::stats::Counters;

/// Sets that may wait, the one that is at an exporter included.
const MOST_WAITING: u64 = 8;

/// The way to the exporters.
pub(super) struct Delivery {
    way: Way,
    counters: Arc<Counters>,
}

enum Way {
    /// Nothing was handed over yet, or there is no thread.
    Here(Vec<Box<dyn Exporter>>),
    Thread(Sender<Parcel>),
}

enum Parcel {
    /// Who exports from now on.
    Exporters(Vec<Box<dyn Exporter>>),
    Set(Box<Set>),
    /// Say so once everything before is exported.
    Reply(Sender<()>),
}

impl Delivery {
    /// To these.
    pub(super) fn new(exporters: Vec<Box<dyn Exporter>>, counters: Arc<Counters>) -> Self {
        Self { way: Way::Here(exporters), counters }
    }

    /// Whether no more is taken: the exporters seem to hang. Says so, and counts what is given up.
    pub(super) fn refuses(&self) -> bool {
        let waiting = self.counters.undelivered.load(Ordering::Relaxed);
        if waiting < MOST_WAITING {
            return false;
        }
        self.counters.export_failures.fetch_add(1, Ordering::Relaxed);
        let problem = format!("a profile was given up: {waiting} others still wait to be exported");
        report::warn(&problem);
        self.counters.problem(problem);
        true
    }

    /// Takes the set of a period.
    pub(super) fn take(&mut self, set: Set) {
        self.begin();
        match &mut self.way {
            Way::Here(exporters) => export(exporters, &set, &self.counters),
            Way::Thread(parcels) => {
                let counters = &self.counters;
                counters.undelivered.fetch_add(1, Ordering::Relaxed);
                counters.undelivered_bytes.fetch_add(bytes(&set), Ordering::Relaxed);
                let _ = parcels.send(Parcel::Set(Box::new(set)));
            }
        }
    }

    /// `done` hears when everything that was taken before is exported.
    pub(super) fn reply(&self, done: Sender<()>) {
        match &self.way {
            Way::Here(_) => _ = done.send(()),
            Way::Thread(parcels) => _ = parcels.send(Parcel::Reply(done)),
        }
    }

    /// Starts the thread, the first time. Where that fails, it is tried again with the next set.
    fn begin(&mut self) {
        let Way::Here(exporters) = &mut self.way else { return };
        let (parcels, received) = mpsc::channel();
        let counters = self.counters.clone();
        let work = move || run(&received, &counters);
        if std::thread::Builder::new().name("everprof-send".to_string()).spawn(work).is_ok() {
            let _ = parcels.send(Parcel::Exporters(std::mem::take(exporters)));
            self.way = Way::Thread(parcels);
        }
    }
}

/// Exports until the other end hangs up.
fn run(parcels: &Receiver<Parcel>, counters: &Counters) {
    os::block_signals();
    be_own(Own::Sends);
    let mut exporters = Vec::new();
    while let Ok(parcel) = parcels.recv() {
        match parcel {
            Parcel::Exporters(these) => exporters = these,
            Parcel::Set(set) => {
                export(&mut exporters, &set, counters);
                counters.undelivered.fetch_sub(1, Ordering::Relaxed);
                counters.undelivered_bytes.fetch_sub(bytes(&set), Ordering::Relaxed);
            }
            Parcel::Reply(done) => _ = done.send(()),
        }
        let cpu = Clock::Thread(gettid()).now().unwrap_or_default();
        counters.exporter_cpu.store(cpu, Ordering::Relaxed);
    }
}

fn bytes(set: &Set) -> u64 {
    set.profiles.iter().map(|profile| profile.bytes.len() as u64).sum()
}

fn export(exporters: &mut [Box<dyn Exporter>], set: &Set, counters: &Counters) {
    for exporter in exporters {
        let exported = catch_unwind(AssertUnwindSafe(|| {
            exporter.export(set).map_err(|error| format!("to {}: {error}", exporter.name()))
        }));
        let problem = match exported {
            Ok(Ok(())) => {
                counters.exported.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            Ok(Err(problem)) => problem,
            Err(_) => "since the exporter panicked".to_string(),
        };
        counters.export_failures.fetch_add(1, Ordering::Relaxed);
        let problem = format!("a profile was not exported {problem}");
        report::warn(&problem);
        counters.problem(problem);
    }
}
