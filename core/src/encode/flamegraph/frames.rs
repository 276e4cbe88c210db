//! The page's own tables: strings, frames and label sets that all profiles of a page share.
//!
//! A frame is what one line of one location shows: name, file, module, line and whether it was inlined. The page merges
//! frames by name; the other columns tell where a name came from.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::profile::{
    self, Activity, LabelValue, LabelsId, Location, LocationId, Mapping, Profile, is_of_application, is_place,
};

/// The frame was inlined into its caller.
pub(super) const INLINED: u8 = 1;
/// The frame stands for samples that were lost.
pub(super) const LOST: u8 = 2;
/// The frame stands for frames that are missing from the stack.
pub(super) const TRUNCATED: u8 = 4;

/// The frame is the application's own, not of a library which it waits in.
pub(super) const OWN: u8 = 64;

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
    across_builds: bool,
    string_index: HashMap<Cow<'p, str>, u32>,
    strings: Vec<Cow<'p, str>>,
    frame_index: HashMap<FrameRow, u32>,
    frames: Vec<FrameRow>,
    /// Frames without their line, by the frame with it.
    lineless: HashMap<u32, u32>,
    label_index: HashMap<(Vec<u32>, Option<Doing>), u32>,
    label_sets: Vec<Vec<u32>>,
    doings: Vec<Option<Doing>>,
}

/// What a sample of the wall clock was doing, and the group of its thread: a string, none for threads of everprof.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Doing {
    pub(super) activity: Activity,
    pub(super) group: Option<u32>,
}

impl<'p> Tables<'p> {
    /// Empty tables. Where several builds may be compared a place in a file is no name.
    pub(super) fn of_builds(across_builds: bool) -> Self {
        Self { across_builds, ..Self::default() }
    }

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

    /// What the samples of each label set were doing; sets that differ in nothing else are apart.
    pub(super) fn doings(&self) -> &[Option<Doing>] {
        &self.doings
    }

    /// Brings the strings into their order, by which the tree orders siblings, and lets go of what was needed to find
    /// them. Nothing can be added after it.
    pub(super) fn sort(&mut self) {
        (self.string_index, self.frame_index, self.label_index, self.lineless) = Default::default();
        let mut order: Vec<u32> = (0..self.strings.len() as u32).collect();
        order.sort_unstable_by(|&a, &b| self.strings[a as usize].cmp(&self.strings[b as usize]));
        let mut place = vec![0u32; order.len()];
        for (new, &old) in (0..).zip(&order) {
            place[old as usize] = new;
        }
        self.strings = order.iter().map(|&old| std::mem::take(&mut self.strings[old as usize])).collect();
        for frame in &mut self.frames {
            for text in [&mut frame.name, &mut frame.file, &mut frame.module] {
                *text = place[*text as usize];
            }
        }
        for text in self.label_sets.iter_mut().flatten() {
            *text = place[*text as usize];
        }
        for group in self.doings.iter_mut().flatten().filter_map(|doing| doing.group.as_mut()) {
            *group = place[*group as usize];
        }
    }

    fn string<'a>(&mut self, text: &'a str, keep: Keep<'a, 'p>) -> u32 {
        match self.string_index.get(text) {
            Some(&id) => id,
            None => self.new_string(keep(text)),
        }
    }

    fn owned_string(&mut self, text: String) -> u32 {
        match self.string_index.get(text.as_str()) {
            Some(&id) => id,
            None => self.new_string(text.into()),
        }
    }

    fn new_string(&mut self, text: Cow<'p, str>) -> u32 {
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

    /// The same frame, of no line.
    pub(super) fn without_line(&mut self, frame: u32) -> u32 {
        if let Some(&known) = self.lineless.get(&frame) {
            return known;
        }
        let row = FrameRow { line: 0, ..self.frames[frame as usize] };
        let known = self.frame(row);
        self.lineless.insert(frame, known);
        known
    }

    /// A frame that is no code, by its name in brackets.
    pub(super) fn marker(&mut self, name: &str, flags: u8) -> u32 {
        let (name, none) = (self.owned_string(name.to_owned()), self.owned_string(String::new()));
        self.frame(FrameRow { name, file: none, module: none, line: 0, flags })
    }

    fn label_set(&mut self, set: Vec<u32>, doing: Option<Doing>) -> u32 {
        let key = (set, doing);
        if let Some(&known) = self.label_index.get(&key) {
            return known;
        }
        let known = self.label_sets.len() as u32;
        self.label_sets.push(key.0.clone());
        self.doings.push(doing);
        self.label_index.insert(key, known);
        known
    }
}

/// How the tables come by a text of a profile: borrowed from one that stays, copied from one that goes.
type Keep<'a, 'p> = fn(&'a str) -> Cow<'p, str>;

/// Which labels a page keeps.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kept {
    All,
    /// Not those that are another for each thread or request.
    Common,
    /// Only those that say what a thread did, and how old a block is.
    Few,
}

impl Kept {
    fn has(self, key: &str) -> bool {
        match self {
            Kept::All => true,
            Kept::Common => !SINGULAR.contains(&key),
            Kept::Few => FEW.contains(&key),
        }
    }
}

/// Keys of labels whose values are another for each thread or request.
const SINGULAR: [&str; 6] =
    ["thread_id", "trace_id", "span_id", "local_root_span_id", "local root span id", "span id"];
const FEW: [&str; 5] = ["thread_name", "state", "wait", "syscall", "age"];

