//! What becomes of a profile where the server fails, in each of the ways that servers fail in.

use std::time::Duration;

use everprof::encode::{Dialect, pprof};
use everprof::export::{Loss, Outcome};

use crate::server::{Act, Server, YES};
use crate::{exporter, now, set};

/// What is expected of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Sent,
    Lost(Loss),
    Later(Option<Duration>),
    Cut,
}

/// One attempt at a server that does this: what came of it, and the error's text.
fn attempt(act: Act, delivery: &str) -> (Expected, String) {
    let server = Server::new(&[act]);
    let push = format!("post+http://{}/profiles", server.address);
    let mut exporter = exporter(&[("push", &push), ("push_delivery", delivery)]);
    let mut set = set(Dialect::Pprof, 1, now());
    if matches!(act, Act::Early(_) | Act::HangEarly | Act::ResetEarly) {
        // Larger than what the kernel keeps for a server that does not read.
        set.profiles[0].bytes.resize(16 << 20, 0);
    }
    let outcome = exporter.attempt(&set);
    let (expected, problem) = match outcome {
        Outcome::Sent => (Expected::Sent, String::new()),
        Outcome::Lost(loss, error) => (Expected::Lost(loss), error.to_string()),
        Outcome::Later(error, after) => (Expected::Later(after), error.to_string()),
        Outcome::Cut(error) => (Expected::Cut, error.to_string()),
        other => panic!("{other:?}"),
    };
    (expected, problem)
}

