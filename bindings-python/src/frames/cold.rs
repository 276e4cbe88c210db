//! The parts of a function that the compiler has put elsewhere because they are seldom run: the interpreter's loop has up to 14
//! KiB of those, and a table of symbols that names them is mostly stripped.
//!
//! A function jumps into its own parts, and into nobody else's middle; where functions and parts begin, the table for
//! exceptions says (`.eh_frame_hdr`). So a part is what is jumped into more than once behind its beginning. Off the handler;
//! everything is read through the kernel.

use core::ops::Range;

use everprof_probe::memory;

/// A part is believed from so many jumps on: bytes that only look like jumps lead anywhere.
const ENOUGH: usize = 3;
/// Bytes of a function that are looked through.
const MOST_CODE: u64 = 1 << 20;
/// Functions of an object.
const MOST_FUNCTIONS: u64 = 1 << 20;

/// The other parts of the function `main` of the object that is loaded at `base`; those with the most jumps first. Empty where
/// the processor is not x86_64, or the object has no such table.
pub(super) fn parts(main: &Range<u64>, base: u64) -> Vec<Range<u64>> {
    // How others jump is not known here.
    let starts = if cfg!(target_arch = "x86_64") { starts(base) } else { None };
    starts.map_or(Vec::new(), |starts| jumped_into(main, &starts))
}

fn jumped_into(main: &Range<u64>, starts: &[u64]) -> Vec<Range<u64>> {
    let mut code = vec![0; (main.end - main.start).min(MOST_CODE) as usize];
    let len = memory::copy(main.start, &mut code);
    code.truncate(len);
    let mut votes = std::collections::BTreeMap::<u64, (usize, u64)>::new();
    for target in targets(&code, main.start).filter(|target| !main.contains(target)) {
        let behind = starts.partition_point(|start| *start <= target);
        let (Some(start), Some(end)) =
            (behind.checked_sub(1).and_then(|at| starts.get(at)), starts.get(behind))
        else {
            continue;
        };
        if *start != target && !main.contains(start) {
            votes.entry(*start).or_insert((0, *end)).0 += 1;
        }
    }
    let mut parts: Vec<_> = votes.into_iter().filter(|(_, (votes, _))| *votes >= ENOUGH).collect();
    parts.sort_by_key(|(_, (votes, _))| core::cmp::Reverse(*votes));
    parts.into_iter().map(|(start, (_, end))| start..end).collect()
}

/// Where jumps of four bytes' distance lead, conditional ones and others, and whatever looks like them.
fn targets(code: &[u8], start: u64) -> impl Iterator<Item = u64> + '_ {
    code.windows(6).zip(start..).filter_map(|(bytes, at)| {
        let (distance, len) = match *bytes {
            [0x0f, 0x80..=0x8f, a, b, c, d] => ([a, b, c, d], 6),
            [0xe9, a, b, c, d, _] => ([a, b, c, d], 5),
            _ => return None,
        };
        Some(at.wrapping_add(len).wrapping_add_signed(i64::from(i32::from_le_bytes(distance))))
    })
}

/// Where functions and parts of them begin, in order.
pub(super) fn starts(base: u64) -> Option<Vec<u64>> {
    const LOAD: u32 = 1;
    const EH_FRAME_HDR: u32 = 0x6474_e550;
    let header: [u8; 64] = read(base)?;
    let half = |at: usize| Some(u16::from_le_bytes(*header.get(at..)?.first_chunk()?));
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let headers = base + u64::from_le_bytes(*header.get(32..)?.first_chunk()?);
    let (size, count) = (u64::from(half(54)?), u64::from(half(56)?));
    let (mut first, mut table) = (None, None);
    for index in 0..count {
        let program: [u8; 56] = read(headers + index * size)?;
        let kind = u32::from_le_bytes(*program.first_chunk()?);
        let address = u64::from_le_bytes(*program.get(16..)?.first_chunk()?);
        match kind {
            LOAD if first.is_none() => first = Some(address & !4095),
            EH_FRAME_HDR => table = Some(address),
            _ => {}
        }
    }
    let table = base.wrapping_sub(first?).wrapping_add(table?);
    // Of all its forms the one that linkers write: a pointer of four bytes, a count of four, and pairs of four, by the table.
    let head: [u8; 12] = read(table)?;
    let [1, 0x1b, 0x03, 0x3b, _, _, _, _, count @ ..] = head else { return None };
    let count = u64::from(u32::from_le_bytes(count)).min(MOST_FUNCTIONS);
    let mut pairs = vec![0; count as usize * 8];
    let len = memory::copy(table + 12, &mut pairs);
    let pairs = pairs.get(..len)?.as_chunks::<8>().0;
    Some(
        pairs
            .iter()
            .map(|[a, b, c, d, ..]| {
                table.wrapping_add_signed(i64::from(i32::from_le_bytes([*a, *b, *c, *d])))
            })
            .collect(),
    )
}

fn read<const N: usize>(address: u64) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    (memory::copy(address, &mut bytes) == N).then_some(bytes)
}
