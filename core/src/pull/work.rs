//! What takes time, done on the worker's thread: recordings and snapshots become answers.

use super::answer::{Answer, HTML, TEXT};
use super::route::{Form, Work};
use super::source::{Recorded, Source, source};
use super::{index, symbol};
use crate::encode::flamegraph::{self, PageOptions};
use crate::error::{Error, ErrorKind};
use crate::profile::{Kind, Profile, ValueType};
use crate::symbolize::Symbolizer;

/// Begins what lasts. Pages have no room for what is less than nothing: that of the live heap compares it with what there was
/// at the beginning, and others show what was counted.
pub(super) fn begin(work: &Work) -> Result<Begun, Answer> {
    match work {
        Work::Record { name, kind, form, delta, .. } => {
            let is_page = *form == Form::Page;
            let recording =
                running()?.record(*kind, *delta && !is_page).map_err(|error| failed(name, &error))?;
            // The recording comes first, so that there is an account to ask.
            let before = if *delta && is_page && name == "heap" { Some(now(name, *kind)?) } else { None };
            Ok(Begun { before, recording: Some(recording) })
        }
        Work::Change { name, .. } => Ok(Begun { before: Some(threads(name)?), recording: None }),
        _ => Err(gone()),
    }
}

/// What waits for the end of the time that was asked for.
pub(super) struct Begun {
    /// What there was at the beginning, where that is compared with what there is at the end.
    before: Option<Profile>,
    recording: Option<Box<dyn Recorded>>,
}

/// The end of it.
pub(super) fn end(work: &Work, begun: Begun) -> Result<Answer, Answer> {
    match begun {
        Begun { before: Some(before), recording: Some(recording) } => compared(work, before, recording),
        Begun { recording: Some(recording), .. } => recorded(work, recording),
        Begun { before: Some(before), .. } => change(work, before),
        _ => Err(gone()),
    }
}

/// A snapshot of the threads, under the name of what was asked for.
fn threads(name: &str) -> Result<Profile, Answer> {
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
fn recorded(work: &Work, recording: Box<dyn Recorded>) -> Result<Answer, Answer> {
    let Work::Record { name, .. } = work else { return Err(gone()) };
    let profile = recording.finish().map_err(|error| failed(name, &error))?;
    written(work, name, &as_asked(name, profile))
}

/// What became of levels since `before`, as a page. What flowed is that of the recording.
fn compared(work: &Work, mut before: Profile, recording: Box<dyn Recorded>) -> Result<Answer, Answer> {
    let Work::Record { name, .. } = work else { return Err(gone()) };
    let after = recording.finish().map_err(|error| failed(name, &error))?;
    before.keep_values(ValueType::is_level);
    before.duration_nanos = after.duration_nanos;
    Ok(difference(work, &before, &as_asked(name, after)))
}

fn difference(work: &Work, before: &Profile, after: &Profile) -> Answer {
    let mut answer = work.head();
    let (before, after) = (work.only(before), work.only(after));
    answer.body = flamegraph::diff_html(&before, &after, &PageOptions::default()).into_bytes();
    answer
}

/// What became of the threads since `before`.
fn change(work: &Work, mut before: Profile) -> Result<Answer, Answer> {
    let Work::Change { name, form, .. } = work else { return Err(gone()) };
    let mut profile = threads(name)?;
    if *form == Form::Page {
        // What is less has no width in a graph of sums, and parts of a sum of nothing say nothing.
        return Ok(difference(work, &before, &profile));
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
    Answer::error(503, "no profiler runs in this process: start one first (everprof's `start`)")
}

fn written(work: &Work, name: &str, profile: &Profile) -> Result<Answer, Answer> {
    work.answer(profile).map_err(|error| failed(name, &error))
}

/// What is there only where it is among the kinds, or can be hooked.
const HOOKED: [&str; 9] = ["heap", "alloc", "allocs", "peak", "lock", "mutex", "block", "gil", "gc"];

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
