//! The pprof reader: files of any tool, good or bad, from anywhere.
//!
//! Never panics, and never takes more memory than its [`Limits`] allow, however small the file that asks for
//! it. The message is walked once for each table in the order in which they build on each other, because the
//! wire may carry them in any order; nothing is parsed into structs in between. Samples are kept as they come, so that a
//! sum of many files need not find the place of each twice.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read as _;

use flate2::read::MultiGzDecoder;

use crate::encode::protobuf::{Fields, Value, WireError, integers};
use crate::error::{Error, ErrorKind, Result};
use crate::profile::{Function, FunctionId, Label, LabelValue, LabelsId, Line, Location, LocationId};
use crate::profile::{Loose, Mapping, MappingId, Profile, StringId, ValueType};

/// How much a profile may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes after decompression. Default 256 MiB.
    pub uncompressed_bytes: usize,
    /// Bytes of memory for the profile read, roughly. Default 1 GiB.
    pub memory_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { uncompressed_bytes: 256 << 20, memory_bytes: 1 << 30 }
    }
}

/// Reads a pprof file, gzip-compressed or not, within the default [`Limits`].
///
/// # Errors
/// [`ErrorKind::InvalidData`], saying what is wrong with the file.
///
/// ```
/// let error = everprof::encode::pprof::decode(b"<html>").unwrap_err();
/// assert_eq!(error.kind(), everprof::ErrorKind::InvalidData);
/// ```
pub fn decode(bytes: &[u8]) -> Result<Profile> {
    decode_within(bytes, Limits::default())
}

/// Reads a pprof file, gzip-compressed or not, within `limits`.
///
/// # Errors
/// [`ErrorKind::InvalidData`], saying what is wrong with the file, or which limit it exceeds.
pub fn decode_within(bytes: &[u8], limits: Limits) -> Result<Profile> {
    let Read { mut profile, samples } = read(bytes, limits, true)?;
    profile.add_loose(&samples);
    Ok(profile)
}

/// A profile as it stands in a file, for whoever adds it to a sum: its samples are not in its tables, and these may have
/// the same twice.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) profile: Profile,
    pub(crate) samples: Loose,
}

/// The same as [`decode_within`], in half the time.
pub(crate) fn decode_loose(bytes: &[u8], limits: Limits) -> Result<Read> {
    read(bytes, limits, false)
}

fn read(bytes: &[u8], limits: Limits, interns: bool) -> Result<Read> {
    let message = decompress(bytes, limits)?;
    if message.is_empty() {
        return Err(invalid("the file is empty: a profile has at least a string table"));
    }
    let mut reader = Reader::new(&message, limits, interns)?;
    reader.mappings()?;
    reader.functions()?;
    reader.locations()?;
    reader.read_samples()?;
    Ok(Read { profile: reader.profile, samples: reader.samples })
}

fn decompress(bytes: &[u8], limits: Limits) -> Result<Cow<'_, [u8]>> {
    let limit = limits.uncompressed_bytes;
    let message = if bytes.starts_with(&[0x1f, 0x8b]) {
        // The last four bytes tell how much it is, or so the file says.
        let told = bytes.last_chunk().map_or(0, |last| u32::from_le_bytes(*last) as usize);
        let mut message = Vec::with_capacity(told.min(limit).min(bytes.len().saturating_mul(8)) + 1);
        let mut gzip = MultiGzDecoder::new(bytes).take((limit as u64).saturating_add(1));
        gzip.read_to_end(&mut message)
            .map_err(|error| Error::io(ErrorKind::InvalidData, "the gzip file is damaged", error))?;
        Cow::Owned(message)
    } else {
        Cow::Borrowed(bytes)
    };
    if message.len() > limit {
        return Err(invalid(format!("the profile has more than {limit} bytes after decompression")));
    }
    Ok(message)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidData, message)
}

fn wire(error: WireError) -> Error {
    invalid(format!("not a pprof file: {error}"))
}

