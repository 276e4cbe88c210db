//! The OpenTelemetry Collector: every kind of profile over HTTP and gRPC, and what its exporter of files wrote of it.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use everprof::encode::{Dialect, Set};
use everprof::export::{Loss, Outcome};
use everprof::profile::{Kind, Profile};
use prost::Message;

use crate::otlp_proto::{self, Request};
use crate::sets::{exporter, now, profile};
use crate::{Running, has_grpc, port, program, start};

pub(crate) struct Collector {
    pub(crate) running: Running,
    pub(crate) http: u16,
    pub(crate) grpc: u16,
}

/// A server of Go says what is too large with a status that has other meanings too.
#[test]
fn what_is_too_large_for_it_is_sent_in_parts() {
    if !has_grpc("what_is_too_large_for_it_is_sent_in_parts") {
        return;
    }
    let Some(collector) = collector("        max_recv_msg_size_mib: 1") else { return };
    let mut large = profile(Kind::Cpu, 20_000);
    large.time_nanos = now();
    let totals = large.totals();
    let set = Set { profiles: Dialect::Otlp.encode(&[(Kind::Cpu, large)]), ..made() };
    let outcome = exporter(&[("push", &format!("otlp+grpc://127.0.0.1:{}", collector.grpc))]).attempt(&set);
    assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
    let written = written(&collector.running.dir, 4);
    assert!(written.len() >= 4);
    let mut sums = [0, 0];
    for profiles in written
        .iter()
        .flat_map(|of| &of.resource_profiles[0].scope_profiles[0].profiles)
        .collect::<Vec<_>>()
        .chunks(2)
    {
        for (place, profile) in profiles.iter().rev().enumerate() {
            sums[place] += profile.samples.iter().map(|sample| sample.values[0]).sum::<i64>();
        }
    }
    assert_eq!(sums.to_vec(), totals);
}

/// With these lines more below `grpc`.
pub(crate) fn collector(more: &str) -> Option<Collector> {
    let (http, grpc) = (port(), port());
    let running = start(&program("otelcol")?, &format!("otelcol-{http}"), |dir| {
        let config = format!(
            "receivers:
  otlp:
    protocols:
      http:
        endpoint: 127.0.0.1:{http}
      grpc:
        endpoint: 127.0.0.1:{grpc}
{more}
exporters:
  file:
    path: {}/profiles
    format: proto
    flush_interval: 50ms
service:
  telemetry:
    metrics:
      level: none
  pipelines:
    profiles:
      receivers: [otlp]
      exporters: [file]
",
            dir.display()
        );
        let path = dir.join("config.yaml");
        fs::write(&path, config).unwrap();
        // Profiles are still behind a gate.
        vec![
            format!("--config=file:{}", path.display()),
            "--feature-gates=service.profilesSupport".to_string(),
        ]
    });
    let is_there = |port| {
        (0..200).any(|_| {
            TcpStream::connect(("127.0.0.1", port)).is_ok() || {
                thread::sleep(Duration::from_millis(100));
                false
            }
        })
    };
    assert!(is_there(http) && is_there(grpc), "{}", fs::read_to_string(running.dir.join("log")).unwrap());
    Some(Collector { running, http, grpc })
}

