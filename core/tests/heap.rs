//! Truth of the profiles of allocations and of the live heap, in a program that counts its own.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;

use everprof::profile::{Kind, LabelValue, Profile};
use everprof::{Profiler, store};

#[global_allocator]
static ALLOCATOR: everprof::Allocator = everprof::Allocator::new();

/// Bytes between two samples, on the average.
const INTERVAL: f64 = 65_536.0;

/// Keeps blocks of one size, of which the first `kept` stay.
type Site = fn(usize, usize, usize) -> Vec<Vec<u8>>;

macro_rules! sites {
    ($($name:ident)+) => {
        $(#[inline(never)]
        fn $name(size: usize, count: usize, kept: usize) -> Vec<Vec<u8>> {
            // What keeps the blocks is of another place.
            let mut blocks = list(kept);
            for number in 0..count {
                let block = black_box(Vec::with_capacity(size));
                if number < kept {
                    blocks.push(block);
                }
            }
            // Not a tail call, and no two of them the same code.
            black_box(stringify!($name));
            blocks
        })+
        const SITES: &[(&str, Site)] = &[$((stringify!($name), $name)),+];
    };
}

sites! {
    s00 s01 s02 s03 s04 s05 s06 s07 s08 s09 s10 s11 s12 s13 s14 s15 s16 s17 s18 s19 s20 s21 s22 s23 s24
    s25 s26 s27 s28 s29 s30 s31 s32 s33 s34 s35 s36 s37 s38 s39 s40 s41 s42 s43 s44 s45 s46 s47 s48 s49
}

#[inline(never)]
fn list(kept: usize) -> Vec<Vec<u8>> {
    Vec::with_capacity(kept)
}

/// What a site does: sizes from 8 bytes to 64 MiB, each with some hundred samples to be expected, or as many as are exact.
fn plan(site: usize) -> (usize, usize) {
    let size = (8.0 * (64.0 * 1024.0 * 1024.0 / 8.0_f64).powf(site as f64 / 49.0)).round() as usize;
    let chance = 1.0 - (-(size as f64) / INTERVAL).exp();
    (size, ((300.0 / chance) as usize).clamp(20, 3_000_000))
}

/// The sums of a profile by the site in the stack, for rows of which `is_wanted` holds.
fn by_site(profile: &Profile, is_wanted: impl Fn(i64) -> bool) -> BTreeMap<String, Vec<i64>> {
    let mut sums: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for sample in profile.samples() {
        let age = profile
            .get_labels(sample.labels)
            .iter()
            .find(|label| label.key == "age")
            .map(|label| &label.value);
        let age = if let Some(LabelValue::Number(age, unit)) = age {
            (unit == "periods").then_some(*age)
        } else {
            None
        };
        if !is_wanted(age.unwrap_or(-1)) {
            continue;
        }
        let lines = profile.get_stack(sample.stack).iter().flat_map(|id| &profile.get_location(*id).lines);
        let mut names = lines.map(|line| profile.text(profile.get_function(line.function).name));
        let of_ours = |name: &str| {
            let last = name.rsplit("::").next().unwrap_or_default();
            ["leak", "cache", "list"].contains(&last) || SITES.iter().any(|(site, _)| *site == last)
        };
        let site =
            names.find(|name| of_ours(name)).and_then(|name| name.rsplit("::").next()).unwrap_or("elsewhere");
        let site = site.to_owned();
        let sum = sums.entry(site).or_insert_with(|| vec![0; sample.values.len()]);
        sum.iter_mut().zip(sample.values).for_each(|(sum, value)| *sum += value);
    }
    sums
}

fn start(dir: &Path) -> Profiler {
    let _ = std::fs::remove_dir_all(dir);
    let builder = Profiler::builder().dir(dir).set("kinds", "alloc,heap").set("interval_bytes", "64KiB");
    // More than the governor would let a program without optimisation have.
    let profiler = builder.set("period_s", "3600").set("cpu_budget_percent", "100").start().unwrap();
    assert_eq!(profiler.stats().last_problem, None);
    profiler
}

/// Closes the period, and waits until it is exported, on a machine with much to do as well: another one would be a period more.
fn flush(profiler: &Profiler) {
    let before = profiler.stats().exported;
    if profiler.flush().is_err() {
        let exported = (0..600).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(100));
            profiler.stats().exported > before
        });
        assert!(exported, "{:?}", profiler.stats());
    }
}

