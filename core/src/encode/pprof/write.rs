//! The pprof writer: one pass over the model, straight onto the wire.
//!
//! Message structs in between would double the time and cost 15 MB for a large profile; here a message is
//! encoded from the tables as they are, and the compressor is fed as the buffer fills, so that the
//! uncompressed profile never exists as a whole.

use std::collections::HashMap;
use std::io::Write;

use super::tables::{LEFT_OUT, Tables, cut};
use crate::encode::gzip;
use crate::encode::protobuf::Writer;
use crate::profile::{Label, LabelValue, LabelsId, Profile, Sample, ValueType};

/// How many bytes wait for the compressor.
const CHUNK: usize = 64 * 1024;

/// `profile` as gzip-compressed pprof.
///
/// ```
/// use everprof::encode::pprof;
/// use everprof::profile::{Kind, Profile};
/// let mut profile = Profile::new(Kind::Cpu);
/// profile.tags.insert("service".into(), "shop".into());
/// let read = pprof::decode(&pprof::encode(&profile)).unwrap();
/// assert_eq!(read.tags["service"], "shop");
/// ```
pub fn encode(profile: &Profile) -> Vec<u8> {
    let mut gzip = gzip::writer();
    // A vector takes whatever is written to it: neither of the two can fail.
    let written = write(profile, &mut gzip);
    written.and_then(|()| gzip.finish()).unwrap_or_default()
}

/// `profile` as pprof without compression, for whoever compresses in another way.
pub fn encode_uncompressed(profile: &Profile) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A vector takes whatever is written to it: this cannot fail.
    write(profile, &mut bytes).unwrap_or_default();
    bytes
}

fn write(profile: &Profile, out: &mut impl Write) -> std::io::Result<()> {
    let tables = Tables::all(profile);
    let content = Content { head: profile, tables: &tables, frames: usize::MAX };
    Encoder::new(content, out).whole(profile.samples())
}

/// What a file is made of, beside the samples.
#[derive(Clone, Copy)]
pub(crate) struct Content<'a, 'p> {
    /// The types, times, comments and label sets. It need not be the profile that has the stacks.
    pub(crate) head: &'p Profile,
    /// What the stacks point at.
    pub(crate) tables: &'a Tables<'p>,
    /// Frames of one stack at the most.
    pub(crate) frames: usize,
}

impl<'p> Content<'_, 'p> {
    /// A file without compression.
    pub(crate) fn whole(self, samples: impl Iterator<Item = Sample<'p>>) -> Pieces {
        let mut pieces = Pieces::default();
        // They take whatever is written to them, here and below.
        Encoder::new(self, &mut pieces).whole(samples).unwrap_or_default();
        pieces
    }

    /// A file that has everything but the tables, for whoever puts these in front of it.
    pub(crate) fn rest(self, samples: impl Iterator<Item = Sample<'p>>) -> Pieces {
        let mut pieces = Pieces::default();
        Encoder::new(self, &mut pieces).rest(samples).unwrap_or_default();
        pieces
    }
}

/// The tables alone.
pub(crate) fn tables(tables: &Tables<'_>) -> Pieces {
    let mut pieces = Pieces::default();
    let content = Content { head: tables.profile, tables, frames: usize::MAX };
    Encoder::new(content, &mut pieces).only_tables().unwrap_or_default();
    pieces
}

/// A file in pieces: in one it would have to be moved while it grows, and be there twice.
#[derive(Default)]
pub(crate) struct Pieces(Vec<Vec<u8>>);

impl Pieces {
    /// Bytes in all.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }
}

impl IntoIterator for Pieces {
    type Item = Vec<u8>;
    type IntoIter = std::vec::IntoIter<Vec<u8>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Encoder<'a, 'p, W> {
    head: &'p Profile,
    tables: &'a Tables<'p>,
    strings: Strings<'a, 'p>,
    frames: usize,
    /// Whether a stack was cut.
    is_cut: bool,
    wire: Writer,
    out: W,
}

impl<'a, 'p, W: Write> Encoder<'a, 'p, W> {
    fn new(Content { head, tables, frames }: Content<'a, 'p>, out: W) -> Self {
        let wire = Writer::with_capacity(CHUNK + CHUNK / 4);
        Self { head, tables, strings: Strings::new(tables), frames, is_cut: false, wire, out }
    }

