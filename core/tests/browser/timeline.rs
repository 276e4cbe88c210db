//! Timelines: an hour of two versions with a gap, one period, none, a clock that was set back, and one as large as any.

use std::fs;
use std::path::Path;
use std::time::Instant;

use everprof::encode::flamegraph::{PageOptions, Timeline};
use everprof::profile::{Kind, Label, Profile};

use crate::wall::{self, POOL};
use crate::{Builder, Random, plain};

const START: i64 = 1_790_000_040_000_000_000;
const MINUTE: i64 = 60_000_000_000;

/// Writes the pages, and beside each its profiles as plain JSON.
pub(crate) fn write(directory: &Path, is_whole: bool) {
    let periods = hour();
    page(directory, "timeline", &periods);
    page(directory, "timeline-one", &periods[..2]);
    page(directory, "timeline-none", &[]);
    page(directory, "timeline-back", &set_back());
    page(directory, "timeline-years", &years());
    page(directory, "timeline-hostile", &hostile());
    if is_whole {
        large(directory);
    }
}

fn page(directory: &Path, name: &str, periods: &[(&str, Profile)]) {
    let mut timeline = Timeline::new(PageOptions::default());
    for (kind, profile) in periods {
        timeline.add(kind, profile);
    }
    if periods.is_empty() {
        timeline.note("3 profiles of before the year 2000 are left out");
    }
    let page = timeline.html();
    let data =
        page.split("id=\"data\">").nth(1).and_then(|rest| rest.split("</script>").next()).unwrap_or("");
    println!("{name}.html: {} periods, {} bytes of data", periods.len(), data.len());
    fs::write(directory.join(format!("{name}.html")), page).unwrap();
    let plain: Vec<serde_json::Value> = periods
        .iter()
        .map(|(kind, profile)| {
            serde_json::json!({
                "kind": kind, "tags": profile.tags, "start": profile.time_nanos.to_string(),
                "duration": profile.duration_nanos.to_string(),
                "samples": profile.samples().map(|sample| plain(profile, sample)).collect::<Vec<_>>(),
            })
        })
        .collect();
    fs::write(directory.join(format!("{name}.json")), serde_json::to_string(&plain).unwrap()).unwrap();
}

fn period(kind: Kind, version: &str, instance: &str, minute: i64) -> Builder {
    let mut b = Builder::of(kind, version);
    b.profile.time_nanos = START + minute * MINUTE;
    b.profile.duration_nanos = MINUTE;
    b.profile.tags.insert("instance".into(), instance.into());
    b
}

/// 60 periods: version 1.0 up to the 25th minute, five minutes of nothing, 1.1 in two instances, of which one waits
/// longer for its upstream from the 45th minute on.
fn hour() -> Vec<(&'static str, Profile)> {
    let mut found = Vec::new();
    for minute in (0..60).filter(|minute| !(25..30).contains(minute)) {
        let instances: &[(&str, &str)] =
            if minute < 25 { &[("1.0", "a1")] } else { &[("1.1", "b1"), ("1.1", "b2")] };
        for (version, instance) in instances {
            let slow = if *instance == "b1" && minute >= 45 { 4 } else { 1 };
            found.push(("cpu", cpu(version, instance, minute)));
            found.push(("wall", waits(version, instance, minute, slow)));
        }
    }
    found
}

fn cpu(version: &str, instance: &str, minute: i64) -> Profile {
    let mut b = period(Kind::Cpu, version, instance, minute);
    let wave = 100 + 40 * (minute % 12 - 6).abs();
    for (place, path) in [
        "shop::handlers::cart;shop::pricing::total;core::iter::traits::iterator::Iterator::fold",
        "shop::handlers::list;shop::render::page;deflate;deflate_slow",
        "shop::handlers::list;shop::catalog::sort",
    ]
    .iter()
    .enumerate()
    {
        let endpoint = if place == 0 { "/cart" } else { "/list" };
        let labels = [
            Label::text("thread_name", format!("worker-{place}")),
            Label::number("thread_id", minute * 100 + place as i64, ""),
            Label::text("endpoint", endpoint),
        ];
        b.add(&format!("{POOL};{path}"), &labels, wave * (3 - place as i64));
    }
    if version == "1.1" {
        b.add(&format!("{POOL};shop::handlers::cart;shop::pricing::discount"), &[], 2 * wave);
    }
    b.profile
}

