//! The page's own tables: strings, frames and label sets that all profiles of a page share.
//!
//! A frame is what one line of one location shows: name, file, module, line and whether it was inlined. The page merges
//! frames by name; the other columns tell where a name came from.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::profile::{LabelValue, LabelsId, Location, LocationId, Profile};

/// The frame was inlined into its caller.
pub(super) const INLINED: u8 = 1;
/// The frame stands for samples that were lost.
pub(super) const LOST: u8 = 2;
/// The frame stands for frames that are missing from the stack.
pub(super) const TRUNCATED: u8 = 4;

/// A row of the frame table; the numbers are places in the string table.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FrameRow {
    pub(super) name: u32,
    pub(super) file: u32,
    pub(super) module: u32,
    pub(super) line: i64,
    pub(super) flags: u8,
}

/// The tables, borrowing their texts from the profiles where they can.
#[derive(Default)]
pub(super) struct Tables<'p> {
    string_index: HashMap<Cow<'p, str>, u32>,
    strings: Vec<Cow<'p, str>>,
    frame_index: HashMap<FrameRow, u32>,
    frames: Vec<FrameRow>,
    label_index: HashMap<Vec<u32>, u32>,
    label_sets: Vec<Vec<u32>>,
}

impl<'p> Tables<'p> {
    pub(super) fn strings(&self) -> impl Iterator<Item = &str> {
        self.strings.iter().map(|text| &**text)
    }

    pub(super) fn frames(&self) -> &[FrameRow] {
        &self.frames
    }

    /// Label sets as alternating keys and values.
    pub(super) fn label_sets(&self) -> &[Vec<u32>] {
        &self.label_sets
    }

    fn string(&mut self, text: Cow<'p, str>) -> u32 {
        if let Some(&id) = self.string_index.get(&text) {
            return id;
        }
        let id = self.strings.len() as u32;
        self.strings.push(text.clone());
        self.string_index.insert(text, id);
        id
    }

    fn frame(&mut self, row: FrameRow) -> u32 {
        *self.frame_index.entry(row).or_insert_with(|| {
            self.frames.push(row);
            (self.frames.len() - 1) as u32
        })
    }

    fn labels(&mut self, profile: &'p Profile, id: LabelsId) -> u32 {
        let mut set = Vec::new();
        for label in profile.get_labels(id) {
            set.push(self.string(Cow::Borrowed(&label.key)));
            set.push(match &label.value {
                LabelValue::Text(text) => self.string(Cow::Borrowed(text)),
                LabelValue::Number(number, unit) if unit.is_empty() => self.string(number.to_string().into()),
                LabelValue::Number(number, unit) => self.string(format!("{number} {unit}").into()),
            });
        }
        if let Some(&known) = self.label_index.get(&set) {
            return known;
        }
        let known = self.label_sets.len() as u32;
        self.label_sets.push(set.clone());
        self.label_index.insert(set, known);
        known
    }
}

/// Reads one profile into the [`Tables`], each location and label set once.
pub(super) struct Reader<'p> {
    profile: &'p Profile,
    locations: Vec<Option<Box<[u32]>>>,
    labels: HashMap<LabelsId, u32>,
}

impl<'p> Reader<'p> {
    pub(super) fn new(profile: &'p Profile) -> Self {
        Self { profile, locations: vec![None; profile.locations().len()], labels: HashMap::new() }
    }

    /// Appends the frames of `stack` to `out`, root first.
    pub(super) fn stack(&mut self, tables: &mut Tables<'p>, stack: &[LocationId], out: &mut Vec<u32>) {
        for &id in stack.iter().rev() {
            let known = &mut self.locations[id.index()];
            let frames = known.get_or_insert_with(|| location(tables, self.profile, id));
            out.extend_from_slice(frames);
        }
    }

    pub(super) fn labels(&mut self, tables: &mut Tables<'p>, id: LabelsId) -> u32 {
        *self.labels.entry(id).or_insert_with(|| tables.labels(self.profile, id))
    }
}

/// The frames of a location, root first: the function that was called, then what was inlined into it.
fn location<'p>(tables: &mut Tables<'p>, profile: &'p Profile, id: LocationId) -> Box<[u32]> {
    let location = profile.get_location(id);
    let path = location.mapping.map_or("", |id| profile.text(profile.get_mapping(id).filename));
    let module = path.rsplit('/').next().unwrap_or(path);
    let module = tables.string(Cow::Borrowed(module));
    if location.lines.is_empty() {
        let name = tables.string(address_name(profile, location).into());
        let file = tables.string(Cow::Borrowed(""));
        return [tables.frame(FrameRow { name, file, module, line: 0, flags: 0 })].into();
    }
    let called = location.lines.len() - 1;
    let rows = location.lines.iter().enumerate().rev().map(|(place, line)| {
        let function = profile.get_function(line.function);
        let name = profile.text(function.name);
        let name = if name.is_empty() { profile.text(function.system_name) } else { name };
        let inlined = if place < called { INLINED } else { 0 };
        let flags = inlined | marker(location, name);
        let line = if line.line > 0 { line.line } else { function.start_line };
        let name = match name {
            "" => tables.string(address_name(profile, location).into()),
            name => tables.string(Cow::Borrowed(name)),
        };
        let file = tables.string(Cow::Borrowed(profile.text(function.filename)));
        tables.frame(FrameRow { name, file, module, line, flags })
    });
    rows.collect()
}

/// What a frame that is no code stands for. Such frames have no address, no mapping and a name in brackets.
fn marker(location: &Location, name: &str) -> u8 {
    let bracketed = name.starts_with('[') && name.ends_with(']');
    if location.mapping.is_some() || location.address != 0 || !bracketed {
        return 0;
    }
    let name = name.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| name.contains(word));
    match () {
        () if says(&["lost", "dropped", "overflow"]) => LOST,
        () if says(&["truncated", "missing", "omitted"]) => TRUNCATED,
        () => 0,
    }
}

/// The name of code without a symbol: its module and the offset in the module's file.
fn address_name(profile: &Profile, location: &Location) -> String {
    let Some(id) = location.mapping else { return format!("{:#x}", location.address) };
    let mapping = profile.get_mapping(id);
    let path = profile.text(mapping.filename);
    let module = path.rsplit('/').next().unwrap_or(path);
    let offset = location.address.wrapping_sub(mapping.memory_start).wrapping_add(mapping.file_offset);
    if module.is_empty() { format!("{:#x}", location.address) } else { format!("{module}+{offset:#x}") }
}