    fn whole(mut self, samples: impl Iterator<Item = Sample<'p>>) -> std::io::Result<()> {
        self.header();
        self.samples(samples)?;
        self.tables()?;
        self.added()
    }

    fn rest(mut self, samples: impl Iterator<Item = Sample<'p>>) -> std::io::Result<()> {
        self.header();
        self.samples(samples)?;
        self.added()
    }

    fn only_tables(mut self) -> std::io::Result<()> {
        self.tables()?;
        self.flush(0)
    }

    fn tables(&mut self) -> std::io::Result<()> {
        self.mappings()?;
        self.locations()?;
        self.functions()?;
        for text in self.tables.strings.iter() {
            self.wire.element(6, text.as_bytes());
            self.flush(CHUNK)?;
        }
        Ok(())
    }

    fn header(&mut self) {
        let profile = self.head;
        for sample_type in &profile.sample_types {
            self.value_type(1, sample_type);
        }
        self.wire.int(9, profile.time_nanos);
        self.wire.int(10, profile.duration_nanos);
        self.value_type(11, &profile.period_type);
        self.wire.int(12, profile.period);
        let tags = profile.tags.iter().map(|(key, value)| tag_line(key, value));
        let comments = tags.chain(profile.comments.iter().cloned()).collect::<Vec<String>>();
        let comments: Vec<u64> = comments.iter().map(|comment| self.strings.id(comment)).collect();
        if !comments.is_empty() {
            self.wire.packed(13, comments);
        }
        let default = self.strings.id(&profile.default_sample_type);
        self.wire.uint(14, default);
    }

    fn value_type(&mut self, field: u32, value_type: &ValueType) {
        let (name, unit) = (self.strings.id(&value_type.name), self.strings.id(&value_type.unit));
        self.wire.message(field, |message| {
            message.uint(1, name);
            message.uint(2, unit);
        });
    }

    fn samples(&mut self, samples: impl Iterator<Item = Sample<'p>>) -> std::io::Result<()> {
        let (head, tables, mark) = (self.head, self.tables, self.mark());
        let mut labels = LabelSets::default();
        for sample in samples {
            let labels = labels.encoded(head, sample.labels, &mut self.strings);
            let (leaf, root) = cut(tables.profile.get_stack(sample.stack), self.frames);
            self.is_cut |= root.is_some();
            self.wire.message(2, |message| {
                let leaf = leaf.iter().map(|id| tables.locations.number(id.index()));
                match root {
                    None => message.packed(1, leaf),
                    Some(root) => {
                        let root = root.iter().map(|id| tables.locations.number(id.index()));
                        message.packed(1, leaf.chain([mark]).chain(root));
                    }
                }
                message.packed(2, sample.values.iter().map(|value| *value as u64));
                message.fields(labels);
            });
            self.flush(CHUNK)?;
        }
        Ok(())
    }

    /// The number of the location that stands for what was left out.
    fn mark(&self) -> u64 {
        self.tables.locations.len() as u64 + 1
    }

    fn mappings(&mut self) -> std::io::Result<()> {
        let tables = self.tables;
        for (id, mapping) in (1..).zip(self.tables.profile.mappings()) {
            self.wire.message(3, |message| {
                message.uint(1, id);
                message.uint(2, mapping.memory_start);
                message.uint(3, mapping.memory_limit);
                message.uint(4, mapping.file_offset);
                message.uint(5, tables.string(mapping.filename));
                message.uint(6, tables.string(mapping.build_id));
                message.bool(7, mapping.has_functions);
                message.bool(8, mapping.has_filenames);
                message.bool(9, mapping.has_line_numbers);
                message.bool(10, mapping.has_inline_frames);
            });
            self.flush(CHUNK)?;
        }
        Ok(())
    }

    fn locations(&mut self) -> std::io::Result<()> {
        let tables = self.tables;
        for (id, location) in (1..).zip(tables.locations.iter()) {
            self.wire.message(4, |message| {
                message.uint(1, id);
                message.uint(2, location.mapping.map_or(0, |mapping| mapping.index() as u64 + 1));
                message.uint(3, location.address);
                for line in &location.lines {
                    message.message(4, |message| {
                        message.uint(1, tables.functions.number(line.function.index()));
                        message.int(2, line.line);
                        message.int(3, line.column);
                    });
                }
            });
            self.flush(CHUNK)?;
        }
        Ok(())
    }