/// The profiles of a kind, in the order of their periods.
fn profiles(dir: &Path, kind: Kind) -> Vec<Profile> {
    let query = store::Query::default().kind(kind.name());
    let found = store::list(dir, &query).unwrap();
    found.iter().map(|entry| store::read(&entry.path).unwrap()).collect()
}

/// One test: an account is one for the process.
#[test]
fn sites_ages_and_leaks_are_told_as_they_are() {
    let dir = std::env::temp_dir().join(format!("everprof-test-{}-heap", std::process::id()));
    known_bytes(&dir.join("bytes"));
    a_leak_stands_out(&dir.join("leak"));
    the_leak_is_named_and_the_cache_is_not(&dir.join("grows"));
    std::fs::remove_dir_all(dir).unwrap();
}

/// Every site within 3 sigma, the total within 1 %; what is kept likewise.
fn known_bytes(dir: &Path) {
    let profiler = start(dir);
    everprof_probe::heap::seed(6);
    let mut kept = Vec::new();
    for (number, (_, site)) in SITES.iter().enumerate() {
        let (size, count) = plan(number);
        kept.push(site(size, count, count / 2));
        // Each has three hundred samples, and the ring has room for a thousand.
        if number % 2 == 1 {
            flush(&profiler);
        }
    }
    assert_eq!(profiler.stats().alloc_lost, 0);
    kept.truncate(25);
    flush(&profiler);
    let (heaps, allocs) = (profiles(dir, Kind::Heap), profiles(dir, Kind::Alloc));
    let (told, told_again) = (sum(&heaps), sum(&allocs));
    leaves_say_what_was_wanted(&allocs[0]);
    let [.., full, half] = &heaps[..] else { unreachable!() };
    let (full, half) = (by_site(full, |_| true), by_site(half, |_| true));
    let mut total = [0.0; 2];
    for (number, (name, _)) in SITES.iter().enumerate() {
        let (size, count) = plan(number);
        let chance = 1.0 - (-(size as f64) / INTERVAL).exp();
        let check = |what: &str, told: &[i64], count: usize| {
            let (objects, bytes) = (told[0], told[1]);
            // Of `count` with the chance p, k are seen, which stand for k / p; and what is told is rounded.
            let sigma = (count as f64 * (1.0 - chance) / chance).sqrt();
            let off = objects as f64 - count as f64;
            assert!(off.abs() <= 3.0 * sigma + 1.0, "{name} {what}: {objects} of {count}, sigma {sigma:.1}");
            let rounded = (bytes as f64 / size as f64 - objects as f64).abs();
            assert!(rounded <= 1.0, "{name} {what}: {bytes} bytes for {objects} of {size}");
        };
        let told = &told[*name];
        assert_eq!(told[..2], told_again[*name][..], "{name}");
        check("allocated", told, count);
        check("live", &full[*name][2..], count / 2);
        match half.get(*name) {
            Some(half) if number < 25 => assert_eq!(half[2..], full[*name][2..], "{name} is kept"),
            found => assert!(number >= 25 && found.is_none_or(|row| row[2] == 0), "{name}: {found:?}"),
        }
        total = [total[0] + told[1] as f64, total[1] + (size * count) as f64];
    }
    assert!((total[0] / total[1] - 1.0).abs() < 0.01, "{} of {} bytes", total[0], total[1]);
}

/// The leaf is a function of `Vec`, or the site itself where that is inlined: not what it allocates by, nor anything of ours.
fn leaves_say_what_was_wanted(profile: &Profile) {
    let mut seen = 0;
    for sample in profile.samples() {
        let lines: Vec<_> =
            profile.get_stack(sample.stack).iter().flat_map(|id| &profile.get_location(*id).lines).collect();
        let function = |line: &everprof::profile::Line| profile.get_function(line.function);
        let name = |line| profile.text(function(line).name);
        if !lines.iter().any(|line| name(line).ends_with("::s00") || name(line) == "s00") {
            continue;
        }
        seen += 1;
        let (leaf, file) = (name(lines[0]), profile.text(function(lines[0]).filename));
        assert!(file.contains("library/alloc/src/vec/") || leaf.ends_with("s00"), "{leaf} in {file}");
    }
    assert!(seen > 0);
}