/// A wire error inside the `ordinal`th message of a table.
fn wire_in(table: &'static str, ordinal: usize) -> impl Fn(WireError) -> Error {
    move |error| invalid(format!("{table} {ordinal}: {error}"))
}

struct Reader<'a> {
    message: &'a [u8],
    /// The messages of each table.
    parts: Parts<'a>,
    strings: Vec<&'a [u8]>,
    /// The handles of those that were taken.
    string_ids: Vec<Option<StringId>>,
    /// Whether equal content gets equal handles.
    interns: bool,
    mappings: Ids<MappingId>,
    functions: Ids<FunctionId>,
    locations: Ids<LocationId>,
    profile: Profile,
    samples: Loose,
    /// The label sets of samples, by their fields as they stand in the file.
    label_sets: HashMap<Vec<u8>, LabelsId>,
    memory_left: usize,
    limits: Limits,
}

impl<'a> Reader<'a> {
    /// Reads the string table and what stands beside the tables.
    fn new(message: &'a [u8], limits: Limits, interns: bool) -> Result<Self> {
        let mut reader = Self {
            message,
            parts: Parts::default(),
            strings: Vec::new(),
            string_ids: Vec::new(),
            interns,
            mappings: Ids::new("mapping"),
            functions: Ids::new("function"),
            locations: Ids::new("location"),
            profile: Profile::with_types(Vec::new(), ValueType::new("", ""), ""),
            samples: Loose::default(),
            label_sets: HashMap::new(),
            memory_left: limits.memory_bytes,
            limits,
        };
        for field in Fields::new(message) {
            let (number, Value::Bytes(bytes)) = field.map_err(wire)? else { continue };
            let part = match number {
                2 => &mut reader.parts.samples,
                3 => &mut reader.parts.mappings,
                4 => &mut reader.parts.locations,
                5 => &mut reader.parts.functions,
                6 => &mut reader.strings,
                _ => continue,
            };
            part.push(bytes);
            reader.charge(size_of::<&[u8]>())?;
        }
        reader.charge(size_of_val(reader.strings.as_slice()) / 2)?;
        reader.string_ids = vec![None; reader.strings.len()];
        if reader.strings.first().is_some_and(|text| !text.is_empty()) {
            return Err(invalid("the first string of the string table is not the empty one"));
        }
        reader.header()?;
        Ok(reader)
    }

    fn header(&mut self) -> Result<()> {
        let mut types = Vec::new();
        let mut period_type = ValueType::new("", "");
        let mut default_sample_type = String::new();
        let (mut time, mut duration, mut period) = (0, 0, 0);
        let mut comments = Vec::new();
        for field in Fields::new(self.message) {
            match field.map_err(wire)? {
                (1, Value::Bytes(bytes)) => types.push(self.value_type("sample type", bytes)?),
                (9, Value::Varint(value)) => time = value as i64,
                (10, Value::Varint(value)) => duration = value as i64,
                (11, Value::Bytes(bytes)) => period_type = self.value_type("period type", bytes)?,
                (12, Value::Varint(value)) => period = value as i64,
                (13, list) => {
                    for index in integers(list) {
                        let comment = self.text("the profile", "comment", index.map_err(wire)?)?.into_owned();
                        self.charge(size_of::<String>() * 2 + comment.len())?;
                        comments.push(comment);
                    }
                }
                (14, Value::Varint(index)) => {
                    default_sample_type =
                        self.text("the profile", "default_sample_type", index)?.into_owned();
                }
                _ => {}
            }
        }
        self.profile = Profile::with_types(types, period_type, default_sample_type);
        (self.profile.time_nanos, self.profile.duration_nanos) = (time, duration);
        self.profile.period = period;
        for comment in comments {
            self.comment(comment);
        }
        Ok(())
    }

