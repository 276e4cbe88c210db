//! TLS: whom we trust, by whom we are known, and what becomes of a profile where there is no trust.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use everprof::encode::Dialect;
use everprof::export::{self, Loss, Outcome};
use everprof::{ErrorKind, Options};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::server::{Server, YES};
use crate::{exporter, now, set};

pub(crate) fn file(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/push/tls").join(name);
    path.display().to_string()
}

fn certificates(name: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file(name)).unwrap().map(Result::unwrap).collect()
}

/// With that certificate, and a question for the client's where `asks_for_client`.
pub(crate) fn config(name: &str, asks_for_client: bool) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = match asks_for_client {
        false => builder.with_no_client_auth(),
        true => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates("root.pem"));
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from_pem_file(file(&format!("{name}.key"))).unwrap();
    Arc::new(builder.with_single_cert(certificates(&format!("{name}.pem")), key).unwrap())
}

/// A server with that certificate that says yes to each request, also to clients without a certificate or not.
pub(crate) fn secure(name: &str, asks_for_client: bool) -> SocketAddr {
    server(name, asks_for_client, false)
}

/// The same; or one that finds each request too large when it has the head, says so, and closes.
fn server(name: &str, asks_for_client: bool, is_small: bool) -> SocketAddr {
    let config = config(name, asks_for_client);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(config.clone()).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            let mut request = Vec::new();
            let mut chunk = [0; 4096];
            // The end of the body is the end of a gzip file's empty message to us: it is enough that something came.
            while !request.windows(4).any(|four| four == b"\r\n\r\n") {
                match stream.read(&mut chunk) {
                    Ok(count) if count > 0 => request.extend_from_slice(&chunk[..count]),
                    _ => break,
                }
            }
            if is_small {
                let _ = stream.write_all(b"HTTP/1.1 413 No\r\ncontent-length: 0\r\n\r\n");
                let _ = stream.flush();
                thread::sleep(std::time::Duration::from_millis(300));
                continue;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            stream.conn.send_close_notify();
            let _ = stream.flush();
            let _ = stream.sock.shutdown(std::net::Shutdown::Write);
            while stream.sock.read(&mut chunk).is_ok_and(|count| count > 0) {}
        }
    });
    address
}

/// One attempt at a place with these options besides.
fn attempt(at: &str, more: &[(&str, &str)]) -> Outcome {
    let push = format!("post+https://{at}/");
    let mut options = vec![("push", push.as_str())];
    options.extend_from_slice(more);
    exporter(&options).attempt(&set(Dialect::Pprof, 1, now()))
}

#[test]
fn a_server_whose_root_is_trusted_gets_its_profile() {
    let port = secure("server", false).port();
    let root = file("root.pem");
    for host in ["localhost", "127.0.0.1"] {
        let outcome = attempt(&format!("{host}:{port}"), &[("push_roots", &root)]);
        assert!(matches!(outcome, Outcome::Sent), "{host}: {outcome:?}");
    }
}

/// It has no more of our words, and what it has said is there to be read.
#[test]
fn an_answer_before_the_end_of_the_request_is_read() {
    let push = format!("post+https://localhost:{}/", server("server", false, true).port());
    let mut exporter = exporter(&[("push", &push), ("push_roots", &file("root.pem"))]);
    let mut large = set(Dialect::Pprof, 1, now());
    large.profiles[0].bytes.resize(16 << 20, 0);
    let outcome = exporter.attempt(&large);
    let Outcome::Lost(Loss::Refused, error) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.to_string(), "it answers 413");
}

#[test]
fn whoever_is_not_trusted_gets_nothing() {
    let root = file("root.pem");
    let stranger = file("stranger.pem");
    let server = secure("server", false).to_string();
    let elsewhere = secure("elsewhere", false).to_string();
    let plain = Server::new(&[YES]);
    for (at, more) in [
        (&server, vec![("push_roots", stranger.as_str())]),
        // The system's roots know nothing of this one.
        (&server, vec![]),
        (&elsewhere, vec![("push_roots", root.as_str())]),
        (&plain.address.to_string(), vec![("push_roots", root.as_str())]),
    ] {
        let options = Options::default();
        if more.is_empty() && !has_system_roots(&options) {
            continue;
        }
        let outcome = attempt(at, &more);
        let Outcome::Later(error, None) = outcome else { panic!("{at} {more:?}: {outcome:?}") };
        assert!(error.to_string().contains("TLS"), "{error}");
    }
    assert!(plain.asked().is_empty());
}

fn has_system_roots(options: &Options) -> bool {
    let mut options = options.clone();
    options.set("push", "post+https://localhost").unwrap();
    export::of_options(&options).is_ok()
}

#[test]
fn a_server_that_asks_for_a_certificate_gets_ours() {
    let at = secure("server", true).to_string();
    let (root, certificate, key) = (file("root.pem"), file("client.pem"), file("client.key"));
    let ours = [("push_roots", root.as_str()), ("push_certificate", &certificate), ("push_key", &key)];
    assert!(matches!(attempt(&at, &ours), Outcome::Sent));
    let outcome = attempt(&at, &ours[..1]);
    assert!(!matches!(outcome, Outcome::Sent), "{outcome:?}");
}

#[test]
fn wrong_files_are_errors_at_the_start() {
    let (root, certificate, key) = (file("root.pem"), file("client.pem"), file("client.key"));
    for (more, right) in [
        (vec![("push_roots", "/nonexistent.pem")], "/nonexistent.pem could not be read"),
        (vec![("push_roots", key.as_str())], "has no certificate"),
        (vec![("push_roots", &root), ("push_key", &key)], "give both or none"),
        (
            vec![("push_roots", &root), ("push_certificate", &certificate), ("push_key", &certificate)],
            "not a private key",
        ),
        (vec![("push_roots", &root), ("push_certificate", &root), ("push_key", &key)], "and its key"),
    ] {
        let mut options = Options::default();
        options.set("push", "post+https://ann:sesame@localhost").unwrap();
        more.iter().for_each(|(name, value)| options.set(name, value).unwrap());
        let error = export::of_options(&options).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidOption);
        assert!(error.to_string().contains(right) && !error.to_string().contains("sesame"), "{error}");
    }
}

/// gRPC is HTTP/2, which both sides agree on in the handshake; a server that does not has HTTP/1.1.
#[cfg(feature = "grpc")]
#[test]
fn grpc_has_its_http2_agreed_on() {
    use crate::frames::{END_HEADERS, END_STREAM, HEADERS, SETTINGS, frame, head, header, take};
    let root = file("root.pem");
    let call = |port: u16| {
        let push = format!("otlp+grpcs://localhost:{port}");
        exporter(&[("push", &push), ("push_roots", &root)]).attempt(&set(Dialect::Otlp, 1, now()))
    };
    let Outcome::Later(error, None) = call(secure("server", false).port()) else { panic!() };
    assert!(error.to_string().contains("no HTTP/2 there"), "{error}");

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(certificates("server.pem"), key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = thread::spawn(move || {
        let connection = ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = StreamOwned::new(connection, listener.accept().unwrap().0);
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
        take(&mut stream, true);
        let yes = [head(), header("grpc-status", "0")].concat();
        stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &yes)).unwrap();
        stream.flush().unwrap();
    });
    let outcome = call(port);
    assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
    served.join().unwrap();
}
