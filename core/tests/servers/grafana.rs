//! Grafana's Pyroscope itself, version 2: every kind pushed and read back, its own comparison of two versions, its refusals.
//!
//! The module proxy does not have the server, so `EVERPROF_TEST_PYROSCOPE` names a program that was built or fetched by other
//! means; without it, what `pyroscope.rs` knows of its interface stands in.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use everprof::encode::{Dialect, Set, pprof};
use everprof::export::{Loss, Outcome};
use everprof::profile::{Kind, Profile};
use prost::Message;

use crate::http::{get, post, wait};
use crate::sets::{exporter, now, profile};
use crate::{Running, by_stack, has_grpc, port, pyroscope, start};

pub(crate) fn grafana(more: &[&str]) -> Option<(Running, u16)> {
    let Some(program) = std::env::var_os("EVERPROF_TEST_PYROSCOPE") else {
        println!("!!! SKIPPED: EVERPROF_TEST_PYROSCOPE names no program");
        return None;
    };
    let [http, grpc, raft, members] = [(); 4].map(|()| port());
    let running = start(&PathBuf::from(program), &format!("grafana-{http}"), |dir| {
        let dir = dir.display();
        let mut all = vec![
            "-target=all -architecture.storage=v2 -storage.backend=filesystem".to_string(),
            format!("-storage.filesystem.dir={dir}/shared -metastore.data-dir={dir}/meta"),
            format!("-metastore.raft.dir={dir}/raft -metastore.raft.snapshots-dir={dir}/raft"),
            format!("-server.http-listen-address=127.0.0.1 -server.http-listen-port={http}"),
            format!("-server.grpc-listen-address=127.0.0.1 -server.grpc-listen-port={grpc}"),
            format!("-metastore.address=127.0.0.1:{grpc} -query-backend.address=127.0.0.1:{grpc}"),
            format!(
                "-metastore.raft.server-id=127.0.0.1:{raft} -metastore.raft.bind-address=127.0.0.1:{raft}"
            ),
            format!("-metastore.raft.advertise-address=127.0.0.1:{raft}"),
            format!("-memberlist.bind-addr=127.0.0.1 -memberlist.bind-port={members}"),
            format!("-memberlist.advertise-addr=127.0.0.1 -memberlist.advertise-port={members}"),
            "-segment-writer.lifecycler.addr=127.0.0.1 -distributor.ring.instance-addr=127.0.0.1".to_string(),
            "-overrides-exporter.ring.instance-addr=127.0.0.1 -query-scheduler.ring.instance-addr=127.0.0.1"
                .to_string(),
            "-query-frontend.instance-addr=127.0.0.1 -distributor.ring.store=inmemory".to_string(),
            "-overrides-exporter.ring.store=inmemory -query-scheduler.ring.store=inmemory".to_string(),
            "-segment-writer.min-ready-duration=0s -metastore.min-ready-duration=0s".to_string(),
            "-segment-writer.metadata-update-timeout=0s -self-profiling.disable-push=true".to_string(),
            "-usage-stats.enabled=false -tracing.enabled=false".to_string(),
            // Of its storage of version 1.
            format!(
                "-pyroscopedb.data-path={dir}/db -compactor.data-dir={dir}/compactor -ring.store=inmemory"
            ),
            "-ingester.lifecycler.addr=127.0.0.1 -ingester.min-ready-duration=0s".to_string(),
            "-compactor.ring.instance-addr=127.0.0.1 -compactor.ring.store=inmemory".to_string(),
            "-store-gateway.sharding-ring.instance-addr=127.0.0.1".to_string(),
            "-store-gateway.sharding-ring.store=inmemory".to_string(),
        ];
        all.extend(more.iter().map(|option| (*option).to_string()));
        all.iter().flat_map(|line| line.split(' ')).map(str::to_string).collect()
    });
    wait(http, "/ready");
    let ring = if more.contains(&"-architecture.storage=v1") { "/ring" } else { "/ring-segment-writer" };
    let is_active = |_| {
        std::thread::sleep(Duration::from_millis(200));
        get(http, ring).is_ok_and(|(_, page)| String::from_utf8_lossy(&page).contains("ACTIVE"))
    };
    assert!((0..300).any(is_active));
    Some((running, http))
}

