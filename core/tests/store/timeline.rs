//! A directory as one page over time: nothing is lost or counted twice, however much is summed up.

use everprof::encode::flamegraph::PageOptions;
use everprof::encode::{Encoded, Set};
use everprof::profile::{Function, Kind, Label, Line, Location, Profile};
use everprof::store::{Directory, Query, Retention, TimelinePage, timeline};

use crate::support::Folder;

const START: i64 = 1_790_000_040_000_000_000;
const MINUTE: i64 = 60_000_000_000;

#[test]
fn periods_of_one_instance_are_shown_as_they_are() {
    let dir = Folder::new("timeline-few");
    // With a gap, and the last one shorter.
    let minutes = (0..50).filter(|minute| !(20..30).contains(minute));
    let times: Vec<(i64, i64)> = minutes.map(|minute| (START + minute * MINUTE, MINUTE)).collect();
    let all = write(&dir, "a", "1.0", &times);
    let made = timeline(&*dir, &Query::default(), PageOptions::default()).unwrap();
    assert_eq!((made.count, made.notes.len(), made.skipped.len()), (80, 0, 0));
    let data = data(&made);
    assert_eq!(data["slots"].as_array().unwrap().len(), 2 * 40);
    assert_eq!(data["slots"][40], (START + 30 * MINUTE) / 1000, "after the gap");
    assert_eq!(totals(&data, "cpu"), all);
    assert_eq!(data["title"], "shop over time");
}

#[test]
fn more_periods_than_there_is_room_for_are_summed_up_and_it_is_said() {
    let dir = Folder::new("timeline-many");
    let times: Vec<(i64, i64)> = (0..500).map(|minute| (START + minute * MINUTE, MINUTE)).collect();
    let all = write(&dir, "a", "1.0", &times);
    let made = timeline(&*dir, &Query::default(), PageOptions::default()).unwrap();
    assert_eq!(made.notes, ["periods are summed up by 5 minutes"]);
    assert!(made.html.contains("periods are summed up by 5 minutes"));
    let data = data(&made);
    assert_eq!(totals(&data, "cpu"), all);
    let slots = data["slots"].as_array().unwrap();
    assert!((200..=2 * 101 + 2).contains(&slots.len()), "{}", slots.len());
    let covered: i64 = covers(&data, "cpu").iter().sum();
    assert_eq!(covered, 500 * MINUTE / 1000, "each minute was measured once");
}

#[test]
fn instances_side_by_side_stand_in_lanes() {
    let dir = Folder::new("timeline-lanes");
    let times =
        |from: i64| -> Vec<(i64, i64)> { (0..10).map(|minute| (from + minute * MINUTE, MINUTE)).collect() };
    let mut all = write(&dir, "a", "1.0", &times(START));
    // Not in step with the first.
    all += write(&dir, "b", "1.1", &times(START + MINUTE / 3));
    let made = timeline(&*dir, &Query::default(), PageOptions::default()).unwrap();
    let data = data(&made);
    assert_eq!(data["lanes"].as_array().unwrap().len(), 2);
    assert_eq!(totals(&data, "cpu"), all);
    let covers = covers(&data, "cpu");
    assert!(
        covers[1..9].iter().all(|cover| *cover == MINUTE / 1000),
        "both at once, all the time: {covers:?}"
    );
    let of_one = timeline(&*dir, &Query::default().tag("version", "1.1"), PageOptions::default()).unwrap();
    assert_eq!(of_one.count, 20);
}

#[test]
fn instances_that_are_summed_up_run_at_the_same_time_not_one_after_the_other() {
    let dir = Folder::new("timeline-fleet");
    let times: Vec<(i64, i64)> = (0..4).map(|minute| (START + minute * MINUTE, MINUTE)).collect();
    for instance in 0..20 {
        write(&dir, &format!("i{instance}"), if instance < 10 { "1.0" } else { "1.1" }, &times);
    }
    let made = timeline(&*dir, &Query::default(), PageOptions::default()).unwrap();
    let data = data(&made);
    assert_eq!(data["lanes"].as_array().unwrap().len(), 2);
    assert_eq!(covers(&data, "cpu"), [MINUTE / 1000; 4], "twenty processes for a minute take a minute");
}

