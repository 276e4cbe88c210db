//! What requests look like, read by a decoder that is not ours, and beside files of how they looked.

use std::io::Read;
use std::path::PathBuf;

use everprof::encode::{Dialect, pprof};
use everprof::export::{Exporter, Outcome, Set};
use everprof::profile::{LabelValue, Profile};
use prost::Message;

use crate::server::{Act, Asked, Server, YES};
use crate::{exporter, now, otlp_proto, set};

/// `push.v1.PushRequest`, after its published proto.
#[derive(Message)]
struct PushRequest {
    #[prost(message, repeated, tag = "1")]
    series: Vec<RawProfileSeries>,
}

#[derive(Message)]
struct RawProfileSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<LabelPair>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<RawSample>,
}

#[derive(Message)]
struct LabelPair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Message)]
struct RawSample {
    #[prost(bytes = "vec", tag = "1")]
    raw_profile: Vec<u8>,
    #[prost(string, tag = "2")]
    id: String,
}

/// The profile of a request to Pyroscope.
pub(crate) fn pprof_of(body: &[u8]) -> Profile {
    let request = PushRequest::decode(body).unwrap();
    pprof::decode(&request.series[0].samples[0].raw_profile).unwrap()
}

/// What a server gets of a set.
pub(crate) fn sent(options: &[(&str, &str)], protocol: &str, rest: &str, set: &Set) -> Vec<Asked> {
    let server = Server::new(&[YES]);
    let push = format!("{protocol}{}{rest}", server.address);
    let mut options = options.to_vec();
    options.push(("push", &push));
    let mut exporter: Box<dyn Exporter> = exporter(&options);
    assert!(matches!(exporter.attempt(set), Outcome::Sent));
    server.asked()
}

/// The head and the body as text, without what differs from run to run.
pub(crate) fn text(asked: &Asked, set: &Set, body: &str) -> String {
    let mut head: Vec<&str> = asked
        .head
        .lines()
        .filter(|line| !line.starts_with("host:") && !line.starts_with("user-agent:"))
        .collect();
    head.retain(|line| !line.to_ascii_lowercase().starts_with("content-length"));
    let text = format!("{}\n{body}", head.join("\n"));
    text.replace(&set.profiles[0].id.to_string(), "ID").trim_end().to_string() + "\n"
}

/// Compares with the file, or writes it (`BLESS=1`).
pub(crate) fn golden(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/push/golden").join(name);
    if std::env::var_os("BLESS").is_some() {
        return std::fs::write(path, text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), text, "{name}; BLESS=1 writes it anew");
}

/// What a server reads out of a profile: types, times, and each sample with its labels and names.
pub(crate) fn content(profile: &Profile) -> String {
    let types = |of: &everprof::profile::ValueType| format!("{}/{}", of.name, of.unit);
    let mut lines = vec![format!(
        "types {} period {} of {} default {}",
        profile.sample_types.iter().map(types).collect::<Vec<_>>().join(" "),
        profile.period,
        types(&profile.period_type),
        profile.default_sample_type
    )];
    for sample in profile.samples() {
        let labels = profile.get_labels(sample.labels).iter().map(|label| match &label.value {
            LabelValue::Text(text) => format!("{}={text}", label.key),
            LabelValue::Number(number, unit) => format!("{}={number} {unit}", label.key),
        });
        let labels: Vec<String> = labels.collect();
        let stack = profile.get_stack(sample.stack).iter().map(|id| {
            let location = profile.get_location(*id);
            let line = location.lines[0];
            format!(
                "{}:{}@{:#x}",
                profile.text(profile.get_function(line.function).name),
                line.line,
                location.address
            )
        });
        let stack: Vec<String> = stack.collect();
        lines.push(format!("{:?} {} [{}]", sample.values, stack.join(" < "), labels.join(", ")));
    }
    lines.join("\n")
}

#[test]
fn pyroscope_gets_a_push_request() {
    let set = set(Dialect::Pyroscope, 2, now());
    let options =
        [("push_tenant", "team-a"), ("push_token", "sesame-open"), ("push_headers", "x-more=of {service}")];
    let asked = sent(&options, "pyroscope+http://", "/base/", &set);
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("content-length"), Some(asked[0].body.len().to_string().as_str()));
    let request = PushRequest::decode(asked[0].body.as_slice()).unwrap();
    assert_eq!(request.encode_to_vec(), asked[0].body, "nothing else is in it");
    let mut body = String::new();
    for series in &request.series {
        series.labels.iter().for_each(|label| body += &format!("{}={}\n", label.name, label.value));
        for sample in &series.samples {
            let profile = pprof::decode(&sample.raw_profile).unwrap();
            assert_eq!((profile.time_nanos, profile.duration_nanos), (set.time_nanos, 10_000_000_000));
            body += &format!("sample {}\n{}\n", sample.id, content(&profile));
        }
    }
    golden("pyroscope.txt", &text(&asked[0], &set, &body));
}

