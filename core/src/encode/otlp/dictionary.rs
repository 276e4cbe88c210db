//! `ProfilesDictionary`: the tables that all profiles of a request point into, with what is pointed at and nothing else.

use std::collections::HashMap;
use std::hash::Hash;

use super::attributes::{frame_type, of_label};
use crate::encode::protobuf::Writer;
use crate::profile::{
    FunctionId, Label, LabelValue, LabelsId, LocationId, MappingId, Profile, StackId, StringId,
};

/// A table in the making. The row 0 is the zero value.
struct Rows<K> {
    field: u32,
    wire: Writer,
    known: K,
    count: u64,
}

/// Which row a key has.
trait Known: Default {
    type Key: ?Sized;
    fn find(&self, key: &Self::Key) -> Option<u64>;
    fn insert(&mut self, key: &Self::Key, row: u64);
}

impl<K: Eq + Hash + Clone> Known for HashMap<K, u64> {
    type Key = K;
    fn find(&self, key: &K) -> Option<u64> {
        self.get(key).copied()
    }
    fn insert(&mut self, key: &K, row: u64) {
        self.insert(key.clone(), row);
    }
}

/// By a handle's place, whose numbers have no gaps. 0 is unknown.
#[derive(Default)]
struct Places(Vec<u64>);

impl Known for Places {
    type Key = usize;
    fn find(&self, place: &usize) -> Option<u64> {
        self.0.get(*place).copied().filter(|row| *row != 0)
    }
    fn insert(&mut self, place: &usize, row: u64) {
        if self.0.len() <= *place {
            self.0.resize(*place + 1, 0);
        }
        if let Some(known) = self.0.get_mut(*place) {
            *known = row;
        }
    }
}

impl<K: Known> Rows<K> {
    fn new(field: u32) -> Self {
        let mut wire = Writer::default();
        wire.element(field, b"");
        Self { field, wire, known: K::default(), count: 1 }
    }

    /// Adds a row.
    fn add(&mut self, key: &K::Key, write: impl FnOnce(&mut Writer)) -> u64 {
        let row = self.add_unnamed(write);
        self.known.insert(key, row);
        row
    }

    /// Adds one whose key is kept elsewhere.
    fn add_unnamed(&mut self, write: impl FnOnce(&mut Writer)) -> u64 {
        self.wire.message(self.field, write);
        self.count += 1;
        self.count - 1
    }
}

/// The value of an attribute: `AnyValue`.
pub(super) enum Any<'a> {
    Text(&'a str),
    Texts(&'a [String]),
    Number(i64),
    Yes(bool),
}

impl Any<'_> {
    /// A value that is empty or 0 is one all the same.
    pub(super) fn write(&self, any: &mut Writer) {
        match self {
            Any::Text(text) => any.element(1, text.as_bytes()),
            Any::Yes(yes) => any.one_of(2, u64::from(*yes)),
            Any::Number(number) => any.one_of(3, *number as u64),
            Any::Texts(texts) => any.message(5, |list| {
                texts.iter().for_each(|text| list.message(1, |any| Any::Text(text).write(any)));
            }),
        }
    }
}

pub(super) struct Dictionary<'p> {
    profile: &'p Profile,
    mappings: Rows<Places>,
    locations: Rows<Places>,
    functions: Rows<Places>,
    links: Rows<HashMap<SpanKey, u64>>,
    /// By the handles of the profile's own texts.
    strings: Rows<Places>,
    /// The rows of texts that it has not.
    other_strings: HashMap<String, u64>,
    attributes: Rows<HashMap<Vec<u8>, u64>>,
    /// The attributes of locations in each language.
    frames: Vec<(&'static str, u64)>,
    stacks: Rows<Places>,
    /// The attributes of a set of labels, and its link, by its handle.
    labels: Vec<Option<(Vec<u64>, u64)>>,
    /// The numbers of the row at hand.
    numbers: Vec<u64>,
}

