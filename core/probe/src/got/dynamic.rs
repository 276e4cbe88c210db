//! What an object tells the loader about itself: its dynamic section, read in memory. Layouts are those of the ELF
//! specification (System V ABI, chapters 4 and 5) and its supplements for x86_64 and AArch64.
//!
//! Read only while the loader's lock is held, and nothing outside of the object's segments is touched, whatever its tables
//! say.

mod exports;
mod stubs;

pub(super) use stubs::Version;

use core::sync::atomic::AtomicUsize;

use crate::os;
use crate::os::objects::Object;
use crate::regs::{RELOCATION_ABSOLUTE, RELOCATION_GLOB_DAT, RELOCATION_JUMP_SLOT};

const DT_PLTRELSZ: u64 = 2;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
const DT_STRSZ: u64 = 10;
const DT_JMPREL: u64 = 23;
const DT_GNU_HASH: u64 = 0x6fff_fef5;
const DT_VERSYM: u64 = 0x6fff_fff0;
const DT_VERNEED: u64 = 0x6fff_fffe;
/// Segments of one object that are looked at; linkers make four or five.
const MOST_SEGMENTS: usize = 16;

/// The longest name that is looked at.
const LONGEST_NAME: u64 = 64;

/// One `Elf64_Rela`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Relocation {
    offset: u64,
    info: u64,
    addend: i64,
}

/// One `Elf64_Sym`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Symbol {
    name: u32,
    info: u8,
    _other: u8,
    section: u16,
    value: u64,
    _size: u64,
}

/// The tables of one object, valid while the loader's lock is held.
pub(super) struct Dynamic {
    bias: u64,
    /// Begin, end and `p_flags` of each of its segments.
    memory: [(u64, u64, u32); MOST_SEGMENTS],
    /// What the loader makes read-only once it has filled it.
    read_only: (u64, u64),
    symbols: u64,
    strings: (u64, u64),
    relocations: [(u64, u64); 2],
    /// The tables of versions: the number of each symbol's, and what is known of those that are taken from others.
    versions: (u64, u64),
    /// The tables by which symbols are found: that of GNU and that of the specification.
    hashes: [u64; 2],
}

/// A word that the loader has filled with the address of a symbol.
pub(super) struct Reference<'d> {
    /// The symbol's name.
    pub(super) name: &'d [u8],
    /// Whether the object defines the symbol itself, which another one's may have gone before.
    is_defined: bool,
    /// Whether the word is data of the program, such as a table of functions, and no slot for calls.
    is_data: bool,
    pub(super) word: &'d AtomicUsize,
}

impl Dynamic {
    /// That of an object; `None` where it has none, as a static executable, or one that makes no sense.
    pub(super) fn of(object: &Object<'_>) -> Option<Self> {
        let page = os::page_size();
        let mut memory = [(0, 0, 0); MOST_SEGMENTS];
        let mut free = memory.iter_mut();
        let (mut read_only, mut section) = ((0, 0), None);
        for segment in object.segments() {
            let end = segment.address.checked_add(segment.len)?;
            match segment.kind {
                libc::PT_LOAD => *free.next()? = (segment.address, end, segment.flags),
                // The loader protects whole pages: those that begin in it and are not cut off by its end.
                libc::PT_GNU_RELRO => read_only = (segment.address & !(page - 1), end & !(page - 1)),
                libc::PT_DYNAMIC => section = Some((segment.address, end)),
                _ => {}
            }
        }
        let mut dynamic = Self {
            bias: object.bias,
            memory,
            read_only,
            symbols: 0,
            strings: (0, 0),
            relocations: [(0, 0); 2],
            versions: (0, 0),
            hashes: [0; 2],
        };
        dynamic.read_section(section?)?;
        (dynamic.symbols != 0 && dynamic.strings.0 != 0).then_some(dynamic)
    }

    /// Whether the loader has made the word at `address` read-only.
    pub(super) fn is_read_only(&self, address: u64) -> bool {
        (self.read_only.0..self.read_only.1).contains(&address)
    }

    /// Calls `each` with the name and the slot of every function that the object takes from others.
    pub(super) fn each_import(&self, mut each: impl FnMut(&[u8], &AtomicUsize)) {
        self.each_reference(|reference| {
            if !reference.is_defined && !reference.is_data {
                each(reference.name, reference.word);
            }
        });
    }

