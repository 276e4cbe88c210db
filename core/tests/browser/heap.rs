//! Pages of the heap and of locks: an hour with a leak, a cache that fills and stays, one that is renewed, and churn; one
//! moment of it; two versions; and the waits for locks.

use std::fs;
use std::path::Path;

use everprof::encode::flamegraph::{self, PageOptions, Timeline};
use everprof::profile::{Kind, Label, Profile};

use crate::{Builder, Random, plain, write};

const START: i64 = 1_790_000_040_000_000_000;
const MINUTE: i64 = 60_000_000_000;
const MIB: i64 = 1 << 20;
/// What one sample stands for.
const MEAN: i64 = 512 << 10;

const CACHE: &str =
    "main;shop::serve;shop::catalogue::load;shop::catalogue::Cache::fill;alloc::vec::Vec<T>::with_capacity";
const RENEWED: &str = "main;shop::serve;shop::prices::refresh;alloc::vec::Vec<T>::push";
const LEAK: &str = "main;shop::serve;shop::sessions::open;shop::sessions::Sessions::remember;alloc::collections::btree_map::insert";
const CHURN: &str = "main;shop::serve;shop::render::page;alloc::string::String::push_str";
/// Grows as well, in one instance of two.
const SLOW: &str = "main;shop::serve;shop::metrics::observe;alloc::vec::Vec<T>::push";

pub(crate) fn pages(directory: &Path) {
    let periods = hour();
    timeline(directory, "heap-over-time", &periods);
    let full: Vec<_> =
        periods.iter().filter(|(_, profile)| profile.tags["instance"] == "b").cloned().collect();
    // Before it leaks.
    timeline(directory, "heap-full", &full);
    // Started anew after ten minutes.
    let anew = (0..20).map(|minute| ("heap", heap(if minute < 10 { "a" } else { "b" }, minute, true)));
    timeline(directory, "heap-ended", &anew.collect::<Vec<_>>());
    let last = heap("a", 59, true);
    write(directory, "heap", &flamegraph::html(&last, &PageOptions::default()), &[&last]);
    let (before, mut after) = (heap("a", 20, true), heap("a", 50, true));
    after.duration_nanos *= 2;
    let page = flamegraph::diff_html(&before, &after, &PageOptions::default());
    write(directory, "heap-diff", &page, &[&before, &after]);
    let locks = locks("a", 3);
    write(directory, "locks", &flamegraph::html(&locks, &PageOptions::default()), &[&locks]);
    let empty = Profile::new(Kind::Heap);
    write(directory, "heap-empty", &flamegraph::html(&empty, &PageOptions::default()), &[&empty]);
}

fn timeline(directory: &Path, name: &str, periods: &[(&str, Profile)]) {
    let mut timeline = Timeline::new(PageOptions::default());
    periods.iter().for_each(|(kind, profile)| timeline.add(kind, profile));
    fs::write(directory.join(format!("{name}.html")), timeline.html()).unwrap();
    let plain: Vec<serde_json::Value> = periods
        .iter()
        .map(|(kind, profile)| {
            serde_json::json!({
                "kind": kind, "tags": profile.tags, "start": profile.time_nanos.to_string(),
                "samples": profile.samples().map(|sample| plain(profile, sample)).collect::<Vec<_>>(),
            })
        })
        .collect();
    fs::write(directory.join(format!("{name}.json")), serde_json::to_string(&plain).unwrap()).unwrap();
}

/// Instance a leaks, b does not.
fn hour() -> Vec<(&'static str, Profile)> {
    let mut found = Vec::new();
    for minute in 0..60 {
        for instance in ["a", "b"] {
            found.push(("heap", heap(instance, minute, instance == "a")));
            found.push(("peak", peak(instance, minute)));
            found.push(("lock", locks(instance, minute)));
        }
    }
    found
}

fn of(kind: Kind, instance: &str, minute: i64) -> Builder {
    let mut b = Builder::of(kind, "1.0");
    b.profile.period = MEAN;
    b.profile.time_nanos = START + minute * MINUTE;
    b.profile.duration_nanos = MINUTE;
    b.profile.tags.insert("instance".into(), instance.into());
    b
}

fn heap(instance: &str, minute: i64, leaks: bool) -> Profile {
    let mut b = of(Kind::Heap, instance, minute);
    let mut random = Random(minute as u64 * 77 + u64::from(leaks) + 1);
    let mut add = |path: &str, age: i64, allocated: i64, live: i64| {
        let locations = b.stack(path);
        let stack = b.profile.stack(&locations);
        let labels = [Label::number("age", age, "periods"), Label::text("thread_name", "worker")];
        let labels = b.profile.labels(&labels);
        let objects = |bytes: i64| bytes / 1024;
        b.profile.add(stack, labels, &[objects(allocated), allocated, objects(live), live]);
    };
    // Ages as they come in classes: of births in each of the last minutes, those that are alive.
    let mut born = |path: &str, births: &mut dyn FnMut(i64) -> i64| {
        for birth in 0..=minute {
            let (age, bytes) = (minute - birth, births(birth));
            let class = if age == 0 { 0 } else { 1 << age.ilog2() };
            add(path, class, if age == 0 { bytes } else { 0 }, bytes);
        }
    };
    // Full after twelve minutes.
    born(CACHE, &mut |birth| if birth < 12 { 20 * MIB } else { 0 });
    // Eighty, of which a few each minute are new.
    born(RENEWED, &mut |birth| if minute - birth < 4 { (16 + random.below(8) as i64) * MIB } else { 0 });
    if leaks {
        born(LEAK, &mut |_| 2 * MIB);
    }
    born(SLOW, &mut |birth| if leaks && birth % 2 == 0 { MIB } else { 0 });
    add(CHURN, 0, 900 * MIB, MIB);
    b.profile
}

fn peak(instance: &str, minute: i64) -> Profile {
    let mut b = of(Kind::Peak, instance, minute);
    let locations = b.stack(CHURN);
    let (stack, labels) = (b.profile.stack(&locations), b.profile.labels(&[]));
    let bytes = (300 + if minute == 30 { 700 } else { 0 }) * MIB;
    b.profile.add(stack, labels, &[bytes / 1024, bytes]);
    b.profile
}

fn locks(instance: &str, minute: i64) -> Profile {
    let mut b = of(Kind::Lock, instance, minute);
    b.profile.period = 100_000;
    for (path, wait, count, nanos) in [
        (
            "main;shop::serve;shop::sessions::open;std::sys::sync::mutex::futex::Mutex::lock_contended",
            "mutex",
            400,
            30_000_000_000,
        ),
        (
            "main;shop::serve;shop::catalogue::load;std::sys::sync::rwlock::futex::RwLock::read_contended",
            "rwlock",
            50,
            6_000_000_000,
        ),
    ] {
        let locations = b.stack(path);
        let (stack, labels) = (b.profile.stack(&locations), b.profile.labels(&[Label::text("wait", wait)]));
        b.profile.add(stack, labels, &[count, nanos]);
    }
    b.profile
}