impl<'p> Dictionary<'p> {
    pub(super) fn new(profile: &'p Profile) -> Self {
        let mut dictionary = Self {
            profile,
            mappings: Rows::new(1),
            locations: Rows::new(2),
            functions: Rows::new(3),
            links: Rows::new(4),
            strings: Rows::new(5),
            other_strings: HashMap::new(),
            attributes: Rows::new(6),
            frames: Vec::new(),
            stacks: Rows::new(7),
            labels: Vec::new(),
            numbers: Vec::new(),
        };
        // Of pprof, the first one is the main binary.
        if let Some(main) = profile.main_mapping() {
            dictionary.mapping(main);
        }
        dictionary
    }

    /// Everything that was asked for, as it stands on the wire.
    pub(super) fn pieces(&self) -> [&[u8]; 7] {
        [
            &self.mappings.wire,
            &self.locations.wire,
            &self.functions.wire,
            &self.links.wire,
            &self.strings.wire,
            &self.attributes.wire,
            &self.stacks.wire,
        ]
        .map(Writer::as_slice)
    }

    pub(super) fn string(&mut self, text: &str) -> u64 {
        if let Some(own) = self.profile.find_string(text) {
            return self.own_string(own);
        }
        if let Some(known) = self.other_strings.get(text) {
            return *known;
        }
        let row = self.strings.add_unnamed(|row| row.fields(text.as_bytes()));
        self.other_strings.insert(text.to_owned(), row);
        row
    }

    fn own_string(&mut self, id: StringId) -> u64 {
        // The empty text is the zero value.
        if id == StringId::default() {
            return 0;
        }
        match self.strings.known.find(&id.index()) {
            Some(known) => known,
            None => {
                let text = self.profile.text(id);
                self.strings.add(&id.index(), |row| row.fields(text.as_bytes()))
            }
        }
    }

    /// `KeyValueAndUnit`.
    pub(super) fn attribute(&mut self, key: &str, value: &Any<'_>, unit: &str) -> u64 {
        let (key, unit) = (self.string(key), self.string(unit));
        let mut row = Writer::default();
        row.uint(1, key);
        row.message(2, |any| value.write(any));
        row.uint(3, unit);
        let row = row.into_bytes();
        match self.attributes.known.find(&row) {
            Some(known) => known,
            None => self.attributes.add(&row, |message| message.fields(&row)),
        }
    }

    pub(super) fn stack(&mut self, id: StackId) -> u64 {
        if let Some(known) = self.stacks.known.find(&id.index()) {
            return known;
        }
        let (profile, mut locations) = (self.profile, std::mem::take(&mut self.numbers));
        locations.clear();
        locations.extend(profile.get_stack(id).iter().map(|id| self.location(*id)));
        let row = self.stacks.add(&id.index(), |row| row.packed_some(1, &locations));
        self.numbers = locations;
        row
    }

    #[inline]
    fn location(&mut self, id: LocationId) -> u64 {
        match self.locations.known.find(&id.index()) {
            Some(known) => known,
            None => self.new_location(id),
        }
    }

    fn new_location(&mut self, id: LocationId) -> u64 {
        let location = self.profile.get_location(id);
        let mapping = location.mapping.map_or(0, |mapping| self.mapping(mapping));
        for line in &location.lines {
            self.function(line.function);
        }
        let frame = frame_type(self.profile, location).map(|of| self.frame(of));
        let functions = &self.functions.known;
        self.locations.add(&id.index(), |row| {
            row.uint(1, mapping);
            row.uint(2, location.address);
            for line in &location.lines {
                row.message(3, |row| {
                    row.uint(1, functions.find(&line.function.index()).unwrap_or_default());
                    row.int(2, line.line);
                    row.int(3, line.column);
                });
            }
            row.packed_some(4, frame.as_slice());
        })
    }

    /// The attribute of frames in a language.
    fn frame(&mut self, of: &'static str) -> u64 {
        if let Some((_, known)) = self.frames.iter().find(|(known, _)| *known == of) {
            return *known;
        }
        let row = self.attribute("profile.frame.type", &Any::Text(of), "");
        self.frames.push((of, row));
        row
    }

