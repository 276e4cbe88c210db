//! Proxies between us and the server: those that hand requests on, those that make a tunnel, and those that do not let us.

use everprof::encode::Dialect;
use everprof::export::Outcome;

use crate::server::{Act, Server, YES};
use crate::{exporter, now, set};

/// One attempt by that proxy.
fn attempt(push: &str, proxy: &str, more: &[(&str, &str)]) -> Outcome {
    let mut options = vec![("push", push), ("push_proxy", proxy)];
    options.extend_from_slice(more);
    exporter(&options).attempt(&set(Dialect::Pprof, 1, now()))
}

#[test]
fn a_proxy_hands_on_what_has_no_tls_by_the_whole_url() {
    let proxy = Server::new(&[YES]);
    let at = format!("http://ann:se%40same@{}", proxy.address);
    let outcome = attempt("post+http://far.invalid:8080/p?q", &at, &[("push_token", "sesame-open")]);
    assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
    let asked = proxy.next();
    assert_eq!(asked.line(), "POST http://far.invalid:8080/p?q HTTP/1.1");
    assert_eq!(asked.header("host"), Some("far.invalid:8080"));
    assert_eq!(asked.header("proxy-authorization"), Some("Basic YW5uOnNlQHNhbWU="));
    assert_eq!(asked.header("authorization"), Some("Bearer sesame-open"));
}

#[test]
fn what_is_on_this_machine_needs_no_proxy() {
    let (proxy, server) = (Server::new(&[YES]), Server::new(&[YES]));
    let outcome =
        attempt(&format!("post+http://{}", server.address), &format!("http://{}", proxy.address), &[]);
    assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
    assert!(proxy.asked().is_empty() && server.next().header("proxy-authorization").is_none());
}

#[test]
fn a_proxy_that_wants_credentials_says_so_and_nothing_is_lost() {
    let proxy = Server::new(&[Act::Answer(
        "HTTP/1.1 407 No\r\nproxy-authenticate: Basic\r\n\r\nnot sesame, YW5uOnNlc2FtZQ==",
    )]);
    let outcome = attempt("post+http://far.invalid", &format!("http://ann:sesame@{}", proxy.address), &[]);
    let Outcome::Later(error, None) = outcome else { panic!("{outcome:?}") };
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("407") && shown.contains("push_proxy"), "{shown}");
    assert!(!shown.contains("sesame") && !shown.contains("YW5u"), "{shown}");
}

#[test]
fn a_proxy_that_is_not_there_is_told_from_a_server() {
    let outcome = attempt("post+http://far.invalid", "http://127.0.0.1:1", &[]);
    let Outcome::Later(error, None) = outcome else { panic!("{outcome:?}") };
    assert!(error.to_string().starts_with("no connection to the proxy"), "{error}");
}

#[cfg(feature = "tls")]
mod tunnels {
    use std::io::{Read, Write};
    use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
    use std::sync::mpsc::{self, Receiver};

    use everprof::export::Outcome;

    use super::attempt;
    use crate::server::head;
    use crate::tls::{config, file, secure};