#[test]
fn snapshots_are_counted_not_timed() {
    let dir = Folder::new("timeline-snapshots");
    let mut directory = Directory::new(&*dir, Retention { age: std::time::Duration::MAX, bytes: u64::MAX });
    for minute in 0..480 {
        let mut profile = profile(Kind::Threads, START + minute * MINUTE, 0, 3);
        let tags = std::collections::BTreeMap::from([("service".to_owned(), "shop".to_owned())]);
        profile.tags = tags.clone();
        let profiles = vec![Encoded::pprof(Kind::Threads, &profile)];
        let (time_nanos, duration_nanos) = (profile.time_nanos, MINUTE);
        directory
            .write(&Set {
                tags,
                sequence: minute as u64,
                time_nanos,
                duration_nanos,
                profiles,
                ..Set::default()
            })
            .unwrap();
    }
    let made = timeline(&*dir, &Query::default(), PageOptions::default()).unwrap();
    let data = data(&made);
    let looks = data["profiles"].as_array().unwrap().iter().map(|profile| profile["looks"].as_i64().unwrap());
    assert_eq!(looks.sum::<i64>(), 480);
}

#[test]
fn files_with_times_that_cannot_be_are_survived() {
    let dir = Folder::new("timeline-times");
    let start = now() - 10 * MINUTE;
    for (instance, times) in [
        ("a", (start, i64::MAX)),
        ("b", (start + MINUTE, i64::MAX)),
        ("c", (i64::MAX, MINUTE)),
        ("d", (i64::MAX - 1, i64::MAX)),
        ("e", (start, -5)),
    ] {
        write(&dir, instance, "1.0", &[times]);
    }
    let later = Query::default().from_nanos(start + 10 * 365 * 24 * 60 * MINUTE);
    for (query, count) in [(Query::default(), 6), (later.clone().tag("instance", "c"), 2), (later, 4)] {
        let made = timeline(&*dir, &query, PageOptions::default()).unwrap();
        assert_eq!((made.count, made.skipped.len()), (count, 0), "{query:?}: {:?}", made.notes);
        parse(&made.html);
    }
}

#[test]
fn many_instances_are_summed_up_by_what_still_tells_them_apart() {
    let dir = Folder::new("timeline-instances");
    let mut all = 0;
    for instance in 0..20 {
        let version = if instance < 10 { "1.0" } else { "1.1" };
        all += write(&dir, &format!("i{instance}"), version, &[(START + instance * MINUTE, MINUTE)]);
    }
    let made = timeline(&*dir, &Query::default(), PageOptions::default()).unwrap();
    assert_eq!(made.notes.first().unwrap(), "20 instances are summed up by service and version and host");
    let data = data(&made);
    assert_eq!(data["lanes"].as_array().unwrap().len(), 2);
    assert_eq!(totals(&data, "cpu"), all);
}

#[test]
fn damaged_files_clocks_that_were_not_set_and_empty_directories() {
    let dir = Folder::new("timeline-odd");
    let empty = timeline(&*dir, &Query::default(), PageOptions::default()).unwrap();
    assert_eq!((empty.count, empty.notes.len()), (0, 0));
    assert_eq!(data(&empty)["profiles"].as_array().unwrap().len(), 0);
    let all = write(&dir, "a", "1.0", &[(START, MINUTE), (START + MINUTE, MINUTE)]);
    write(&dir, "b", "1.0", &[(MINUTE, MINUTE)]);
    let file =
        crate::support::files(&dir).into_iter().find(|file| file.to_string_lossy().ends_with("wall.pb.gz"));
    std::fs::write(dir.join(file.unwrap()), b"not a profile").unwrap();
    std::fs::write(dir.join("other.cpu.pb.gz"), b"").unwrap();
    let made = timeline(&*dir, &Query::default(), PageOptions::default()).unwrap();
    assert!(
        made.notes.iter().any(|note| note.ends_with("of a clock that was not set are left out")),
        "{:?}",
        made.notes
    );
    assert_eq!(totals(&data(&made), "cpu"), all);
    let error = timeline(dir.join("nowhere"), &Query::default(), PageOptions::default()).unwrap_err();
    assert!(error.to_string().starts_with("cannot read "), "{error}");
}

