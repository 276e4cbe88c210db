//! Datadog's test agent: what it gets of ours, beside what Datadog's own profiler for Python sends it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use everprof::encode::{Dialect, Set, pprof};
use everprof::export::Outcome;
use everprof::profile::{Kind, LabelValue, Profile};

use crate::http::{unbase64, wait};
use crate::sets::{exporter, now, profile};
use crate::{Running, by_stack, port, start};

/// Python of the folder that `build.sh` has made, with the agent and Datadog's profiler.
pub(crate) fn tools() -> Option<PathBuf> {
    let Some(dir) = std::env::var_os("EVERPROF_TEST_SERVERS") else {
        println!("not run: make test-servers installs ddapm-test-agent, and runs this");
        return None;
    };
    let bin = PathBuf::from(dir).join("datadog/bin");
    if bin.join("ddapm-test-agent").is_file() {
        return Some(bin);
    }
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "in CI, build.sh must have installed it");
    eprintln!("!!! SKIPPED: Datadog's test agent could not be installed from PyPI");
    None
}

pub(crate) fn agent(bin: &std::path::Path) -> (Running, u16) {
    let port = port();
    let running = start(&bin.join("ddapm-test-agent"), &format!("datadog-{port}"), |dir| {
        vec![
            format!("--port={port}"),
            format!("--otlp-http-port={}", crate::port()),
            format!("--otlp-grpc-port={}", crate::port()),
            format!("--trace-uds-socket={}", dir.join("apm.socket").display()),
        ]
    });
    wait(port, "/info");
    (running, port)
}

/// One upload as the agent has it.
pub(crate) struct Upload {
    url: String,
    headers: BTreeMap<String, String>,
    event: serde_json::Value,
    /// Name and file name of each part, in order.
    names: Vec<(String, String)>,
    pub(crate) profiles: BTreeMap<String, Profile>,
}

/// The uploads of that client.
pub(crate) fn uploads(bin: &std::path::Path, port: u16, client: &str) -> Vec<Upload> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/servers/datadog.py");
    let output = Command::new(bin.join("python")).arg("-B").arg(script).arg(port.to_string()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_string();
    let one = |upload: &serde_json::Value| {
        let parts = upload["parts"].as_array().unwrap();
        let named = |part: &serde_json::Value| (text(&part["name"]), text(&part["file"]));
        let event = parts.iter().find(|part| part["name"] == "event").unwrap();
        let files = parts.iter().filter(|part| text(&part["file"]).ends_with(".pprof"));
        Upload {
            url: text(&upload["url"]),
            headers: upload["headers"]
                .as_object()
                .unwrap()
                .iter()
                .map(|(k, v)| (k.clone(), text(v)))
                .collect(),
            event: serde_json::from_slice(&unbase64(&text(&event["content"]))).unwrap(),
            names: parts.iter().map(named).collect(),
            profiles: files
                .map(|part| (text(&part["name"]), pprof::decode(&unbase64(&text(&part["content"]))).unwrap()))
                .collect(),
        }
    };
    all.iter().map(one).filter(|upload| upload.headers["dd-evp-origin"] == client).collect()
}

/// The keys of the tags of an event.
fn tags(event: &serde_json::Value) -> BTreeMap<String, String> {
    let tags = event["tags_profiler"].as_str().unwrap().split(',');
    tags.map(|tag| tag.split_once(':').unwrap())
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect()
}

/// The labels of a profile and whether each is a number.
fn labels(profile: &Profile) -> BTreeSet<(String, bool)> {
    let labels = profile.samples().flat_map(|sample| profile.get_labels(sample.labels).to_vec());
    labels.map(|label| (label.key, matches!(label.value, LabelValue::Number(..)))).collect()
}

fn types(profile: &Profile) -> BTreeSet<(String, String)> {
    profile.sample_types.iter().map(|known| (known.name.clone(), known.unit.clone())).collect()
}

/// Requests that ended, by endpoint.
fn counts() -> BTreeMap<String, u64> {
    [("GET /cart/{id}", 3), ("POST \"/ä\"", 1 << 40)]
        .map(|(endpoint, count)| (endpoint.to_string(), count))
        .into()
}

/// Sends ours, of every kind, and says what it was.
fn ours(port: u16) -> Vec<(Kind, Profile)> {
    sent(&[("push", &format!("datadog+http://127.0.0.1:{port}"))])
}

