//! Mappings, functions and locations: where code is, as profile.proto has it.

use super::table::StringId;

/// Handle of a [`Mapping`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MappingId(pub(super) u32);

impl MappingId {
    /// Place in [`super::Profile::mappings`], from 0.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Handle of a [`Function`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionId(pub(super) u32);

impl FunctionId {
    /// Place in [`super::Profile::functions`], from 0.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Handle of a [`Location`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LocationId(pub(super) u32);

impl From<LocationId> for u32 {
    fn from(id: LocationId) -> u32 {
        id.0
    }
}

impl LocationId {
    /// Place in [`super::Profile::locations`], from 0.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// An object file as it was mapped into the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mapping {
    /// First address of the executable mapping.
    pub memory_start: u64,
    /// Address after the last one.
    pub memory_limit: u64,
    /// Offset in the file of `memory_start`.
    pub file_offset: u64,
    /// Path of the file, or a name in brackets such as `[vdso]`.
    pub filename: StringId,
    /// GNU build ID in lower-case hex, or empty.
    pub build_id: StringId,
    /// Whether the functions of its locations are known.
    pub has_functions: bool,
    /// Whether the file names of its functions are known.
    pub has_filenames: bool,
    /// Whether the line numbers of its locations are known.
    pub has_line_numbers: bool,
    /// Whether inlined frames were expanded.
    pub has_inline_frames: bool,
}

/// A function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Function {
    /// Demangled name.
    pub name: StringId,
    /// Name as the linker knows it.
    pub system_name: StringId,
    /// Source file.
    pub filename: StringId,
    /// First line of the function; 0 where unknown.
    pub start_line: i64,
}

/// A place in the program: an address, and the function that holds it with the functions inlined there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Location {
    /// The object file; none for frames of a runtime and for visible losses.
    pub mapping: Option<MappingId>,
    /// Address in the process; for callers it lies within the call instruction. 0 where there is none.
    pub address: u64,
    /// Innermost inlined function first; the last entry is the function that was really called.
    pub lines: Vec<Line>,
}

/// One function of a [`Location`] with the line in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// The function.
    pub function: FunctionId,
    /// Line number; 0 where unknown.
    pub line: i64,
    /// Column; 0 where unknown.
    pub column: i64,
}
