//! gRPC: what a call looks like to a server of others (`h2` with tokio), and each status's class.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use everprof::encode::{Dialect, Set};
use everprof::export::{Loss, Outcome};
use http::{HeaderMap, Request, Response};
use prost::Message;

use crate::{exporter, now, otlp_proto, set};

/// What a call is answered with: trailers, which stand in the head where there is no message.
#[derive(Clone, Default)]
struct Answer {
    trailers: Vec<(&'static str, String)>,
    message: Option<Vec<u8>>,
}

fn status(code: u32) -> Answer {
    Answer { trailers: vec![("grpc-status", code.to_string())], message: None }
}

struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    asked: Receiver<(Request<()>, Vec<u8>)>,
}

/// A server that answers every call so.
fn server(answer: Answer) -> Server {
    let (give, taken) = mpsc::channel();
    let (told, asked) = mpsc::channel();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            give.send(listener.local_addr().unwrap()).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let (answer, told) = (answer.clone(), told.clone());
                    tokio::spawn(async move {
                        let (head, mut body) = request.into_parts();
                        let mut bytes = Vec::new();
                        while let Some(Ok(data)) = body.data().await {
                            bytes.extend_from_slice(&data);
                            let _ = body.flow_control().release_capacity(data.len());
                        }
                        let _ = told.send((Request::from_parts(head, ()), bytes));
                        let pairs = answer.trailers.iter();
                        let trailers: HeaderMap = pairs
                            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                            .collect();
                        let mut response =
                            Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                        let Some(message) = answer.message else {
                            response.headers_mut().extend(trailers);
                            respond.send_response(response, true).unwrap();
                            return;
                        };
                        let mut stream = respond.send_response(response, false).unwrap();
                        stream
                            .send_data(
                                [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat().into(),
                                false,
                            )
                            .unwrap();
                        stream.send_trailers(trailers).unwrap();
                    });
                }
            }
        });
    });
    Server { address: taken.recv().unwrap(), connections, asked }
}

fn attempt(answer: Answer, options: &[(&str, &str)], scheme: &str, set: &Set) -> (Outcome, Server) {
    let server = server(answer);
    let push = format!("{scheme}://{}", server.address);
    let mut all = vec![("push", push.as_str())];
    all.extend_from_slice(options);
    (exporter(&all).attempt(set), server)
}

#[test]
fn a_call_of_otlp_has_one_compressed_message_and_the_headers() {
    let set = set(Dialect::Otlp, 2, now());
    let options = [("push_token", "sesame-open"), ("push_headers", "projectid=of-{service}")];
    let yes = Answer { message: Some(Vec::new()), ..status(0) };
    let (outcome, server) = attempt(yes, &options, "otlp+grpc", &set);
    assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
    let (head, body) = server.asked.recv_timeout(Duration::from_secs(9)).unwrap();
    assert_eq!(
        head.uri().path(),
        "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export"
    );
    let header = |name: &str| head.headers()[name].to_str().unwrap();
    for (name, value) in [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("grpc-encoding", "gzip"),
        ("authorization", "Bearer sesame-open"),
        ("projectid", "of-shop"),
    ] {
        assert_eq!(header(name), value);
    }
    assert!(header("grpc-timeout").ends_with('m') && header("user-agent").starts_with("everprof/"));
    assert_eq!(body[..5], [&[1][..], &(set.profiles[0].bytes.len() as u32).to_be_bytes()].concat());
    assert_eq!(body[5..], set.profiles[0].bytes);
}

#[derive(Message)]
struct WriteRaw {
    #[prost(message, repeated, tag = "2")]
    series: Vec<Series>,
}

#[derive(Message)]
struct Series {
    #[prost(message, optional, tag = "1")]
    labels: Option<Labels>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Raw>,
}

#[derive(Message)]
struct Labels {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
}

#[derive(Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Message)]
struct Raw {
    #[prost(bytes = "vec", tag = "1")]
    profile: Vec<u8>,
}

