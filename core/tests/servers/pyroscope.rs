//! Pyroscope's Push API, by its published messages and its own framework: every kind of profile, and its refusals.

use std::collections::{BTreeMap, BTreeSet};

use everprof::encode::{Dialect, Set, pprof};
use everprof::export::{Loss, Outcome};
use everprof::profile::{Kind, Label, LabelValue, Profile};

use crate::http::{get, unbase64, wait};
use crate::sets::{exporter, now, profile};
use crate::{Running, by_stack, port, program, start};

pub(crate) fn pyroscope(arguments: &[&str]) -> Option<(Running, u16)> {
    let port = port();
    let name = format!("pyroscope-{port}");
    let running = start(&program("pyroscope")?, &name, |_| {
        let mut all = vec![format!("-address=127.0.0.1:{port}")];
        all.extend(arguments.iter().map(|argument| (*argument).to_string()));
        all
    });
    wait(port, "/ready");
    Some((running, port))
}

/// What Pyroscope calls a kind.
pub(crate) fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Cpu => "process_cpu",
        Kind::OffCpu => "off_cpu",
        Kind::Heap => "memory",
        _ => kind.name(),
    }
}

/// Everything that was pushed: tenant, labels of the series, and the profile.
pub(crate) fn pushed(port: u16) -> Vec<(String, BTreeMap<String, String>, Profile)> {
    let (_, body) = get(port, "/pushed").unwrap();
    let all: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_string();
    let one = |one: &serde_json::Value| {
        let labels = one["labels"].as_object().unwrap().iter().map(|(key, value)| (key.clone(), text(value)));
        (text(&one["tenant"]), labels.collect(), pprof::decode(&unbase64(&text(&one["pprof"]))).unwrap())
    };
    all.as_array().unwrap_or(&Vec::new()).iter().map(one).collect()
}

#[test]
fn every_kind_is_taken_and_the_same() {
    let Some((_running, port)) = pyroscope(&["-tenants"]) else { return };
    let tags: BTreeMap<String, String> =
        [("service", "shop"), ("version", "1.0"), ("app.kubernetes.io/name", "x")]
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .into();
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
    // The first is too large for one profile.
    let made = |(at, kind): (usize, Kind)| {
        let mut profile = profile(kind, if at == 0 { 40_000 } else { 2 });
        (profile.time_nanos, profile.tags) = (now(), tags.clone());
        (kind, profile)
    };
    let sent: Vec<(Kind, Profile)> = kinds.into_iter().enumerate().map(made).collect();
    let profiles = Dialect::Pyroscope.encode(&sent);
    let set = Set {
        tags: tags.clone(),
        sequence: 0,
        time_nanos: now(),
        duration_nanos: 10_000_000_000,
        profiles,
        ..Set::default()
    };
    let push = format!("pyroscope+http://127.0.0.1:{port}");
    let outcome = exporter(&[("push", &push), ("push_tenant", "team-a")]).attempt(&set);
    assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
    let pushed = pushed(port);
    assert_eq!(pushed.len(), set.profiles.len());
    for (kind, profile) in &sent {
        let name = name(*kind);
        let parts: Vec<_> = pushed.iter().filter(|(_, labels, _)| labels["__name__"] == name).collect();
        let times: BTreeSet<i64> = parts.iter().map(|(_, _, part)| part.time_nanos).collect();
        assert_eq!(times.len(), parts.len(), "it would keep one of a time");
        for (tenant, labels, part) in &parts {
            assert_eq!(tenant, "team-a");
            assert_eq!((labels["service_name"].as_str(), labels["version"].as_str()), ("shop", "1.0"));
            assert_eq!(
                (labels["app_kubernetes_io_name"].as_str(), labels["__delta__"].as_str()),
                ("x", "false")
            );
            assert_eq!((labels.len(), part.sample_types.clone()), (5, profile.sample_types.clone()));
            for sample in part.samples() {
                let found = part.get_labels(sample.labels);
                let has = |key: &str, value: &str| found.contains(&Label::text(key, value));
                assert!(
                    has("tenant_id", "a") && has("span_id", "b7ad6b7169203331") && found.len() == 3,
                    "{found:?}"
                );
                assert!(found.iter().all(|label| matches!(label.value, LabelValue::Text(_))));
            }
        }
        for column in 0..profile.sample_types.len() {
            let mut sum: BTreeMap<String, i64> = BTreeMap::new();
            for (_, _, part) in &parts {
                by_stack(part, column)
                    .into_iter()
                    .for_each(|(stack, value)| *sum.entry(stack).or_default() += value);
            }
            assert!(sum == by_stack(profile, column), "{name} {column}");
        }
    }
}

#[test]
fn its_refusals_have_their_class() {
    let attempt = |port: u16, options: &[(&str, &str)], time: i64| {
        let push = format!("pyroscope+http://127.0.0.1:{port}");
        let mut all = vec![("push", push.as_str())];
        all.extend_from_slice(options);
        exporter(&all).attempt(&crate::sets::set(Dialect::Pyroscope, 1, time))
    };
    let Some((_running, tenants)) = pyroscope(&["-tenants"]) else { return };
    let Outcome::Lost(Loss::Refused, error) = attempt(tenants, &[], now()) else { panic!() };
    assert!(
        error.to_string().starts_with("it answers 401") && error.to_string().contains("no org id"),
        "{error}"
    );
    let Some((_running, limited)) = pyroscope(&["-limit=1"]) else { return };
    assert!(matches!(attempt(limited, &[], now()), Outcome::Sent));
    let Outcome::Later(error, None) = attempt(limited, &[], now()) else { panic!() };
    assert!(error.to_string().starts_with("it answers 429"), "{error}");
    // An hour ahead of the server's clock: only the server can tell.
    let Some((_running, port)) = pyroscope(&[]) else { return };
    let Outcome::Lost(Loss::Refused, error) = attempt(port, &[], now() + 3_600_000_000_000) else { panic!() };
    assert!(error.to_string().contains("400") && error.to_string().contains("ingestion window"), "{error}");
}