#[test]
fn a_clock_that_was_years_ahead_does_not_stretch_the_page() {
    const YEAR: i64 = 365 * 24 * 60 * MINUTE;
    let dir = Folder::new("timeline-ahead");
    let now = now();
    let ahead: Vec<(i64, i64)> = (1..=3).map(|minute| (now + 12 * YEAR + minute * MINUTE, MINUTE)).collect();
    // Where there is nothing else, the reader's clock is the one that is wrong.
    let all = write(&dir, "a", "1.0", &ahead);
    assert_eq!(totals(&data(&made_of(&dir)), "cpu"), all);
    let all = write(&dir, "b", "1.0", &[(now - 2 * MINUTE, MINUTE), (now - MINUTE, MINUTE)]);
    let made = made_of(&dir);
    assert_eq!(made.notes, ["6 profiles of a time that has not come yet are left out"]);
    let data = data(&made);
    let slots: Vec<i64> =
        data["slots"].as_array().unwrap().iter().map(|time| time.as_i64().unwrap()).collect();
    assert!(slots.last().unwrap() - slots[0] < 10 * MINUTE / 1000, "{slots:?}");
    assert_eq!(totals(&data, "cpu"), all);
}

fn now() -> i64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as i64
}

fn made_of(dir: &Folder) -> TimelinePage {
    timeline(&**dir, &Query::default(), PageOptions::default()).unwrap()
}

#[test]
fn rare_stacks_are_cut_and_totals_stay() {
    use everprof::encode::flamegraph::Timeline;
    let profile = profile(Kind::Cpu, START, MINUTE, 500);
    let mut page = Timeline::new(PageOptions::default()).rows(50);
    page.add("cpu", &profile);
    let html = page.html();
    let data = parse(&html);
    assert_eq!(totals(&data, "cpu"), profile.totals()[1]);
    let rows = data["sample_count"].as_u64().unwrap();
    assert!((50..60).contains(&rows), "{rows}");
    assert!(html.contains("450 rare stacks are cut to their first callers"));
    assert!(data["strings"].as_array().unwrap().iter().any(|text| text == "[truncated: rare stacks]"));
    let labels = data["strings"].as_array().unwrap();
    assert!(!labels.iter().any(|text| text == "thread_id"), "what is another for each thread is left out");
}

/// Writes sets with a profile of the processor and one of the wall clock; the sum of the first.
fn write(dir: &Folder, instance: &str, version: &str, times: &[(i64, i64)]) -> i64 {
    let retention = Retention { age: std::time::Duration::MAX, bytes: u64::MAX };
    let mut directory = Directory::new(&**dir, retention);
    let mut all = 0;
    for (sequence, &(time_nanos, duration_nanos)) in times.iter().enumerate() {
        let mut cpu = profile(Kind::Cpu, time_nanos, duration_nanos, 3 + sequence as i64 % 4);
        let mut wall = profile(Kind::Wall, time_nanos, duration_nanos, 2);
        all += cpu.totals()[1];
        let tags = [("service", "shop"), ("version", version), ("instance", instance), ("host", "web-1")];
        let tags: std::collections::BTreeMap<String, String> =
            tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        (cpu.tags, wall.tags) = (tags.clone(), tags.clone());
        let profiles = vec![Encoded::pprof(Kind::Cpu, &cpu), Encoded::pprof(Kind::Wall, &wall)];
        let set =
            Set { tags, sequence: sequence as u64, time_nanos, duration_nanos, profiles, ..Set::default() };
        directory.write(&set).unwrap();
    }
    all
}

