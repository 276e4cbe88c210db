//! The pprof writer: one pass over the model, straight onto the wire.
//!
//! Message structs in between would double the time and cost 15 MB for a large profile; here a message is
//! encoded from the tables as they are, and the compressor is fed as the buffer fills, so that the
//! uncompressed profile never exists as a whole.

use std::collections::HashMap;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::encode::protobuf::Writer;
use crate::profile::{Label, LabelValue, LabelsId, Profile, ValueType};

/// How many bytes wait for the compressor.
const CHUNK: usize = 64 * 1024;

/// The compression level: 1 takes a third of the time of the usual 6 and its files are a fifth larger.
const LEVEL: u32 = 1;

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
    let mut gzip = GzEncoder::new(Vec::new(), Compression::new(LEVEL));
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

/// What [`encode_uncompressed`] made, as [`encode`] would have made it.
pub(crate) fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::new(LEVEL));
    // As above.
    let written = gzip.write_all(bytes);
    written.and_then(|()| gzip.finish()).unwrap_or_default()
}

fn write(profile: &Profile, out: &mut impl Write) -> std::io::Result<()> {
    let mut encoder = Encoder {
        profile,
        strings: Strings::new(profile),
        wire: Writer::with_capacity(CHUNK + CHUNK / 4),
        out,
    };
    encoder.header();
    encoder.samples()?;
    encoder.mappings()?;
    encoder.locations()?;
    encoder.functions()?;
    encoder.string_table()?;
    encoder.flush(0)
}

struct Encoder<'p, W> {
    profile: &'p Profile,
    strings: Strings<'p>,
    wire: Writer,
    out: W,
}

impl<'p, W: Write> Encoder<'p, W> {
    fn header(&mut self) {
        let profile = self.profile;
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

    fn samples(&mut self) -> std::io::Result<()> {
        let profile = self.profile;
        let mut labels = LabelSets::default();
        for sample in profile.samples() {
            let labels = labels.encoded(profile, sample.labels, &mut self.strings);
            self.wire.message(2, |message| {
                message.packed(1, profile.get_stack(sample.stack).iter().map(|id| id.index() as u64 + 1));
                message.packed(2, sample.values.iter().map(|value| *value as u64));
                message.fields(labels);
            });
            self.flush(CHUNK)?;
        }
        Ok(())
    }

    fn mappings(&mut self) -> std::io::Result<()> {
        for (id, mapping) in (1..).zip(self.profile.mappings()) {
            self.wire.message(3, |message| {
                message.uint(1, id);
                message.uint(2, mapping.memory_start);
                message.uint(3, mapping.memory_limit);
                message.uint(4, mapping.file_offset);
                message.uint(5, mapping.filename.index() as u64);
                message.uint(6, mapping.build_id.index() as u64);
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
        for (id, location) in (1..).zip(self.profile.locations()) {
            self.wire.message(4, |message| {
                message.uint(1, id);
                message.uint(2, location.mapping.map_or(0, |mapping| mapping.index() as u64 + 1));
                message.uint(3, location.address);
                for line in &location.lines {
                    message.message(4, |message| {
                        message.uint(1, line.function.index() as u64 + 1);
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
        for (id, function) in (1..).zip(self.profile.functions()) {
            self.wire.message(5, |message| {
                message.uint(1, id);
                message.uint(2, function.name.index() as u64);
                message.uint(3, function.system_name.index() as u64);
                message.uint(4, function.filename.index() as u64);
                message.int(5, function.start_line);
            });
            self.flush(CHUNK)?;
        }
        Ok(())
    }

    fn string_table(&mut self) -> std::io::Result<()> {
        let profile = self.profile;
        for text in profile.strings() {
            self.wire.element(6, text.as_bytes());
            self.flush(CHUNK)?;
        }
        for text in &std::mem::take(&mut self.strings.added) {
            self.wire.element(6, text.as_bytes());
            self.flush(CHUNK)?;
        }
        Ok(())
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

/// The profile's string table, and what label sets, types and comments add to it.
struct Strings<'p> {
    profile: &'p Profile,
    index: HashMap<String, u64>,
    added: Vec<String>,
}

impl<'p> Strings<'p> {
    fn new(profile: &'p Profile) -> Self {
        Self { profile, index: HashMap::new(), added: Vec::new() }
    }

    fn id(&mut self, text: &str) -> u64 {
        if let Some(id) = self.profile.find_string(text) {
            return id.index() as u64;
        }
        if let Some(&id) = self.index.get(text) {
            return id;
        }
        let id = (self.profile.strings().len() + self.added.len()) as u64;
        self.index.insert(text.to_owned(), id);
        self.added.push(text.to_owned());
        id
    }
}

/// The label sets as they stand in a sample, each encoded once.
#[derive(Default)]
struct LabelSets(HashMap<LabelsId, Vec<u8>>);

impl LabelSets {
    fn encoded(&mut self, profile: &Profile, id: LabelsId, strings: &mut Strings<'_>) -> &[u8] {
        self.0.entry(id).or_insert_with(|| {
            let mut wire = Writer::default();
            for label in profile.get_labels(id) {
                encode_label(&mut wire, label, strings);
            }
            wire.into_bytes()
        })
    }
}

fn encode_label(wire: &mut Writer, label: &Label, strings: &mut Strings<'_>) {
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