fn waits(version: &str, instance: &str, minute: i64, slow: i64) -> Profile {
    let mut b = period(Kind::Wall, version, instance, minute);
    let wave = 800 + 300 * (minute % 12 - 6).abs();
    let cart = format!("{POOL};shop::handlers::cart");
    let list = format!("{POOL};shop::handlers::list");
    wall::add(
        &mut b,
        "worker-0",
        "/cart",
        "network",
        &format!("{cart};shop::upstream::fetch;recv"),
        6 * wave * slow,
    );
    wall::add(&mut b, "worker-1", "/cart", "on_cpu", &format!("{cart};shop::pricing::total"), 3 * wave);
    wall::add(&mut b, "worker-1", "/list", "disk", &format!("{list};shop::catalog::load;pread64"), wave);
    wall::add(&mut b, "worker-2", "/list", "runnable", &format!("{list};shop::render::page"), wave / 4);
    wall::add(
        &mut b,
        "worker-3",
        "",
        "events",
        "clone3;start_thread;shop::server::accept;epoll_wait",
        58_000,
    );
    b.profile
}

/// After three minutes the clock goes back by two and a half.
fn set_back() -> Vec<(&'static str, Profile)> {
    let mut found: Vec<(&str, Profile)> = (0..6).map(|minute| ("cpu", cpu("1.0", "a1", minute))).collect();
    for (_, profile) in found.iter_mut().skip(3) {
        profile.time_nanos -= 5 * MINUTE / 2;
    }
    found
}

/// Two periods of the same day, four years apart.
fn years() -> Vec<(&'static str, Profile)> {
    let mut found = vec![("cpu", cpu("1.0", "a1", 0)), ("cpu", cpu("1.0", "a1", 0))];
    found[1].1.time_nanos += 4 * 365 * 24 * 60 * MINUTE;
    found
}

/// Kinds, versions and instances with names that try to be something else, values without a duration, another kind.
fn hostile() -> Vec<(&'static str, Profile)> {
    let names = [
        "<img src=x onerror=window.pwned=1>",
        "\u{202e}0.1",
        "</script><script>window.pwned=2</script>",
        "__proto__",
    ];
    let mut found = Vec::new();
    for (minute, name) in names.into_iter().enumerate() {
        let mut profile = cpu(name, name, minute as i64);
        profile.tags.insert(name.into(), "x".repeat(1 << 20));
        found.push((name, profile));
        let mut moment = cpu("1.0", name, minute as i64);
        moment.duration_nanos = 0;
        found.push(("threads", moment));
    }
    found
}

const STACKS: usize = 10_000;

/// 240 periods of 10,000 stacks, some of which come and go.
fn large(directory: &Path) {
    let begun = Instant::now();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut b = period(Kind::Cpu, "2.0", "a1", 0);
    let stacks: Vec<_> = (0..STACKS + 2_400)
        .map(|stack| {
            let mut at = stack;
            let mut path = String::from("main");
            for depth in 0..(10 + stack % 20) {
                let choice = if depth < 4 { at % 3 } else { at % 7 };
                path += &format!(";m{depth}::f{choice}");
                at = at / 3 + choice;
            }
            let locations = b.stack(&format!("{path};leaf::f{stack}"));
            b.profile.stack(&locations)
        })
        .collect();
    let threads: Vec<_> = (0..8)
        .map(|worker| b.profile.labels(&[Label::text("thread_name", format!("worker-{worker}"))]))
        .collect();
    let mut timeline = Timeline::new(PageOptions::default());
    for minute in 0..240 {
        let mut profile = b.profile.clone();
        profile.time_nanos = START + minute * MINUTE;
        for stack in 10 * minute as usize..10 * minute as usize + STACKS {
            let count = 1 + random.below(3) as i64;
            let nanos = count * 10_101_010 + random.below(1_000_000) as i64;
            profile.add(stacks[stack], threads[stack % 8], &[count, nanos]);
        }
        timeline.add("cpu", &profile);
    }
    let made = begun.elapsed();
    let page = timeline.html();
    println!(
        "timeline-large.html: {} bytes, made in {made:?}, written in {:?}",
        page.len(),
        begun.elapsed() - made
    );
    fs::write(directory.join("timeline-large.html"), page).unwrap();
}
