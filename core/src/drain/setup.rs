//! What a sampler is started with: the rings, the signal, the publisher's thread.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use everprof_probe::loss::{self, Loss};
use everprof_probe::os::{Action, Disposition, realtime_range};
use everprof_probe::ring::Ring;
use everprof_probe::sigprof;
use everprof_probe::timer::ClockKind;

use super::Plan;
use super::deliver::Delivery;
use super::handle::{Own, be_own};
use super::publish::{Job, Open, Publisher};
use crate::error::{Error, ErrorKind, Result};
use crate::options::{SignalChoice, Symbolize};
use crate::stats::Counters;
use crate::symbolize::{self, Symbolizer};

/// Words of a ring: 256 KiB each, of which there is one for every processor up to eight.
pub(super) const RING_WORDS: usize = 32 * 1024;

static RINGS: OnceLock<Vec<Ring>> = OnceLock::new();

pub(super) fn start_publisher(plan: &Plan, counters: &Arc<Counters>) -> Result<Sender<Job>> {
    let mode = match plan.options.symbolize {
        Symbolize::Off => symbolize::Mode::Off,
        Symbolize::Names => symbolize::Mode::Names,
        _ => symbolize::Mode::Lines,
    };
    let options = symbolize::Options {
        mode,
        memory_budget: plan.options.symbolize_memory_bytes.get() as usize,
        ..symbolize::Options::default()
    };
    let (jobs, received) = mpsc::channel();
    let exporters = plan.exporters.clone();
    let (tags, counters, kinds) = (plan.tags.clone(), counters.clone(), plan.options.kinds.clone());
    let most = plan.options.push_queue_bytes.get();
    let service = plan.tags.get("service").map_or("", String::as_str);
    let spool = crate::export::spool::terms(&plan.options, service);
    let publish = move || {
        let symbolizer = Symbolizer::new(options);
        let delivery = Delivery::new(exporters(), most, spool, counters.clone());
        let sums = Open::default();
        let marks = BTreeMap::new();
        let publisher =
            Publisher { tags, marks, symbolizer, mode, kinds, delivery, counters, sequence: 0, sums };
        publisher.run(&received);
    };
    let work = move || {
        everprof_probe::os::block_signals();
        be_own(Own::Samples);
        super::guarded(publish);
    };
    std::thread::Builder::new().name("everprof-out".to_string()).spawn(work).map_err(|error| {
        Error::io(ErrorKind::Unsupported, "everprof's second thread could not be started", error)
    })?;
    Ok(jobs)
}

/// The signal to use: SIGPROF where nobody else has a handler for it, or the last of the real-time signals that is free.
///
/// With perf events SIGURG, which does nothing where there is no handler. A timer's signals go with the timer when a program takes
/// this one's place (`exec`). Those of an event stay, also those of the time in `exec` itself, and SIGPROF would end the program.
pub(super) fn choose_signal(choice: SignalChoice, clock: ClockKind) -> Result<i32> {
    const SIGPROF: i32 = 27;
    const SIGURG: i32 = 23;
    let is_free = |signal: i32| {
        Disposition::of(signal)
            .is_some_and(|now| sigprof::is_ours(&now) || !matches!(now.action(), Action::Handler(_)))
    };
    let taken = |signal: i32| {
        Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "signal {signal} has a handler of somebody else: set the option signal to auto, or to a free one"
            ),
        ))
    };
    match choice {
        SignalChoice::Prof if is_free(SIGPROF) => Ok(SIGPROF),
        SignalChoice::Prof => taken(SIGPROF),
        SignalChoice::Number(signal) if is_free(signal) => Ok(signal),
        SignalChoice::Number(signal) => taken(signal),
        _ if clock == ClockKind::PerfEvent && is_free(SIGURG) => Ok(SIGURG),
        SignalChoice::Auto if is_free(SIGPROF) => Ok(SIGPROF),
        _ => {
            let (first, last) = realtime_range();
            (first..=last).rev().find(|signal| is_free(*signal)).map_or_else(|| taken(SIGPROF), Ok)
        }
    }
}

/// Empties the rings and the counts of losses without looking at them, and closes the handler.
pub(super) fn forget_samples() {
    sigprof::close();
    for ring in RINGS.get().into_iter().flatten() {
        ring.clear();
    }
    for loss in Loss::ALL {
        loss::take(loss);
    }
}

pub(super) fn rings() -> Result<&'static [Ring]> {
    if let Some(rings) = RINGS.get() {
        return Ok(rings);
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let made: Option<Vec<Ring>> =
        (0..processors.next_power_of_two().min(8)).map(|_| Ring::new(RING_WORDS)).collect();
    let made =
        made.ok_or_else(|| Error::new(ErrorKind::Unsupported, "there is no memory for everprof's rings"))?;
    Ok(RINGS.get_or_init(|| made))
}

pub(super) fn wall_clock() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as i64)
}