#[test]
fn a_call_of_parca_writes_one_series() {
    let set = set(Dialect::Parca, 1, now());
    let yes = Answer { message: Some(Vec::new()), ..status(0) };
    let (outcome, server) = attempt(yes, &[], "parca+grpc", &set);
    assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
    let (head, body) = server.asked.recv_timeout(Duration::from_secs(9)).unwrap();
    assert_eq!(head.uri().path(), "/parca.profilestore.v1alpha1.ProfileStoreService/WriteRaw");
    assert_eq!(body[0], 0, "the profile in it is compressed already");
    let request = WriteRaw::decode(&body[5..]).unwrap();
    assert_eq!(request.encoded_len(), body.len() - 5, "nothing else is in it");
    let labels = &request.series[0].labels.as_ref().unwrap().labels;
    let has = |name: &str, value: &str| labels.iter().any(|label| label.name == name && label.value == value);
    assert!(has("__name__", "process_cpu") && has("service_name", "shop"), "{labels:?}");
    assert_eq!(request.series[0].samples[0].profile, set.profiles[0].bytes);
}

/// One connection is enough for the series of a set; where the server takes no more calls on it, there is another one.
#[test]
fn the_calls_of_a_set_share_a_connection() {
    let set = set(Dialect::Parca, 2, now());
    let yes = Answer { message: Some(Vec::new()), ..status(0) };
    let server = server(yes);
    let mut exporter = exporter(&[("push", &format!("parca+grpc://{}", server.address))]);
    for round in 1..=2 {
        let outcome = exporter.attempt(&set);
        assert!(matches!(outcome, Outcome::Sent), "{round}: {outcome:?}");
        assert_eq!(server.asked.try_iter().count(), 2);
        assert_eq!(server.connections.load(Ordering::Relaxed), 1, "also those of sets that follow at once");
    }
    exporter.idle();
    assert!(matches!(exporter.attempt(&set), Outcome::Sent));
    assert_eq!(server.connections.load(Ordering::Relaxed), 2, "none is kept until the next period");
    let (address, asked) = crate::frames::server_that_says_yes();
    let mut exporter = crate::exporter(&[("push", &format!("parca+grpc://{address}"))]);
    let outcome = exporter.attempt(&set);
    assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
    assert_eq!(asked.try_iter().count(), 2);
}

/// By OTLP's specification, and the guarantee where it may have been taken all the same.
#[test]
fn each_status_has_its_class() {
    let class = |answer: Answer, options: &[(&str, &str)], scheme: &str| {
        let dialect = if scheme.starts_with("otlp") { Dialect::Otlp } else { Dialect::Parca };
        match attempt(answer, options, scheme, &set(dialect, 1, now())).0 {
            Outcome::Sent => "sent".to_string(),
            Outcome::Lost(loss, _) => format!("{loss:?}"),
            Outcome::Later(_, after) => format!("later {}", after.map_or(0.0, |after| after.as_secs_f64())),
            Outcome::Cut(_) => "cut".to_string(),
            other => panic!("{other:?}"),
        }
    };
    for (codes, expected) in [
        (&[0][..], "sent"),
        (&[1, 4], "Unknown"),
        (&[10, 11, 14, 15], "cut"),
        (&[3, 5, 6, 7, 8, 9, 12, 16, 99], "Refused"),
        (&[2, 13], "Failed"),
    ] {
        for code in codes {
            assert_eq!(class(status(*code), &[], "otlp+grpc"), expected, "{code}");
            let with_message = Answer { message: Some(Vec::new()), ..status(*code) };
            // Only OTLP's specification forbids to send it again.
            let expected = if expected == "Failed" { "Unknown" } else { expected };
            assert_eq!(class(with_message, &[], "parca+grpc"), expected, "{code}");
        }
    }
    for code in [1, 4] {
        assert_eq!(class(status(code), &[("push_delivery", "at_least_once")], "otlp+grpc"), "cut");
    }
    let mut handed_on = status(14);
    let words =
        "upstream connect error or disconnect/reset before headers. reset reason: connection termination";
    handed_on.trailers.push(("grpc-message", words.to_string()));
    assert_eq!(class(handed_on, &[], "otlp+grpc"), "Unknown");
    // google.rpc.Status { code: 8, details: [RetryInfo { retry_delay: 7 s }] }
    let details =
        [&b"\x08\x08\x1a\x30\x0a\x28type.googleapis.com/google.rpc.RetryInfo\x12\x04\x0a\x02\x08\x07"[..]]
            .concat();
    let mut muted = status(8);
    muted.trailers.push(("grpc-status-details-bin", base64(&details)));
    assert_eq!(class(muted, &[], "otlp+grpc"), "later 7");
    // Pyroscope says that it is about the rate, and not when.
    let mut limited = status(8);
    let words = "push rate limit (4.0 MiB) exceeded while adding 1.9 MiB";
    limited.trailers.push(("grpc-message", words.to_string()));
    assert_eq!(class(limited, &[], "otlp+grpc"), "later 0");
}

