//! What is answered: a status, headers in Go's words, and a body.

use std::borrow::Cow;

/// An answer, for any transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, Cow<'static, str>)>,
    pub(crate) body: Vec<u8>,
}

pub(crate) const TEXT: &str = "text/plain; charset=utf-8";
pub(crate) const HTML: &str = "text/html; charset=utf-8";
const BINARY: &str = "application/octet-stream";

impl Answer {
    /// A body of a media type.
    pub(crate) fn of(media_type: &'static str, body: impl Into<Vec<u8>>) -> Answer {
        let headers = vec![
            ("X-Content-Type-Options", Cow::Borrowed("nosniff")),
            ("Content-Type", Cow::Borrowed(media_type)),
        ];
        Answer { status: 200, headers, body: body.into() }
    }

    /// A profile in the binary form that tools fetch. A browser that is led here saves a file.
    pub(crate) fn file(name: &str, body: impl Into<Vec<u8>>) -> Answer {
        Answer::of(BINARY, body).with("Content-Disposition", format!("attachment; filename=\"{name}\""))
    }

    /// An error in the words of Go's package: a line of text, and a header by which its tools know that it is one.
    pub(crate) fn error(status: u16, reason: &str) -> Answer {
        let mut answer = Answer::of(TEXT, format!("{reason}\n")).with("X-Go-Pprof", "1");
        answer.status = status;
        answer
    }

    /// Somewhere else, on the same host.
    pub(crate) fn elsewhere(location: &str) -> Answer {
        let headers =
            vec![("Content-Type", Cow::Borrowed(HTML)), ("Location", Cow::Owned(location.to_string()))];
        Answer { status: 302, headers, body: format!("<a href=\"{location}\">Moved</a>.\n").into() }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Answer {
        self.headers.push((name, value.into()));
        self
    }
}

/// The words for a status.
pub(crate) const fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        301 => "Moved Permanently",
        302 => "Found",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}
