//! Parca: every kind of profile pushed and read back, each stack, value and label.

use std::collections::BTreeMap;
use std::fs;

use everprof::encode::{Dialect, Set, pprof};
use everprof::export::Outcome;
use everprof::profile::{Kind, Profile};

use crate::graph::of_file;
use crate::http::{encoded, get, unbase64, wait};
use crate::sets::{exporter, now, profile};
use crate::{Running, by_stack, has_grpc, port, program, shop, start};

/// Parca with these lines more in what it is set up by.
pub(crate) fn parca(more: &str) -> Option<(Running, u16)> {
    let port = port();
    let running = start(&program("parca")?, &format!("parca-{port}"), |dir| {
        let config = dir.join("parca.yaml");
        let bucket = format!("{{type: FILESYSTEM, config: {{directory: {}}}}}", dir.display());
        fs::write(&config, format!("object_storage: {{bucket: {bucket}}}\n{more}")).unwrap();
        vec![
            format!("--config-path={}", config.display()),
            format!("--http-address=127.0.0.1:{port}"),
            "--storage-active-memory=134217728".to_string(),
            format!("--debuginfo-cache-dir={}", dir.display()),
            // The default is a server on the internet.
            "--debuginfod-upstream-servers=127.0.0.1:1".to_string(),
        ]
    });
    wait(port, "/api/profiles/types");
    Some((running, port))
}

/// What Parca has for a selector, summed up over all time around now.
fn read_back(port: u16, selector: &str) -> Profile {
    query(port, selector).unwrap_or_else(|problem| panic!("{selector}: {problem}"))
}

/// The same; none where it has nothing.
pub(crate) fn find(port: u16, selector: &str) -> Option<Profile> {
    query(port, selector).ok()
}

fn query(port: u16, selector: &str) -> Result<Profile, String> {
    let path = format!(
        "/api/profiles/query?mode=MODE_MERGE&{}&report_type=REPORT_TYPE_PPROF",
        merge("merge", selector)
    );
    let (status, body) = get(port, &path).unwrap();
    if status != 200 {
        return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
    }
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
    Ok(pprof::decode(&unbase64(answer["pprof"].as_str().unwrap())).unwrap())
}

/// All of a selector around now, as a part of a query.
fn merge(part: &str, selector: &str) -> String {
    let time = |shift: i64| encoded(&rfc3339(now() / 1_000_000_000 + shift));
    let (selector, start, end) = (encoded(selector), time(-3600), time(3600));
    format!("{part}.query={selector}&{part}.start={start}&{part}.end={end}")
}

fn rfc3339(seconds: i64) -> String {
    let (day, clock) = (seconds / 86_400, seconds % 86_400);
    // Civil from days, for years that begin in March.
    let era = day + 719_468;
    let (cycle, of_cycle) = (era / 146_097, era % 146_097);
    let year = (of_cycle - of_cycle / 1_460 + of_cycle / 36_524 - of_cycle / 146_096) / 365;
    let of_year = of_cycle - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (date, month) = (of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = year + cycle * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}Z", clock / 3600, clock / 60 % 60, clock % 60)
}

#[test]
fn what_was_pushed_is_there_and_nothing_else() {
    all_of_it_is_there("parca+http");
}

#[test]
fn so_it_is_over_grpc() {
    if has_grpc("so_it_is_over_grpc") {
        all_of_it_is_there("parca+grpc");
    }
}

