//! The large tables of a page, packed: varints, column by column, since like numbers side by side compress best.
//!
//! In this order; what is marked with ± is zigzag:
//!
//! - frames: name, file, module (places in `strings`), ±line and flags, frame by frame;
//! - nodes, depth first: how far up each goes before it goes down; then its frame, as ±difference from the frame that
//!   last followed the same frame; then how its flags differ from those of the frame;
//! - samples, by their leaf: how many nodes further the leaf is than that of the one before; then the label set's number
//!   and the profile's, each as how much larger it is than that of the sample before, where that has the same leaf (and
//!   the same label set); the ±difference of the leaf's own frame from its node's; and for each column the ±value, in
//!   microseconds where the profile's type is `rounded`.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::ZlibEncoder;

use super::frames::Tables;
use super::rows::{Row, Rows};
use super::text::Base64;
use super::tree::{Tree, kind};

/// Appends the tables to `out`. Nothing is held of them but what the compressor has under way.
pub(super) fn write(
    out: &mut String,
    tables: &Tables<'_>,
    tree: &Tree,
    rows: &Rows,
    is_rounded: impl Fn(u32, usize) -> bool,
) {
    let mut columns = Columns::new(out);
    for frame in tables.frames() {
        for place in [frame.name, frame.file, frame.module] {
            columns.number(place.into());
        }
        columns.signed(frame.line);
        columns.number(frame.flags.into());
    }
    tree.up.iter().for_each(|&up| columns.number(up.into()));
    let mut follower = vec![0u32; tables.frames().len() + 1];
    let mut before = 0;
    for &frame in &tree.frame {
        columns.signed(i64::from(frame) - i64::from(follower[before]));
        follower[before] = frame;
        before = frame as usize + 1;
    }
    for (&flags, &frame) in tree.flags.iter().zip(&tree.frame) {
        columns.number((flags ^ kind(tables.frames()[frame as usize].flags)).into());
    }
    samples(&mut columns, tree, rows, is_rounded);
    columns.finish();
}

fn samples(columns: &mut Columns<'_>, tree: &Tree, rows: &Rows, is_rounded: impl Fn(u32, usize) -> bool) {
    let leaf = |row: &Row| tree.leaf[row.stack as usize];
    let order = rows.order(leaf);
    let in_order = || order.iter().map(|&number| &rows.rows[number as usize]);
    let mut before = 0;
    for row in in_order() {
        columns.number((leaf(row) - before).into());
        before = leaf(row);
    }
    let pairs = || std::iter::once(None).chain(in_order().map(Some)).zip(in_order());
    for (before, row) in pairs() {
        let from = before.filter(|before| leaf(before) == leaf(row)).map_or(0, |before| before.labels);
        columns.number((row.labels - from).into());
    }
    for (before, row) in pairs() {
        let same = before.filter(|before| leaf(before) == leaf(row) && before.labels == row.labels);
        columns.number((row.profile - same.map_or(0, |before| before.profile)).into());
    }
    for row in in_order() {
        let of_node = leaf(row).checked_sub(1).map_or(0, |node| tree.frame[node as usize]);
        columns.signed(i64::from(rows.leaf_frame(row).unwrap_or(0)) - i64::from(of_node));
    }
    for column in 0..rows.width() {
        // What was left out of the rows of each profile so far goes into the next, so that their sum stays right.
        let mut left = vec![0i64; rows.rows.last().map_or(0, |row| row.profile as usize + 1)];
        for &number in &order {
            let (profile, value) = (rows.rows[number as usize].profile, rows.value(number, column));
            columns.signed(match left.get_mut(profile as usize) {
                Some(left) if is_rounded(profile, column) => rounded(value, left),
                _ => value,
            });
        }
    }
}

/// Times of large pages are told in so many nanoseconds.
pub(super) const ROUNDED: i64 = 1_000;

