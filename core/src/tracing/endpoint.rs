//! The endpoint of a request, as its span names it: `GET /cart/{id}`.
//!
//! Read from fields into a buffer, without an allocation of ours. What is formatted there is code of the host's, which may panic
//! and may create spans, so nothing is held meanwhile.

use std::fmt::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing_core::Metadata;
use tracing_core::field::{Field, Visit};

use crate::pairs::MAX_VALUE_BYTES;

/// The field of OpenTelemetry's conventions that the spans of servers have, and no others.
const OF_SERVERS: &str = "http.route";
/// Fields that name the endpoint of a root span, the best first.
const FIELDS: [&str; 3] = ["endpoint", OF_SERVERS, "route"];
/// What the method of a request is called, which stands before a route.
const METHOD_FIELDS: [&str; 3] = ["http.request.method", "http.method", "method"];
/// Methods that are told: of others, the route alone is.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Whether spans of that place in the code may name an endpoint.
pub(super) fn may_be_named(metadata: &Metadata<'_>) -> bool {
    metadata.fields().iter().any(|field| FIELDS.contains(&field.name()))
}

/// Whether they are those of a server's requests.
pub(super) fn is_of_server(metadata: &Metadata<'_>) -> bool {
    metadata.fields().iter().any(|field| field.name() == OF_SERVERS)
}

/// What the fields of a span say.
pub(super) struct Named {
    /// The best field so far.
    rank: usize,
    text: Text,
    pub(super) method: &'static str,
}

impl Named {
    /// Reads the fields that `record` hands out.
    pub(super) fn read(record: impl FnOnce(&mut dyn Visit)) -> Self {
        let mut named = Named { rank: FIELDS.len(), text: Text::new(), method: "" };
        // What was read until then is right.
        let _ = catch_unwind(AssertUnwindSafe(|| record(&mut named)));
        named
    }

    /// The endpoint, with `method` before it where it is a route and its own fields say none; none where nothing names it.
    pub(super) fn endpoint(&mut self, method: &str) -> Option<&str> {
        let method = if self.method.is_empty() { method } else { self.method };
        if self.text.is_empty() {
            return None;
        }
        if self.rank > 0 && !method.is_empty() {
            let route = std::mem::replace(&mut self.text, Text::new());
            let _ = write!(self.text, "{method} {}", route.as_str());
        }
        // A second call is not to put it there twice.
        self.rank = 0;
        Some(self.text.as_str())
    }

    fn is_wanted(&self, name: &str) -> bool {
        METHOD_FIELDS.contains(&name) || FIELDS.iter().take(self.rank).any(|known| *known == name)
    }

    fn take(&mut self, name: &str, text: Text) {
        if METHOD_FIELDS.contains(&name) {
            let known = METHODS.iter().find(|known| known.eq_ignore_ascii_case(text.as_str()));
            self.method = known.copied().unwrap_or(self.method);
        } else if let Some(rank) = FIELDS.iter().position(|known| *known == name).filter(|_| !text.is_empty())
        {
            (self.rank, self.text) = (rank, text);
        }
    }
}

impl Visit for Named {
    fn record_str(&mut self, field: &Field, value: &str) {
        if self.is_wanted(field.name()) {
            let mut text = Text::new();
            let _ = text.write_str(value);
            self.take(field.name(), text);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Nothing else is formatted: it may be large.
        if self.is_wanted(field.name()) {
            let mut text = Text::new();
            let _ = write!(text, "{value:?}");
            self.take(field.name(), text);
        }
    }
}

/// As much of a text as a label has room for.
struct Text {
    bytes: [u8; MAX_VALUE_BYTES],
    length: usize,
}

impl Text {
    const fn new() -> Self {
        Self { bytes: [0; MAX_VALUE_BYTES], length: 0 }
    }

    fn as_str(&self) -> &str {
        self.bytes.get(..self.length).and_then(|bytes| str::from_utf8(bytes).ok()).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MAX_VALUE_BYTES - self.length;
        let fits =
            (0..=text.len().min(room)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        let end = self.length + fits;
        if let (Some(to), Some(from)) = (self.bytes.get_mut(self.length..end), text.as_bytes().get(..fits)) {
            to.copy_from_slice(from);
            self.length = end;
        }
        // Whoever formats may stop there.
        if fits < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_letters() {
        let mut text = Text::new();
        assert!(text.write_str(&"x".repeat(MAX_VALUE_BYTES - 1)).is_ok());
        assert!(text.write_str("äb").is_err());
        assert_eq!(text.as_str().len(), MAX_VALUE_BYTES - 1);
        assert!(text.write_str("b").is_ok() && text.write_str("c").is_err());
    }

    fn named(rank: usize, text: &str, method: &'static str) -> Named {
        let mut named = Named { rank, text: Text::new(), method };
        let _ = named.text.write_str(text);
        named
    }

    #[test]
    fn routes_have_their_method_and_endpoints_are_as_they_are() {
        assert_eq!(named(1, "/a", "").endpoint("GET"), Some("GET /a"));
        assert_eq!(named(2, "/a", "PUT").endpoint("GET"), Some("PUT /a"));
        assert_eq!(named(1, "/a", "").endpoint(""), Some("/a"));
        assert_eq!(named(0, "jobs", "PUT").endpoint("GET"), Some("jobs"));
        assert_eq!(named(FIELDS.len(), "", "PUT").endpoint("GET"), None);
        let mut twice = named(1, "/a", "GET");
        twice.endpoint("");
        assert_eq!(twice.endpoint(""), Some("GET /a"));
    }
}