fn all_of_it_is_there(scheme: &str) {
    let Some((_running, port)) = parca("") else { return };
    let tags: BTreeMap<String, String> = [("service", "shop"), ("version", "1.0"), ("k8s.node-name", "n1")]
        .map(|(k, v)| (k.into(), v.into()))
        .into();
    let kinds = [
        Kind::Cpu,
        Kind::Wall,
        Kind::OffCpu,
        Kind::Threads,
        Kind::Alloc,
        Kind::Heap,
        Kind::Peak,
        Kind::Mutex,
        Kind::Block,
        Kind::Lock,
        Kind::Gil,
        Kind::Gc,
    ];
    let sent: Vec<(Kind, Profile)> = kinds.into_iter().map(|kind| (kind, made(kind, &tags))).collect();
    let profiles = Dialect::Parca.encode(&sent);
    let set = Set {
        tags,
        sequence: 0,
        time_nanos: now(),
        duration_nanos: 10_000_000_000,
        profiles,
        ..Set::default()
    };
    let push = format!("{scheme}://127.0.0.1:{port}");
    let outcome = exporter(&[("push", &push)]).attempt(&set);
    assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");

    // The types that the server knows are those that were sent, spelled by the kinds' table.
    let known = types(port);
    let mut expected = Vec::new();
    for (kind, profile) in &sent {
        for column in 0..profile.sample_types.len() {
            let Some((id, scale)) = asked(*kind, profile, column) else { continue };
            let scaled = |part: &str| -> BTreeMap<String, i64> {
                let stacks = by_stack(profile, column).into_iter().filter(|(stack, _)| stack.contains(part));
                stacks.map(|(stack, value)| (stack, value * scale)).collect()
            };
            // Every stack with its value, and of each label its share.
            let whole = read_back(port, &id);
            assert_eq!(by_stack(&whole, 0), scaled(""), "{id}");
            for (selector, part) in [
                (r#"service_name="shop",k8s_node_name="n1""#, "main"),
                (r#"thread_name="worker-0""#, "leaf0 shop.rs"),
                (r#"thread_name="worker-1""#, "leaf1 shop.rs"),
                (r#"tenant_id="a",thread_name=~"worker.*""#, "main"),
            ] {
                let found = by_stack(&read_back(port, &format!("{id}{{{selector}}}")), 0);
                assert_eq!(found, scaled(part), "{id}{{{selector}}}");
            }
            expected.push(id);
        }
    }
    expected.sort();
    assert_eq!(known, expected);
}

/// As OTLP, which Parca takes over gRPC alone: a profile of each sample type, and labels spelled by OpenTelemetry.
#[test]
fn otlp_is_there_too() {
    if !has_grpc("otlp_is_there_too") {
        return;
    }
    let Some((_running, port)) = parca("") else { return };
    let tags: BTreeMap<String, String> =
        [("service", "shop"), ("version", "1.0")].map(|(k, v)| (k.into(), v.into())).into();
    let kinds = Kind::ALL.into_iter().filter(|kind| name(*kind).is_some());
    let sent: Vec<(Kind, Profile)> = kinds.map(|kind| (kind, made(kind, &tags))).collect();
    let profiles = Dialect::Otlp.encode(&sent);
    let set = Set {
        tags,
        sequence: 0,
        time_nanos: now(),
        duration_nanos: 10_000_000_000,
        profiles,
        ..Set::default()
    };
    let outcome = exporter(&[("push", &format!("otlp+grpc://127.0.0.1:{port}"))]).attempt(&set);
    assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
    for (kind, profile) in &sent {
        for column in 0..profile.sample_types.len() {
            let (id, scale) = asked(*kind, profile, column).unwrap();
            let scaled = |line: &str| -> BTreeMap<String, i64> {
                let stacks = by_line(profile, column).into_iter().filter(|(lines, _)| lines.contains(line));
                stacks.map(|(lines, value)| (lines, value * scale)).collect()
            };
            for (selector, line) in [
                ("", ""),
                (r#"service_name="shop",service_version="1.0""#, ""),
                (r#"thread_name="worker-0""#, "10"),
                (r#"tenant_id="a",thread_name="worker-1""#, "11"),
            ] {
                let whole = read_back(port, &format!("{id}{{{selector}}}"));
                assert_eq!(by_line(&whole, 0), scaled(line), "{id}{{{selector}}}");
                // When this fails, Parca has been put right.
                assert!(by_stack(&whole, 0).keys().any(|stack| !stack.contains("main shop.rs:10")));
            }
        }
    }
}

/// The sum of one value by the lines of the stacks: Parca 0.28 names a frame of OTLP by the function that stands before its own
/// in the table, whoever sends it, so that names are of no use here. `parca+grpc` is right.
fn by_line(profile: &Profile, column: usize) -> BTreeMap<String, i64> {
    let mut sums = BTreeMap::new();
    for sample in profile.samples() {
        let lines = profile.get_stack(sample.stack).iter().flat_map(|id| &profile.get_location(*id).lines);
        let lines: Vec<String> = lines.map(|line| line.line.to_string()).collect();
        *sums.entry(lines.join(" ")).or_default() += sample.values[column];
    }
    sums.retain(|_, sum| *sum != 0);
    sums
}

/// A profile of that kind of now.
fn made(kind: Kind, tags: &BTreeMap<String, String>) -> Profile {
    let mut profile = profile(kind, 2);
    (profile.time_nanos, profile.tags) = (now(), tags.clone());
    if kind == Kind::Threads {
        profile.duration_nanos = 0;
    }
    profile
}

/// What it is asked for a value of a kind by, and how many times as much it shows: samples of a period of time are that time.
pub(crate) fn asked(kind: Kind, profile: &Profile, column: usize) -> Option<(String, i64)> {
    let (of, period) = (&profile.sample_types[column], period(kind));
    let delta = if profile.duration_nanos == 0 || of.is_level() { "" } else { ":delta" };
    let is_time = of.name == "samples" && of.unit == "count" && period.ends_with("nanoseconds");
    let scale = if is_time { profile.period } else { 1 };
    Some((format!("{}:{}:{}:{period}{delta}", name(kind)?, of.name, of.unit), scale))
}

/// The types of profiles that it knows, sorted.
pub(crate) fn types(port: u16) -> Vec<String> {
    let (_, body) = get(port, "/api/profiles/types").unwrap();
    let types: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let one = |of: &serde_json::Value| {
        let parts = ["name", "sampleType", "sampleUnit", "periodType", "periodUnit"];
        let parts = parts.map(|part| of[part].as_str().unwrap_or_default());
        format!("{}{}", parts.join(":"), if of["delta"] == true { ":delta" } else { "" })
    };
    let mut known: Vec<String> = types["types"].as_array().unwrap().iter().map(one).collect();
    known.sort();
    known
}

/// What Parca calls it; none for what is part of another one.
pub(crate) fn name(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Cpu => Some("process_cpu"),
        Kind::OffCpu => Some("off_cpu"),
        Kind::Alloc => None,
        Kind::Heap => Some("memory"),
        _ => Some(kind.name()),
    }
}

fn period(kind: Kind) -> String {
    match kind {
        Kind::Mutex | Kind::Block | Kind::Lock | Kind::Gil => "contentions:count".to_string(),
        _ => format!("{}:{}", kind.period_type().name, kind.period_type().unit),
    }
}

/// What Parca refuses is a loss that says why, and is not tried again.
#[test]
fn what_it_refuses_is_told() {
    let Some((_running, port)) = parca("") else { return };
    let mut set = crate::sets::set(Dialect::Parca, 1, now());
    set.profiles[0].bytes = b"no profile".to_vec();
    let outcome = exporter(&[("push", &format!("parca+http://127.0.0.1:{port}"))]).attempt(&set);
    let Outcome::Lost(_, error) = outcome else { panic!("{outcome:?}") };
    assert!(error.to_string().starts_with("it answers "), "{error}");
    println!("{error}");
}

/// Parca's own comparison names the function by which two versions differ, as the local files' own does.
#[test]
fn its_comparison_names_what_a_version_made_slow() {
    let Some((_running, port)) = parca("") else { return };
    let (slow, by) = shop::SLOW;
    let versions = [shop::profile(Kind::Cpu, "1.0"), shop::regressed("2.0")];
    for profile in &versions {
        let (tags, profiles) = (profile.tags.clone(), Dialect::Parca.encode(&[(Kind::Cpu, profile.clone())]));
        let endpoint_counts = BTreeMap::new();
        let set = Set {
            tags,
            sequence: 0,
            time_nanos: now(),
            duration_nanos: 10_000_000_000,
            endpoint_counts,
            profiles,
        };
        let outcome = exporter(&[("push", &format!("parca+http://127.0.0.1:{port}"))]).attempt(&set);
        assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
    }
    let (id, _) = asked(Kind::Cpu, &versions[0], 1).unwrap();
    let side = |of: &str, version: &str| {
        let selector = format!(r#"{id}{{version="{version}"}}"#);
        format!("diff.{of}.mode=MODE_MERGE&{}", merge(&format!("diff.{of}.merge"), &selector))
    };
    let path = format!(
        "/api/profiles/query?mode=MODE_DIFF&{}&{}&diff.absolute=true&report_type=REPORT_TYPE_TOP",
        side("a", "1.0"),
        side("b", "2.0")
    );
    let (status, body) = get(port, &path).unwrap();
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let number = |of: &serde_json::Value| of.as_str().map_or(0, |text| text.parse::<i64>().unwrap());
    let mut grown: Vec<(&str, i64, i64)> = Vec::new();
    for node in answer["top"]["list"].as_array().unwrap() {
        let name = node["meta"]["function"]["name"].as_str().unwrap_or("?");
        grown.push((name, number(&node["diff"]), number(&node["flat"])));
    }
    // A function grows with those that it calls; by itself it grew where it has as much of its own.
    let by_itself = grown.iter().filter(|(_, diff, own)| *diff > 0 && own >= diff);
    assert_eq!(by_itself.collect::<Vec<_>>(), [&(slow, by, by)], "{grown:?}");
    let callers = grown.iter().filter(|(_, diff, own)| *diff != 0 && own < diff);
    assert_eq!(callers.collect::<Vec<_>>(), [&("main", by, 0)], "{grown:?}");
    let [before, after] = versions.each_ref().map(|profile| of_file(Kind::Cpu, profile));
    let own = everprof::store::diff(&before, &after).unwrap();
    assert_eq!(own.regressed().first().map(|change| change.function.as_str()), Some(slow));
}
