//! What is handed to the exporters: the encoded profiles of one period.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::profile::{Kind, Profile};

/// A format that profiles are encoded in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// gzip-compressed profile.proto: what `go tool pprof` and every backend reads.
    Pprof,
    /// One line a stack: `a;b;c 12`.
    Collapsed,
    /// The JSON of speedscope.app.
    Speedscope,
    /// gzip-compressed `ExportProfilesServiceRequest` of OTLP, `v1development`: a whole request.
    Otlp,
}

impl Format {
    /// Every one of them.
    pub(crate) const ALL: [Format; 4] = [Self::Pprof, Self::Collapsed, Self::Speedscope, Self::Otlp];

    /// The end of a file's name in this format.
    pub const fn extension(self) -> &'static str {
        match self {
            Format::Pprof => "pb.gz",
            Format::Collapsed => "collapsed.txt",
            Format::Speedscope => "speedscope.json",
            Format::Otlp => "otlp.gz",
        }
    }

    /// The format of files with that end.
    pub(crate) fn of_extension(extension: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.extension() == extension)
    }

    /// The media type for HTTP.
    pub const fn media_type(self) -> &'static str {
        match self {
            Format::Pprof => "application/octet-stream",
            Format::Collapsed => "text/plain; charset=utf-8",
            Format::Speedscope => "application/json",
            // Of what is in the gzip, which HTTP tells apart.
            Format::Otlp => "application/x-protobuf",
        }
    }
}

/// One encoded profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// What the profile measured.
    pub kind: Kind,
    /// What `bytes` are.
    pub format: Format,
    /// The profile.
    pub bytes: Vec<u8>,
    /// Start of the period, nanoseconds since the Unix epoch.
    pub time_nanos: i64,
    /// Length of the period, nanoseconds; 0 for a snapshot.
    pub duration_nanos: i64,
    /// Labels that all of its samples have, where a [`super::Dialect`] tells them of the whole.
    pub labels: Vec<(String, String)>,
    /// Stays the same however often the profile is sent, so that a receiver can tell a repetition.
    pub id: ProfileId,
}

impl Encoded {
    /// `profile` as gzip-compressed pprof, with a new [`ProfileId`].
    pub fn pprof(kind: Kind, profile: &Profile) -> Self {
        Self {
            kind,
            format: Format::Pprof,
            bytes: super::pprof::encode(profile),
            time_nanos: profile.time_nanos,
            duration_nanos: profile.duration_nanos,
            labels: Vec::new(),
            id: ProfileId::new(),
        }
    }
}

/// The profiles of one period of one process, with the tags they share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Tags of the deployment: service, version, env, host, pod, instance and the user's own.
    pub tags: BTreeMap<String, String>,
    /// Number of this set within its process, from 0.
    pub sequence: u64,
    /// Start of the period, nanoseconds since the Unix epoch.
    pub time_nanos: i64,
    /// Length of the period, nanoseconds.
    pub duration_nanos: i64,
    /// The profiles: one of each kind, or more where a [`super::Dialect`] parts it.
    pub profiles: Vec<Encoded>,
    /// Requests that ended in the period, by endpoint: see [`count_endpoint`](crate::count_endpoint). Datadog asks for them.
    pub endpoint_counts: BTreeMap<String, u64>,
}

impl Set {
    /// The value of a tag, or the empty text.
    pub fn tag(&self, name: &str) -> &str {
        self.tags.get(name).map_or("", String::as_str)
    }

    /// About how many bytes it is.
    pub(crate) fn bytes(&self) -> u64 {
        let profiles = self.profiles.iter().map(|profile| profile.bytes.len());
        let counts = self.endpoint_counts.keys().map(|endpoint| endpoint.len() + 32);
        profiles.chain(counts).sum::<usize>() as u64
    }
}

/// A random UUID (version 4) that names one profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProfileId(u128);

impl ProfileId {
    /// A new one. The randomness is that of the standard library's hash maps, which is the system's; time,
    /// process and a counter are mixed in, because a forked child inherits the keys.
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let part = |half: u8| u128::from(RandomState::new().hash_one((half, count, now, std::process::id())));
        let bits = part(0) << 64 | part(1);
        Self(bits & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62)
    }

    /// The one of these bytes.
    pub(crate) const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// The sixteen bytes, most significant first.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl Default for ProfileId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for ProfileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{:032x}", self.0);
        let (a, rest) = text.split_at(8);
        let (b, rest) = rest.split_at(4);
        let (c, rest) = rest.split_at(4);
        let (d, e) = rest.split_at(4);
        write!(f, "{a}-{b}-{c}-{d}-{e}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_of_version_4_and_differ() {
        let (a, b) = (ProfileId::new(), ProfileId::new());
        assert_ne!(a, b);
        let text = a.to_string();
        assert_eq!(text.len(), 36);
        assert_eq!(text.get(14..15), Some("4"), "{text}");
        assert!(text.get(19..20).is_some_and(|digit| "89ab".contains(digit)), "{text}");
    }
}