/// A value in whole [`ROUNDED`], with what was `left` of those before.
pub(super) fn rounded(value: i64, left: &mut i64) -> i64 {
    let value = i128::from(value) + i128::from(*left);
    let whole = (value + i128::from(ROUNDED) / 2).div_euclid(ROUNDED.into());
    // Less than one of them is left: both fit.
    *left = (value - whole * i128::from(ROUNDED)) as i64;
    whole as i64
}

/// Numbers on their way into the page, through the compressor. Its output is a string, which takes everything, so
/// there is no error to pass on.
struct Columns<'s> {
    encoder: ZlibEncoder<Base64<'s>>,
    buffer: Vec<u8>,
}

/// Level 6 makes a page of 100,000 stacks one per cent smaller and takes half as long again.
const LEVEL: u32 = 3;
/// The compressor is called with so many bytes at once.
const CHUNK: usize = 16 * 1024;

impl<'s> Columns<'s> {
    fn new(out: &'s mut String) -> Self {
        let encoder = ZlibEncoder::new(Base64::new(out), Compression::new(LEVEL));
        Self { encoder, buffer: Vec::with_capacity(CHUNK + 16) }
    }

    /// An unsigned LEB128 number.
    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.buffer.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.push(value as u8);
        if self.buffer.len() >= CHUNK {
            self.flush();
        }
    }

    /// A signed number: zigzag, so that small ones of both signs are short.
    fn signed(&mut self, value: i64) {
        self.number(((value << 1) ^ (value >> 63)) as u64);
    }

    fn flush(&mut self) {
        let _ = self.encoder.write_all(&self.buffer);
        self.buffer.clear();
    }

    fn finish(mut self) {
        self.flush();
        if let Ok(base64) = self.encoder.finish() {
            base64.finish();
        }
    }
}

impl Write for Base64<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        bytes.iter().for_each(|&byte| self.byte(byte));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// The page's own way back is tested in the browser; this is that of another reader.
    fn unpacked(base64: &str) -> Vec<u8> {
        let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut packed = Vec::new();
        for four in base64.trim_end_matches('=').as_bytes().chunks(4) {
            let place = |digit: &u8| digits.iter().position(|known| known == digit).unwrap_or(0) as u32;
            let bits =
                four.iter().fold(0u32, |bits, digit| bits << 6 | place(digit)) << (6 * (4 - four.len()));
            packed.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
        }
        let mut bytes = Vec::new();
        let read = flate2::read::ZlibDecoder::new(packed.as_slice()).read_to_end(&mut bytes);
        assert!(read.is_ok(), "{read:?}");
        bytes
    }

    #[test]
    fn numbers_are_leb128_and_signed_ones_zigzag() {
        let mut out = String::new();
        let mut columns = Columns::new(&mut out);
        columns.number(300);
        columns.signed(-1);
        columns.signed(1);
        columns.signed(i64::MIN);
        columns.finish();
        let mut expected = vec![0xac, 0x02, 1, 2];
        expected.extend([0xff; 9]);
        expected.push(1);
        assert_eq!(unpacked(&out), expected);
    }

    #[test]
    fn rounded_values_have_the_sum_that_they_had() {
        let values = [1_499, 1_499, 1_499, -700, 999, 0, i64::MAX / 2, 1, 250];
        let mut left = 0;
        let sum: i64 = values.iter().map(|&value| rounded(value, &mut left)).sum();
        assert_eq!(sum * ROUNDED + left, values.iter().sum());
        assert!(left.abs() <= ROUNDED / 2);
        assert_eq!(rounded(-1_500, &mut 0) + rounded(1_500, &mut 0), 1, "halves go up");
    }

    #[test]
    fn more_than_a_chunk_comes_through() {
        let mut out = String::new();
        let mut columns = Columns::new(&mut out);
        (0..100_000u64).for_each(|number| columns.number(number % 100));
        columns.finish();
        let bytes = unpacked(&out);
        assert_eq!(bytes.len(), 100_000);
        assert!(bytes.iter().zip(0..).all(|(&byte, number)| u64::from(byte) == number % 100));
        assert!(out.len() < 10_000, "compressed: {}", out.len());
    }
}
