//! What takes time, done on the worker's thread: recordings and snapshots become answers.

use super::answer::{Answer, HTML, TEXT};
use super::route::{Form, Work};
use super::source::{Recorded, Source, source};
use super::{index, symbol};
use crate::encode::flamegraph::{self, PageOptions};
use crate::error::{Error, ErrorKind};
use crate::profile::{Kind, Profile, ValueType};
use crate::symbolize::Symbolizer;

/// Begins a recording. `name` is what was asked for.
pub(super) fn record(name: &str, kind: Kind, delta: bool) -> Result<Box<dyn Recorded>, Answer> {
    running()?.record(kind, delta).map_err(|error| failed(name, &error))
}

/// A snapshot of the threads, under the name of what was asked for.
pub(super) fn threads(name: &str) -> Result<Profile, Answer> {
    now(name, Kind::Threads)
}

fn now(name: &str, kind: Kind) -> Result<Profile, Answer> {
    let profile = running()?.now(kind).map_err(|error| failed(name, &error))?;
    Ok(as_asked(name, profile))
}

/// The same in the words of who asks.
fn as_asked(name: &str, mut profile: Profile) -> Profile {
    match name {
        "goroutine" => {
            profile.sample_types = vec![ValueType::new("goroutine", "count")];
            profile.period_type = ValueType::new("goroutine", "count");
            profile.default_sample_type = "goroutine".to_string();
        }
        "alloc" | "allocs" => profile.default_sample_type = "alloc_space".to_string(),
        _ => {}
    }
    profile
}

/// What needs no waiting.
pub(super) fn at_once(work: &Work, symbolizer: &mut Option<Symbolizer>) -> Result<Answer, Answer> {
    match work {
        Work::Symbols(list) => Ok(Answer::of(TEXT, symbol::names(symbolizer, list))),
        Work::Index => Ok(page()),
        Work::Snapshot { name, kind, .. } => written(work, name, &now(name, *kind)?),
        Work::Change { .. } | Work::Record { .. } => Err(gone()),
    }
}

/// The end of a recording.
pub(super) fn recorded(work: &Work, recording: Box<dyn Recorded>) -> Result<Answer, Answer> {
    let Work::Record { name, .. } = work else { return Err(gone()) };
    let profile = recording.finish().map_err(|error| failed(name, &error))?;
    written(work, name, &as_asked(name, profile))
}

/// What became of the threads since `before`.
pub(super) fn change(work: &Work, mut before: Profile) -> Result<Answer, Answer> {
    let Work::Change { name, form, .. } = work else { return Err(gone()) };
    let mut profile = threads(name)?;
    if *form == Form::Page {
        // What is less has no width in a graph of sums, and parts of a sum of nothing say nothing.
        let mut answer = work.head();
        answer.body = flamegraph::diff_html(&before, &profile, &PageOptions::default()).into_bytes();
        return Ok(answer);
    }
    let (time, duration) = (profile.time_nanos, profile.time_nanos.saturating_sub(before.time_nanos));
    before.negate();
    profile.merge(&before).map_err(|error| failed(name, &error))?;
    let mut profile = profile.filter(|sample| sample.values.iter().any(|value| *value != 0));
    (profile.time_nanos, profile.duration_nanos) = (time, duration);
    written(work, name, &profile)
}

fn page() -> Answer {
    let body = source().map(|source| index::page(&source.about())).unwrap_or_default();
    Answer::of(HTML, body).with("Cache-Control", "no-store").with("X-Frame-Options", "DENY")
}

fn running() -> Result<&'static dyn Source, Answer> {
    source().ok_or_else(no_profiler)
}

pub(super) fn no_profiler() -> Answer {
    Answer::error(503, "no profiler runs in this process: start it with everprof::Profiler::start()")
}

fn written(work: &Work, name: &str, profile: &Profile) -> Result<Answer, Answer> {
    work.answer(profile).map_err(|error| failed(name, &error))
}

/// What is there only where it is among the kinds, or can be hooked.
const HOOKED: [&str; 7] = ["heap", "alloc", "allocs", "peak", "lock", "mutex", "block"];

fn failed(name: &str, error: &Error) -> Answer {
    let status = match error.kind() {
        ErrorKind::Unavailable => 503,
        // As Go answers where there is no such profile.
        ErrorKind::Unsupported if HOOKED.contains(&name) => 404,
        ErrorKind::Unsupported => 501,
        _ => 500,
    };
    match name {
        _ if status == 404 => Answer::error(status, &format!("Unknown profile: {error}")),
        "profile" => Answer::error(status, &format!("Could not enable CPU profiling: {error}")),
        _ => Answer::error(status, &format!("no profile of {name}: {error}")),
    }
}

fn gone() -> Answer {
    Answer::error(500, "the request was lost")
}
