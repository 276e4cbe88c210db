//! Names of the linker's stubs (`memcpy@plt`), through which a program calls into libraries.
//!
//! A stub has no symbol. It jumps through a slot that a relocation fills, and the relocation names the function: so the
//! instructions of the stub are decoded, for x86_64 and aarch64, by the shapes that linkers give them.

use std::collections::HashMap;

use super::strings::Strings;
use super::{Named, SHF_EXECINSTR, SYMBOL};
use crate::symbolize::elf::{Elf, Section};
use crate::symbolize::header::{le32, le64};

const SHT_RELA: u32 = 4;
const RELA: usize = 24;
const CHUNK: usize = 2048 * RELA;
/// Linkers make up to three.
const SECTIONS_LIMIT: usize = 8;
/// The longest stub: a landing pad and four instructions of aarch64 make 24 bytes, padded.
const STUB: u64 = 32;
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;

/// What a stub says about where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Through {
    /// The slot at this address.
    Slot(u64),
    /// The relocation with this number in `.rela.plt`.
    Number(u64),
}

/// Names those of `addresses` that are in stubs and have no name yet. What cannot be read stays without.
pub(super) fn names(elf: &Elf, addresses: &[u64], named: &mut Named) {
    let stubs = |section: &&Section| section.name.starts_with(".plt") && section.flags & SHF_EXECINSTR != 0;
    let sections: Vec<&Section> = elf.sections.iter().filter(stubs).take(SECTIONS_LIMIT).collect();
    let mut wanted: HashMap<Through, Vec<usize>> = HashMap::new();
    for section in sections {
        let first = addresses.partition_point(|&address| address < section.address);
        for (at, &address) in addresses.iter().enumerate().skip(first).take_while(|(_, a)| section.holds(**a))
        {
            if named.of_address[at].is_none()
                && let Some(through) = decode(elf, section, address)
            {
                wanted.entry(through).or_default().push(at);
            }
        }
    }
    if wanted.is_empty() {
        return;
    }
    let relocations = elf.sections.iter().filter(|section| section.kind == SHT_RELA);
    let (plt, others): (Vec<_>, Vec<_>) = relocations.partition(|section| section.name == ".rela.plt");
    for section in plt.into_iter().chain(others) {
        if wanted.is_empty() {
            return;
        }
        let _ = fill(elf, section, &mut wanted, named);
    }
}

/// Names the stubs whose relocation is in `section`.
fn fill(
    elf: &Elf,
    section: &Section,
    wanted: &mut HashMap<Through, Vec<usize>>,
    named: &mut Named,
) -> Option<()> {
    let symbols = elf.sections.get(section.link as usize)?;
    let strings = Strings::new(elf, elf.sections.get(symbols.link as usize)?);
    let of_stubs = section.name == ".rela.plt";
    let mut chunk = vec![0; CHUNK.min(usize::try_from(section.size).unwrap_or(CHUNK)) / RELA * RELA];
    let mut done = 0;
    while done + RELA as u64 <= section.size && !wanted.is_empty() {
        let size = (section.size - done).min(chunk.len() as u64) as usize / RELA * RELA;
        elf.bytes.read(section.offset.checked_add(done)?, &mut chunk[..size]).ok()?;
        for (number, entry) in (done / RELA as u64..).zip(chunk[..size].chunks_exact(RELA)) {
            let mut places = wanted.remove(&Through::Slot(le64(entry, 0))).unwrap_or_default();
            if of_stubs {
                places.extend(wanted.remove(&Through::Number(number)).unwrap_or_default());
            }
            if places.is_empty() {
                continue;
            }
            let symbol = le64(entry, 8) >> 32;
            let mut bytes = [0; SYMBOL];
            let there = symbol != 0 && symbol < symbols.size / SYMBOL as u64;
            let place = symbols.offset.checked_add(symbol * SYMBOL as u64)?;
            if !there || elf.bytes.read(place, &mut bytes).is_err() {
                continue;
            }
            let (name, _) = strings.names(&[le32(&bytes, 0)], 1);
            let Some(name) = name.into_iter().next().filter(|name| !name.is_empty()) else { continue };
            for at in places {
                named.of_address[at] = Some(named.names.len() as u32);
            }
            named.names.push(format!("{name}@plt").into());
        }
        done += size as u64;
    }
    Some(())
}

fn decode(elf: &Elf, section: &Section, address: u64) -> Option<Through> {
    // A stub's instructions before the address, and those from it on.
    let into = address - section.address;
    let start = section.address + (into & !15).saturating_sub(STUB);
    let end = address.saturating_add(STUB).min(section.address.saturating_add(section.size));
    let place = section.offset.checked_add(start - section.address)?;
    let bytes = elf.bytes.take(place, end - start).ok()?;
    let at = (address - start) as usize;
    match elf.machine {
        EM_X86_64 => x86_64(&bytes, start, at, section),
        EM_AARCH64 => aarch64(&bytes, start, at),
        _ => None,
    }
}