/// Reads one profile into the [`Tables`], each location and label set once.
pub(super) struct Reader<'a, 'p> {
    profile: &'a Profile,
    keep: Keep<'a, 'p>,
    locations: Vec<Option<Box<[u32]>>>,
    labels: HashMap<(LabelsId, Option<Activity>, Kept), u32>,
}

impl<'p> Reader<'p, 'p> {
    /// Of a profile that stays until the page is written.
    pub(super) fn borrowing(profile: &'p Profile) -> Self {
        Self::new(profile, Cow::Borrowed)
    }
}

impl<'a> Reader<'a, 'static> {
    /// Of a profile that goes before.
    pub(super) fn copying(profile: &'a Profile) -> Self {
        Self::new(profile, |text| Cow::Owned(text.to_owned()))
    }
}

impl<'a, 'p> Reader<'a, 'p> {
    fn new(profile: &'a Profile, keep: Keep<'a, 'p>) -> Self {
        Self { profile, keep, locations: vec![None; profile.locations().len()], labels: HashMap::new() }
    }

    pub(super) fn profile(&self) -> &'a Profile {
        self.profile
    }

    /// Appends the frames of `stack` to `out`, root first.
    pub(super) fn stack(&mut self, tables: &mut Tables<'p>, stack: &[LocationId], out: &mut Vec<u32>) {
        for &id in stack.iter().rev() {
            if self.locations[id.index()].is_none() {
                self.locations[id.index()] = Some(self.location(tables, id));
            }
            out.extend_from_slice(self.locations[id.index()].as_deref().unwrap_or_default());
        }
    }

    pub(super) fn labels(
        &mut self,
        tables: &mut Tables<'p>,
        id: LabelsId,
        activity: Option<Activity>,
        kept: Kept,
    ) -> u32 {
        if let Some(&known) = self.labels.get(&(id, activity, kept)) {
            return known;
        }
        let labels = self.profile.get_labels(id);
        let doing = activity.map(|activity| {
            let group = self.profile.thread_group(labels).map(|group| tables.string(group, self.keep));
            Doing { activity, group }
        });
        let mut set = Vec::new();
        for label in labels.iter().filter(|label| kept.has(&label.key)) {
            set.push(tables.string(&label.key, self.keep));
            set.push(match &label.value {
                LabelValue::Text(text) => tables.string(text, self.keep),
                LabelValue::Number(number, unit) if unit.is_empty() => {
                    tables.owned_string(number.to_string())
                }
                LabelValue::Number(number, unit) => tables.owned_string(format!("{number} {unit}")),
            });
        }
        let known = tables.label_set(set, doing);
        self.labels.insert((id, activity, kept), known);
        known
    }

    /// The frames of a location, root first: the function that was called, then what was inlined into it.
    fn location(&self, tables: &mut Tables<'p>, id: LocationId) -> Box<[u32]> {
        let profile = self.profile;
        let location = profile.get_location(id);
        let mapping = location.mapping.map(|id| profile.get_mapping(id));
        let path = mapping.map_or("", |mapping| profile.text(mapping.filename));
        let file_name = path.rsplit('/').next().unwrap_or(path);
        let module = tables.string(file_name, self.keep);
        if location.lines.is_empty() {
            return [nameless(tables, file_name, module, place(mapping, file_name, location.address))].into();
        }
        let called = location.lines.len() - 1;
        let rows = location.lines.iter().enumerate().rev().map(|(depth, line)| {
            let function = profile.get_function(line.function);
            let [name, system_name] = [function.name, function.system_name].map(|text| profile.text(text));
            if name.is_empty() && system_name.is_empty() {
                return nameless(tables, file_name, module, place(mapping, file_name, location.address));
            }
            let shown = profile::title(name, system_name, tables.across_builds);
            if is_place(name) && *shown != *name {
                return nameless(tables, file_name, module, name.to_owned());
            }
            let inlined = if depth < called { INLINED } else { 0 };
            let own = if is_of_application(&shown) { OWN } else { 0 };
            let flags = inlined | own | marker(location, &shown);
            let line = if line.line > 0 { line.line } else { function.start_line };
            // No source has so many lines: the file is broken.
            let line = if i32::try_from(line).is_ok() { line } else { 0 };
            let name = match shown {
                Cow::Borrowed(text) => tables.string(text, self.keep),
                Cow::Owned(text) => tables.owned_string(text),
            };
            let file = tables.string(profile.text(function.filename), self.keep);
            tables.frame(FrameRow { name, file, module, line, flags })
        });
        rows.collect()
    }
}

/// Code without a symbol goes by its module's name in brackets, so that it merges, within a page and between two builds.
/// Where it lies stands in place of the source file.
fn nameless(tables: &mut Tables<'_>, file_name: &str, module: u32, place: String) -> u32 {
    let (name, file) = (tables.owned_string(profile::nameless(file_name)), tables.owned_string(place));
    tables.frame(FrameRow { name, file, module, line: 0, flags: 0 })
}

/// A module and the offset in its file: what a disassembler asks for.
fn place(mapping: Option<&Mapping>, file_name: &str, address: u64) -> String {
    match mapping {
        Some(mapping) if !file_name.is_empty() => {
            let offset = address.wrapping_sub(mapping.memory_start).wrapping_add(mapping.file_offset);
            format!("{file_name}+{offset:#x}")
        }
        _ => format!("{address:#x}"),
    }
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
        () if says(&["lost", "dropped", "overflow", "unseen", "unsampled"]) => LOST,
        () if says(&["truncated", "incomplete", "missing", "omitted"]) => TRUNCATED,
        () => 0,
    }
}
