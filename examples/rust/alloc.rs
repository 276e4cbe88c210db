//! Allocations: what allocates, and what of it stays. One line makes everprof's the program's allocator; a program without it
//! is told by its calls of `malloc`.
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::hint::black_box;

use everprof::Profiler;
use everprof::profile::Profile;
use everprof::store::{self, Query};

#[global_allocator]
static ALLOCATOR: everprof::Allocator = everprof::Allocator::new();

fn main() -> everprof::Result<()> {
    let profiler = Profiler::builder()
        .dir("target/examples/alloc")
        .set("kinds", "cpu,heap")
        .set("interval_bytes", "64KiB")
        .tag("run", &std::process::id().to_string())
        .start()?;

    let cache = fill_cache();
    (0..200).for_each(|_| drop(render_page()));

    profiler.stop()?;
    let query = Query::default().kind("heap").tag("run", std::process::id().to_string());
    let profile = store::merge(&store::list("target/examples/alloc", &query)?)?.profile;
    for (function, [allocated, lives]) in by_function(&profile, &["fill_cache", "render_page"]) {
        println!("{function:12} allocated {:3} MB, {:3} MB live", allocated / 1_000_000, lives / 1_000_000);
    }
    drop(cache);
    Ok(())
}

/// 20 MB that stay.
#[inline(never)]
fn fill_cache() -> Vec<Vec<u8>> {
    black_box((0..2000).map(|_| black_box(vec![1; 10_000])).collect())
}

/// Half a megabyte that does not.
#[inline(never)]
fn render_page() -> Vec<Vec<u8>> {
    black_box((0..50).map(|_| black_box(vec![2; 10_000])).collect())
}

/// Bytes that were allocated, and that live, below each of some functions.
fn by_function<'f>(profile: &Profile, functions: &[&'f str]) -> BTreeMap<&'f str, [i64; 2]> {
    let mut sums = BTreeMap::new();
    for sample in profile.samples() {
        let lines = profile.get_stack(sample.stack).iter().flat_map(|id| &profile.get_location(*id).lines);
        let mut names = lines.map(|line| profile.text(profile.get_function(line.function).name));
        if let Some(function) = names.find_map(|name| functions.iter().find(|part| name.ends_with(**part))) {
            let sum: &mut [i64; 2] = sums.entry(*function).or_default();
            *sum = [sum[0] + sample.values[1], sum[1] + sample.values[3]];
        }
    }
    sums
}
