//! What a profile looks like on its way to each kind of server: path, media type and body.

use std::borrow::Cow;

use super::http::{base64, filled};
use super::{Dialect, Encoded, Set, datadog, otlp};
use crate::encode::{dialect, json, protobuf::Writer};
use crate::options::{Protocol, Url};

/// The body of a request, and where it goes.
pub(super) struct Parcel {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) content_type: Cow<'static, str>,
    pub(super) body: Vec<u8>,
}

/// In which dialect a server wants its profiles.
pub(super) const fn dialect_of(protocol: Protocol) -> Dialect {
    match protocol {
        Protocol::Pyroscope => Dialect::Pyroscope,
        Protocol::Parca | Protocol::ParcaGrpc => Dialect::Parca,
        Protocol::Otlp | Protocol::OtlpGrpc => Dialect::Otlp,
        Protocol::Datadog => Dialect::Datadog,
        Protocol::Post | Protocol::Put | Protocol::Google => Dialect::Pprof,
    }
}

/// What one request has of a set: one profile, or where the server takes them together, all of them.
pub(super) fn requests(protocol: Protocol, set: &Set) -> Vec<Vec<Encoded>> {
    match protocol {
        Protocol::Datadog => vec![set.profiles.clone()],
        _ => set.profiles.iter().map(|profile| vec![profile.clone()]).collect(),
    }
}

/// Profiles of a set as the server takes them: those of one request, of which there is one at least; with the counts of the
/// set's requests or without.
pub(super) fn parcel(
    protocol: Protocol,
    url: &Url,
    set: &Set,
    profiles: &[Encoded],
    has_counts: bool,
) -> Option<Parcel> {
    let profile = profiles.first()?;
    let labels = || dialect::series(dialect_of(protocol), profile, &set.tags);
    Some(match protocol {
        Protocol::Pyroscope => Parcel {
            method: "POST",
            path: below(url, "push.v1.PusherService/Push"),
            content_type: "application/proto".into(),
            body: pyroscope(&labels(), profile),
        },
        Protocol::Parca => Parcel {
            method: "POST",
            path: below(url, "api/profiles/writeraw"),
            content_type: "application/json".into(),
            body: parca(&labels(), profile).into_bytes(),
        },
        Protocol::Otlp => Parcel {
            method: "POST",
            // Some servers have it elsewhere: a path that is given is the whole path.
            path: if url.path_and_query().0 == "/" { below(url, otlp::PATH) } else { url.path.clone() },
            content_type: profile.format.media_type().into(),
            body: profile.bytes.clone(),
        },
        Protocol::OtlpGrpc => grpc(otlp::METHOD, true, &profile.bytes),
        Protocol::ParcaGrpc => grpc(
            "/parca.profilestore.v1alpha1.ProfileStoreService/WriteRaw",
            false,
            &write_raw(&labels(), profile),
        ),
        Protocol::Datadog => {
            let (content_type, body) = datadog::form(set, profiles, has_counts);
            Parcel { method: "POST", path: datadog::path(url), content_type: content_type.into(), body }
        }
        // It is asked for profiles, and gets none of periods.
        Protocol::Google => return None,
        Protocol::Post | Protocol::Put => Parcel {
            method: if protocol == Protocol::Put { "PUT" } else { "POST" },
            path: named(&url.path, set, profile),
            content_type: profile.format.media_type().into(),
            body: profile.bytes.clone(),
        },
    })
}

/// The path of an endpoint below the one of the URL, whose query stays.
fn below(url: &Url, endpoint: &str) -> String {
    let (path, query) = url.path_and_query();
    let query = query.map_or(String::new(), |query| format!("?{query}"));
    format!("{}/{endpoint}{query}", path.trim_end_matches('/'))
}

/// `push.v1.PushRequest`. One series a request: of several, some may be taken when the answer is an error.
fn pyroscope(labels: &[(String, String)], profile: &Encoded) -> Vec<u8> {
    let mut request = Writer::with_capacity(profile.bytes.len() + 1024);
    request.message(1, |series| {
        for (name, value) in labels {
            series.message(1, |label| {
                label.string(1, name);
                label.string(2, value);
            });
        }
        series.message(2, |sample| {
            sample.bytes(1, &profile.bytes);
            sample.string(2, &profile.id.to_string());
        });
    });
    request.into_bytes()
}

/// A call with one message, which is compressed already or not.
fn grpc(method: &str, is_compressed: bool, message: &[u8]) -> Parcel {
    let mut body = Vec::with_capacity(message.len() + 5);
    body.push(u8::from(is_compressed));
    body.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    body.extend_from_slice(message);
    Parcel { method: "POST", path: method.to_string(), content_type: "application/grpc".into(), body }
}