fn sent(options: &[(&str, &str)]) -> Vec<(Kind, Profile)> {
    let tags: BTreeMap<String, String> =
        [("service", "shop"), ("version", "1.0"), ("env", "prod"), ("instance", "1234")]
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .into();
    let kinds = [
        Kind::Cpu,
        Kind::Wall,
        Kind::OffCpu,
        Kind::Threads,
        Kind::Heap,
        Kind::Peak,
        Kind::Lock,
        Kind::Mutex,
        Kind::Block,
        Kind::Gil,
        Kind::Gc,
    ];
    let time = now();
    let sent = kinds.map(|kind| {
        let mut profile = profile(kind, 20);
        (profile.time_nanos, profile.tags) = (time, tags.clone());
        (kind, profile)
    });
    let profiles = Dialect::Datadog.encode(&sent);
    let set = Set {
        tags,
        sequence: 0,
        time_nanos: time,
        duration_nanos: 10_000_000_000,
        profiles,
        endpoint_counts: counts(),
    };
    let outcome = exporter(options).attempt(&set);
    assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
    sent.into()
}

#[test]
fn the_agent_has_every_kind_and_every_stack_of_one_upload() {
    let Some(bin) = tools() else { return };
    let (_running, port) = agent(&bin);
    let sent = ours(port);
    let [upload] = &uploads(&bin, port, "everprof")[..] else { panic!("one upload") };
    assert!(upload.url.ends_with("/profiling/v1/input"), "{}", upload.url);
    let attached = upload.event["attachments"].as_array().unwrap().iter();
    let attached: BTreeSet<&str> = attached.map(|name| name.as_str().unwrap()).collect();
    assert_eq!(attached, upload.profiles.keys().map(String::as_str).collect());
    for (kind, profile) in &sent {
        let got = &upload.profiles[&format!("{}.pprof", kind.name())];
        for column in 0..profile.sample_types.len() {
            assert_eq!(by_stack(got, column), by_stack(profile, column), "{kind:?} {column}");
        }
        assert_eq!(got.time_nanos, profile.time_nanos);
    }
    assert_eq!(upload.event["version"], "4");
    assert_eq!(upload.event["endpoint_counts"], serde_json::json!(counts()));
}

