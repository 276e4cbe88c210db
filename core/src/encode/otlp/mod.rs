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

use super::dialect::{name, period, time_of_part};
use super::protobuf::Writer;
use super::{Encoded, Format, ProfileId, gzip};
use crate::profile::{Kind, Profile, Sample, ValueType};
use attributes::{of_profile, resource};
use dictionary::Dictionary;
pub(super) use halve::halve;

/// Bytes that a request stands for, where each sample type is a profile with tables of its own: Pyroscope makes pprof of it so,
/// and never takes more than 2 MiB at once if nobody allowed it more; it would take some of its types, again and again. That is
/// far below the 4 MiB that servers of gRPC take of a message by default. What is larger is split.
const LARGEST: usize = (2 << 20) - (64 << 10);
/// What is split is aimed at that, since parts have some of their tables in common.
const AIM: usize = LARGEST / 4 * 3;

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
        part(*kind, profile, &samples, 0, &mut encoded);
    }
    encoded
}

/// These samples, which come after so many others, in as many requests as it takes. Each has a time of its own, since
/// Pyroscope keeps one profile of a series and time.
fn part(kind: Kind, profile: &Profile, samples: &[Sample<'_>], before: usize, encoded: &mut Vec<Encoded>) {
    let told = |sample: &Sample<'_>| sample.values.iter().filter(|value| **value != 0).count();
    if samples.iter().all(|sample| told(sample) == 0) {
        return;
    }
    let split = |bytes: usize, encoded: &mut Vec<Encoded>| {
        let count = samples.len().div_ceil(bytes.div_ceil(AIM).max(2));
        let mut before = before;
        for samples in samples.chunks(count) {
            part(kind, profile, samples, before, encoded);
            before += samples.len();
        }
    };
    // As pprof, each sample has its stack; here those of many spans have one in common.
    let unfolded = |sample: &Sample<'_>| told(sample) * (24 + 2 * profile.get_stack(sample.stack).len());
    let samples_alone: usize = samples.iter().map(unfolded).sum();
    if samples_alone > LARGEST && samples.len() > 1 {
        return split(samples_alone, encoded);
    }
    let id = ProfileId::new();
    let time_nanos = time_of_part(profile.time_nanos, before);
    let request = Request::new(kind, profile, samples, (time_nanos, id));
    let is_told = |column: &usize| samples.iter().any(|sample| sample.values.get(*column) != Some(&0));
    let all = request.len() * (0..profile.sample_types.len()).filter(is_told).count();
    if all > LARGEST && samples.len() > 1 {
        drop(request);
        return split(all, encoded);
    }
    encoded.push(Encoded {
        kind,
        format: Format::Otlp,
        bytes: request.compress(),
        time_nanos,
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
    fn new(kind: Kind, profile: &'p Profile, samples: &[Sample<'_>], key: (i64, ProfileId)) -> Self {
        let mut dictionary = Dictionary::new(profile);
        let mut profiles = Writer::default();
        for column in columns(profile) {
            of_type(kind, profile, column, samples, key, &mut dictionary, &mut profiles);
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
    (time_nanos, id): (i64, ProfileId),
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
        message.fixed64(3, time_nanos.max(0) as u64);
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