fn set_of(sent: &[(Kind, Profile)], tags: &BTreeMap<String, String>) -> Set {
    let profiles = Dialect::Pyroscope.encode(sent);
    Set {
        tags: tags.clone(),
        sequence: 0,
        time_nanos: now(),
        duration_nanos: 10_000_000_000,
        profiles,
        ..Set::default()
    }
}

fn push(port: u16, set: &Set) -> Outcome {
    exporter(&[("push", &format!("pyroscope+http://127.0.0.1:{port}"))]).attempt(set)
}

fn tags(version: &str) -> BTreeMap<String, String> {
    [("service", "shop"), ("version", version)]
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .into()
}

/// A query over the last hour and the next, as JSON.
fn query(of: &str, selector: &str, more: &str) -> String {
    let now = now() / 1_000_000;
    let selector = selector.replace('"', "\\\"");
    let (start, end) = (now - 3_600_000, now + 3_600_000);
    format!(
        r#"{{"profile_typeID":"{of}","label_selector":"{selector}","start":{start},"end":{end},"max_nodes":100000{more}}}"#
    )
}

/// What it calls a value of a kind.
pub(crate) fn id(kind: Kind, profile: &Profile, column: usize) -> String {
    let of = &profile.sample_types[column];
    let period = match kind {
        Kind::Mutex | Kind::Block | Kind::Lock | Kind::Gil => "contentions:count".to_string(),
        _ => format!("{}:{}", profile.period_type.name, profile.period_type.unit),
    };
    format!("{}:{}:{}:{period}", pyroscope::name(kind), of.name, of.unit)
}

/// What it has of a type, as it gives it to who wants pprof; none where it has nothing.
pub(crate) fn merged(port: u16, of: &str) -> Option<Profile> {
    let now = now() / 1_000_000;
    let (profile_type, selector) = (of.to_string(), "{}".to_string());
    let query = Query { profile_type, selector, start: now - 3_600_000, end: now + 3_600_000 };
    let path = "/querier.v1.QuerierService/SelectMergeProfile";
    let (status, body) = post(port, path, "application/proto", &query.encode_to_vec()).unwrap();
    assert_eq!(status, 200, "{of}: {}", String::from_utf8_lossy(&body));
    let profile = pprof::decode(&body).unwrap();
    (profile.sample_types.len() == 1).then_some(profile)
}

#[derive(Message)]
struct Query {
    #[prost(string, tag = "1")]
    profile_type: String,
    #[prost(string, tag = "2")]
    selector: String,
    #[prost(int64, tag = "3")]
    start: i64,
    #[prost(int64, tag = "4")]
    end: i64,
}

