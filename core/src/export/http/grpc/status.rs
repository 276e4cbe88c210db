//! How a call went: the status of gRPC, in the trailers or in the head of an answer that has nothing else.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode};

use super::super::{Reply, after, text::unbase64};
use crate::encode::protobuf::{Fields, Value};
use crate::pairs;

const UNKNOWN: u32 = 2;
const DEADLINE_EXCEEDED: u32 = 4;
const PERMISSION_DENIED: u32 = 7;
const RESOURCE_EXHAUSTED: u32 = 8;
const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;
const UNAUTHENTICATED: u32 = 16;

/// The status, where the head has it, or is none of gRPC's.
pub(super) fn of_head(status: StatusCode, headers: &HeaderMap) -> Option<Reply> {
    if let Some(reply) = of_trailers(headers) {
        return Some(reply);
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if status == StatusCode::OK && text("content-type").starts_with("application/grpc") {
        return None;
    }
    // A proxy, or another server: the classes of HTTP in those of gRPC, by its specification.
    let code = match status.as_u16() {
        200 => UNIMPLEMENTED,
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        408 | 429 | 502 | 503 => UNAVAILABLE,
        // UNKNOWN by the specification; but a proxy means the size of the message, which can be made smaller.
        413 => RESOURCE_EXHAUSTED,
        // UNAVAILABLE by the specification; but a gateway that had no answer may have handed the call on.
        504 => DEADLINE_EXCEEDED,
        _ => UNKNOWN,
    };
    let size = if code == RESOURCE_EXHAUSTED { ": too large" } else { "" };
    let words = format!("no gRPC, but HTTP {}{size}", status.as_u16());
    let retry_after = after::parse(text("retry-after"), SystemTime::now());
    Some(Reply { code, words, retry_after, message: Vec::new() })
}

/// What an answer in HTTP/1 says: a balancer that has no server behind it for now, or the wrong place.
pub(super) fn of_http1(status: u16) -> Reply {
    let (code, words) = match status {
        413 => (RESOURCE_EXHAUSTED, format!("no gRPC, but HTTP/1.1 {status}: too large")),
        408 | 429 | 502 | 503 => (UNAVAILABLE, format!("no gRPC, but HTTP/1.1 {status}")),
        504 => (DEADLINE_EXCEEDED, format!("no gRPC, but HTTP/1.1 {status}")),
        _ => (UNIMPLEMENTED, "it speaks HTTP/1.1 there, and no gRPC".to_string()),
    };
    Reply { code, words, ..Reply::default() }
}

/// The status of the trailers; none where they have none that can be read.
pub(super) fn of_trailers(trailers: &HeaderMap) -> Option<Reply> {
    let text = |name| trailers.get(name).and_then(|value| value.to_str().ok());
    let code = text("grpc-status")?.parse().ok()?;
    let words = text("grpc-message").unwrap_or_default();
    let words = pairs::percent_decode(words).unwrap_or_else(|_| words.to_string());
    let details = text("grpc-status-details-bin").and_then(unbase64).unwrap_or_default();
    Some(Reply { code, words, retry_after: retry_delay(&details), message: Vec::new() })
}

/// The delay of the `RetryInfo` among the details of a `google.rpc.Status`.
fn retry_delay(status: &[u8]) -> Option<Duration> {
    let details = Fields::new(status).flatten().filter(|(number, _)| *number == 3);
    let info = details.filter_map(|(_, detail)| {
        let Value::Bytes(detail) = detail else { return None };
        let part = |wanted: u32| {
            Fields::new(detail).flatten().find_map(|field| match field {
                (number, Value::Bytes(bytes)) if number == wanted => Some(bytes),
                _ => None,
            })
        };
        part(1)?.ends_with(b"google.rpc.RetryInfo").then(|| part(2).unwrap_or_default())
    });
    let info = info.last()?;
    let (mut seconds, mut nanos) = (0, 0);
    for (_, delay) in Fields::new(info).flatten().filter(|(number, _)| *number == 1) {
        let Value::Bytes(delay) = delay else { continue };
        for field in Fields::new(delay).flatten() {
            match field {
                (1, Value::Varint(value)) => seconds = value,
                (2, Value::Varint(value)) => {
                    nanos = u32::try_from(value).unwrap_or_default().min(999_999_999)
                }
                _ => {}
            }
        }
    }
    // A negative one is none.
    let seconds = if seconds > i64::MAX as u64 { 0 } else { seconds.min(u64::from(u32::MAX)) };
    Some(Duration::new(seconds, nanos))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::encode::protobuf::Writer;

    fn details(url: &str, seconds: i64, nanos: i64) -> Vec<u8> {
        let mut status = Writer::default();
        status.uint(1, 8);
        status.message(3, |detail| detail.string(1, "type.googleapis.com/google.rpc.Help"));
        status.message(3, |detail| {
            detail.string(1, url);
            detail.message(2, |info| {
                info.message(1, |delay| {
                    delay.int(1, seconds);
                    delay.int(2, nanos);
                });
            });
        });
        status.into_bytes()
    }

    #[test]
    fn the_delay_is_read_and_nonsense_is_not() {
        const URL: &str = "type.googleapis.com/google.rpc.RetryInfo";
        assert_eq!(retry_delay(&details(URL, 7, 500_000_000)), Some(Duration::from_millis(7_500)));
        assert_eq!(retry_delay(&details(URL, 0, 0)), Some(Duration::ZERO));
        assert_eq!(retry_delay(&details(URL, -5, -1)), Some(Duration::ZERO));
        assert_eq!(retry_delay(&details(URL, i64::MAX, 0)).unwrap().as_secs(), u64::from(u32::MAX));
        assert_eq!(retry_delay(&details("x/google.rpc.QuotaFailure", 7, 0)), None);
        assert_eq!(retry_delay(b"\x1a\xff\xff"), None);
        assert_eq!(retry_delay(b""), None);
    }

    #[test]
    fn a_status_is_where_grpc_has_it_or_what_http_says() {
        let headers = |pairs: &[(&'static str, &str)]| -> HeaderMap {
            pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
        };
        let reply =
            of_trailers(&headers(&[("grpc-status", "8"), ("grpc-message", "too%20much%0A")])).unwrap();
        assert_eq!((reply.code, reply.words.as_str(), reply.retry_after), (8, "too much\n", None));
        assert!(of_trailers(&headers(&[("grpc-status", "ok")])).is_none());
        assert!(of_trailers(&headers(&[])).is_none());
        let code = |status: u16, kind: &str| {
            of_head(
                StatusCode::from_u16(status).unwrap(),
                &headers(&[("content-type", kind), ("retry-after", "3")]),
            )
            .map(|reply| (reply.code, reply.retry_after.unwrap().as_secs()))
        };
        assert_eq!(code(200, "application/grpc+proto"), None);
        assert_eq!(code(200, "text/html"), Some((UNIMPLEMENTED, 3)));
        assert_eq!(code(503, "application/grpc"), Some((UNAVAILABLE, 3)));
        assert_eq!(code(408, ""), Some((UNAVAILABLE, 3)));
        assert_eq!(code(413, ""), Some((RESOURCE_EXHAUSTED, 3)));
        assert_eq!(code(502, ""), Some((UNAVAILABLE, 3)));
        assert_eq!(code(504, ""), Some((DEADLINE_EXCEEDED, 3)));
        assert_eq!(code(401, ""), Some((UNAUTHENTICATED, 3)));
        assert_eq!(code(500, ""), Some((UNKNOWN, 3)));
    }
}