    /// A tag where it reads as one and is the first of its key; a comment otherwise.
    fn comment(&mut self, comment: String) {
        let is_key =
            |key: &str| !key.is_empty() && !key.contains(|c: char| c.is_whitespace() || c.is_control());
        match comment.split_once('=') {
            Some((key, value)) if is_key(key) && !self.profile.tags.contains_key(key) => {
                self.profile.tags.insert(key.to_owned(), value.to_owned());
            }
            Some((key, value)) if self.profile.tags.get(key).is_some_and(|tag| tag == value) => {}
            _ => self.profile.comments.push(comment),
        }
    }

    fn value_type(&mut self, of: &str, bytes: &[u8]) -> Result<ValueType> {
        let (mut name, mut unit) = (0, 0);
        for field in Fields::new(bytes) {
            match field.map_err(wire)? {
                (1, Value::Varint(index)) => name = index,
                (2, Value::Varint(index)) => unit = index,
                _ => {}
            }
        }
        let value_type = ValueType::new(self.text(of, "name", name)?, self.text(of, "unit", unit)?);
        self.charge(size_of::<ValueType>() + value_type.name.len() + value_type.unit.len())?;
        Ok(value_type)
    }

    fn mappings(&mut self) -> Result<()> {
        for (ordinal, bytes) in (1..).zip(std::mem::take(&mut self.parts.mappings)) {
            let (mut id, mut mapping) = (0, Mapping::default());
            let (mut filename, mut build_id) = (0, 0);
            for field in Fields::new(bytes) {
                match field.map_err(wire_in("mapping", ordinal))? {
                    (1, Value::Varint(value)) => id = value,
                    (2, Value::Varint(value)) => mapping.memory_start = value,
                    (3, Value::Varint(value)) => mapping.memory_limit = value,
                    (4, Value::Varint(value)) => mapping.file_offset = value,
                    (5, Value::Varint(index)) => filename = index,
                    (6, Value::Varint(index)) => build_id = index,
                    (7, Value::Varint(value)) => mapping.has_functions = value != 0,
                    (8, Value::Varint(value)) => mapping.has_filenames = value != 0,
                    (9, Value::Varint(value)) => mapping.has_line_numbers = value != 0,
                    (10, Value::Varint(value)) => mapping.has_inline_frames = value != 0,
                    _ => {}
                }
            }
            mapping.filename = self.string("mapping", id, "file name", filename)?;
            mapping.build_id = self.string("mapping", id, "build id", build_id)?;
            self.charge(2 * size_of::<Mapping>())?;
            self.mappings.add(ordinal, id, self.profile.mapping(mapping))?;
        }
        Ok(())
    }

    fn functions(&mut self) -> Result<()> {
        for (ordinal, bytes) in (1..).zip(std::mem::take(&mut self.parts.functions)) {
            let (mut id, mut function) = (0, Function::default());
            let (mut name, mut system_name, mut filename) = (0, 0, 0);
            for field in Fields::new(bytes) {
                match field.map_err(wire_in("function", ordinal))? {
                    (1, Value::Varint(value)) => id = value,
                    (2, Value::Varint(index)) => name = index,
                    (3, Value::Varint(index)) => system_name = index,
                    (4, Value::Varint(index)) => filename = index,
                    (5, Value::Varint(value)) => function.start_line = value as i64,
                    _ => {}
                }
            }
            function.name = self.string("function", id, "name", name)?;
            function.system_name = self.string("function", id, "system name", system_name)?;
            function.filename = self.string("function", id, "file name", filename)?;
            self.charge(2 * size_of::<Function>())?;
            let handle = match self.interns {
                true => self.profile.function(function),
                false => self.profile.append_function(function),
            };
            self.functions.add(ordinal, id, handle)?;
        }
        Ok(())
    }