/// What the exporter of files has, once it has that many: each with its length in front.
pub(crate) fn written(dir: &Path, count: usize) -> Vec<Request> {
    let mut requests = Vec::new();
    for _ in 0..100 {
        requests.clear();
        let bytes = fs::read(dir.join("profiles")).unwrap_or_default();
        let mut rest = bytes.as_slice();
        while let Some((length, after)) = rest.split_first_chunk() {
            let length = u32::from_be_bytes(*length) as usize;
            let Some(request) = after.get(..length) else { break };
            requests.push(Request::decode(request).unwrap());
            rest = &after[length..];
        }
        if requests.len() >= count {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    requests
}

fn made() -> Set {
    let tags: BTreeMap<String, String> = [("service", "shop"), ("version", "1.0"), ("k8s.node-name", "n1")]
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .into();
    let one = |kind: Kind| {
        let mut profile = profile(kind, 5);
        (profile.time_nanos, profile.tags) = (now(), tags.clone());
        (kind, profile)
    };
    let sent: Vec<(Kind, Profile)> = Kind::ALL.into_iter().map(one).collect();
    let profiles = Dialect::Otlp.encode(&sent);
    Set { tags, sequence: 0, time_nanos: now(), duration_nanos: 10_000_000_000, profiles, ..Set::default() }
}

fn sent(set: &Set) -> Vec<Request> {
    let one = |encoded: &everprof::encode::Encoded| {
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(encoded.bytes.as_slice()), &mut plain)
            .unwrap();
        Request::decode(plain.as_slice()).unwrap()
    };
    set.profiles.iter().map(one).collect()
}

/// Everything that each request says, and the IDs of its profiles.
fn content(requests: &[Request]) -> Vec<(String, Vec<Vec<u8>>)> {
    let ids = |request: &Request| {
        let scopes = request.resource_profiles.iter().flat_map(|of| &of.scope_profiles);
        scopes.flat_map(|of| &of.profiles).map(|one| one.profile_id.clone()).collect()
    };
    requests.iter().map(|request| (otlp_proto::text(request), ids(request))).collect()
}

fn is_written_as_it_was_sent(push: &str, collector: &Collector) {
    let set = made();
    let outcome = exporter(&[("push", push)]).attempt(&set);
    assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
    let written = written(&collector.running.dir, set.profiles.len());
    assert_eq!(content(&written), content(&sent(&set)));
    println!("{} requests through the Collector over {}", written.len(), push.split(':').next().unwrap());
}

#[test]
fn the_collector_has_it_over_http() {
    let Some(collector) = collector("") else { return };
    is_written_as_it_was_sent(&format!("otlp+http://127.0.0.1:{}", collector.http), &collector);
}

#[test]
fn the_collector_has_it_over_grpc() {
    if !has_grpc("the_collector_has_it_over_grpc") {
        return;
    }
    let Some(collector) = collector("") else { return };
    is_written_as_it_was_sent(&format!("otlp+grpc://127.0.0.1:{}", collector.grpc), &collector);
}

#[test]
fn what_it_refuses_is_told() {
    let Some(collector) = collector("") else { return };
    let mut set = made();
    let push = format!("otlp+http://127.0.0.1:{}/elsewhere", collector.http);
    let outcome = exporter(&[("push", &push)]).attempt(&set);
    let Outcome::Lost(Loss::Refused, error) = outcome else { panic!("{outcome:?}") };
    assert!(error.to_string().starts_with("it answers 404"), "{error}");
    set.profiles.truncate(1);
    set.profiles[0].bytes = b"nothing that was compressed".to_vec();
    let outcome = exporter(&[("push", &format!("otlp+http://127.0.0.1:{}", collector.http))]).attempt(&set);
    let Outcome::Lost(Loss::Refused, error) = outcome else { panic!("{outcome:?}") };
    println!("{error}");
    if !has_grpc("what_it_refuses_is_told") {
        return;
    }
    let refused = |set: &Set, port: u16| {
        let outcome = exporter(&[("push", &format!("otlp+grpc://127.0.0.1:{port}"))]).attempt(set);
        let Outcome::Lost(loss, error) = outcome else { panic!("{outcome:?}") };
        println!("{loss:?} {error}");
        error.to_string()
    };
    assert!(refused(&set, collector.grpc).starts_with("it answers with the status 13"));
    // Where HTTP/1.1 is spoken. It closes with its answer, and whether that is read before the next write fails is chance.
    let problem = refused(&set, collector.http);
    assert!(problem.contains("status 12") || problem.starts_with("no answer: "), "{problem}");
}