#[test]
fn parca_gets_a_write_raw_request() {
    let set = set(Dialect::Parca, 2, now());
    let asked = sent(&[], "parca+http://", "", &set);
    let mut all = String::new();
    // One series, and one request, for each set of labels.
    for (asked, one) in asked.iter().zip(&set.profiles) {
        let body: serde_json::Value = serde_json::from_slice(&asked.body).unwrap();
        let series = &body["series"][0];
        let raw = series["samples"][0]["rawProfile"].as_str().unwrap();
        assert_eq!(unbase64(raw), one.bytes);
        let labels: Vec<String> = series["labels"]["labels"]
            .as_array()
            .unwrap()
            .iter()
            .map(|label| format!("{}={}", label["name"].as_str().unwrap(), label["value"].as_str().unwrap()))
            .collect();
        let profile = content(&pprof::decode(&one.bytes).unwrap());
        all += &text(asked, &set, &format!("{}\n{profile}\n", labels.join("\n")));
    }
    assert_eq!(asked.len(), 2);
    golden("parca.txt", &all);
}

/// One for all series, until there is nothing more to send; and as many as it takes where the server keeps none.
#[test]
fn the_requests_of_a_set_share_a_connection() {
    let set = set(Dialect::Parca, 2, now());
    let answer = |text| Act::Answer(text);
    for (act, expected) in [
        (YES, [1, 1, 2]),
        (answer("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"), [1, 1, 2]),
        (answer("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"), [2, 4, 6]),
        (answer("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}"), [2, 4, 6]),
        // What nobody asked for would be taken for the next answer.
        (answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n\r\n"), [2, 4, 6]),
        (Act::AnswerAndClose("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"), [2, 4, 6]),
    ] {
        let server = Server::new(&[act]);
        let mut exporter = exporter(&[("push", &format!("parca+http://{}", server.address))]);
        let mut connections = || {
            let outcome = exporter.attempt(&set);
            assert!(matches!(outcome, Outcome::Sent), "{act:?}: {outcome:?}");
            server.connections()
        };
        let before = [connections(), connections()];
        exporter.idle();
        let outcome = exporter.attempt(&set);
        assert!(matches!(outcome, Outcome::Sent), "{act:?}: {outcome:?}");
        assert_eq!([before[0], before[1], server.connections()], expected, "{act:?}");
        assert_eq!(server.asked().len(), 6);
    }
}

#[test]
fn otlp_gets_an_export_request() {
    let set = set(Dialect::Otlp, 2, now());
    let options = [("push_token", "sesame-open"), ("push_headers", "x-more=of {service}")];
    let asked = sent(&options, "otlp+http://", "", &set);
    assert_eq!(asked[0].body, set.profiles[0].bytes);
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(asked[0].body.as_slice()).read_to_end(&mut plain).unwrap();
    let body = otlp_proto::text(&otlp_proto::Request::decode(plain.as_slice()).unwrap());
    golden("otlp.txt", &text(&asked[0], &set, &body.replace(&set.time_nanos.to_string(), "NOW")));
    let elsewhere = sent(&options, "otlp+http://", "/api/default/v1/profiles", &set);
    assert_eq!(elsewhere[0].line(), "POST /api/default/v1/profiles HTTP/1.1");
}

#[test]
fn any_server_gets_pprof_at_the_path_of_the_template() {
    let mut set = set(Dialect::Pprof, 2, 1_700_000_000_000_000_000);
    set.tags.insert("service".into(), "shop/../x".into());
    let rest = "/bucket/{service}/{version}/{kind}-{time}-{sequence}.pb.gz?X-Amz-Signature=a%2Cb";
    let asked =
        sent(&[("push_headers", "x-amz-acl=private,x-kind={kind}")], "put+http://u:p%40@", rest, &set);
    assert_eq!(asked[0].body, set.profiles[0].bytes);
    golden("put.txt", &text(&asked[0], &set, &content(&pprof::decode(&asked[0].body).unwrap())));
}

fn unbase64(text: &str) -> Vec<u8> {
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits = 0u32;
    let mut bytes = Vec::new();
    for (at, letter) in text.trim_end_matches('=').chars().enumerate() {
        bits = bits << 6 | letters.find(letter).unwrap() as u32;
        if at % 4 != 0 {
            bytes.push((bits >> (6 - 2 * (at % 4))) as u8);
        }
    }
    bytes
}