fn profile(kind: Kind, time_nanos: i64, duration_nanos: i64, stacks: i64) -> Profile {
    let mut profile = Profile::new(kind);
    (profile.time_nanos, profile.duration_nanos) = (time_nanos, duration_nanos);
    for stack in 0..stacks {
        let locations: Vec<_> = (0..10)
            .map(|depth| {
                let name = profile.string(&if depth == 0 {
                    format!("shop::leaf_{stack}")
                } else {
                    format!("shop::f{depth}")
                });
                let function = profile.function(Function { name, ..Function::default() });
                let lines = vec![Line { function, line: depth, column: 0 }];
                let address = 0x1000 + function.index() as u64;
                profile.location(Location { address, lines, ..Location::default() })
            })
            .collect();
        let (id, labels) = (
            profile.stack(&locations),
            [Label::number("thread_id", stack, ""), Label::text("thread_name", "w")],
        );
        let labels = profile.labels(&labels);
        let width = profile.sample_types.len();
        profile.add(id, labels, &[1, 10_101_010 + stack][..width]);
    }
    profile
}

fn data(page: &TimelinePage) -> serde_json::Value {
    parse(&page.html)
}

fn parse(html: &str) -> serde_json::Value {
    let data = html.split("id=\"data\">").nth(1).and_then(|rest| rest.split("</script>").next());
    serde_json::from_str(data.unwrap()).unwrap()
}

/// The sum of all profiles of a kind, of its second value.
fn totals(data: &serde_json::Value, kind: &str) -> i64 {
    let kinds = data["kinds"].as_array().unwrap();
    let number = kinds.iter().position(|known| known["name"] == kind).unwrap();
    let of_kind = data["profiles"].as_array().unwrap().iter().filter(|profile| profile["kind"] == number);
    of_kind.map(|profile| profile["totals"][1].as_str().unwrap().parse::<i64>().unwrap()).sum()
}

/// For each slot how many microseconds of a kind were measured, by the page's own rule: see `coverOf` in `rates.js`.
fn covers(data: &serde_json::Value, kind: &str) -> Vec<i64> {
    let numbers = |value: &serde_json::Value| -> Vec<i64> {
        value.as_array().unwrap().iter().map(|number| number.as_i64().unwrap()).collect()
    };
    let kind = data["kinds"].as_array().unwrap().iter().position(|known| known["name"] == kind).unwrap();
    let slots = numbers(&data["slots"]);
    let cover = |(slot, times): (usize, &[i64])| {
        let (mut spans, mut own) = (Vec::new(), std::collections::BTreeMap::<i64, i64>::new());
        let here = |profile: &&serde_json::Value| profile["kind"] == kind && profile["slot"] == slot;
        for profile in data["profiles"].as_array().unwrap().iter().filter(here) {
            let of = profile.get("spans").map_or_else(|| vec![0, times[1] - times[0]], &numbers);
            let of: Vec<(i64, i64)> = of.chunks(2).map(|span| (span[0], span[1])).collect();
            let length = of.iter().map(|(start, end)| end - start).sum();
            *own.entry(profile["lane"].as_i64().unwrap()).or_default() +=
                profile.get("own").map_or(length, |own| own.as_i64().unwrap());
            spans.extend(of);
        }
        spans.sort_unstable();
        let (mut union, mut until) = (0, 0);
        for (start, end) in spans {
            union += (end - start.max(until)).max(0);
            until = until.max(end);
        }
        own.into_values().fold(union, i64::max)
    };
    slots.chunks(2).enumerate().map(cover).collect()
}
