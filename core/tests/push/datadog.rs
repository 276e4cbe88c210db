//! Uploads to Datadog, to a server that plays its agent and its intake.

use everprof::encode::{Dialect, Set, pprof};
use everprof::export::{self, Loss, Outcome};
use everprof::profile::Kind;
use everprof::{ErrorKind, Options};

use crate::requests::{content, golden, sent, text};
use crate::server::{Act, Asked, Server, YES};
use crate::sets::profile;
use crate::{exporter, set};

const TIME: i64 = 1_700_000_000_123_456_789;

/// A period with several kinds.
fn period() -> Set {
    let mut whole = set(Dialect::Datadog, 0, TIME);
    whole.tags.insert("container_id".to_string(), "0123abcd".repeat(8));
    whole.tags.insert("instance".to_string(), "11111111-2222-4333-8444-555555555555".to_string());
    let made = |kind: Kind| {
        let mut profile = profile(kind, 2);
        (profile.time_nanos, profile.tags) = (TIME, whole.tags.clone());
        (kind, profile)
    };
    let kinds = [
        Kind::Cpu,
        Kind::Wall,
        Kind::OffCpu,
        Kind::Alloc,
        Kind::Heap,
        Kind::Lock,
        Kind::Mutex,
        Kind::Threads,
    ];
    whole.profiles = Dialect::Datadog.encode(&kinds.map(made));
    whole
}

/// Head and content of each part of a form.
fn parts(asked: &Asked) -> Vec<(String, Vec<u8>)> {
    let media = asked.header("content-type").unwrap();
    let boundary = media.strip_prefix("multipart/form-data; boundary=").unwrap();
    let delimiter = format!("\r\n--{boundary}").into_bytes();
    let body = [b"\r\n".as_slice(), &asked.body].concat();
    let at = |from: usize, what: &[u8]| {
        body[from..].windows(what.len()).position(|some| some == what).map(|at| from + at)
    };
    let (mut parts, mut from) = (Vec::new(), at(0, &delimiter).unwrap() + delimiter.len());
    while let Some(end) = at(from, &delimiter) {
        let head = at(from, b"\r\n\r\n").unwrap();
        parts.push((String::from_utf8(body[from + 2..head].to_vec()).unwrap(), body[head + 4..end].to_vec()));
        from = end + delimiter.len();
    }
    assert_eq!(&body[from..], b"--\r\n");
    parts
}

fn described(asked: &Asked, set: &Set) -> String {
    let mut body = String::new();
    for (head, content_of_part) in parts(asked) {
        body += &format!("-- {}\n", head.replace("\r\n", "\n-- "));
        if head.contains("name=\"event\"") {
            let event: serde_json::Value = serde_json::from_slice(&content_of_part).unwrap();
            body += &format!("{}\n", serde_json::to_string_pretty(&event).unwrap());
        } else {
            body += &format!("{}\n", content(&pprof::decode(&content_of_part).unwrap()));
        }
    }
    text(asked, set, &body).replace(env!("CARGO_PKG_VERSION"), "VERSION")
}

#[test]
fn the_agent_gets_all_kinds_of_a_period_in_one_upload() {
    let set = period();
    let asked = sent(&[("push_token", "sesame-open")], "datadog+http://", "", &set);
    assert_eq!(asked.len(), 1);
    assert!(!asked[0].head.contains("sesame"), "an agent asks for no key");
    golden("datadog.txt", &described(&asked[0], &set));
}

/// The environment's key would win.
fn has_key_of_its_own() -> bool {
    let has = std::env::var_os("DD_API_KEY").is_some();
    if has {
        println!("!!! SKIPPED: DD_API_KEY is set");
    }
    has
}

#[test]
fn the_intake_gets_the_key_and_no_container() {
    if has_key_of_its_own() {
        return;
    }
    let set = period();
    let asked = sent(&[("push_token", "sesame-open")], "datadog+http://", "/api/v2/profile", &set);
    assert_eq!(asked[0].line(), "POST /api/v2/profile HTTP/1.1");
    assert_eq!(asked[0].header("dd-api-key"), Some("sesame-open"));
    assert!(asked[0].header("authorization").is_none() && asked[0].header("datadog-container-id").is_none());
    let refusal = "HTTP/1.1 403 Forbidden\r\n\r\nAPI key sesame-open is invalid";
    let server = Server::new(&[Act::Answer(refusal)]);
    let push = format!("datadog+http://{}/api/v2/profile", server.address);
    let outcome = exporter(&[("push", &push), ("push_token", "sesame-open")]).attempt(&set);
    let Outcome::Lost(Loss::Refused, error) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.to_string(), "it answers 403: API key [hidden] is invalid");
}

#[test]
fn an_intake_without_a_key_is_an_error_at_the_start() {
    if has_key_of_its_own() {
        return;
    }
    let mut options = Options::default();
    options.set("push", "datadog+http://localhost/api/v2/profile").unwrap();
    let error = export::of_options(&options).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidOption);
    assert!(error.to_string().contains("DD_API_KEY"), "{error}");
}

/// Uploads that are too large are parted between kinds first.
#[test]
fn what_is_too_large_goes_in_several_uploads() {
    const TOO_LARGE: Act = Act::Answer("HTTP/1.1 413 Content Too Large\r\n\r\n");
    let set = period();
    let server = Server::new(&[TOO_LARGE, YES]);
    let push = format!("datadog+http://{}", server.address);
    assert!(matches!(exporter(&[("push", &push)]).attempt(&set), Outcome::Sent));
    let counts: Vec<usize> = server.asked().iter().map(|asked| parts(asked).len() - 1).collect();
    let all = set.profiles.len();
    assert_eq!(counts, [all, all / 2, all - all / 2]);
}
