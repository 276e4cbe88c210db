//! Uploads to Datadog, to a server that plays its agent and its intake.

use std::collections::BTreeMap;

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
    let counts = [("GET /cart/{id}", 3), ("POST \"/ä\"", 1 << 40), ("everprof.endpoints=overflow", 7)];
    whole.endpoint_counts = counts.map(|(endpoint, count)| (endpoint.to_string(), count)).into();
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

fn event(asked: &Asked) -> serde_json::Value {
    let parts = parts(asked);
    let (_, event) = parts.iter().find(|(head, _)| head.contains("name=\"event\"")).unwrap();
    serde_json::from_slice(event).unwrap()
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

#[test]
fn nothing_that_was_counted_is_null_as_from_datadogs_own() {
    let set = Set { endpoint_counts: BTreeMap::new(), ..period() };
    let asked = sent(&[], "datadog+http://", "", &set);
    assert_eq!(event(&asked[0])["endpoint_counts"], serde_json::Value::Null);
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
    assert_eq!(event(&asked[0])["endpoint_counts"], serde_json::json!(set.endpoint_counts));
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

/// The sums of what the server has taken, or may have.
fn counted(asked: &[Asked], taken: &[usize]) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for asked in taken.iter().map(|at| &asked[*at]) {
        let event = event(asked);
        for (endpoint, count) in event["endpoint_counts"].as_object().into_iter().flatten() {
            *sums.entry(endpoint.clone()).or_default() += count.as_u64().unwrap();
        }
    }
    sums
}

/// Parted, tried again, refused in part, without an answer: what arrives has each request once, or at most once.
#[test]
fn requests_are_counted_once_however_often_a_set_is_sent() {
    const TOO_LARGE: Act = Act::Answer("HTTP/1.1 413 Content Too Large\r\n\r\n");
    const BUSY: Act = Act::Answer("HTTP/1.1 503 Service Unavailable\r\n\r\n");
    const NEVER: Act = Act::Answer("HTTP/1.1 400 Bad Request\r\n\r\n");
    const BROKEN: Act = Act::Answer("HTTP/1.1 500 Internal Server Error\r\n\r\n");
    let set = period();
    let all = set.endpoint_counts.clone();
    let none = BTreeMap::new();
    for (acts, tries, taken, expected) in [
        (&[BUSY, BUSY, YES][..], 3, &[2][..], &all),
        (&[TOO_LARGE, YES, YES], 1, &[1, 2], &all),
        (&[TOO_LARGE, BUSY, YES, BUSY, YES], 3, &[2, 4], &all),
        (&[TOO_LARGE, TOO_LARGE, YES, BUSY, YES, YES], 2, &[2, 4, 5], &all),
        // The first part is refused: the second one has them.
        (&[TOO_LARGE, NEVER, YES], 1, &[2], &all),
        // Nobody knows what became of the first part, or it is lost: they are not told twice.
        (&[TOO_LARGE, BROKEN, YES], 2, &[2], &none),
        (&[TOO_LARGE, Act::Close, YES], 2, &[2], &none),
    ] {
        let server = Server::new(acts);
        let push = format!("datadog+http://{}", server.address);
        let mut exporter = exporter(&[("push", &push)]);
        let outcomes: Vec<Outcome> = (0..tries).map(|_| exporter.attempt(&set)).collect();
        assert!(
            outcomes[..tries - 1]
                .iter()
                .all(|outcome| matches!(outcome, Outcome::Later(..) | Outcome::Cut(_)))
        );
        let asked = server.asked();
        assert_eq!(asked.len(), acts.len(), "{outcomes:?}");
        assert_eq!(counted(&asked, taken), *expected, "{taken:?}");
    }
    // What is left of it, for the disk.
    for (acts, left) in [(&[TOO_LARGE, YES, BUSY][..], &none), (&[TOO_LARGE, BUSY], &all)] {
        let server = Server::new(acts);
        let push = format!("datadog+http://{}", server.address);
        let mut exporter = exporter(&[("push", &push)]);
        assert!(matches!(exporter.attempt(&set), Outcome::Later(..) | Outcome::Cut(_)));
        let (rest, _) = exporter.unsent(&set);
        assert_eq!(rest.endpoint_counts, *left);
        assert!(!rest.profiles.is_empty());
    }
}