    /// A proxy that answers so, and if that is yes, connects whoever asks with that server. What it was asked comes out.
    fn proxy(answer: &'static str, server: SocketAddr) -> (SocketAddr, Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (told, asked) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some((head, rest)) = head(&mut stream) else { continue };
                assert!(rest.is_empty(), "nobody speaks to the server before there is a tunnel");
                told.send(head).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                if !answer.starts_with("HTTP/1.1 200") {
                    continue;
                }
                let to = TcpStream::connect(server).unwrap();
                let (mut from_client, mut to_server) = (stream.try_clone().unwrap(), to.try_clone().unwrap());
                std::thread::spawn(move || carry(&mut from_client, &mut to_server));
                std::thread::spawn(move || carry(&mut &to, &mut stream));
            }
        });
        (address, asked)
    }

    /// A proxy that speaks TLS itself, and is the server behind its tunnel as well, in TLS within TLS.
    fn secure_proxy() -> (SocketAddr, Receiver<String>) {
        use rustls::{ServerConnection, StreamOwned};
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (told, asked) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let connection = ServerConnection::new(config("server", false)).unwrap();
                let mut outer = StreamOwned::new(connection, stream.unwrap());
                let Some((first, _)) = head(&mut outer) else { continue };
                told.send(first).unwrap();
                outer.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                outer.flush().unwrap();
                let connection = ServerConnection::new(config("elsewhere", false)).unwrap();
                let mut inner = StreamOwned::new(connection, outer);
                let Some((second, _)) = head(&mut inner) else { continue };
                told.send(second).unwrap();
                inner
                    .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
                    .unwrap();
                inner.flush().unwrap();
                // Until it is read.
                let _ = inner.read(&mut [0]);
            }
        });
        (address, asked)
    }

    #[test]
    fn a_proxy_may_speak_tls_itself() {
        let root = file("root.pem");
        let (address, asked) = secure_proxy();
        let at = format!("https://ann:sesame@localhost:{}", address.port());
        let more = [("push_roots", root.as_str()), ("push_token", "token-of-the-server")];
        let outcome = attempt("post+https://elsewhere.invalid/", &at, &more);
        assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
        let tunnel = asked.recv().unwrap();
        assert!(tunnel.starts_with("CONNECT elsewhere.invalid:443 HTTP/1.1") && !tunnel.contains("token"));
        assert!(asked.recv().unwrap().contains("token-of-the-server"));
        // What has no TLS is handed on by it.
        let hands_on = secure("server", false);
        let at = format!("https://localhost:{}", hands_on.port());
        let outcome = attempt("post+http://far.invalid/", &at, &more[..1]);
        assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
        // And it has to be the one that was named.
        let at = format!("https://127.0.0.2:{}", address.port());
        let Outcome::Later(error, None) = attempt("post+https://elsewhere.invalid/", &at, &more) else {
            panic!()
        };
        assert!(error.to_string().starts_with("the proxy"), "{error}");
    }

    fn carry(from: &mut impl Read, to: &mut TcpStream) {
        let _ = std::io::copy(from, to);
        let _ = to.shutdown(Shutdown::Write);
    }

    #[test]
    fn tls_goes_through_a_tunnel_to_the_server_that_was_named() {
        let server = secure("elsewhere", false);
        let (address, asked) = proxy("HTTP/1.1 200 Connection established\r\nx: y\r\n\r\n", server);
        let (root, at) = (file("root.pem"), format!("http://ann:sesame@{address}"));
        let outcome = attempt(
            "post+https://elsewhere.invalid/",
            &at,
            &[("push_roots", &root), ("push_token", "token-of-the-server")],
        );
        assert!(matches!(outcome, Outcome::Sent), "{outcome:?}");
        let head = asked.recv().unwrap();
        assert_eq!(head.lines().next(), Some("CONNECT elsewhere.invalid:443 HTTP/1.1"));
        assert!(head.contains("proxy-authorization: Basic YW5uOnNlc2FtZQ=="), "{head}");
        assert!(!head.contains("token"), "the proxy gets nothing that is the server's: {head}");
        // The name that is trusted is the server's, whoever carries.
        let outcome = attempt("post+https://far.invalid/", &at, &[("push_roots", &root)]);
        assert!(matches!(outcome, Outcome::Later(..)), "{outcome:?}");
    }

    #[test]
    fn a_tunnel_that_is_refused_is_told_and_tried_again() {
        let root = file("root.pem");
        let server = secure("elsewhere", false);
        for (answer, told) in [
            ("HTTP/1.1 407 No\r\n\r\n", "push_proxy"),
            (
                "HTTP/1.1 403 No\r\n\r\nsesame",
                "does not let us through to elsewhere.invalid:443: it answers 403",
            ),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\n\r\n", "it answers 503"),
            ("SSH-2.0-x\r\n\r\n", "the proxy gave no answer"),
            ("HTTP/1.1 200 OK\r\n\r\nmore", "the proxy gave no answer"),
            ("", "the proxy gave no answer"),
        ] {
            let (address, _asked) = proxy(answer, server);
            let at = format!("http://ann:sesame@{address}");
            let outcome = attempt("post+https://elsewhere.invalid/", &at, &[("push_roots", &root)]);
            let Outcome::Later(error, None) = outcome else { panic!("{answer:?}: {outcome:?}") };
            assert!(
                error.to_string().contains(told) && !error.to_string().contains("sesame"),
                "{answer:?}: {error}"
            );
        }
    }
}