/// Each fault, and what is right under both guarantees. Those that never end by themselves end by the client's patience.
#[test]
fn each_fault_has_its_class() {
    use Expected::{Cut, Later, Lost, Sent};
    let unknown = (Lost(Loss::Unknown), Cut);
    let same = |expected| (expected, expected);
    let faults: &[(Act, (Expected, Expected))] = &[
        (YES, same(Sent)),
        (Act::Answer("HTTP/1.1 204 No Content\r\n\r\n"), same(Sent)),
        (Act::Answer("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), same(Sent)),
        (Act::Answer("HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\nx"), same(Sent)),
        (Act::EndlessBody, same(Sent)),
        (Act::Endless("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "5\r\nhello\r\n"), same(Sent)),
        (Act::Answer("HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\nPNG"), same(Sent)),
        (Act::Endless("HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\n", "5\r\nhello\r\n"), same(Cut)),
        (
            Act::Endless("HTTP/1.1 401 No\r\ncontent-encoding: gzip\r\n\r\n", "\u{1f}\u{8b}"),
            same(Lost(Loss::Refused)),
        ),
        (Act::Endless("", "HTTP/1.1 100 Continue\r\n\r\n"), unknown),
        (
            Act::Answer("HTTP/1.1 429 Slow\r\nretry-after: 7\r\n\r\n"),
            same(Later(Some(Duration::from_secs(7)))),
        ),
        (Act::Answer("HTTP/1.1 429 Slow\r\n\r\n"), same(Later(None))),
        (Act::Answer("HTTP/1.1 503 No\r\nretry-after: soon\r\n\r\n"), same(Cut)),
        // Gateways whose server is away say 502: all exporters try that again.
        (Act::Answer("HTTP/1.1 502 No\r\n\r\n"), same(Cut)),
        (Act::Answer("HTTP/1.1 502 No\r\nretry-after: 7\r\n\r\n"), same(Later(Some(Duration::from_secs(7))))),
        // Those that have handed the request on, or may have.
        (
            Act::Answer(
                "HTTP/1.1 503 No\r\n\r\nupstream connect error or disconnect/reset before headers. reset reason: connection termination",
            ),
            unknown,
        ),
        (
            Act::Answer(
                "HTTP/1.1 503 No\r\n\r\nupstream connect error or disconnect/reset before headers. reset reason: connection failure",
            ),
            same(Cut),
        ),
        (Act::Answer("HTTP/1.1 408 No\r\n\r\n"), same(Cut)),
        (Act::Answer("HTTP/1.1 504 No\r\n\r\n"), unknown),
        (Act::Answer("HTTP/1.1 401 No\r\n\r\n"), same(Lost(Loss::Refused))),
        (Act::Answer("HTTP/1.1 400 No\r\n\r\n"), same(Lost(Loss::Refused))),
        (Act::Answer("HTTP/1.1 413 No\r\n\r\n"), same(Lost(Loss::Refused))),
        // As servers say it that are starting anew.
        (Act::Answer("HTTP/1.1 500 No\r\n\r\n"), unknown),
        (Act::Answer("HTTP/1.1 499 No\r\n\r\n"), unknown),
        (
            Act::Answer("HTTP/1.1 307 There\r\nlocation: http://127.0.0.1:1/\r\n\r\n"),
            same(Lost(Loss::Refused)),
        ),
        (Act::Answer("SSH-2.0-OpenSSH\r\n"), unknown),
        (Act::Answer("HTTP/1.1 200 O"), unknown),
        (Act::Answer("HTTP/1.1 100 Continue\r\n\r\n"), unknown),
        (Act::Close, unknown),
        (Act::Reset, unknown),
        (Act::Hang, unknown),
        (Act::Drip, unknown),
        (Act::EndlessHead, unknown),
        (Act::Early("HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n"), same(Lost(Loss::Refused))),
        (Act::ResetEarly, same(Cut)),
        (Act::HangEarly, same(Cut)),
    ];
    // Each in a thread of its own: some take the whole time that a request may take.
    std::thread::scope(|scope| {
        let mut attempts = Vec::new();
        for (act, (once, again)) in faults {
            for (delivery, expected) in [("at_most_once", once), ("at_least_once", again)] {
                attempts.push((act, delivery, expected, scope.spawn(move || attempt(*act, delivery))));
            }
        }
        for (act, delivery, expected, attempt) in attempts {
            let (found, problem) = attempt.join().unwrap();
            // A server that closes with unread bytes resets the connection, which may take its answer along.
            let early = matches!(act, Act::Early(_)) && found == Cut;
            assert!(found == *expected || early, "{act:?} {delivery}: {found:?} {problem}");
            assert!(problem.len() < 500 && !problem.contains(char::is_control), "{problem:?}");
        }
    });
}

/// What replaces itself may be put again, and a class of errors that a server says of itself is nothing final.
#[test]
fn what_replaces_itself_is_put_again_where_it_was_not_answered() {
    let server = Server::new(&[Act::Close, Act::Answer("HTTP/1.1 504 No\r\n\r\n"), YES]);
    let mut exporter = exporter(&[("push", &format!("put+http://{}/{{id}}", server.address))]);
    let set = set(Dialect::Pprof, 1, now());
    for _ in 0..2 {
        let outcome = exporter.attempt(&set);
        assert!(matches!(outcome, Outcome::Cut(_)), "{outcome:?}");
    }
    assert!(matches!(exporter.attempt(&set), Outcome::Sent));
    let lines: std::collections::BTreeSet<_> =
        server.asked().iter().map(|asked| asked.line().to_string()).collect();
    assert_eq!(lines.len(), 1, "one place: {lines:?}");
}

/// A way that takes connections for a server that is away, and closes them: it costs one profile, not one for each try.
#[test]
fn who_takes_connections_for_nobody_is_known_after_the_first() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let push = format!("post+http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || listener.incoming().for_each(drop));
    let mut exporter = exporter(&[("push", &push)]);
    let mut lost = 0;
    for round in 0..5 {
        match exporter.attempt(&set(Dialect::Pprof, 1, now())) {
            Outcome::Lost(Loss::Unknown, _) => lost += 1,
            Outcome::Later(_, None) => assert!(round > 0 || lost == 0),
            Outcome::Cut(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(lost <= 1, "{lost}");
}

/// A line that takes its time, and a server that takes what comes.
#[test]
fn a_slow_line_is_given_the_time_that_it_takes() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let push = format!("post+http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (head, mut had) =
            crate::server::head(&mut stream).map(|(head, rest)| (head, rest.len())).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
        let length: usize = length.parse().unwrap();
        let mut chunk = vec![0; 1 << 20];
        while had < length {
            std::thread::sleep(Duration::from_millis(480));
            had += stream.read(&mut chunk).unwrap();
        }
        std::thread::sleep(Duration::from_secs(5));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
    });
    let mut set = large();
    set.profiles[0].bytes.resize(24 << 20, 0);
    let begin = std::time::Instant::now();
    let outcome = exporter(&[("push", &push)]).attempt(&set);
    assert!(matches!(outcome, Outcome::Sent), "{outcome:?} after {:?}", begin.elapsed());
    assert!(begin.elapsed() > Duration::from_secs(11), "it is as slow as it is meant to be");
}

#[test]
fn nobody_there_is_tried_again() {
    let server = Server::new(&[YES]);
    // A port that is reserved, so that nothing listens there.
    for push in ["post+http://127.0.0.1:1/", "post+http://nobody.invalid/"] {
        let outcome = exporter(&[("push", push)]).attempt(&set(Dialect::Pprof, 1, now()));
        assert!(matches!(outcome, Outcome::Later(_, None)), "{push}: {outcome:?}");
    }
    assert!(server.asked().is_empty());
}

#[test]
fn what_is_too_large_is_sent_in_parts_that_add_up() {
    const TOO_LARGE: Act = Act::Answer("HTTP/1.1 413 Content Too Large\r\n\r\n");
    let server = Server::new(&[TOO_LARGE, TOO_LARGE, YES]);
    let mut exporter = exporter(&[("push", &format!("pyroscope+http://{}", server.address))]);
    let set = set(Dialect::Pyroscope, 100, now());
    let whole = pprof::decode(&set.profiles[0].bytes).unwrap();
    assert!(matches!(exporter.attempt(&set), Outcome::Sent));
    let asked = server.asked();
    assert_eq!(asked.len(), 5, "the whole, a half, its quarters and the other half");
    let parts: Vec<_> = asked[2..].iter().map(|asked| crate::requests::pprof_of(&asked.body)).collect();
    assert_eq!(parts.iter().map(|part| part.samples().len()).collect::<Vec<_>>(), [25, 25, 50]);
    let mut sum =
        everprof::profile::Profile::with_types(whole.sample_types.clone(), whole.period_type.clone(), "cpu");
    parts.iter().for_each(|part| sum.merge(part).unwrap());
    assert_eq!(sum.totals(), whole.totals());
}

#[test]
fn a_server_that_finds_everything_too_large_is_not_asked_for_ever() {
    let server = Server::new(&[Act::Answer("HTTP/1.1 413 No\r\n\r\n")]);
    let mut exporter = exporter(&[("push", &format!("pyroscope+http://{}", server.address))]);
    let outcome = exporter.attempt(&set(Dialect::Pyroscope, 1_000, now()));
    assert!(matches!(outcome, Outcome::Lost(Loss::Refused, _)), "{outcome:?}");
    assert_eq!(server.asked().len(), 31, "halves, quarters, eighths, sixteenths");
}

/// What is more than a server ever takes at once is told the same as what comes too fast, and would be for ever.
#[test]
fn what_meets_a_limit_again_and_again_is_tried_in_halves() {
    const LIMIT: Act = Act::Answer("HTTP/1.1 429 No\r\n\r\n");
    let server = Server::new(&[LIMIT, LIMIT, LIMIT, YES]);
    let mut exporter = exporter(&[("push", &format!("pyroscope+http://{}", server.address))]);
    let set = set(Dialect::Pyroscope, 2_000, now());
    for _ in 0..3 {
        assert!(matches!(exporter.attempt(&set), Outcome::Later(_, None)));
    }
    assert!(matches!(exporter.attempt(&set), Outcome::Sent));
    let asked = server.asked();
    let parts: Vec<_> = asked.iter().map(|asked| crate::requests::pprof_of(&asked.body)).collect();
    let samples: Vec<usize> = parts.iter().map(|part| part.samples().len()).collect();
    assert_eq!(samples, [2_000, 2_000, 2_000, 1_000, 1_000]);
    assert_ne!(parts[3].time_nanos, parts[4].time_nanos, "of one time it would keep one");
    // What is small only comes too fast, and who names a time means it.
    for (samples, answer) in [(3, LIMIT), (2_000, Act::Answer("HTTP/1.1 429 No\r\nretry-after: 1\r\n\r\n"))] {
        let server = Server::new(&[answer]);
        let mut exporter = crate::exporter(&[("push", &format!("pyroscope+http://{}", server.address))]);
        let set = crate::set(Dialect::Pyroscope, samples, now());
        (0..9).for_each(|_| assert!(matches!(exporter.attempt(&set), Outcome::Later(..))));
        let asked = server.asked();
        assert!(
            asked.iter().all(|one| crate::requests::pprof_of(&one.body).samples().len() == samples as usize)
        );
    }
}

/// The next try would bring the same series, and what there was room for once more.
#[test]
fn a_tenant_with_too_many_series_is_not_asked_again() {
    let server = Server::new(&[Act::Answer(concat!(
        "HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\n\r\n",
        r#"{"code":"resource_exhausted","message":"Maximum active series limit exceeded (5000/5000), reduce the number"#,
        r#" of active streams (reduce labels or reduce label values)"}"#
    ))]);
    let mut exporter = exporter(&[("push", &format!("pyroscope+http://{}", server.address))]);
    let outcome = exporter.attempt(&set(Dialect::Pyroscope, 3, now()));
    let Outcome::Lost(Loss::Refused, error) = outcome else { panic!("{outcome:?}") };
    assert!(error.to_string().contains("series limit"), "{error}");
}

/// Halves in one place would leave the second alone there.
#[test]
fn what_is_put_is_halved_only_where_the_halves_have_places_of_their_own() {
    const TOO_LARGE: Act = Act::Answer("HTTP/1.1 413 No\r\n\r\n");
    let server = Server::new(&[TOO_LARGE, YES]);
    let put = |path: &str| exporter(&[("push", &format!("put+http://{}/{path}", server.address))]);
    let outcome = put("{kind}-{time}-{sequence}").attempt(&set(Dialect::Pprof, 100, now()));
    let Outcome::Lost(Loss::Refused, error) = outcome else { panic!("{outcome:?}") };
    assert!(error.to_string().contains("put {id} into its path"), "{error}");
    assert_eq!(server.asked().len(), 1);
    let server = Server::new(&[TOO_LARGE, YES]);
    let mut exporter = exporter(&[("push", &format!("put+http://{}/{{kind}}-{{id}}", server.address))]);
    assert!(matches!(exporter.attempt(&set(Dialect::Pprof, 100, now())), Outcome::Sent));
    let lines: std::collections::BTreeSet<String> =
        server.asked().iter().map(|asked| asked.line().to_string()).collect();
    assert_eq!(lines.len(), 3, "the whole and its halves: {lines:?}");
}

#[test]
fn a_set_that_failed_in_its_middle_goes_on_there_with_the_same_ids() {
    let server = Server::new(&[YES, Act::Answer("HTTP/1.1 503 No\r\n\r\n"), YES]);
    let mut exporter = exporter(&[("push", &format!("put+http://{}/{{id}}", server.address))]);
    let mut first = set(Dialect::Pprof, 1, now());
    first.profiles.extend(set(Dialect::Pprof, 2, now()).profiles);
    first.profiles.extend(set(Dialect::Pprof, 3, now()).profiles);
    assert!(matches!(exporter.attempt(&first), Outcome::Cut(_)));
    assert!(matches!(exporter.attempt(&first), Outcome::Sent));
    let ids: Vec<String> = first.profiles.iter().map(|profile| profile.id.to_string()).collect();
    let asked: Vec<String> =
        server.asked().iter().map(|asked| asked.line().split(' ').nth(1).unwrap()[1..].to_string()).collect();
    assert_eq!(asked, [&ids[0], &ids[1], &ids[2], &ids[1]].map(String::clone), "the others first");
    // The set was given up meanwhile: the next one begins anew.
    let next = set(Dialect::Pprof, 4, now());
    assert!(matches!(exporter.attempt(&next), Outcome::Sent));
    assert_eq!(server.asked().len(), 1);
}

/// Each of many parts could take the whole time of a request.
#[test]
fn after_a_part_without_answer_the_others_come_later() {
    let server = Server::new(&[Act::Answer("HTTP/1.1 504 No\r\n\r\n"), YES]);
    let options = [("push", &*format!("post+http://{}", server.address)), ("push_delivery", "at_most_once")];
    let mut both = set(Dialect::Pprof, 1, now());
    both.profiles.extend(set(Dialect::Pprof, 2, now()).profiles);
    let mut exporter = exporter(&options);
    let outcome = exporter.attempt(&both);
    assert!(matches!(outcome, Outcome::Later(_, None)), "{outcome:?}");
    assert_eq!(server.asked().len(), 1);
    let outcome = exporter.attempt(&both);
    assert!(matches!(outcome, Outcome::Lost(Loss::Unknown, _)), "{outcome:?}");
    assert_eq!(server.asked().len(), 1, "the second alone");
    // The same for one that is given to the disk meanwhile.
    let server = Server::new(&[Act::Answer("HTTP/1.1 504 No\r\n\r\n")]);
    let push = format!("post+http://{}", server.address);
    let mut exporter = crate::exporter(&[("push", &push), ("push_delivery", "at_most_once")]);
    assert!(matches!(exporter.attempt(&both), Outcome::Later(_, None)));
    let (rest, lost) = exporter.unsent(&both);
    assert_eq!(rest.profiles.iter().map(|profile| profile.id).collect::<Vec<_>>(), [both.profiles[1].id]);
    assert!(matches!(lost, Some((Loss::Unknown, _))), "{lost:?}");
}

/// A set that is too large for a server that does not say so, but breaks off.
fn large() -> everprof::encode::Set {
    let mut set = set(Dialect::Pprof, 1, now());
    set.profiles[0].bytes.resize(16 << 20, 0);
    set
}

#[test]
fn what_always_breaks_off_is_given_up_once_others_have_arrived() {
    use Act::ResetEarly as Break;
    let server = Server::new(&[Break, Break, Break, YES, Break, YES, Break, YES, Break, YES, Break, YES]);
    let mut exporter = exporter(&[("push", &format!("post+http://{}", server.address))]);
    let (bad, good) = (large(), set(Dialect::Pprof, 1, now()));
    for round in 0..3 {
        let outcome = exporter.attempt(&bad);
        assert!(matches!(outcome, Outcome::Cut(_)), "{round}: an outage looks like that: {outcome:?}");
        let (rest, lost) = exporter.unsent(&bad);
        assert!(rest == bad && lost.is_none());
    }
    let mut next = || {
        assert!(matches!(exporter.attempt(&good), Outcome::Sent));
        exporter.idle();
        exporter.attempt(&bad)
    };
    for round in 0..3 {
        let outcome = next();
        assert!(matches!(outcome, Outcome::Cut(_)), "{round}: that may be chance: {outcome:?}");
    }
    let outcome = next();
    let Outcome::Lost(Loss::Broken, error) = outcome else { panic!("{outcome:?}") };
    assert!(error.to_string().contains("7 times, while others arrived"), "{error}");
    assert!(matches!(exporter.attempt(&set(Dialect::Pprof, 1, now())), Outcome::Sent));
}

/// In at-least-once, a server that never answers to one set would get it for ever.
#[test]
fn what_is_never_answered_is_given_up_as_well_and_the_rest_of_its_set_arrives() {
    const NO: Act = Act::Answer("HTTP/1.1 503 No\r\n\r\n");
    let server = Server::new(&[Act::Close, YES, Act::Close, YES, NO, YES, Act::Close, YES, NO, YES]);
    let push = format!("post+http://{}", server.address);
    let mut exporter = exporter(&[("push", &push), ("push_delivery", "at_least_once")]);
    let mut both = set(Dialect::Pprof, 1, now());
    both.profiles.extend(set(Dialect::Pprof, 2, now()).profiles);
    let (bad, good) = (both.profiles[0].id, both.profiles[1].id);
    assert!(matches!(exporter.attempt(&both), Outcome::Cut(_)));
    let (rest, _) = exporter.unsent(&both);
    assert_eq!(rest.profiles.iter().map(|profile| profile.id).collect::<Vec<_>>(), [good, bad]);
    assert!(matches!(exporter.attempt(&rest), Outcome::Cut(_)), "the good one is through");
    let (rest, _) = exporter.unsent(&rest);
    assert_eq!(rest.profiles.iter().map(|profile| profile.id).collect::<Vec<_>>(), [bad]);
    let other = set(Dialect::Pprof, 3, now());
    let mut next = || {
        assert!(matches!(exporter.attempt(&other), Outcome::Sent));
        exporter.idle();
        exporter.attempt(&rest)
    };
    assert!(matches!(next(), Outcome::Cut(_)));
    assert!(matches!(next(), Outcome::Cut(_)));
    let outcome = next();
    assert!(matches!(outcome, Outcome::Lost(Loss::Broken, _)), "{outcome:?}");
    assert_eq!(server.asked().len(), 9);
}

#[test]
fn one_refused_profile_does_not_keep_the_others() {
    let server = Server::new(&[Act::Answer("HTTP/1.1 400 No\r\n\r\nbad"), YES]);
    let mut exporter = exporter(&[("push", &format!("post+http://{}", server.address))]);
    let mut both = set(Dialect::Pprof, 1, now());
    both.profiles.extend(set(Dialect::Pprof, 2, now()).profiles);
    let Outcome::Lost(Loss::Refused, error) = exporter.attempt(&both) else { panic!() };
    assert_eq!(error.to_string(), "it answers 400: bad");
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn a_portal_before_the_server_is_no_server() {
    let portal = "HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\n\r\n<html>log in</html>";
    let server = Server::new(&[Act::Answer(portal)]);
    let mut exporter = exporter(&[("push", &format!("pyroscope+http://{}", server.address))]);
    let outcome = exporter.attempt(&set(Dialect::Pyroscope, 1, now()));
    assert!(matches!(outcome, Outcome::Lost(Loss::Refused, _)), "{outcome:?}");
}

#[test]
fn what_is_too_old_is_not_sent() {
    let server = Server::new(&[YES]);
    let mut exporter = exporter(&[("push", &format!("pyroscope+http://{}", server.address))]);
    let outcome = exporter.attempt(&set(Dialect::Pyroscope, 1, now() - 3_400_000_000_000));
    assert!(matches!(outcome, Outcome::Lost(Loss::Expired, _)), "{outcome:?}");
    assert!(server.asked().is_empty());
}

/// A server that sends back what it was sent, as some do in their errors.
#[test]
fn secrets_are_in_no_error() {
    let echo = "HTTP/1.1 401 No\r\n\r\nnot welcome: Bearer sesame-open, key k-1234567, YW5uOnNlc2FtZQ==, sesame sig=abcdef";
    for (push, options) in [
        (
            "post+http://HOST/a?sig=abcdef",
            vec![("push_token", "sesame-open"), ("push_headers", "x-key=k-1234567")],
        ),
        (
            "post+http://ann:sesame@HOST/a?sig=abcdef",
            vec![("push_headers", "x-key=k-1234567,x-b=sesame-open")],
        ),
    ] {
        let server = Server::new(&[Act::Answer(echo)]);
        let push = push.replace("HOST", &server.address.to_string());
        let mut options = options.clone();
        options.push(("push", &push));
        let mut exporter = exporter(&options);
        let Outcome::Lost(_, error) = exporter.attempt(&set(Dialect::Pprof, 1, now())) else { panic!() };
        let shown = format!("{error} {error:?} {}", exporter.name());
        let shows = |secret: &&str| shown.contains(*secret);
        let secrets = ["sesame-open", "k-1234567", "abcdef"];
        assert!(!secrets.iter().any(shows), "{shown}");
        assert!(!push.contains("ann") || !["YW5uOnNlc2FtZQ", "sesame"].iter().any(shows), "{shown}");
        assert!(shown.contains("not welcome") && shown.contains("[hidden]"), "{shown}");
    }
}
