//! OTLP profiles (`v1development`, as of proto v1.10 and v1.11): an export request with its dictionary, straight from the model.
//!
//! Called on the publisher's thread, once a period, by [`super::Dialect::Otlp`]. A profile there has one sample type, so
//! one of ours becomes several in one request; the type to show first stands first. What readers trip over: each table
//! begins with its zero value, and that of the links is an empty message, since Parca refuses zeros spelled out; a sample
//! without times has one value; period and its type are always there, since Pyroscope makes the name of them; resource,
//! scope and the values of attributes are never left out, since Parca follows them unasked.

mod attributes;
mod dictionary;
mod halve;

use super::dialect::{name, period};
use super::protobuf::Writer;
use super::{Encoded, Format, ProfileId, gzip};
use crate::profile::{Kind, Profile, Sample, ValueType};
use attributes::{of_profile, resource};
use dictionary::Dictionary;
pub(super) use halve::halve;

/// Bytes of one request without compression: what servers of gRPC take where nobody told them otherwise, and far below the
/// 64 MiB that the specification has for the most. What is larger is split.
const LARGEST: usize = 4 << 20;

/// The requests that tell of a period, each with gzip.
pub(super) fn encode(profiles: &[(Kind, Profile)]) -> Vec<Encoded> {
    let has_heap = profiles.iter().any(|(kind, _)| *kind == Kind::Heap);
    let mut encoded = Vec::new();
    for (kind, profile) in profiles {
        // The heap's profile has the allocations too.
        if *kind == Kind::Alloc && has_heap {
            continue;
        }
        let samples: Vec<Sample<'_>> = profile.samples().collect();
        part(*kind, profile, &samples, &mut encoded);
    }
    encoded
}

/// These samples, in as many requests as it takes.
fn part(kind: Kind, profile: &Profile, samples: &[Sample<'_>], encoded: &mut Vec<Encoded>) {
    if !samples.iter().any(|sample| sample.values.iter().any(|value| *value != 0)) {
        return;
    }
    let id = ProfileId::new();
    let request = Request::new(kind, profile, samples, id);
    if request.len() > LARGEST && samples.len() > 1 {
        let (first, second) = samples.split_at(samples.len() / 2);
        part(kind, profile, first, encoded);
        part(kind, profile, second, encoded);
        return;
    }
    encoded.push(Encoded {
        kind,
        format: Format::Otlp,
        bytes: request.compress(),
        time_nanos: profile.time_nanos,
        duration_nanos: profile.duration_nanos,
        labels: Vec::new(),
        id,
    });
}

/// `ExportProfilesServiceRequest`, in pieces that stand one after the other: together they exist with compression only.
struct Request<'p> {
    before: Writer,
    profiles: Writer,
    between: Writer,
    dictionary: Dictionary<'p>,
}

impl<'p> Request<'p> {
    fn new(kind: Kind, profile: &'p Profile, samples: &[Sample<'_>], id: ProfileId) -> Self {
        let mut dictionary = Dictionary::new(profile);
        let mut profiles = Writer::default();
        for column in columns(profile) {
            of_type(kind, profile, column, samples, id, &mut dictionary, &mut profiles);
        }
        let (mut of_resource, mut of_scope) = (Writer::default(), Writer::default());
        of_resource.message(1, |message| resource(&profile.tags, message));
        of_scope.message(1, |scope| {
            // By which Parca names a profile.
            scope.string(1, name(kind));
            scope.string(2, env!("CARGO_PKG_VERSION"));
        });
        of_resource.head(2, of_scope.len() + profiles.len());
        let mut before = Writer::default();
        before.head(1, of_resource.len() + of_scope.len() + profiles.len());
        before.fields(of_resource.as_slice());
        before.fields(of_scope.as_slice());
        let mut between = Writer::default();
        between.head(2, dictionary.pieces().iter().map(|piece| piece.len()).sum());
        Self { before, profiles, between, dictionary }
    }

    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let first = [&self.before, &self.profiles, &self.between].map(Writer::as_slice);
        first.into_iter().chain(self.dictionary.pieces())
    }

    /// Bytes without compression.
    fn len(&self) -> usize {
        self.pieces().map(<[u8]>::len).sum()
    }

    fn compress(&self) -> Vec<u8> {
        gzip::compress_all(self.pieces(), self.len())
    }
}

/// The sample types, the one to show first in front.
fn columns(profile: &Profile) -> Vec<usize> {
    let mut columns: Vec<usize> = (0..profile.sample_types.len()).collect();
    if let Ok(first) = profile.find_sample_type(None) {
        columns.sort_by_key(|column| *column != first);
    }
    columns
}

/// One `Profile`, where there is something to tell.
fn of_type(
    kind: Kind,
    profile: &Profile,
    column: usize,
    samples: &[Sample<'_>],
    id: ProfileId,
    dictionary: &mut Dictionary<'_>,
    profiles: &mut Writer,
) {
    let Some(sample_type) = profile.sample_types.get(column) else { return };
    let value = |sample: &Sample<'_>| sample.values.get(column).copied().unwrap_or_default();
    if samples.iter().all(|sample| value(sample) == 0) {
        return;
    }
    let (period_type, period) = period(kind, profile);
    let (sample_type_id, period_type_id) =
        (value_type(sample_type, dictionary), value_type(&period_type, dictionary));
    let attributes = of_profile(profile, dictionary);
    profiles.message(2, |message| {
        message.message(1, |of| write_type(of, sample_type_id));
        for sample in samples.iter().filter(|sample| value(sample) != 0) {
            let stack = dictionary.stack(sample.stack);
            let (attributes, link) = dictionary.labels(sample.labels);
            message.message(2, |message| {
                message.uint(1, stack);
                message.packed_some(2, attributes);
                message.uint(3, link);
                message.packed(4, [value(sample) as u64]);
            });
        }
        message.fixed64(3, profile.time_nanos.max(0) as u64);
        // What is of a moment has no duration: Parca takes what has one for a change.
        if !sample_type.is_level() {
            message.uint(4, profile.duration_nanos.max(0) as u64);
        }
        message.message(5, |of| write_type(of, period_type_id));
        message.int(6, period);
        message.bytes(7, &of_column(id, column));
        message.packed_some(11, &attributes);
    });
}

fn value_type(of: &ValueType, dictionary: &mut Dictionary<'_>) -> [u64; 2] {
    [dictionary.string(&of.name), dictionary.string(&of.unit)]
}

fn write_type(message: &mut Writer, [name, unit]: [u64; 2]) {
    message.uint(1, name);
    message.uint(2, unit);
}

/// The ID of the profile of one sample type: another one for each, and the same however often it is sent.
fn of_column(id: ProfileId, column: usize) -> [u8; 16] {
    let mut bytes = id.to_bytes();
    bytes[15] ^= column as u8;
    bytes
}
