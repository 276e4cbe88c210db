//! What servers of OTLP answer over HTTP, and what becomes of the profile.

use std::time::Duration;

use everprof::encode::Dialect;
use everprof::export::{Loss, Outcome};

use crate::server::{Act, Server};
use crate::{exporter, now, set};

fn attempt(answer: &'static str) -> Outcome {
    let server = Server::new(&[Act::Answer(answer)]);
    let push = format!("otlp+http://{}", server.address);
    let mut exporter = exporter(&[("push", &push), ("push_token", "sesame-open")]);
    let outcome = exporter.attempt(&set(Dialect::Otlp, 1, now()));
    assert_eq!(server.asked().len(), 1, "{answer}: one try");
    outcome
}

#[test]
fn what_was_not_taken_is_a_loss_that_says_why_and_is_not_tried_again() {
    // partial_success { rejected_profiles: 2, error_message: "no sesame-open" }
    let outcome = attempt(
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 20\r\n\r\n\x0a\x12\x08\x02\x12\x0eno sesame-open",
    );
    let Outcome::Lost(Loss::Refused, error) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.to_string(), "it did not take 2 profiles: no [hidden]");
    for taken in [
        // A warning, with nothing lost; nothing at all; an answer of another kind; a page that is longer than it may be.
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 6\r\n\r\n\x0a\x04\x12\x02hm",
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 3\r\n\r\n\x0a\x7f\x08",
    ] {
        let outcome = attempt(taken);
        assert!(matches!(outcome, Outcome::Sent), "{taken:?}: {outcome:?}");
    }
}

#[test]
fn what_may_be_tried_again_is_what_the_specification_says() {
    let again = |answer| match attempt(answer) {
        Outcome::Later(_, after) => Some(after.map(|after| after.as_secs())),
        Outcome::Cut(_) => Some(None),
        Outcome::Lost(Loss::Refused | Loss::Failed | Loss::Unknown, _) => None,
        other => panic!("{answer}: {other:?}"),
    };
    assert_eq!(again("HTTP/1.1 429 Slow\r\nretry-after: 7\r\n\r\n"), Some(Some(7)));
    assert_eq!(again("HTTP/1.1 502 No\r\n\r\n"), Some(None));
    assert_eq!(again("HTTP/1.1 503 No\r\n\r\n"), Some(None));
    for never in [
        "HTTP/1.1 400 No\r\n\r\n",
        "HTTP/1.1 408 No\r\n\r\n",
        "HTTP/1.1 413 No\r\n\r\n",
        "HTTP/1.1 500 No\r\nretry-after: 7\r\n\r\n",
        // Unless the options say `at_least_once`: the gateway has handed it on.
        "HTTP/1.1 504 No\r\n\r\n",
    ] {
        assert_eq!(again(never), None, "{never}");
    }
    let server = Server::new(&[Act::Answer("HTTP/1.1 504 No\r\nretry-after: 3\r\n\r\n")]);
    let push = format!("otlp+http://{}", server.address);
    let outcome = exporter(&[("push", &push), ("push_delivery", "at_least_once")]).attempt(&set(
        Dialect::Otlp,
        1,
        now(),
    ));
    assert!(
        matches!(outcome, Outcome::Later(_, Some(after)) if after == Duration::from_secs(3)),
        "{outcome:?}"
    );
}