    fn locations(&mut self) -> Result<()> {
        for (ordinal, bytes) in (1..).zip(std::mem::take(&mut self.parts.locations)) {
            let (mut id, mut location) = (0, Location::default());
            for field in Fields::new(bytes) {
                match field.map_err(wire_in("location", ordinal))? {
                    (1, Value::Varint(value)) => id = value,
                    // A mapping that does not exist is what other readers take for none.
                    (2, Value::Varint(mapping)) => location.mapping = self.mappings.get(mapping),
                    (3, Value::Varint(value)) => location.address = value,
                    (4, Value::Bytes(line)) => {
                        self.charge(size_of::<Line>())?;
                        location.lines.push(self.line(ordinal, line)?);
                    }
                    _ => {}
                }
            }
            self.charge(2 * size_of::<Location>())?;
            let handle = match self.interns {
                true => self.profile.location(location),
                false => self.profile.append_location(location),
            };
            self.locations.add(ordinal, id, handle)?;
        }
        Ok(())
    }

    fn line(&self, ordinal: usize, bytes: &[u8]) -> Result<Line> {
        let (mut function, mut line, mut column) = (0, 0, 0);
        for field in Fields::new(bytes) {
            match field.map_err(wire_in("a line of location", ordinal))? {
                (1, Value::Varint(value)) => function = value,
                (2, Value::Varint(value)) => line = value as i64,
                (3, Value::Varint(value)) => column = value as i64,
                _ => {}
            }
        }
        let function = self.functions.get(function).ok_or_else(|| {
            invalid(format!("location {ordinal} names function {function}, which does not exist"))
        })?;
        Ok(Line { function, line, column })
    }

    fn read_samples(&mut self) -> Result<()> {
        let width = self.profile.sample_types.len();
        let mut labels: Vec<&[u8]> = Vec::new();
        let mut key = Vec::new();
        for (ordinal, bytes) in (1..).zip(std::mem::take(&mut self.parts.samples)) {
            let (locations_before, values_before) = self.samples.lengths();
            labels.clear();
            for field in Fields::new(bytes) {
                match field.map_err(wire_in("sample", ordinal))? {
                    (1, list) => {
                        for id in integers(list) {
                            let id = id.map_err(wire_in("sample", ordinal))?;
                            self.samples.push_location(self.locations.get(id).ok_or_else(|| {
                                invalid(format!("sample {ordinal} names location {id}, which does not exist"))
                            })?);
                        }
                    }
                    (2, list) => {
                        for value in integers(list) {
                            self.samples.push_value(value.map_err(wire_in("sample", ordinal))? as i64);
                        }
                    }
                    (3, Value::Bytes(label)) => labels.push(label),
                    _ => {}
                }
            }
            let (locations, values) = self.samples.lengths();
            let (locations, values) = (locations - locations_before, values - values_before);
            if values != width {
                return Err(invalid(format!(
                    "sample {ordinal} has {values} values for {width} sample types"
                )));
            }
            self.charge(64 + locations * size_of::<LocationId>() + values * size_of::<i64>())?;
            let set = self.label_set(ordinal, &labels, &mut key)?;
            self.samples.finish(set);
        }
        Ok(())
    }

    /// The label set of these fields. Samples share them, and to read one is far more than to find it.
    fn label_set(&mut self, ordinal: usize, labels: &[&[u8]], key: &mut Vec<u8>) -> Result<LabelsId> {
        key.clear();
        for label in labels {
            key.extend_from_slice(&label.len().to_le_bytes());
            key.extend_from_slice(label);
        }
        if let Some(&known) = self.label_sets.get(key.as_slice()) {
            return Ok(known);
        }
        let labels = labels.iter().map(|label| self.label(ordinal, label)).collect::<Result<Vec<Label>>>()?;
        self.charge(2 * key.len())?;
        let set = self.profile.labels(&labels);
        self.label_sets.insert(key.clone(), set);
        Ok(set)
    }