    fn mapping(&mut self, id: MappingId) -> u64 {
        if let Some(known) = self.mappings.known.find(&id.index()) {
            return known;
        }
        let mapping = self.profile.get_mapping(id);
        let filename = self.own_string(mapping.filename);
        let build_id = self.profile.text(mapping.build_id);
        let mut attributes = Vec::new();
        if !build_id.is_empty() {
            attributes.push(self.attribute("process.executable.build_id.gnu", &Any::Text(build_id), ""));
        }
        for (key, yes) in [
            ("pprof.mapping.has_functions", mapping.has_functions),
            ("pprof.mapping.has_filenames", mapping.has_filenames),
            ("pprof.mapping.has_line_numbers", mapping.has_line_numbers),
            ("pprof.mapping.has_inline_frames", mapping.has_inline_frames),
        ] {
            attributes.push(self.attribute(key, &Any::Yes(yes), ""));
        }
        self.mappings.add(&id.index(), |row| {
            row.uint(1, mapping.memory_start);
            row.uint(2, mapping.memory_limit);
            row.uint(3, mapping.file_offset);
            row.uint(4, filename);
            row.packed_some(5, &attributes);
        })
    }

    fn function(&mut self, id: FunctionId) -> u64 {
        if let Some(known) = self.functions.known.find(&id.index()) {
            return known;
        }
        let function = self.profile.get_function(id);
        let [name, system_name, filename] =
            [function.name, function.system_name, function.filename].map(|text| self.own_string(text));
        self.functions.add(&id.index(), |row| {
            row.uint(1, name);
            row.uint(2, system_name);
            row.uint(3, filename);
            row.int(4, function.start_line);
        })
    }

    /// The attributes of a sample, and its link to a span: 0 where there is none.
    pub(super) fn labels(&mut self, id: LabelsId) -> (&[u64], u64) {
        if self.labels.len() <= id.index() {
            self.labels.resize_with(id.index() + 1, || None);
        }
        if let Some(None) = self.labels.get(id.index()) {
            let made = self.make_labels(self.profile.get_labels(id));
            if let Some(place) = self.labels.get_mut(id.index()) {
                *place = Some(made);
            }
        }
        match self.labels.get(id.index()) {
            Some(Some((attributes, link))) => (attributes, *link),
            _ => (&[], 0),
        }
    }

    fn make_labels(&mut self, labels: &[Label]) -> (Vec<u64>, u64) {
        let link = link(labels);
        let mut keys: Vec<String> = Vec::new();
        let mut attributes = Vec::new();
        for label in labels {
            if link.is_some() && matches!(label.key.as_str(), "trace_id" | "span_id") {
                continue;
            }
            // No key stands twice: of two that become one, the second is spelled otherwise.
            let mut key = of_label(&label.key).to_owned();
            while keys.contains(&key) {
                key.insert_str(0, "exported_");
            }
            attributes.push(match &label.value {
                LabelValue::Text(text) => self.attribute(&key, &Any::Text(text), ""),
                LabelValue::Number(number, unit) => self.attribute(&key, &Any::Number(*number), unit),
            });
            keys.push(key);
        }
        let link = link.map_or(0, |key| match self.links.known.find(&key) {
            Some(known) => known,
            None => self.links.add(&key, |row| {
                row.bytes(1, &key.0);
                row.bytes(2, &key.1);
            }),
        });
        (attributes, link)
    }
}

/// Trace and span.
type SpanKey = ([u8; 16], [u8; 8]);

/// The span that a sample is of, where its labels name both it and its trace.
fn link(labels: &[Label]) -> Option<SpanKey> {
    let text = |key: &str| {
        labels.iter().find_map(|label| match &label.value {
            LabelValue::Text(text) if label.key == key => Some(text.as_str()),
            _ => None,
        })
    };
    let link = (unhex(text("trace_id")?)?, unhex(text("span_id")?)?);
    // Zeros are no ID.
    (link.0 != [0; 16] && link.1 != [0; 8]).then_some(link)
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, place) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(text.get(place..place + 2)?, 16).ok()?;
    }
    Some(bytes)
}
