//! The string table of a symbol table, read where names are wanted.

use std::ffi::CStr;

use crate::symbolize::elf::{Elf, Section};

/// Longer names are cut: some C++ ones have megabytes.
const NAME_LIMIT: usize = 16 * 1024;
/// How long all names together may be, for each address and for the call.
const ROOM: (usize, usize) = (512, 1 << 20);
/// What is read behind the begin of a name at first; few are longer.
const TAIL: u64 = 256;
/// Names that are further apart are read one by one: a read costs as much as the copying of this many bytes.
const GAP: u32 = 2048;
const RUN: u32 = 32 * 1024;

/// The string table of one symbol table.
pub(super) struct Strings<'a> {
    pub(super) elf: &'a Elf,
    section: &'a Section,
}

impl<'a> Strings<'a> {
    pub(super) fn new(elf: &'a Elf, section: &'a Section) -> Self {
        Self { elf, section }
    }

    /// The first bytes of a name, which may be the end of the name and what follows.
    pub(super) fn start(&self, offset: u32) -> Option<[u8; 3]> {
        let mut bytes = [0; 3];
        let end = u64::from(offset) + bytes.len() as u64;
        let place = self.section.offset.checked_add(offset.into()).filter(|_| end <= self.section.size)?;
        self.elf.bytes.read(place, &mut bytes).ok()?;
        Some(bytes)
    }

    /// The names at sorted offsets, empty where there is none, and whether some were left out for their length.
    pub(super) fn names(&self, offsets: &[u32], addresses: usize) -> (Vec<Box<str>>, bool) {
        let mut names: Vec<Box<str>> = Vec::with_capacity(offsets.len());
        let mut room = addresses.saturating_mul(ROOM.0).saturating_add(ROOM.1);
        let mut window = Vec::new();
        let mut incomplete = false;
        let mut rest = offsets;
        while let Some(&first) = rest.first() {
            let near = |pair: &&[u32]| pair[1] - pair[0] <= GAP && pair[1] - first <= RUN;
            let count = 1 + rest.windows(2).take_while(near).count();
            let (run, behind) = rest.split_at(count);
            rest = behind;
            let reach = run.last().map_or(0, |last| u64::from(last - first)) + TAIL;
            self.read(first, reach, &mut window);
            for &offset in run {
                let mut bytes = window.get((offset - first) as usize..).unwrap_or_default();
                let mut longer = Vec::new();
                if CStr::from_bytes_until_nul(bytes).is_err() {
                    self.read(offset, NAME_LIMIT as u64 + 1, &mut longer);
                    bytes = &longer;
                }
                let name = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
                let name = String::from_utf8_lossy(&name[..name.len().min(NAME_LIMIT)]);
                match room.checked_sub(name.len()) {
                    Some(left) => room = left,
                    None => incomplete = true,
                }
                names.push(if incomplete { Box::default() } else { name.into() });
            }
        }
        (names, incomplete)
    }

    /// Reads up to `size` bytes from `offset` on, nothing where they cannot be read.
    fn read(&self, offset: u32, size: u64, into: &mut Vec<u8>) {
        into.clear();
        let Some(left) = self.section.size.checked_sub(offset.into()) else { return };
        into.resize(size.min(left) as usize, 0);
        let place = self.section.offset.checked_add(offset.into());
        if place.is_none_or(|place| self.elf.bytes.read(place, into).is_err()) {
            into.clear();
        }
    }
}