/// The same in protobuf, as gRPC has it.
fn write_raw(labels: &[(String, String)], profile: &Encoded) -> Vec<u8> {
    let mut request = Writer::with_capacity(profile.bytes.len() + 1024);
    request.message(2, |series| {
        series.message(1, |set| {
            for (name, value) in labels {
                set.message(1, |label| {
                    label.string(1, name);
                    label.string(2, value);
                });
            }
        });
        series.message(2, |sample| sample.bytes(1, &profile.bytes));
    });
    request.into_bytes()
}

/// `parca.profilestore.v1alpha1.WriteRawRequest` in JSON, as its gateway takes it.
fn parca(labels: &[(String, String)], profile: &Encoded) -> String {
    let labels: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{{\"name\":{},\"value\":{}}}", json::string(name), json::string(value)))
        .collect();
    format!(
        "{{\"series\":[{{\"labels\":{{\"labels\":[{}]}},\"samples\":[{{\"rawProfile\":\"{}\"}}]}}]}}",
        labels.join(","),
        base64(&profile.bytes)
    )
}

/// A path with its templates filled in, each value percent-encoded, so that none adds a segment or a query.
fn named(path: &str, set: &Set, profile: &Encoded) -> String {
    filled(path, |name| value(name, set, profile).map(|value| encoded(&value)))
}

/// What a template of that name stands for.
pub(super) fn value(name: &str, set: &Set, profile: &Encoded) -> Option<String> {
    match name {
        "service" | "version" | "env" | "host" | "instance" => Some(set.tag(name).to_string()),
        "kind" => Some(profile.kind.name().to_string()),
        "time" => Some((profile.time_nanos / 1_000_000_000).to_string()),
        "sequence" => Some(set.sequence.to_string()),
        "id" => Some(profile.id.to_string()),
        _ => None,
    }
}

fn encoded(value: &str) -> String {
    // Dots alone would be a step up.
    let is_step = value.bytes().all(|byte| byte == b'.');
    let one = |byte: u8| match byte {
        b'.' if !is_step => ".".to_string(),
        byte if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    let text: String = value.bytes().map(one).collect();
    if text.is_empty() { "-".to_string() } else { text }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::encode::{Format, ProfileId};
    use crate::options::Target;

    fn url(text: &str) -> Url {
        let mut options = crate::Options::default();
        options.set("push", text).unwrap();
        match options.push.targets() {
            [Target::Server(_, url)] => url.clone(),
            _ => unreachable!(),
        }
    }

    fn encoded_profile() -> Encoded {
        Encoded {
            kind: crate::options::Kinds::default().iter().next().unwrap(),
            format: Format::Pprof,
            bytes: b"abc".to_vec(),
            time_nanos: 1_700_000_000_999_999_999,
            duration_nanos: 0,
            labels: Vec::new(),
            id: ProfileId::new(),
        }
    }

    #[test]
    fn paths_are_below_the_one_of_the_url_and_templates_add_no_segment() {
        let (profile, mut set) = (encoded_profile(), Set { sequence: 7, ..Set::default() });
        set.tags.insert("service".into(), "a/../b?c d".into());
        set.tags.insert("env".into(), "..".into());
        let path = |protocol, text| {
            parcel(protocol, &url(text), &set, std::slice::from_ref(&profile), true)
                .map(|parcel| parcel.path)
                .unwrap()
        };
        assert_eq!(path(Protocol::Pyroscope, "pyroscope+http://h"), "/push.v1.PusherService/Push");
        assert_eq!(path(Protocol::Pyroscope, "pyroscope+http://h/a/?b"), "/a/push.v1.PusherService/Push?b");
        for (text, full) in [
            ("otlp+http://h", "/v1development/profiles"),
            ("otlp+http://h/?x=1", "/v1development/profiles?x=1"),
            ("otlp+http://h/api/default/v1/profiles", "/api/default/v1/profiles"),
        ] {
            assert_eq!(path(Protocol::Otlp, text), full);
        }
        assert_eq!(path(Protocol::Parca, "parca+http://h/p"), "/p/api/profiles/writeraw");
        let templates = "put+http://h/{service}/{env}/{kind}-{time}-{sequence}-{id}.pb.gz?s={no}";
        assert_eq!(
            path(Protocol::Put, templates),
            format!("/a%2F..%2Fb%3Fc%20d/%2E%2E/cpu-1700000000-7-{}.pb.gz?s={{no}}", profile.id)
        );
    }
}