fn x86_64(bytes: &[u8], start: u64, at: usize, section: &Section) -> Option<Through> {
    // Stubs that are never bound late may be 8 bytes long; all others are 16.
    let step =
        if section.name == ".plt.got" && !section.size.is_multiple_of(16) || eight(bytes) { 8 } else { 16 };
    let begin = at - (start + at as u64 - section.address) as usize % step;
    let stub = bytes.get(begin..)?;
    let stub = &stub[..stub.len().min(step)];
    // The first stub of `.plt` is the linker's own way into the loader: it pushes a slot's content.
    if stub.starts_with(&[0xff, 0x35]) {
        return None;
    }
    let place = stub.windows(2).position(|pair| pair == [0xff, 0x25]).filter(|&place| place <= 5);
    if let Some(place) = place.filter(|&place| place + 6 <= stub.len()) {
        let behind = start + (begin + place + 6) as u64;
        let distance = le32(stub, place + 2) as i32;
        return Some(Through::Slot(behind.wrapping_add_signed(distance.into())));
    }
    let push = stub.iter().position(|&byte| byte == 0x68).filter(|&place| place <= 4)?;
    Some(Through::Number(le32(stub, push + 1).into()))
}

/// Whether stubs of 8 bytes follow each other: a jump and two bytes of nothing.
fn eight(bytes: &[u8]) -> bool {
    bytes.chunks_exact(8).all(|stub| stub.starts_with(&[0xff, 0x25]))
}

fn aarch64(bytes: &[u8], start: u64, at: usize) -> Option<Through> {
    let at = at & !3;
    // `adrp x16` and `ldr x17, [x16, …]` begin a stub, behind a landing pad at the most.
    let pairs = |place: usize| {
        let (page, load) = (le32(bytes, place), le32(bytes, place + 4));
        (page & 0x9f00_001f == 0x9000_0010 && load & 0xffc0_03ff == 0xf940_0211)
            .then_some((page, load, place))
    };
    let landing = |place: usize| le32(bytes, place) == 0xd503_245f;
    let before = (0..=3).filter_map(|back| at.checked_sub(4 * back)).find_map(pairs);
    let (page, load, place) = before.or_else(|| landing(at).then(|| pairs(at + 4)).flatten())?;
    let pages = (u64::from(page >> 5 & 0x7ffff) << 2 | u64::from(page >> 29 & 3)) << 43;
    // Sign-extended by the shift to the right.
    let pages = (pages as i64 >> 43) << 12;
    let base = (start + place as u64) & !0xfff;
    Some(Through::Slot(base.wrapping_add_signed(pages).wrapping_add(u64::from(load >> 10 & 0xfff) * 8)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn section(size: u64) -> Section {
        Section { name: ".plt".into(), address: 0x1000, size, ..Section::default() }
    }

    #[test]
    fn stubs_of_x86_64_by_slot_and_by_number() {
        // pushq; jmpq *; nopl / jmpq *0x2fe2(%rip); pushq 0; jmpq
        let mut plt = vec![0xff, 0x35, 0, 0, 0, 0, 0xff, 0x25, 0, 0, 0, 0, 0x0f, 0x1f, 0x40, 0];
        plt.extend([0xff, 0x25, 0xe2, 0x2f, 0, 0, 0x68, 0, 0, 0, 0, 0xe9, 0xe0, 0xff, 0xff, 0xff]);
        // endbr64; pushq 7; bnd jmpq; nop
        plt.extend([0xf3, 0x0f, 0x1e, 0xfa, 0x68, 7, 0, 0, 0, 0xf2, 0xe9, 0xe1, 0xff, 0xff, 0xff, 0x90]);
        for into in 0..16 {
            assert_eq!(x86_64(&plt, 0x1000, into, &section(48)), None);
            assert_eq!(x86_64(&plt, 0x1000, 16 + into, &section(48)), Some(Through::Slot(0x3ff8)));
            assert_eq!(x86_64(&plt, 0x1000, 32 + into, &section(48)), Some(Through::Number(7)));
        }
        // Stubs of 8 bytes.
        let got: Vec<u8> =
            [0x10u8, 0x20].iter().flat_map(|&to| [0xff, 0x25, to, 0, 0, 0, 0x66, 0x90]).collect();
        assert_eq!(x86_64(&got, 0x1000, 9, &section(16)), Some(Through::Slot(0x1008 + 6 + 0x20)));
    }

    #[test]
    fn stubs_of_aarch64_with_and_without_a_landing_pad() {
        // adrp x16, 0x1f000 (from 0x400 pages of 0x1000); ldr x17, [x16, #0xf98]; add; br x17
        let stub = [0xf00000f0u32, 0xf947ce11, 0x913e6210, 0xd61f0220];
        let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let plain = bytes(&[stub, stub].concat());
        let slot = |start: u64| Some(Through::Slot((start & !0xfff) + 0x1f000 + 0xf98));
        for into in 0..16 {
            assert_eq!(aarch64(&plain, 0x1000, into), slot(0x1000), "{into}");
            assert_eq!(aarch64(&plain, 0x1000, 16 + into), slot(0x1000), "{into}");
        }
        let padded = bytes(&[&[0xd503245f][..], &stub, &[0xd503201f]].concat());
        for into in 0..20 {
            assert_eq!(aarch64(&padded, 0x1000, into), slot(0x1000), "{into}");
        }
        // The first stub pushes, and is the linker's own.
        assert_eq!(aarch64(&bytes(&[0xa9bf7bf0]), 0x1000, 0), None);
    }
}