    fn label(&mut self, ordinal: usize, bytes: &[u8]) -> Result<Label> {
        let (mut key, mut text, mut number, mut unit) = (0, 0, 0, 0);
        for field in Fields::new(bytes) {
            match field.map_err(wire_in("a label of sample", ordinal))? {
                (1, Value::Varint(index)) => key = index,
                (2, Value::Varint(index)) => text = index,
                (3, Value::Varint(value)) => number = value as i64,
                (4, Value::Varint(index)) => unit = index,
                _ => {}
            }
        }
        let of = "a label";
        let key = self.text(of, "key", key)?;
        let label = if text != 0 || (number == 0 && unit == 0) {
            Label::text(key, self.text(of, "text", text)?)
        } else {
            Label::number(key, number, self.text(of, "unit", unit)?)
        };
        let text = match &label.value {
            LabelValue::Text(text) | LabelValue::Number(_, text) => text.len(),
        };
        self.charge(size_of::<Label>() + label.key.len() + text)?;
        Ok(label)
    }

    /// Interns a string of the file's table. In a fixed order for each table, whatever the order on the wire:
    /// so a profile that was read and written once is written in the same way ever after.
    fn string(&mut self, table: &str, id: u64, what: &str, index: u64) -> Result<StringId> {
        if index == 0 {
            return Ok(StringId::default());
        }
        let Some(bytes) = usize::try_from(index).ok().and_then(|index| self.strings.get(index)) else {
            return Err(no_string(&format!("{table} {id}"), what, index, self.strings.len()));
        };
        if let Some(Some(known)) = self.string_ids.get(index as usize) {
            return Ok(*known);
        }
        let text = String::from_utf8_lossy(bytes);
        let before = self.profile.strings().len();
        let string = match self.interns {
            true => self.profile.string(&text),
            false => self.profile.append_string(&text),
        };
        if let Some(known) = self.string_ids.get_mut(index as usize) {
            *known = Some(string);
        }
        if self.profile.strings().len() > before {
            self.charge(64 + text.len())?;
        }
        Ok(string)
    }

    fn text(&self, of: &str, what: &str, index: u64) -> Result<Cow<'a, str>> {
        if index == 0 {
            return Ok(Cow::Borrowed(""));
        }
        let bytes = usize::try_from(index).ok().and_then(|index| self.strings.get(index));
        let bytes = bytes.ok_or_else(|| no_string(of, what, index, self.strings.len()))?;
        Ok(String::from_utf8_lossy(bytes))
    }

    fn charge(&mut self, bytes: usize) -> Result<()> {
        self.memory_left = self.memory_left.checked_sub(bytes).ok_or_else(|| {
            invalid(format!("the profile needs more than {} bytes of memory", self.limits.memory_bytes))
        })?;
        Ok(())
    }
}

fn no_string(of: &str, what: &str, index: u64, count: usize) -> Error {
    invalid(format!("{of} has the {what} of string {index}, but the string table has {count}"))
}

/// The messages of the tables, in the order of the file.
#[derive(Default)]
struct Parts<'a> {
    samples: Vec<&'a [u8]>,
    mappings: Vec<&'a [u8]>,
    locations: Vec<&'a [u8]>,
    functions: Vec<&'a [u8]>,
}

/// From the ids of a file to our handles: a list where they are 1, 2, 3… as nearly always, a map for the
/// rest.
struct Ids<T> {
    table: &'static str,
    dense: Vec<T>,
    sparse: HashMap<u64, T>,
}

impl<T: Copy> Ids<T> {
    fn new(table: &'static str) -> Self {
        Self { table, dense: Vec::new(), sparse: HashMap::new() }
    }

    fn add(&mut self, ordinal: usize, id: u64, handle: T) -> Result<()> {
        let table = self.table;
        if id == 0 {
            return Err(invalid(format!("{table} {ordinal} has no id, or the id 0")));
        }
        if self.get(id).is_some() {
            return Err(invalid(format!("two entries of the {table} table have the id {id}")));
        }
        if id == self.dense.len() as u64 + 1 {
            self.dense.push(handle);
        } else {
            self.sparse.insert(id, handle);
        }
        Ok(())
    }

    fn get(&self, id: u64) -> Option<T> {
        let place = usize::try_from(id.checked_sub(1)?).ok()?;
        self.dense.get(place).copied().or_else(|| self.sparse.get(&id).copied())
    }
}
