//! From an instruction to its line: the three forms of table that CPython has had. Off the handler; safe code.

/// A form of line table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `co_lnotab` of 3.9: pairs of how much the address grows and how much the line changes.
    Lnotab,
    /// `co_linetable` of 3.10: pairs of the length of a range and how much the line changes at its begin.
    Ranges,
    /// `co_linetable` from 3.11 on: entries of a code, a length in instructions, and positions.
    Locations,
}

/// The line of the instruction `at` so many bytes into the code whose first line is `first`. `None` where the compiler gave it
/// none, or the table is cut short before it.
pub(crate) fn line(form: Form, table: &[u8], first: u32, at: u32) -> Option<u32> {
    let line = match form {
        Form::Lnotab => Some(lnotab(table, i64::from(first), at)),
        Form::Ranges => ranges(table, i64::from(first), at),
        Form::Locations => locations(table, i64::from(first), at),
    }?;
    u32::try_from(line).ok()
}

fn lnotab(table: &[u8], first: i64, at: u32) -> i64 {
    let (mut line, mut address) = (first, 0_u32);
    for (grows, changes) in pairs(table) {
        address = address.saturating_add(u32::from(grows));
        if address > at {
            break;
        }
        line += i64::from(changes);
    }
    line
}

fn ranges(table: &[u8], first: i64, at: u32) -> Option<i64> {
    const NONE: i8 = -128;
    let (mut line, mut end) = (first, 0_u32);
    for (len, changes) in pairs(table) {
        end = end.saturating_add(u32::from(len));
        if changes != NONE {
            line += i64::from(changes);
        }
        if at < end {
            return (changes != NONE).then_some(line);
        }
    }
    None
}

fn pairs(table: &[u8]) -> impl Iterator<Item = (u8, i8)> + '_ {
    table.as_chunks().0.iter().map(|[one, other]| (*one, *other as i8))
}

fn locations(table: &[u8], first: i64, at: u32) -> Option<i64> {
    /// Bytes of an instruction.
    const UNIT: u32 = 2;
    let (mut line, mut end) = (first, 0_u32);
    let mut bytes = table.iter().copied();
    while let Some(head) = bytes.next() {
        let code = head >> 3 & 15;
        end = end.saturating_add((u32::from(head & 7) + 1) * UNIT);
        let mut known = true;
        match code {
            0..=9 => _ = bytes.next()?,
            10..=12 => {
                line += i64::from(code - 10);
                bytes.nth(1)?;
            }
            13 => line += signed(&mut bytes)?,
            14 => {
                line += signed(&mut bytes)?;
                for _ in 0..3 {
                    unsigned(&mut bytes)?;
                }
            }
            _ => known = false,
        }
        if at < end {
            return known.then_some(line);
        }
    }
    None
}

/// Six bits a byte, the lowest first; a seventh says that more follow.
fn unsigned(bytes: &mut impl Iterator<Item = u8>) -> Option<u64> {
    let (mut value, mut shift) = (0_u64, 0_u32);
    loop {
        let byte = bytes.next()?;
        value |= u64::from(byte & 63).checked_shl(shift)?;
        if byte & 64 == 0 {
            return Some(value);
        }
        shift += 6;
    }
}

/// The sign is the lowest bit.
fn signed(bytes: &mut impl Iterator<Item = u8>) -> Option<i64> {
    let value = unsigned(bytes)?;
    let size = i64::try_from(value >> 1).ok()?;
    Some(if value & 1 == 0 { size } else { -size })
}

#[cfg(test)]
mod tests {
    use super::{Form, line};

    #[test]
    fn lnotab_counts_addresses() {
        let table = [2, 1, 4, 5, 2, 0xfd];
        let lines = [0, 2, 5, 6, 8, 100].map(|at| line(Form::Lnotab, &table, 10, at));
        assert_eq!(lines, [10, 11, 11, 16, 13, 13].map(Some));
    }

    #[test]
    fn ranges_may_have_no_line() {
        let table = [4, 1, 2, 0x80, 6, 2];
        let lines = [0, 2, 4, 6, 10, 12].map(|at| line(Form::Ranges, &table, 10, at));
        assert_eq!(lines, [Some(11), Some(11), None, Some(13), Some(13), None]);
    }

    #[test]
    fn locations_of_every_code() {
        // Short; one line further; none; no columns, 2 back; long, 33 on; and a cut one.
        let table = [
            0x80,
            7,
            0x80 | 11 << 3 | 1,
            1,
            2,
            0x80 | 15 << 3,
            0x80 | 13 << 3,
            5,
            0x80 | 14 << 3 | 2,
            66,
            1,
            1,
            2,
            65,
            1,
            0x80 | 13 << 3,
        ];
        let lines = [0, 2, 4, 6, 8, 10, 14, 16].map(|at| line(Form::Locations, &table, 10, at));
        assert_eq!(lines, [Some(10), Some(11), Some(11), None, Some(9), Some(42), Some(42), None]);
        for cut in 0..table.len() {
            line(Form::Locations, table.get(..cut).unwrap_or_default(), 10, 1000);
        }
    }
}
