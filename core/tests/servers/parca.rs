//! Parca: every kind of profile pushed and read back, each stack, value and label.

use std::collections::BTreeMap;
use std::fs;

use everprof::encode::{Dialect, Set, pprof};
use everprof::export::Outcome;
use everprof::profile::{Kind, Profile};

use crate::http::{encoded, get, unbase64, wait};
use crate::sets::{exporter, now, profile};
use crate::{Running, by_stack, has_grpc, port, program, start};

fn parca() -> Option<(Running, u16)> {
    let port = port();
    let running = start(&program("parca")?, &format!("parca-{port}"), |dir| {
        let config = dir.join("parca.yaml");
        let bucket = format!("{{type: FILESYSTEM, config: {{directory: {}}}}}", dir.display());
        fs::write(&config, format!("object_storage: {{bucket: {bucket}}}\n")).unwrap();
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
    let time = |shift: i64| rfc3339(now() / 1_000_000_000 + shift);
    let path = format!(
        "/api/profiles/query?mode=MODE_MERGE&merge.query={}&merge.start={}&merge.end={}&report_type=REPORT_TYPE_PPROF",
        encoded(selector),
        encoded(&time(-3600)),
        encoded(&time(3600))
    );
    let (status, body) = get(port, &path).unwrap();
    assert_eq!(status, 200, "{selector}: {}", String::from_utf8_lossy(&body));
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
    pprof::decode(&unbase64(answer["pprof"].as_str().unwrap())).unwrap()
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
    let Some((_running, port)) = parca() else { return };
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
    let (_, body) = get(port, "/api/profiles/types").unwrap();
    let types: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let text = |of: &serde_json::Value| of.as_str().unwrap_or_default().to_string();
    let mut known: Vec<String> = types["types"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of| {
            let parts =
                ["name", "sampleType", "sampleUnit", "periodType", "periodUnit"].map(|part| text(&of[part]));
            format!("{}{}", parts.join(":"), if of["delta"] == true { ":delta" } else { "" })
        })
        .collect();
    known.sort();
    let mut expected = Vec::new();
    for (kind, profile) in &sent {
        let Some(name) = name(*kind) else { continue };
        for (column, of) in profile.sample_types.iter().enumerate() {
            let period = period(*kind);
            let is_gauge = profile.duration_nanos == 0 || of.is_level();
            let delta = if is_gauge { "" } else { ":delta" };
            let id = format!("{name}:{}:{}:{period}{delta}", of.name, of.unit);
            // Parca shows counts of a period of time as that time.
            let scale =
                if of.unit == "count" && period.ends_with("nanoseconds") { profile.period } else { 1 };
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
    let Some((_running, port)) = parca() else { return };
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
        for (column, of) in profile.sample_types.iter().enumerate() {
            let period = period(*kind);
            let delta = if profile.duration_nanos == 0 || of.is_level() { "" } else { ":delta" };
            let id = format!("{}:{}:{}:{period}{delta}", name(*kind).unwrap(), of.name, of.unit);
            let scale =
                if of.unit == "count" && period.ends_with("nanoseconds") { profile.period } else { 1 };
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

/// What Parca calls it; none for what is part of another one.
fn name(kind: Kind) -> Option<&'static str> {
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
        Kind::Mutex | Kind::Block | Kind::Lock => "contentions:count".to_string(),
        _ => format!("{}:{}", kind.period_type().name, kind.period_type().unit),
    }
}

/// What Parca refuses is a loss that says why, and is not tried again.
#[test]
fn what_it_refuses_is_told() {
    let Some((_running, port)) = parca() else { return };
    let mut set = crate::sets::set(Dialect::Parca, 1, now());
    set.profiles[0].bytes = b"no profile".to_vec();
    let outcome = exporter(&[("push", &format!("parca+http://127.0.0.1:{port}"))]).attempt(&set);
    let Outcome::Lost(_, error) = outcome else { panic!("{outcome:?}") };
    assert!(error.to_string().starts_with("it answers "), "{error}");
    println!("{error}");
}