/// The names that Datadog's own client has, which ours has as well.
#[test]
fn an_upload_has_the_names_of_datadogs_own() {
    let Some(bin) = tools() else { return };
    let (_running, port) = agent(&bin);
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/servers/datadog_client.py");
    let status = Command::new(bin.join("python"))
        .arg("-B")
        .arg(script)
        .env("DD_TRACE_AGENT_URL", format!("http://127.0.0.1:{port}"))
        .envs([
            ("DD_SERVICE", "shop"),
            ("DD_ENV", "prod"),
            ("DD_VERSION", "1.0"),
            ("DD_PROFILING_UPLOAD_INTERVAL", "2"),
        ])
        .status();
    assert!(status.unwrap().success());
    let theirs = uploads(&bin, port, "dd-trace-py");
    let theirs = theirs
        .iter()
        .find(|upload| upload.profiles.values().any(|profile| profile.samples().len() > 0))
        .unwrap();
    ours(port);
    let [own] = &uploads(&bin, port, "everprof")[..] else { panic!("one upload") };
    assert_eq!(own.url, theirs.url);
    for key in theirs.event.as_object().unwrap().keys().filter(|key| *key != "process_tags") {
        assert!(own.event.get(key).is_some(), "the event has no {key}");
    }
    let counted = |event: &serde_json::Value| {
        let counts = event["endpoint_counts"].as_object().unwrap();
        counts.values().all(|count| count.as_u64().is_some_and(|count| count > 0)) && !counts.is_empty()
    };
    assert!(counted(&own.event) && counted(&theirs.event), "{}", theirs.event["endpoint_counts"]);
    assert!(
        theirs.event["endpoint_counts"]["GET /x"].as_u64() > Some(1),
        "{}",
        theirs.event["endpoint_counts"]
    );
    for key in ["start", "end"] {
        let shape = |value: &serde_json::Value| {
            value
                .as_str()
                .unwrap()
                .chars()
                .map(|sign| if sign.is_ascii_digit() { '0' } else { sign })
                .collect::<String>()
        };
        assert_eq!(shape(&own.event[key]), shape(&theirs.event[key]));
    }
    let own_tags = tags(&own.event);
    // What the interpreter is nobody asks here, and the process that sends a set need not be the one that recorded it.
    let not_ours = ["profiler_config", "runtime_platform", "runtime_version", "process_id"];
    for key in tags(&theirs.event).keys().filter(|key| !not_ours.contains(&key.as_str())) {
        assert!(own_tags.contains_key(key), "no tag {key}: {own_tags:?}");
    }
    for key in ["dd-evp-origin", "dd-evp-origin-version"] {
        assert!(own.headers.contains_key(key) && theirs.headers.contains_key(key), "{key}");
    }
    // A part is called what its file is, but the event.
    for upload in [own, theirs] {
        let is_right =
            |(name, file): &(String, String)| name == file || name == "event" && file == "event.json";
        assert!(upload.names.iter().all(is_right), "{:?}", upload.names);
    }
    let theirs = &theirs.profiles["profile.pprof"];
    let own_labels: BTreeSet<_> = own.profiles.values().flat_map(labels).collect();
    let own_types: BTreeSet<_> = own.profiles.values().flat_map(types).collect();
    for (key, is_number) in [("thread name", false), ("span id", true), ("local root span id", true)] {
        let label = (key.to_string(), is_number);
        assert!(own_labels.contains(&label) && labels(theirs).contains(&label), "{label:?}");
    }
    let both: Vec<_> = types(theirs).intersection(&own_types).cloned().collect();
    for name in ["cpu-time", "wall-time", "alloc-samples", "alloc-space", "lock-acquire", "lock-acquire-wait"]
    {
        assert!(
            both.iter().any(|(known, _)| known == name),
            "{name} is not among {both:?} of {:?}",
            types(theirs)
        );
    }
    println!("ours {own_types:?} {own_labels:?}\ntheirs {:?} {:?}", types(theirs), labels(theirs));
}

/// The agent's own socket, and a proxy that others made, which asks for a password.
#[test]
fn the_agent_is_reached_by_its_socket_and_by_a_real_proxy() {
    let Some(bin) = tools() else { return };
    let (running, agent) = agent(&bin);
    sent(&[("push", &format!("datadog+unix://{}", running.dir.join("apm.socket").display()))]);
    let at = port();
    let _proxy = start(&bin.join("proxy"), &format!("proxy-{at}"), |_| {
        let port = format!("--port={at}");
        ["--hostname=127.0.0.1", &port, "--num-workers=1", "--num-acceptors=1", "--basic-auth=ann:se@same"]
            .map(String::from)
            .into()
    });
    let is_there = || std::net::TcpStream::connect(("127.0.0.1", at)).is_ok();
    assert!((0..200).any(|_| is_there() || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        false
    }));
    // This machine by a name that is not taken for it, so that the proxy is gone by.
    let push = format!("datadog+http://127.1:{agent}");
    sent(&[("push", &push), ("push_proxy", &format!("http://ann:se%40same@127.0.0.1:{at}"))]);
    assert_eq!(uploads(&bin, agent, "everprof").len(), 2);
    let profiles = Dialect::Datadog.encode(&[(Kind::Cpu, profile(Kind::Cpu, 1))]);
    let set = Set { profiles, ..Set::default() };
    let tunnelled = format!("post+https://127.1:{agent}/");
    let pushes = if cfg!(feature = "tls") { vec![&push, &tunnelled] } else { vec![&push] };
    let problem = |push: &str, password: &str| {
        let proxy = format!("http://ann:{password}@127.0.0.1:{at}");
        match exporter(&[("push", push), ("push_proxy", &proxy)]).attempt(&set) {
            Outcome::Later(error, _) => error.to_string(),
            outcome => panic!("{outcome:?}"),
        }
    };
    for push in &pushes {
        let problem = problem(push, "wrong-one");
        assert!(problem.contains("407") && !problem.contains("wrong-one"), "{problem}");
    }
    if cfg!(feature = "tls") {
        // There is a tunnel then, and at its end nobody who speaks TLS.
        let problem = problem(&tunnelled, "se%40same");
        assert!(!problem.contains("proxy"), "{problem}");
    }
}
