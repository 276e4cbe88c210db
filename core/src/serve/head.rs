//! The head of a request, read strictly: what another server might read otherwise is refused.

use crate::pull::{MOST_BODY, Method, Request};

/// The longest head that is read.
pub(crate) const MOST_HEAD: usize = 16 << 10;
const MOST_HEADERS: usize = 64;

/// What the head of a request says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Without its body.
    pub(crate) request: Request,
    /// Whether the connection may be used again: never that of HTTP/1.0.
    pub(crate) keeps: bool,
    /// Bytes of the body that follows.
    pub(crate) length: usize,
    /// Whether the client waits for leave to send it.
    pub(crate) expects: bool,
    pub(crate) host: Option<String>,
    pub(crate) authorization: Option<Vec<u8>>,
    /// Whether a page of somebody else made the browser ask, other than by being left for ours as a whole.
    pub(crate) is_cross_site: bool,
}

/// Why a request is refused: a status and a sentence.
pub(crate) type Refusal = (u16, &'static str);

/// Where the head in `bytes` ends, if it does; what stands before `from` was looked at already.
pub(crate) fn end(bytes: &[u8], from: usize) -> Option<usize> {
    // An empty line, whether its ends are of two bytes or, as is tolerated, of one.
    let from = from.saturating_sub(3);
    let rest = bytes.get(from..)?;
    (0..rest.len()).find_map(|at| match &rest[at..] {
        [b'\n', b'\n', ..] => Some(from + at + 2),
        [b'\n', b'\r', b'\n', ..] => Some(from + at + 3),
        _ => None,
    })
}

/// Reads a whole head.
pub(crate) fn parse(bytes: &[u8]) -> Result<Head, Refusal> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err((400, "the head of the request does not end")),
        Err(httparse::Error::TooManyHeaders) => return Err((431, "more than 64 headers")),
        Err(httparse::Error::Version) => return Err((505, "only HTTP/1.0 and HTTP/1.1 are spoken here")),
        Err(_) => return Err((400, "the request is not HTTP/1.1")),
    }
    let target = parsed.path.unwrap_or_default();
    if !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err((400, "the target of the request is not a path"));
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let is_old = parsed.version == Some(0);
    let request = Request {
        method: Method::from_name(parsed.method.unwrap_or_default()),
        path: path.to_string(),
        query: query.to_string(),
        body: Vec::new(),
    };
    let mut head = Head {
        request,
        keeps: !is_old,
        length: 0,
        expects: false,
        host: None,
        authorization: None,
        is_cross_site: false,
    };
    read(&mut head, parsed.headers)?;
    // Who speaks HTTP/1.0 does not know the answer that gives leave.
    head.expects &= !is_old;
    if head.host.is_none() && !is_old {
        return Err((400, "the request has no Host"));
    }
    Ok(head)
}

fn read(head: &mut Head, headers: &[httparse::Header<'_>]) -> Result<(), Refusal> {
    let mut length = None;
    let (mut site, mut mode, mut aim): (&[u8], &[u8], &[u8]) = (b"", b"", b"");
    for header in headers {
        let value = header.value.trim_ascii();
        match header.name.to_ascii_lowercase().as_str() {
            // Two lengths are how one request is smuggled inside another.
            "transfer-encoding" => return Err((501, "a body must tell its length: no Transfer-Encoding")),
            "content-length" => {
                let told = number(value).ok_or((400, "Content-Length is not a number"))?;
                if length.replace(told).is_some_and(|other| other != told) {
                    return Err((400, "two lengths of one body"));
                }
            }
            "host" => {
                let host = std::str::from_utf8(value).map_err(|_| (400, "Host is not a name"))?;
                if head.host.replace(host.to_string()).is_some() {
                    return Err((400, "two Hosts"));
                }
            }
            "connection" if has_word(value, b"close") => head.keeps = false,
            "expect" if value.eq_ignore_ascii_case(b"100-continue") => head.expects = true,
            "expect" => return Err((417, "nothing but 100-continue can be expected")),
            "authorization" if head.authorization.is_some() => return Err((400, "two Authorizations")),
            "authorization" => head.authorization = Some(value.to_vec()),
            "sec-fetch-site" => site = value,
            "sec-fetch-mode" => mode = value,
            "sec-fetch-dest" => aim = value,
            _ => {}
        }
    }
    // A frame in a page navigates too.
    let leaves = mode == b"navigate" && matches!(aim, b"" | b"document");
    head.is_cross_site = site == b"cross-site" && !leaves;
    head.length = length.unwrap_or_default();
    if head.length > MOST_BODY {
        return Err((413, "the body is longer than 512 KiB"));
    }
    Ok(())
}

fn has_word(list: &[u8], word: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|found| found.trim_ascii().eq_ignore_ascii_case(word))
}

/// Digits and nothing else, as a number that may be too large for any use.
fn number(value: &[u8]) -> Option<usize> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(std::str::from_utf8(value).ok()?.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn status(text: &str) -> u16 {
        parse(text.as_bytes()).map_or_else(|(status, _)| status, |_| 200)
    }

    #[test]
    fn what_others_might_read_otherwise_is_refused() {
        for (text, wanted) in [
            ("GET /a HTTP/1.1\r\nHost: a\r\n\r\n", 200),
            ("GET /a HTTP/1.0\r\n\r\n", 200),
            ("GET /a HTTP/1.1\r\n\r\n", 400),
            ("GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
            ("GET /a HTTP/1.1\r\nHost : a\r\n\r\n", 400),
            ("GET /a HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", 400),
            ("GET http://a/a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET /a\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET /ä HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET  /a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET /a HTTP/2.0\r\nHost: a\r\n\r\n", 505),
            ("GET /a\r\n\r\n", 400),
            ("\x16\x03\x01\r\n\r\n", 400),
            ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", 200),
            ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", 200),
            ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
            ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", 400),
            ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", 400),
            ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 524289\r\n\r\n", 413),
            ("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n", 413),
            ("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
            ("POST /a HTTP/1.1\r\nHost: a\r\ntransfer-encoding: x\r\nContent-Length: 1\r\n\r\n", 501),
            ("POST /a HTTP/1.1\r\nHost: a\r\nExpect: wonders\r\n\r\n", 417),
        ] {
            assert_eq!(status(text), wanted, "{text:?}");
        }
        let many: String = (0..65).map(|n| format!("a{n}: b\r\n")).collect();
        assert_eq!(status(&format!("GET /a HTTP/1.1\r\n{many}\r\n")), 431);
    }

    #[test]
    fn what_matters_of_a_head_is_kept() {
        let text = "HEAD /a?b=c?d HTTP/1.1\r\nHOST:  x:1 \r\nConnection: x, Close\r\nExpect: 100-Continue\r\n\
                    Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nContent-Length: 3\r\n\r\n";
        let head = parse(text.as_bytes()).unwrap();
        assert_eq!(
            (head.request.method, &*head.request.path, &*head.request.query),
            (Method::Head, "/a", "b=c?d")
        );
        assert_eq!((head.host.as_deref(), head.keeps, head.expects), (Some("x:1"), false, true));
        assert_eq!((head.is_cross_site, head.length), (true, 3));
        assert!(!parse(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap().keeps);
    }

    #[test]
    fn the_end_is_found_however_the_bytes_come() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        for cut in 0..text.len() {
            let first = end(&text[..cut], 0);
            assert_eq!(first.or_else(|| end(text, cut)), Some(27), "{cut}");
        }
        assert_eq!(end(b"a\n\nb", 0), Some(3));
    }
}