    /// Calls `each` with every word that holds the address of a symbol.
    pub(super) fn each_reference(&self, mut each: impl FnMut(&Reference<'_>)) {
        for (start, len) in self.relocations {
            for index in 0..len / size_of::<Relocation>() as u64 {
                let at = start + index * size_of::<Relocation>() as u64;
                let Some(relocation) = self.read::<Relocation>(at) else { break };
                let is_data = match relocation.info as u32 {
                    RELOCATION_GLOB_DAT | RELOCATION_JUMP_SLOT => false,
                    RELOCATION_ABSOLUTE if relocation.addend == 0 => true,
                    _ => continue,
                };
                if let Some(symbol) = self.symbol(relocation.info >> 32)
                    && let Some(name) = self.name(&symbol)
                    && let Some(word) = self.word(self.bias.wrapping_add(relocation.offset))
                {
                    each(&Reference { name, is_defined: symbol.section != 0, is_data, word });
                }
            }
        }
    }

    fn symbol(&self, number: u64) -> Option<Symbol> {
        self.read(self.symbols.checked_add(number * size_of::<Symbol>() as u64)?)
    }

    fn name(&self, symbol: &Symbol) -> Option<&[u8]> {
        if symbol.name == 0 { None } else { self.text(symbol.name.into()) }
    }

    /// A text in the table of those, without its end.
    fn text(&self, offset: u64) -> Option<&[u8]> {
        let most = LONGEST_NAME.min(self.strings.1.checked_sub(offset)?);
        let start = self.strings.0 + offset;
        if !self.holds(start, most, libc::PF_R) {
            return None;
        }
        // SAFETY: inside of the object's memory, which stays mapped while the loader's lock is held.
        let bytes = unsafe { core::slice::from_raw_parts(start as *const u8, most as usize) };
        bytes.split(|byte| *byte == 0).next()
    }

    /// The slot at an address. Where an object has one in a segment that is not for writing, such as code that was not made
    /// for sharing, the loader writes there before all else, and nobody after it.
    fn word(&self, address: u64) -> Option<&AtomicUsize> {
        let is_slot = self.holds(address, 8, libc::PF_R | libc::PF_W) && address.is_multiple_of(8);
        // SAFETY: aligned, inside of the object's memory, and changed by the loader and us alone.
        is_slot.then(|| unsafe { &*(address as *const AtomicUsize) })
    }

    fn read_section(&mut self, (start, end): (u64, u64)) -> Option<()> {
        let (mut table, mut linkage) = ((0, 0), (0, 0));
        let mut at = start;
        while at < end {
            let [tag, value] = self.read::<[u64; 2]>(at)?;
            at += 16;
            match tag {
                0 => break,
                DT_SYMTAB => self.symbols = self.address(value),
                DT_STRTAB => self.strings.0 = self.address(value),
                DT_STRSZ => self.strings.1 = value,
                DT_RELA => table.0 = self.address(value),
                DT_RELASZ => table.1 = value,
                DT_JMPREL => linkage.0 = self.address(value),
                DT_PLTRELSZ => linkage.1 = value,
                DT_GNU_HASH => self.hashes[0] = self.address(value),
                DT_HASH => self.hashes[1] = self.address(value),
                DT_VERSYM => self.versions.0 = self.address(value),
                DT_VERNEED => self.versions.1 = self.address(value),
                _ => {}
            }
        }
        self.relocations = [table, linkage];
        Some(())
    }

    /// An address of the dynamic section, to which glibc has added the object's place for most objects, and musl for none.
    fn address(&self, value: u64) -> u64 {
        if value < self.memory[0].0 { value.wrapping_add(self.bias) } else { value }
    }

    fn read<T: Copy>(&self, address: u64) -> Option<T> {
        // SAFETY: inside of the object's memory, which stays mapped while the loader's lock is held; any bytes are a `T`,
        // which is made of numbers.
        self.holds(address, size_of::<T>() as u64, libc::PF_R)
            .then(|| unsafe { (address as *const T).read_unaligned() })
    }

    /// Whether a segment with these `p_flags` holds so many bytes from `address` on. Code may be for nothing but execution.
    fn holds(&self, address: u64, len: u64, flags: u32) -> bool {
        let Some(end) = address.checked_add(len) else { return false };
        let holds =
            |(from, to, has): &(u64, u64, u32)| address >= *from && end <= *to && has & flags == flags;
        self.memory.iter().any(holds)
    }
}
