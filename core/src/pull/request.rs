//! What is asked, whoever carried it here: our own server, or the router of the program.

use std::borrow::Cow;
use std::num::{IntErrorKind, ParseIntError};

/// A request for a profile, without what its transport wanted to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// As it was sent: nothing is decoded, and nothing tidied up.
    pub(crate) path: String,
    /// What followed the `?`, likewise.
    pub(crate) query: String,
    /// Of a POST.
    pub(crate) body: Vec<u8>,
}

/// What is to be done; everything else is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Method {
    #[default]
    Get,
    Head,
    Post,
    Other,
}

impl Method {
    pub(crate) fn from_name(name: &str) -> Method {
        match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            _ => Method::Other,
        }
    }
}

impl Request {
    /// The value of a field of the query as Go's `FormValue` reads it: the first one counts, a pair that cannot be decoded
    /// or has a `;` does not, and what is missing is empty.
    pub(crate) fn value(&self, key: &str) -> Cow<'_, str> {
        self.values(key).next().unwrap_or_default()
    }

    /// The values of all fields of that name, likewise.
    pub(crate) fn values<'q>(&'q self, key: &str) -> impl Iterator<Item = Cow<'q, str>> {
        let pairs = self.query.split('&').filter(|pair| !pair.contains(';'));
        pairs.filter_map(move |pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            decoded(name).zip(decoded(value)).filter(|(name, _)| name == key).map(|(_, value)| value)
        })
    }

    /// Whether a field of that name, or what was meant as one behind a `;`, has no value that can be read.
    pub(crate) fn has_unread(&self, key: &str) -> bool {
        let is_named = |field: &str| {
            let name = field.split_once('=').map_or(field, |(name, _)| name);
            decoded(name).map_or_else(|| name.starts_with(key), |name| name == key)
        };
        self.query.split('&').any(|pair| {
            let unread =
                pair.contains(';') || pair.split_once('=').is_some_and(|(_, value)| decoded(value).is_none());
            unread && pair.split(';').any(is_named)
        })
    }

    /// Likewise as a whole number; 0 where it is none and the nearest where it is too large, as Go's `Atoi` leaves it.
    pub(crate) fn number(&self, key: &str) -> i64 {
        self.value(key).parse().unwrap_or_else(|error: ParseIntError| match error.kind() {
            IntErrorKind::PosOverflow => i64::MAX,
            IntErrorKind::NegOverflow => i64::MIN,
            _ => 0,
        })
    }
}

/// `text` with `+` as a space and `%xx` as the byte; none where that is malformed.
fn decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['%', '+']) {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                (digit()? * 16 + digit()?) as u8
            }
            other => other,
        });
    }
    Some(Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_go_reads_them() {
        for (query, seconds) in [
            ("seconds=5", "5"),
            ("seconds=5&seconds=6", "5"),
            ("a=1&&seconds=5", "5"),
            ("seconds", ""),
            ("", ""),
            ("%73econds=%35", "5"),
            ("seconds=%3", ""),
            ("seconds=%zz&seconds=7", "7"),
            ("seconds=1;debug=1&seconds=3", "3"),
            ("seconds=+5", " 5"),
            ("Seconds=5", ""),
            ("seconds=a=b", "a=b"),
        ] {
            let request = Request { query: query.to_string(), ..Request::default() };
            assert_eq!(request.value("seconds"), seconds, "{query}");
        }
    }
}
