//! What servers of OTLP answer: `ExportProfilesServiceResponse`, and which errors mean that it may be tried again.

use crate::encode::protobuf::{Fields, Value};

/// Where profiles go where the URL does not say otherwise.
pub(super) const PATH: &str = "v1development/profiles";

/// The method of gRPC.
pub(super) const METHOD: &str =
    "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export";

/// What a server that took the request says that it did not take of it: how many profiles, and why. None where it took all.
pub(super) fn rejected(response: &[u8]) -> Option<(u64, String)> {
    let partial = message(response, 1)?;
    let (mut count, mut words) = (0, String::new());
    for field in Fields::new(partial).flatten() {
        match field {
            (1, Value::Varint(rejected)) => count = rejected,
            (2, Value::Bytes(text)) => words = String::from_utf8_lossy(text).into_owned(),
            _ => {}
        }
    }
    (count > 0 || !words.is_empty()).then_some((count, words))
}

/// The last message of that number.
pub(super) fn message(bytes: &[u8], number: u32) -> Option<&[u8]> {
    let fields = Fields::new(bytes).flatten().filter_map(|field| match field {
        (known, Value::Bytes(bytes)) if known == number => Some(bytes),
        _ => None,
    });
    fields.last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_taken_is_read_and_nonsense_is_not() {
        assert_eq!(rejected(b""), None);
        assert_eq!(rejected(b"\x0a\x00"), None);
        assert_eq!(rejected(b"\x0a\x07\x08\x02\x12\x03why"), Some((2, "why".to_string())));
        assert_eq!(rejected(b"\x0a\x05\x12\x03why"), Some((0, "why".to_string())));
        assert_eq!(rejected(b"{\"partialSuccess\":{}}"), None);
        assert_eq!(rejected(b"\x0a\xff\x08"), None);
    }
}
