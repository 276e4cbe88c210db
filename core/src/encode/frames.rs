//! The names of frames for viewers: what a stack reads like from its root to its leaf.

use std::collections::HashMap;

use crate::profile::{FunctionId, LabelValue, Location, LocationId, Profile, Sample};

/// One frame of a viewer: a function at a line of it, or code without a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Frame {
    Function(FunctionId, i64),
    Bare(LocationId),
    /// A label that stands at the root, by its place in [`Roots`].
    Root(usize),
}

/// The frames of a sample from root to leaf, inlined functions after their callers.
pub(super) fn frames<'p>(profile: &'p Profile, sample: &Sample<'p>) -> impl Iterator<Item = Frame> + 'p {
    profile.get_stack(sample.stack).iter().rev().flat_map(move |&id| {
        let lines = profile.get_location(id).lines.as_slice();
        let bare = lines.is_empty().then_some(Frame::Bare(id));
        bare.into_iter().chain(lines.iter().rev().map(|line| Frame::Function(line.function, line.line)))
    })
}

/// The name of a function, its linker name, or `[unknown]`.
pub(super) fn function_name(profile: &Profile, id: FunctionId) -> &str {
    let function = profile.get_function(id);
    let names = [profile.text(function.name), profile.text(function.system_name), "[unknown]"];
    names.into_iter().find(|name| !name.is_empty()).unwrap_or_default()
}

/// What code without a name is called: its object file and where in the file it is, such as
/// `[libc.so.6+0x29d90]`.
pub(super) fn bare_name(profile: &Profile, location: &Location) -> String {
    let Some(mapping) = location.mapping.map(|id| profile.get_mapping(id)) else {
        return format!("[{:#x}]", location.address);
    };
    let path = profile.text(mapping.filename);
    let file = path.rsplit('/').next().unwrap_or(path).trim_matches(['[', ']']);
    let offset = location.address.wrapping_sub(mapping.memory_start).wrapping_add(mapping.file_offset);
    format!("[{}+{offset:#x}]", if file.is_empty() { "unknown" } else { file })
}

/// Frames made of labels, so that a viewer groups by thread or tenant: each text once.
#[derive(Debug, Default)]
pub(super) struct Roots {
    index: HashMap<String, usize>,
    texts: Vec<String>,
}

impl Roots {
    /// The frame of a sample's label, such as `thread_name: worker-1`.
    pub(super) fn frame(&mut self, profile: &Profile, sample: &Sample<'_>, key: &str) -> Frame {
        let text = format!("{key}: {}", label(profile, sample, key).as_deref().unwrap_or("-"));
        let place = *self.index.entry(text).or_insert_with_key(|text| {
            self.texts.push(text.clone());
            self.texts.len() - 1
        });
        Frame::Root(place)
    }

    pub(super) fn text(&self, place: usize) -> &str {
        self.texts.get(place).map_or("", String::as_str)
    }
}

/// The value of a sample's label as text.
pub(super) fn label(profile: &Profile, sample: &Sample<'_>, key: &str) -> Option<String> {
    let label = profile.get_labels(sample.labels).iter().find(|label| label.key == key)?;
    Some(match &label.value {
        LabelValue::Text(text) => text.clone(),
        LabelValue::Number(number, _) => number.to_string(),
    })
}
