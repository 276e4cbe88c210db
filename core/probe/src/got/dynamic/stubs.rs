//! Slots that were not filled yet, and the versions of what belongs in them: the tables of versions of the GNU tools (LSB,
//! "Symbol Versioning").

use core::sync::atomic::AtomicUsize;

use super::{Dynamic, Relocation};
use crate::regs::{self, RELOCATION_JUMP_SLOT};

/// The longest name of a version that is looked at.
const LONGEST: usize = 32;

/// The name of a version, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Version([u8; LONGEST]);

impl Version {
    const NONE: Self = Self([0; LONGEST]);

    /// Its name.
    pub(in super::super) fn name(&self) -> Option<&[u8]> {
        self.0.split(|byte| *byte == 0).next().filter(|name| !name.is_empty())
    }
}

/// One `Elf64_Verneed`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Needed {
    _version: u16,
    count: u16,
    _file: u32,
    first: u32,
    next: u32,
}

/// One `Elf64_Vernaux`.
#[derive(Clone, Copy)]
#[repr(C)]
struct NeededVersion {
    _hash: u32,
    _flags: u16,
    number: u16,
    name: u32,
    next: u32,
}

impl Dynamic {
    /// Where `target`, which the slot holds, is the stub by which the loader fills it: the version of the function that
    /// belongs there.
    pub(in super::super) fn stub(&self, word: &AtomicUsize, target: usize) -> Option<Version> {
        let code = self.read::<[u8; 12]>(target as u64)?;
        let offset = (core::ptr::from_ref(word) as u64).wrapping_sub(self.bias);
        let [_, (start, len)] = self.relocations;
        let count = len / size_of::<Relocation>() as u64;
        let each = (0..count).map(|number| (number, start + number * size_of::<Relocation>() as u64));
        let (number, relocation) = each
            .filter_map(|(number, at)| Some((number, self.read::<Relocation>(at)?)))
            .find(|(_, relocation)| relocation.offset == offset)?;
        let is_stub =
            relocation.info as u32 == RELOCATION_JUMP_SLOT && regs::hook::is_lazy(code, number as u32);
        is_stub.then(|| self.version(relocation.info >> 32).unwrap_or(Version::NONE))
    }

    /// The version of a symbol that is taken from others, where it has one.
    fn version(&self, symbol: u64) -> Option<Version> {
        let (numbers, mut needed_at) = self.versions;
        if numbers == 0 || needed_at == 0 {
            return None;
        }
        // The highest bit says that nobody gets it by default.
        let number = self.read::<u16>(numbers.checked_add(2 * symbol)?)? & 0x7fff;
        loop {
            let needed = self.read::<Needed>(needed_at)?;
            let mut at = needed_at + u64::from(needed.first);
            for _ in 0..needed.count {
                let version = self.read::<NeededVersion>(at)?;
                if version.number & 0x7fff == number {
                    return self.version_name(version.name.into());
                }
                at += u64::from(version.next);
            }
            if needed.next == 0 {
                return None;
            }
            needed_at += u64::from(needed.next);
        }
    }

    fn version_name(&self, name: u64) -> Option<Version> {
        let text = self.text(name)?;
        let mut version = Version::NONE;
        version.0.get_mut(..text.len()).filter(|_| text.len() < LONGEST)?.copy_from_slice(text);
        Some(version)
    }
}