    fn functions(&mut self) -> std::io::Result<()> {
        let tables = self.tables;
        for (id, function) in (1..).zip(tables.functions.iter()) {
            self.wire.message(5, |message| {
                message.uint(1, id);
                message.uint(2, tables.string(function.name));
                message.uint(3, tables.string(function.system_name));
                message.uint(4, tables.string(function.filename));
                message.int(5, function.start_line);
            });
            self.flush(CHUNK)?;
        }
        Ok(())
    }

    /// What the tables lack, and the end.
    fn added(&mut self) -> std::io::Result<()> {
        if self.is_cut {
            let (name, location) = (self.strings.id(LEFT_OUT), self.mark());
            let function = self.tables.functions.len() as u64 + 1;
            self.wire.message(4, |message| {
                message.uint(1, location);
                message.message(4, |line| line.uint(1, function));
            });
            self.wire.message(5, |message| {
                message.uint(1, function);
                message.uint(2, name);
                message.uint(3, name);
            });
        }
        for text in &std::mem::take(&mut self.strings.added) {
            self.wire.element(6, text.as_bytes());
            self.flush(CHUNK)?;
        }
        self.flush(0)
    }

    /// Hands the buffer on once it holds more than `threshold` bytes.
    fn flush(&mut self, threshold: usize) -> std::io::Result<()> {
        if self.wire.len() > threshold {
            self.out.write_all(self.wire.as_slice())?;
            self.wire.clear();
        }
        Ok(())
    }
}

/// The comment of a tag. What stands before the first `=` is read back as the key, so a key cannot hold one,
/// nor white space, which tells a tag from free text.
fn tag_line(key: &str, value: &str) -> String {
    let key = key.replace(|c: char| c == '=' || c.is_whitespace() || c.is_control(), "_");
    format!("{key}={value}")
}

/// The texts of the tables, and what label sets, types and comments add to them.
struct Strings<'a, 'p> {
    tables: &'a Tables<'p>,
    index: HashMap<String, u64>,
    added: Vec<String>,
}

impl<'a, 'p> Strings<'a, 'p> {
    fn new(tables: &'a Tables<'p>) -> Self {
        Self { tables, index: HashMap::new(), added: Vec::new() }
    }

    fn id(&mut self, text: &str) -> u64 {
        if let Some(id) = self.tables.text(text) {
            return id;
        }
        if let Some(&id) = self.index.get(text) {
            return id;
        }
        let id = (self.tables.strings.len() + self.added.len()) as u64;
        self.index.insert(text.to_owned(), id);
        self.added.push(text.to_owned());
        id
    }
}

/// The label sets as they stand in a sample, each encoded once.
#[derive(Default)]
struct LabelSets {
    /// Where each begins and ends, by its handle; none where it was not needed yet.
    places: Vec<Option<(usize, usize)>>,
    wire: Writer,
}

impl LabelSets {
    fn encoded(&mut self, head: &Profile, id: LabelsId, strings: &mut Strings<'_, '_>) -> &[u8] {
        if self.places.len() <= id.index() {
            self.places.resize(id.index() + 1, None);
        }
        let Some(place) = self.places.get_mut(id.index()) else { return &[] };
        let (start, end) = *place.get_or_insert_with(|| {
            let start = self.wire.len();
            for label in head.get_labels(id) {
                encode_label(&mut self.wire, label, strings);
            }
            (start, self.wire.len())
        });
        self.wire.as_slice().get(start..end).unwrap_or_default()
    }
}

fn encode_label(wire: &mut Writer, label: &Label, strings: &mut Strings<'_, '_>) {
    let key = strings.id(&label.key);
    match &label.value {
        LabelValue::Text(text) => {
            let text = strings.id(text);
            wire.message(3, |message| {
                message.uint(1, key);
                message.uint(2, text);
            });
        }
        LabelValue::Number(number, unit) => {
            let unit = strings.id(unit);
            wire.message(3, |message| {
                message.uint(1, key);
                message.int(3, *number);
                message.uint(4, unit);
            });
        }
    }
}
