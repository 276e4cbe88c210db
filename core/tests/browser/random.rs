//! Profiles of random content, and beside each what `store::top` and `store::diff` say of it, which the page has to say too.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use everprof::encode::flamegraph::{self, PageOptions};
use everprof::profile::{Kind, Label, Profile, ValueType};
use everprof::store::{diff, top};

use crate::{Builder, Random, write};

/// So many of each; `random.test.mjs` knows it too.
const PAGES: u64 = 8;

/// Names that mean something to JavaScript, and that are like each other.
const NAMES: [&str; 16] = [
    "constructor",
    "__proto__",
    "toString",
    "hasOwnProperty",
    "valueOf",
    "app::a",
    "app::a<T>",
    "app::a<T,U>",
    "app::b",
    "<app::b as app::C>::d",
    "app::名前",
    "app::a::h0123456789abcdef",
    "main",
    "length",
    "0",
    "[lost: ring full]",
];

pub(crate) fn pages(directory: &Path) {
    for seed in 0..PAGES {
        let profile = random(seed, seed);
        let name = format!("random-{seed}");
        write(directory, &name, &flamegraph::html(&profile, &PageOptions::default()), &[&profile]);
        let rows =
            by_name(top(&profile).unwrap().rows.into_iter().map(|row| (row.function, [row.own, row.total])));
        let rows: BTreeMap<String, [String; 2]> =
            rows.into_iter().map(|(name, row)| (name, row.map(|value| value.to_string()))).collect();
        fs::write(directory.join(format!("{name}.top.json")), serde_json::to_string(&rows).unwrap()).unwrap();

        let (before, after) = (random(1_000 + seed, 0), random(2_000 + seed, 0));
        let name = format!("random-pair-{seed}");
        let page = flamegraph::diff_html(&before, &after, &PageOptions::default());
        write(directory, &name, &page, &[&before, &after]);
        let rows: BTreeMap<String, [f64; 6]> = diff(&before, &after)
            .unwrap()
            .rows
            .into_iter()
            .map(|row| {
                let (own, total) = (row.own, row.total);
                (row.function, [own.before, own.after, own.z, total.before, total.after, total.z])
            })
            .collect();
        fs::write(directory.join(format!("{name}.diff.json")), serde_json::to_string(&rows).unwrap())
            .unwrap();
    }
    odd_units(directory);
}

fn by_name(rows: impl Iterator<Item = (String, [i64; 2])>) -> BTreeMap<String, [i64; 2]> {
    let mut found: BTreeMap<String, [i64; 2]> = BTreeMap::new();
    for (name, row) in rows {
        let sum = found.entry(name).or_default();
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    found
}

/// `sort` chooses what the values are like.
fn random(seed: u64, sort: u64) -> Profile {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ ((seed + 1) * 0x2545_f491));
    let mut b = Builder::of(Kind::Cpu, "1.0");
    b.profile.duration_nanos = (1 + random.below(90) as i64) * 1_000_000_000;
    for _ in 0..random.below(80) {
        let depth = 1 + random.below(12);
        let path: Vec<&str> = (0..depth).map(|_| NAMES[random.below(16) as usize]).collect();
        let count = 1 + random.below(1_000) as i64;
        let nanos = match sort % 4 {
            0 => count * 10_101_010,
            // Beyond what a JavaScript number holds.
            1 => 9_007_199_254_740_993 + random.below(1 << 54) as i64,
            2 => random.below(2_000_000_000) as i64 - 1_000_000_000,
            _ => random.below(2) as i64,
        };
        let locations = b.stack(&path.join(";"));
        let stack = b.profile.stack(&locations);
        let label = Label::text(NAMES[random.below(16) as usize], NAMES[random.below(16) as usize]);
        let labels = b.profile.labels(&[label]);
        b.profile.add(stack, labels, &[count, nanos]);
    }
    if sort.is_multiple_of(4) && seed.is_multiple_of(2) {
        b.profile.tags.insert("effective_rate_hz".into(), format!("{}", 20 + random.below(60)));
    }
    b.profile
}

/// Units and types that are names of JavaScript's objects, a rate that no signal has, sums that no integer holds.
fn odd_units(directory: &Path) {
    let types = vec![
        ValueType::new("samples", "count"),
        ValueType::new("__proto__", "constructor"),
        ValueType::new("constructor", "__proto__"),
        ValueType::new("time", "nanoseconds"),
    ];
    let mut profile = Profile::with_types(types, ValueType::new("valueOf", "toString"), "__proto__");
    (profile.time_nanos, profile.duration_nanos) = (i64::MAX, i64::MAX);
    profile.tags.insert("effective_rate_hz".into(), "1e-300".into());
    for stack in 0..4 {
        let labels = profile.labels(&[Label::number("n", stack, "")]);
        let stack = profile.stack(&[]);
        profile.add(stack, labels, &[i64::MAX, 5, 7, i64::MAX]);
    }
    write(directory, "odd-units", &flamegraph::html(&profile, &PageOptions::default()), &[&profile]);
}