/// What several profiles tell of each site, together.
fn sum(profiles: &[Profile]) -> BTreeMap<String, Vec<i64>> {
    let mut sums: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for (site, values) in profiles.iter().flat_map(|profile| by_site(profile, |_| true)) {
        let sum = sums.entry(site).or_insert_with(|| vec![0; values.len()]);
        sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
    }
    sums
}

mod shop {
    use std::hint::black_box;

    /// Fills up in a third of the time, and stays.
    #[inline(never)]
    pub(crate) fn cache(all: &mut Vec<Vec<u8>>) {
        if all.len() < 4_000 {
            (0..1_000).for_each(|_| all.push(black_box(Vec::with_capacity(20_000))));
        }
    }

    /// A part of it is another one each time.
    #[inline(never)]
    pub(crate) fn renewed(all: &mut Vec<Vec<u8>>, period: usize) {
        all.resize_with(900, Vec::new);
        let third = &mut all[period % 3 * 300..][..300];
        third.iter_mut().for_each(|block| *block = black_box(Vec::with_capacity(20_000)));
    }

    #[inline(never)]
    pub(crate) fn leak(into: &mut Vec<Vec<u8>>) {
        (0..150).for_each(|_| into.push(black_box(Vec::with_capacity(20_000))));
    }

    #[inline(never)]
    pub(crate) fn churn() {
        (0..3_000).for_each(|_| drop(black_box(Vec::<u8>::with_capacity(20_000))));
    }
}

/// A cache that fills and stays, one that is renewed, churn, and a leak, which is named first, alone.
fn the_leak_is_named_and_the_cache_is_not(dir: &Path) {
    let profiler = start(dir);
    let [mut leaked, mut cached, mut renewed] = [(); 3].map(|()| list(10_000));
    for period in 0..12 {
        shop::cache(&mut cached);
        shop::renewed(&mut renewed, period);
        shop::leak(&mut leaked);
        shop::churn();
        flush(&profiler);
    }
    let heaps = store::list(dir, &store::Query::default().kind("heap")).unwrap();
    let leaks = store::leaks(&heaps, 1);
    let told = leaks.render(10);
    // The last one may be shorter than the others, and is then left out.
    assert!((11..=12).contains(&leaks.count) && leaks.instances == 1, "{told}");
    let named: Vec<&str> = leaks.growing.iter().map(|growing| growing.functions[0].as_str()).collect();
    assert!(named.first().is_some_and(|first| first.contains("shop::leak")), "{told}");
    assert!(named.iter().all(|name| !name.contains("cache") && !name.contains("churn")), "{told}");
    let first = &leaks.growing[0];
    // 3 MB a period, of which the last is too young.
    assert!((22_000_000..44_000_000).contains(&first.live_bytes), "{told}");
    let last = store::read(&heaps[11].path).unwrap();
    let by_site = by_site(&last, |age| age >= 1);
    assert!(by_site["cache"][3] > first.live_bytes, "the cache is larger: {by_site:?}");
    let head = format!("What grows: blocks that survived 1 period, in {} profiles\n", leaks.count);
    assert!(told.starts_with(&head), "{told}");
}

#[inline(never)]
fn leak(into: &mut Vec<Vec<u8>>) {
    (0..100).for_each(|_| into.push(black_box(Vec::with_capacity(20_000))));
}

#[inline(never)]
fn cache(all: &mut Vec<Vec<u8>>) {
    all.clear();
    (0..1000).for_each(|_| all.push(black_box(Vec::with_capacity(20_000))));
}

/// A cache that is filled anew in each period is ten times as large, but none of it is old.
fn a_leak_stands_out(dir: &Path) {
    let profiler = start(dir);
    let (mut leaked, mut cached) = (list(1000), list(1000));
    for _ in 0..6 {
        leak(&mut leaked);
        cache(&mut cached);
        flush(&profiler);
    }
    let last = profiles(dir, Kind::Heap).pop().unwrap();
    let (old, new) = (by_site(&last, |age| age >= 1), by_site(&last, |age| age == 0));
    assert!(new["cache"][3] > 15_000_000, "{new:?}");
    assert!(old["leak"][3] > 5_000_000, "{old:?}");
    assert!(!old.contains_key("cache"), "{old:?}");
    let all = by_site(&last, |_| true);
    assert!(all["cache"][3] > all["leak"][3]);
}
