//! What a directory of profiles says: the functions that cost the most, and a flame graph; of two versions also what
//! the newer one made slower, and a differential flame graph. Where there are profiles of the wall clock, also whether the
//! service is bound by its processors or by waiting.
//!
//! `cargo run --release --example report -- DIRECTORY OUT [BEFORE AFTER]`, where BEFORE and AFTER are versions;
//! `report timeline DIRECTORY > page.html` makes a page of all periods, and `report leaks DIRECTORY [SURVIVED]` says what of
//! the live heap grows: of blocks that have survived so many periods at least, 1 unless told otherwise.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::{Path, PathBuf};

use everprof::encode::flamegraph::{self, PageOptions};
use everprof::profile::Profile;
use everprof::store::{self, Diff, Query};
use everprof::{Error, ErrorKind, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["timeline", directory] => timeline(directory),
        ["leaks", directory] => leaks(directory, 1),
        ["leaks", directory, survived] => leaks(directory, survived.parse().unwrap_or(1)),
        [directory, out] => one(directory, Path::new(out)),
        [directory, out, before, after] => compare(directory, Path::new(out), before, after),
        _ => Err(Error::new(
            ErrorKind::InvalidOption,
            "usage: report DIRECTORY OUT [BEFORE AFTER], report timeline DIRECTORY, or report leaks DIRECTORY [SURVIVED]",
        )),
    }
}

fn one(directory: &str, out: &Path) -> Result<()> {
    let profile = read(directory, Query::default().kind("cpu"))?;
    let wall = verdict(directory, Query::default())?;
    println!("{}", store::top(&profile)?.render(15));
    let page = write(out, "flamegraph.html", &page(&profile, wall.as_ref()))?;
    println!("flame graph:               {}", page.display());
    println!("profiles:                  {directory}");
    Ok(())
}

fn compare(directory: &str, out: &Path, before: &str, after: &str) -> Result<()> {
    let version = |version: &str| read(directory, Query::default().kind("cpu").tag("version", version));
    let (old, new) = (version(before)?, version(after)?);
    let wall = verdict(directory, Query::default().tag("version", after))?;
    println!("Top functions of {after}: {}", store::top(&new)?.render(15));

    let diff = store::diff(&old, &new)?;
    println!("{before} and {after}: {}", diff.render(8));
    tell_causes("CPU seconds a second", &diff, before, after, 1e9);
    // The same of what else was profiled.
    for (kind, what, unit) in
        [("alloc", "MB allocated a second", 1e6), ("lock", "seconds of waiting for locks a second", 1e9)]
    {
        let of = |version| store::list(directory, &Query::default().kind(kind).tag("version", version));
        let (old, new) = (of(before)?, of(after)?);
        if !old.is_empty() && !new.is_empty() {
            let diff = store::diff(&store::merge(&old)?.profile, &store::merge(&new)?.profile)?;
            tell_causes(what, &diff, before, after, unit);
        }
    }

    let graph = write(out, "flamegraph.html", &page(&new, wall.as_ref()))?;
    let change = write(out, "diff.html", &flamegraph::diff_html(&old, &new, &PageOptions::default()))?;
    println!("flame graph of {after}:        {}", graph.display());
    println!("differential flame graph:  {}", change.display());
    println!("profiles:                  {directory}");
    Ok(())
}

/// Prints the functions that cause the most of what is more in `after`.
fn tell_causes(what: &str, diff: &Diff, before: &str, after: &str, unit: f64) {
    println!("{what}, {before} -> {after}: what got more");
    // Functions of the standard library grow with those that call them: whoever looks for a cause looks elsewhere first.
    let causes = diff.regressed().into_iter().filter(|change| !change.file.starts_with("library/"));
    for change in causes.take(5) {
        let (was, is) = (change.total.before / unit, change.total.after / unit);
        println!("  REGRESSED  {}  {was:.3} -> {is:.3}  (in {})", change.function, change.file);
    }
    println!();
}

/// Prints a page of all periods: what was counted over time, and the flame graph of any stretch of it.
fn timeline(directory: &str) -> Result<()> {
    let made = store::timeline(directory, &Query::default(), PageOptions::default())?;
    for file in &made.skipped {
        eprintln!("left out: {}: {}", file.path.display(), file.reason);
    }
    eprintln!("{} profiles; {}", made.count, made.notes.join("; "));
    println!("{}", made.html);
    Ok(())
}

/// Says what of the live heap grows, and where the heap is largest.
fn leaks(directory: &str, survived: i64) -> Result<()> {
    let heaps = store::list(directory, &Query::default().kind("heap"))?;
    let leaks = store::leaks(&heaps, survived);
    for file in &leaks.skipped {
        eprintln!("left out: {}: {}", file.path.display(), file.reason);
    }
    print!("{}", leaks.render(10));
    if !heaps.is_empty() {
        println!("\nThe live heap at the end: {}", store::top(&store::merge(&heaps)?.profile)?.render(10));
    }
    Ok(())
}

/// Says what bounds the service, where profiles of the wall clock were taken: their sum.
fn verdict(directory: &str, query: Query) -> Result<Option<Profile>> {
    let profiles = store::list(directory, &query.kind("wall"))?;
    if profiles.is_empty() {
        return Ok(None);
    }
    let wall = store::merge(&profiles)?.profile;
    let verdict = wall.verdict()?;
    println!("{verdict}\n");
    // The same of each kind of request: what is slow may be one of them.
    for request in verdict.requests.iter().take(8) {
        println!("  {request}");
    }
    println!();
    Ok(Some(wall))
}

/// What ran and, where that is known, what waited: one page.
fn page(cpu: &Profile, wall: Option<&Profile>) -> String {
    let kinds: Vec<(&str, &Profile)> =
        [("cpu", cpu)].into_iter().chain(wall.map(|wall| ("wall", wall))).collect();
    flamegraph::kinds_html(&kinds, &PageOptions::default())
}

/// The sum of all profiles that `query` asks for.
fn read(directory: &str, query: Query) -> Result<Profile> {
    let merged = store::merge(&store::list(directory, &query)?)?;
    for file in merged.skipped {
        println!("left out: {}: {}", file.path.display(), file.reason);
    }
    Ok(merged.profile)
}

fn write(out: &Path, name: &str, page: &str) -> Result<PathBuf> {
    let path = out.join(name);
    let failed = |error| Error::io(ErrorKind::Storage, format!("cannot write {}", path.display()), error);
    std::fs::write(&path, page).map_err(failed)?;
    Ok(path)
}