/// What it has of a type, by stack, as [`by_stack`] tells it.
fn read_back(port: u16, of: &str, selector: &str, more: &str) -> BTreeMap<String, i64> {
    let query = query(of, selector, &format!(r#","format":"PROFILE_FORMAT_PPROF"{more}"#));
    let path = "/querier.v1.QuerierService/SelectMergeStacktraces";
    let (status, body) = post(port, path, "application/json", query.as_bytes()).unwrap();
    assert_eq!(status, 200, "{of}{selector}: {}", String::from_utf8_lossy(&body));
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
    // Identifiers count from 1, in order.
    let profile = &answer["pprof"]["profile"];
    let text = |at: &serde_json::Value| profile["stringTable"][number(at) as usize].as_str().unwrap();
    let frame = |line: &serde_json::Value| {
        let function = &profile["function"][number(&line["functionId"]) as usize - 1];
        format!("{} {}:{}", text(&function["name"]), text(&function["filename"]), number(&line["line"]))
    };
    let list = |of: &serde_json::Value| of.as_array().cloned().unwrap_or_default();
    let mut sums = BTreeMap::new();
    for sample in list(&profile["sample"]) {
        let locations = list(&sample["locationId"]);
        let lines =
            locations.iter().flat_map(|id| list(&profile["location"][number(id) as usize - 1]["line"]));
        let stack = lines.map(|line| frame(&line)).collect::<Vec<_>>().join(" < ");
        *sums.entry(stack).or_default() += number(&sample["value"][0]);
    }
    sums
}

/// Numbers of 64 bits are text in JSON.
fn number(value: &serde_json::Value) -> i64 {
    value.as_i64().or_else(|| value.as_str().and_then(|text| text.parse().ok())).unwrap()
}

#[test]
fn every_kind_is_read_back_as_it_was_sent() {
    let Some((_running, port)) = grafana(&[]) else { return };
    let kinds = [
        Kind::Cpu,
        Kind::Wall,
        Kind::OffCpu,
        Kind::Threads,
        Kind::Heap,
        Kind::Peak,
        Kind::Mutex,
        Kind::Block,
        Kind::Lock,
        Kind::Gil,
        Kind::Gc,
    ];
    let made = |kind| {
        let mut profile = profile(kind, 40);
        (profile.time_nanos, profile.tags) = (now(), tags("1.0"));
        (kind, profile)
    };
    let sent: Vec<(Kind, Profile)> = kinds.into_iter().map(made).collect();
    let outcome = push(port, &set_of(&sent, &tags("1.0")));
    assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
    for (kind, profile) in &sent {
        for column in 0..profile.sample_types.len() {
            let id = id(*kind, profile, column);
            let found = read_back(port, &id, r#"{service_name="shop",version="1.0"}"#, "");
            assert_eq!(found, by_stack(profile, column), "{id}");
            let of_span = read_back(port, &id, "{}", r#","span_selector":["b7ad6b7169203331"]"#);
            assert_eq!(of_span, by_stack(profile, column), "{id} of the span");
        }
    }
}

/// The server's own comparison names the function by which two versions differ.
#[test]
fn its_comparison_names_what_a_version_made_slow() {
    let Some((_running, port)) = grafana(&[]) else { return };
    for (version, slow) in [("1.0", 1), ("2.0", 400)] {
        let mut profile = profile(Kind::Cpu, 40);
        (profile.time_nanos, profile.tags) = (now(), tags(version));
        let of_leaf = |at: &usize| if *at == 7 { slow } else { 1 };
        let stacks: Vec<_> = profile.samples().map(|sample| (sample.stack, sample.labels)).collect();
        for (at, (stack, labels)) in stacks.into_iter().enumerate() {
            let times = of_leaf(&at);
            profile.add(stack, labels, &[times, times * 10_101_010]);
        }
        let outcome = push(port, &set_of(&[(Kind::Cpu, profile)], &tags(version)));
        assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
    }
    let side = |version: &str| {
        query("process_cpu:cpu:nanoseconds:cpu:nanoseconds", &format!(r#"{{version="{version}"}}"#), "")
    };
    let body = format!(r#"{{"left":{},"right":{}}}"#, side("1.0"), side("2.0"));
    let path = "/querier.v1.QuerierService/Diff";
    let (status, body) = post(port, path, "application/json", body.as_bytes()).unwrap();
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let graph = &answer["flamegraph"];
    // Seven numbers a node: offset, total and self of the left, the same of the right, and the name.
    let mut by_name: BTreeMap<String, i64> = BTreeMap::new();
    for level in graph["levels"].as_array().unwrap() {
        let values: Vec<i64> = level["values"].as_array().unwrap().iter().map(number).collect();
        for node in values.chunks(7) {
            let name = graph["names"][node[6] as usize].as_str().unwrap().to_string();
            *by_name.entry(name).or_default() += node[5] - node[2];
        }
    }
    let (name, grown) = by_name.iter().max_by_key(|(_, grown)| **grown).unwrap();
    assert_eq!((name.as_str(), *grown), ("leaf7", 399 * 10_101_010), "{by_name:?}");
}

#[test]
fn its_refusals_have_their_class() {
    let set = || crate::sets::set(Dialect::Pyroscope, 100, now());
    let Some((_running, tenants)) = grafana(&["-auth.multitenancy-enabled=true"]) else { return };
    let Outcome::Lost(Loss::Refused, error) = push(tenants, &set()) else { panic!() };
    assert!(error.to_string().starts_with("it answers 401"), "{error}");
    let limits = ["-distributor.ingestion-rate-limit-mb=0.001", "-distributor.ingestion-burst-size-mb=0.001"];
    let Some((_running, limited)) = grafana(&limits) else { return };
    let outcome = (0..5).map(|_| push(limited, &set())).find(|outcome| !matches!(outcome, Outcome::Sent));
    let Some(Outcome::Later(error, None)) = outcome else { panic!("{outcome:?}") };
    assert!(error.to_string().starts_with("it answers 429"), "{error}");
    let Some((_running, small)) = grafana(&["-validation.max-profile-size-bytes=1000"]) else { return };
    let Outcome::Lost(Loss::Refused, error) = push(small, &set()) else { panic!() };
    assert!(error.to_string().starts_with("it answers 400"), "{error}");
}

/// A profile that is more than it takes at once by default, in its own protocol and as OTLP, and small ones after it until the
/// blocks are enough to be compacted: what was split is whole before and after, though of a series and a time it keeps one.
#[test]
fn what_was_split_is_whole_after_it_was_compacted_with_limits_as_they_are() {
    let Some((_running, port)) = grafana(&["-compaction-worker.job-poll-interval=1s"]) else { return };
    let mut wholes = Vec::new();
    for (scheme, dialect, name) in [
        ("pyroscope+http", Dialect::Pyroscope, "process_cpu:samples:count"),
        ("otlp+http", Dialect::Otlp, "cpu:cpu:nanoseconds"),
        ("otlp+grpc", Dialect::Otlp, "cpu:cpu:nanoseconds"),
    ] {
        if scheme == "otlp+grpc" && !has_grpc("what_was_split_is_whole") {
            continue;
        }
        let mut large = profile(Kind::Cpu, 20_000);
        (large.time_nanos, large.tags) =
            (now(), [("service", scheme)].map(|(key, value)| (key.to_string(), value.to_string())).into());
        let tags = large.tags.clone();
        let column = usize::from(dialect == Dialect::Otlp);
        let set = Set { profiles: dialect.encode(&[(Kind::Cpu, large.clone())]), ..set_of(&[], &tags) };
        assert!(set.profiles.len() > 1, "{}", set.profiles.len());
        let mut exporter = exporter(&[("push", &format!("{scheme}://127.0.0.1:{port}"))]);
        let is_sent = |_| {
            let outcome = exporter.attempt(&set);
            assert!(matches!(outcome, Outcome::Sent | Outcome::Later(..)), "{scheme}: {outcome:?}");
            let is_sent = matches!(outcome, Outcome::Sent);
            // So much a second, as the exporter's own thread would find out.
            std::thread::sleep(Duration::from_millis(if is_sent { 0 } else { 500 }));
            is_sent
        };
        assert!((0..40).any(is_sent), "{scheme}");
        let (id, selector) =
            (format!("{name}:cpu:nanoseconds"), format!(r#"{{service_name="{scheme}",version=""}}"#));
        let whole = move || read_back(port, &id, &selector, "").values().sum::<i64>();
        assert_eq!(whole(), large.totals()[column], "{scheme} before");
        wholes.push((scheme, large.totals()[column], whole));
    }
    // Twenty blocks of a shard are compacted, or what is 36 seconds old when another comes. A service has a shard.
    let start = std::time::Instant::now();
    while compacted(port) < wholes.len() as f64 || start.elapsed() < Duration::from_secs(45) {
        assert!(start.elapsed() < Duration::from_secs(150), "{} of {} jobs", compacted(port), wholes.len());
        for (scheme, _, _) in &wholes {
            let (mut small, mut tags) = (profile(Kind::Cpu, 1), tags("small"));
            tags.insert("service".to_string(), scheme.to_string());
            (small.time_nanos, small.tags) = (now(), tags.clone());
            let outcome = push(port, &set_of(&[(Kind::Cpu, small)], &tags));
            assert!(matches!(outcome, Outcome::Sent | Outcome::Later(..)), "{outcome:?}");
        }
    }
    std::thread::sleep(Duration::from_secs(3));
    for (scheme, expected, whole) in wholes {
        assert_eq!(whole(), expected, "{scheme} after it was compacted");
    }
}

/// How many of its jobs to compact are done.
fn compacted(port: u16) -> f64 {
    let (_, page) = get(port, "/metrics").unwrap();
    let page = String::from_utf8_lossy(&page);
    let lines = page.lines().filter(|line| {
        line.starts_with("pyroscope_compaction_worker_jobs_completed_total{") && line.contains("success")
    });
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// As it was before version 2, where allocations were sums since the start unless the series says otherwise.
#[test]
fn allocations_of_two_periods_add_up_in_the_storage_of_version_1() {
    let Some((_running, port)) = grafana(&["-architecture.storage=v1", "-write-path=ingester"]) else {
        return;
    };
    let mut expected = 0;
    for samples in [40, 20, 40] {
        let mut profile = profile(Kind::Heap, samples);
        (profile.time_nanos, profile.tags) = (now(), tags("1.0"));
        expected += profile.totals()[1];
        let outcome = push(port, &set_of(&[(Kind::Heap, profile)], &tags("1.0")));
        assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
    }
    let found = read_back(port, "memory:alloc_space:bytes:space:bytes", r#"{service_name="shop"}"#, "");
    assert_eq!(found.values().sum::<i64>(), expected);
}

/// As OTLP, over HTTP and gRPC on the same port. Names are what the server makes of it: of samples in time those of its own
/// profiles of processors, of anything else what its period is measured in.
#[test]
fn otlp_is_there_by_the_names_that_it_makes() {
    for scheme in ["otlp+http", "otlp+grpc"] {
        if scheme == "otlp+grpc" && !has_grpc("otlp_is_there_by_the_names_that_it_makes") {
            continue;
        }
        let Some((_running, port)) = grafana(&[]) else { return };
        let made = |kind| {
            let mut profile = profile(kind, 40);
            (profile.time_nanos, profile.tags) = (now(), tags("1.0"));
            (kind, profile)
        };
        let sent: Vec<(Kind, Profile)> =
            [Kind::Cpu, Kind::Wall, Kind::Heap, Kind::Mutex].into_iter().map(made).collect();
        let set = Set { profiles: Dialect::Otlp.encode(&sent), ..set_of(&[], &tags("1.0")) };
        let outcome = exporter(&[("push", &format!("{scheme}://127.0.0.1:{port}"))]).attempt(&set);
        assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
        for (kind, profile) in &sent {
            for (column, of) in profile.sample_types.iter().enumerate() {
                let (name, period, scale) = match (kind, of.name.as_str()) {
                    (Kind::Cpu, "samples") => {
                        ("process_cpu:cpu:nanoseconds", "cpu:nanoseconds", profile.period)
                    }
                    (Kind::Cpu, _) => ("cpu:cpu:nanoseconds", "cpu:nanoseconds", 1),
                    (Kind::Wall, _) => ("wall", "wall:nanoseconds", 1),
                    (Kind::Heap, _) => ("space", "space:bytes", 1),
                    _ => ("contentions", "contentions:count", 1),
                };
                let id = match name.contains(':') {
                    true => format!("{name}:{period}"),
                    false => format!("{name}:{}:{}:{period}", of.name, of.unit),
                };
                let expected: BTreeMap<String, i64> = by_stack(profile, column)
                    .into_iter()
                    .map(|(stack, value)| (stack, value * scale))
                    .collect();
                let found = read_back(port, &id, r#"{service_name="shop"}"#, "");
                assert_eq!(found, expected, "{id}");
                let of_span = read_back(port, &id, "{}", r#","span_selector":["b7ad6b7169203331"]"#);
                assert_eq!(of_span, expected, "{id} of the span that the samples are linked to");
            }
        }
    }
}