/// A tag may be any text, and HTTP/2 takes all of it but what controls.
#[test]
fn a_header_may_have_any_letter() {
    let set = set(Dialect::Otlp, 1, now());
    let yes = Answer { message: Some(Vec::new()), ..status(0) };
    let mut greeting = set.clone();
    greeting.tags.insert("service".to_string(), "Grüße\n".to_string());
    let (outcome, server) = attempt(yes, &[("push_headers", "x-service={service}")], "otlp+grpc", &greeting);
    assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
    let (head, _) = server.asked.recv_timeout(Duration::from_secs(9)).unwrap();
    assert_eq!(head.headers()["x-service"].as_bytes(), "Grüße".as_bytes());
}

#[test]
fn what_was_not_taken_is_a_loss_that_says_why() {
    let some = Answer { message: Some(b"\x0a\x12\x08\x02\x12\x0eno sesame-open".to_vec()), ..status(0) };
    let (outcome, _) =
        attempt(some, &[("push_token", "sesame-open")], "otlp+grpc", &set(Dialect::Otlp, 1, now()));
    let Outcome::Lost(Loss::Refused, error) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.to_string(), "it did not take 2 profiles: no [hidden]");
}

#[test]
fn secrets_are_in_no_error() {
    let mut no = status(16);
    no.trailers.push(("grpc-message", "who is%20sesame-open%0a, k-1234567?".to_string()));
    let options = [("push_token", "sesame-open"), ("push_headers", "x-key=k-1234567")];
    let (outcome, _) = attempt(no, &options, "otlp+grpc", &set(Dialect::Otlp, 1, now()));
    let Outcome::Lost(Loss::Refused, error) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.to_string(), "it answers with the status 16: who is [hidden] , [hidden]?");
}

/// What is larger than all windows goes as the server takes it.
#[test]
fn a_large_message_arrives_whole() {
    let mut set = set(Dialect::Otlp, 1, now());
    let mut state = 1u64;
    set.profiles[0].bytes = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as u8
    })
    .take(9_000_000)
    .collect();
    let (outcome, server) =
        attempt(Answer { message: Some(Vec::new()), ..status(0) }, &[], "otlp+grpc", &set);
    assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
    assert!(server.asked.recv().unwrap().1[5..] == set.profiles[0].bytes);
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, at| bits << 8 | u32::from(three.get(at).copied().unwrap_or(0)));
        (0..=three.len()).for_each(|at| out.push(char::from(LETTERS[(bits >> (18 - 6 * at)) as usize & 63])));
    }
    out
}

/// A request is read by a decoder of others, as over HTTP.
#[test]
fn the_message_is_an_export_request() {
    let set = set(Dialect::Otlp, 2, now());
    let (_, server) = attempt(Answer { message: Some(Vec::new()), ..status(0) }, &[], "otlp+grpc", &set);
    let body = server.asked.recv().unwrap().1;
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&body[5..]), &mut plain).unwrap();
    assert!(
        otlp_proto::text(&otlp_proto::Request::decode(plain.as_slice()).unwrap())
            .contains("service.name=\"shop\"")
    );
}
