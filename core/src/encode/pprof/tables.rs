//! Which rows of a profile's tables stand in a file, and under which numbers.

use crate::profile::{Function, Location, LocationId, Profile, StringId};

/// Frames of a stack that is cut which stay on the side of the leaf; the others are at the root, by which a server sums up.
const LEAF_FRAMES: usize = 250;

/// What stands in the middle of such a stack.
pub(super) const LEFT_OUT: &str = "[frames left out: deeper than the server takes]";

/// A stack of `most` frames at the most: its leaf, and its root where what was between them is left out.
pub(crate) fn cut(stack: &[LocationId], most: usize) -> (&[LocationId], Option<&[LocationId]>) {
    if stack.len() <= most {
        return (stack, None);
    }
    // Between them is the frame that says so.
    let leaf = LEAF_FRAMES.min(most.saturating_sub(1));
    let root = stack.len() - most.saturating_sub(leaf + 1);
    (stack.get(..leaf).unwrap_or_default(), Some(stack.get(root..).unwrap_or_default()))
}

/// The rows of one table.
pub(super) struct Rows<'p, T: ?Sized> {
    rows: Vec<&'p T>,
    /// The number of each handle, and 0 where it is not there; none where all are, in the order of their handles.
    numbers: Option<Vec<u32>>,
}

impl<'p, T: ?Sized> Rows<'p, T> {
    fn all(rows: impl Iterator<Item = &'p T>) -> Self {
        Self { rows: rows.collect(), numbers: None }
    }

    fn none(most: usize) -> Self {
        Self { rows: Vec::new(), numbers: Some(vec![0; most]) }
    }

    /// The number of a handle in that place of the profile's table, from 1. 0 where the row is not there.
    #[inline]
    pub(super) fn number(&self, place: usize) -> u64 {
        match &self.numbers {
            None => place as u64 + 1,
            Some(numbers) => numbers.get(place).copied().unwrap_or_default().into(),
        }
    }

    /// All of them, in the order of their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = &'p T> {
        self.rows.iter().copied()
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether the row of that place was not there yet; it is now.
    #[inline]
    fn take(&mut self, place: usize, row: impl FnOnce() -> &'p T) -> bool {
        let Some(number) = self.numbers.as_mut().and_then(|numbers| numbers.get_mut(place)) else {
            return false;
        };
        if *number != 0 {
            return false;
        }
        self.rows.push(row());
        *number = self.rows.len() as u32;
        true
    }
}

/// The locations that stacks name: the first step to their tables, and by far the cheapest.
pub(crate) struct Locations<'p> {
    profile: &'p Profile,
    rows: Rows<'p, Location>,
}

impl<'p> Locations<'p> {
    /// Those of these stacks, with nothing but `most` frames of each.
    pub(crate) fn of(
        profile: &'p Profile,
        stacks: impl Iterator<Item = &'p [LocationId]>,
        most: usize,
    ) -> Self {
        let mut rows = Rows::none(profile.locations().len());
        for stack in stacks {
            let (leaf, root) = cut(stack, most);
            for id in leaf.iter().chain(root.unwrap_or_default()) {
                rows.take(id.index(), || profile.get_location(*id));
            }
        }
        Self { profile, rows }
    }

    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Them, and what they point at.
    pub(crate) fn tables(self) -> Tables<'p> {
        let profile = self.profile;
        let mut tables = Tables {
            profile,
            locations: self.rows,
            functions: Rows::none(profile.functions().len()),
            strings: Rows::none(profile.strings().len()),
        };
        tables.take_string(StringId::default());
        for mapping in profile.mappings() {
            tables.take_string(mapping.filename);
            tables.take_string(mapping.build_id);
        }
        for place in 0..tables.locations.len() {
            if let Some(location) = tables.locations.rows.get(place) {
                tables.take_functions(location);
            }
        }
        tables
    }
}

/// What samples point at, directly or not. The mappings are always all there: the first one is the main binary.
pub(crate) struct Tables<'p> {
    pub(super) profile: &'p Profile,
    pub(super) locations: Rows<'p, Location>,
    pub(super) functions: Rows<'p, Function>,
    /// The first one is the empty text, whose number in a file is 0.
    pub(super) strings: Rows<'p, str>,
}

impl<'p> Tables<'p> {
    /// Everything that a profile has.
    pub(crate) fn all(profile: &'p Profile) -> Self {
        Self {
            profile,
            locations: Rows::all(profile.locations().iter()),
            functions: Rows::all(profile.functions().iter()),
            strings: Rows::all(profile.strings()),
        }
    }

    /// The number of a text in the file, where the tables have it.
    pub(super) fn text(&self, text: &str) -> Option<u64> {
        let id = self.profile.find_string(text)?;
        self.strings.number(id.index()).checked_sub(1)
    }

    /// The number of one of the profile's own texts in the file.
    pub(super) fn string(&self, id: StringId) -> u64 {
        self.strings.number(id.index()).saturating_sub(1)
    }

    fn take_functions(&mut self, location: &'p Location) {
        let profile = self.profile;
        for line in &location.lines {
            let function = profile.get_function(line.function);
            if self.functions.take(line.function.index(), || function) {
                for text in [function.name, function.system_name, function.filename] {
                    self.take_string(text);
                }
            }
        }
    }

    fn take_string(&mut self, id: StringId) {
        let profile = self.profile;
        self.strings.take(id.index(), || profile.text(id));
    }
}
