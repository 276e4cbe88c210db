//! The protobuf wire format: a writer that needs no message structs, and a reader that cannot panic.
//!
//! The writer is for our own thread, once a period. A message is written straight into the buffer, behind one byte for its
//! length; where that takes more, the message is moved when it ends. Fields with proto3's default value are left
//! out, except in lists. The reader hands out one field at a time and borrows from its input: it allocates
//! nothing, so a hostile input costs no more than its own length. It refuses groups, which proto3 does not
//! have.

use std::fmt;

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

/// Writes protobuf fields one after the other.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    buffer: Vec<u8>,
}

// Some scalar types are used by the tests and by formats to come; the wire format is written once and whole.
#[allow(dead_code)]
impl Writer {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { buffer: Vec::with_capacity(bytes) }
    }

    /// What has been written so far.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.buffer
    }

    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    pub(crate) fn clear(&mut self) {
        self.buffer.clear();
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.buffer
    }

    /// `uint64`, `uint32` and enums.
    pub(crate) fn uint(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.key(field, VARINT);
            self.varint(value);
        }
    }

    /// `int64` and `int32`: ten bytes where negative.
    pub(crate) fn int(&mut self, field: u32, value: i64) {
        self.uint(field, value as u64);
    }

    /// `sint64` and `sint32`: small in either sign.
    pub(crate) fn sint(&mut self, field: u32, value: i64) {
        self.uint(field, ((value << 1) ^ (value >> 63)) as u64);
    }

    pub(crate) fn bool(&mut self, field: u32, value: bool) {
        self.uint(field, u64::from(value));
    }

    /// `fixed64` and `sfixed64`.
    pub(crate) fn fixed64(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.key(field, FIXED64);
            self.buffer.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// `fixed32` and `sfixed32`.
    pub(crate) fn fixed32(&mut self, field: u32, value: u32) {
        if value != 0 {
            self.key(field, FIXED32);
            self.buffer.extend_from_slice(&value.to_le_bytes());
        }
    }

    pub(crate) fn double(&mut self, field: u32, value: f64) {
        self.fixed64(field, value.to_bits());
    }

    pub(crate) fn float(&mut self, field: u32, value: f32) {
        self.fixed32(field, value.to_bits());
    }

    /// A `string` that may be left out when it is empty.
    pub(crate) fn string(&mut self, field: u32, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    /// `bytes` that may be left out when they are empty.
    pub(crate) fn bytes(&mut self, field: u32, value: &[u8]) {
        if !value.is_empty() {
            self.element(field, value);
        }
    }

    /// One element of a `repeated` string, bytes or ready-made message: written even when it is empty.
    pub(crate) fn element(&mut self, field: u32, value: &[u8]) {
        self.key(field, BYTES);
        self.varint(value.len() as u64);
        self.buffer.extend_from_slice(value);
    }

    /// Fields that were encoded before.
    pub(crate) fn fields(&mut self, encoded: &[u8]) {
        self.buffer.extend_from_slice(encoded);
    }

    /// A packed list of integers.
    pub(crate) fn packed(&mut self, field: u32, values: impl IntoIterator<Item = u64>) {
        let start = self.begin(field);
        for value in values {
            self.varint(value);
        }
        self.end(start);
    }

    /// The same where a list without elements is left out.
    pub(crate) fn packed_some(&mut self, field: u32, values: &[u64]) {
        if !values.is_empty() {
            self.packed(field, values.iter().copied());
        }
    }

    /// An integer of a `oneof`, which is written even when it is 0.
    pub(crate) fn one_of(&mut self, field: u32, value: u64) {
        self.key(field, VARINT);
        self.varint(value);
    }

    /// The head of a message, bytes or text of that length, which is written elsewhere.
    pub(crate) fn head(&mut self, field: u32, length: usize) {
        self.key(field, BYTES);
        self.varint(length as u64);
    }

    /// A message, whose fields `write` writes.
    pub(crate) fn message(&mut self, field: u32, write: impl FnOnce(&mut Self)) {
        let start = self.begin(field);
        write(self);
        self.end(start);
    }

    /// Begins what has its length in front, and tells where it starts.
    fn begin(&mut self, field: u32) -> usize {
        self.key(field, BYTES);
        self.buffer.push(0);
        self.len()
    }

    fn end(&mut self, start: usize) {
        let length = self.len() - start;
        let is_long = length >= 0x80;
        if let Some(kept_free) = self.buffer.get_mut(start - 1) {
            *kept_free = length as u8 & 0x7f | u8::from(is_long) << 7;
        }
        if is_long {
            self.widen(start, length);
        }
    }

    /// Moves what was written since `start` back to make room for the rest of its length.
    #[inline(never)]
    fn widen(&mut self, start: usize, length: usize) {
        self.varint(length as u64 >> 7);
        let prefix = self.len() - start - length;
        if let Some(written) = self.buffer.get_mut(start..) {
            written.rotate_right(prefix);
        }
    }

    fn key(&mut self, field: u32, wire_type: u8) {
        self.varint(u64::from(field) << 3 | u64::from(wire_type));
    }

    #[inline]
    fn varint(&mut self, value: u64) {
        // Most are of one byte or two.
        match value {
            0..0x80 => self.buffer.push(value as u8),
            0x80..0x4000 => self.buffer.extend_from_slice(&[value as u8 | 0x80, (value >> 7) as u8]),
            _ => self.long_varint(value),
        }
    }

    fn long_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.buffer.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.buffer.push(value as u8);
    }
}

/// The value of a field as the wire has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// What is wrong with the bytes of a message, and where in that message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WireError {
    offset: usize,
    what: &'static str,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.what, self.offset)
    }
}

/// The fields of one message, in the order of the wire. Ends after the first error.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    message: &'a [u8],
    offset: usize,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self { message, offset: 0 }
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), WireError> {
        let start = self.offset;
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|number| *number != 0 && *number < 1 << 29);
        let number = number.ok_or(WireError { offset: start, what: "not a field number" })?;
        let value = match (key & 7) as u8 {
            VARINT => Value::Varint(self.varint()?),
            FIXED64 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            FIXED32 => Value::Fixed32(u32::from_le_bytes(self.array()?)),
            BYTES => {
                let length = self.varint()?;
                Value::Bytes(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            _ => return Err(WireError { offset: start, what: "a wire type that protobuf 3 does not have" }),
        };
        Ok((number, value))
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, WireError> {
        // Most are of one byte or two.
        match *self.message.get(self.offset..).unwrap_or_default() {
            [first @ 0..0x80, ..] => {
                self.offset += 1;
                Ok(first.into())
            }
            [first, second @ 0..0x80, ..] => {
                self.offset += 2;
                Ok(u64::from(first & 0x7f) | u64::from(second) << 7)
            }
            _ => self.long_varint(),
        }
    }

    #[inline(never)]
    fn long_varint(&mut self) -> Result<u64, WireError> {
        let (value, length) = varint(self.message.get(self.offset..).unwrap_or_default())
            .map_err(|what| WireError { offset: self.offset, what })?;
        self.offset += length;
        Ok(value)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let end = self.offset.checked_add(length);
        let bytes = end.and_then(|end| self.message.get(self.offset..end));
        let bytes =
            bytes.ok_or(WireError { offset: self.offset, what: "a field that ends after its message" })?;
        self.offset += length;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.offset >= self.message.len() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.offset = self.message.len();
        }
        Some(field)
    }
}

/// The integers of a `repeated` field, which the wire may carry packed or one by one. Ends after the first error.
pub(crate) fn integers(value: Value<'_>) -> Integers<'_> {
    let (single, packed) = match value {
        Value::Varint(value) => (Some(Ok(value)), [].as_slice()),
        Value::Bytes(packed) => (None, packed),
        _ => (Some(Err(WireError { offset: 0, what: "a list of integers of fixed size" })), [].as_slice()),
    };
    Integers { single, packed: Fields::new(packed) }
}

/// From [`integers`].
#[derive(Debug)]
pub(crate) struct Integers<'a> {
    single: Option<Result<u64, WireError>>,
    packed: Fields<'a>,
}

impl Iterator for Integers<'_> {
    type Item = Result<u64, WireError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.packed.offset >= self.packed.message.len() {
            return self.single.take();
        }
        let value = self.packed.varint();
        if value.is_err() {
            self.packed.offset = self.packed.message.len();
        }
        Some(value)
    }
}

/// The first varint of `bytes` and how many bytes it takes.
fn varint(bytes: &[u8]) -> Result<(u64, usize), &'static str> {
    let mut value = 0u64;
    for (place, &byte) in bytes.iter().take(10).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if place == 9 && bits > 1 {
            break;
        }
        value |= bits << (7 * place);
        if byte < 0x80 {
            return Ok((value, place + 1));
        }
    }
    Err(if bytes.len() < 10 { "an integer that is cut off" } else { "an integer of more than 64 bits" })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_type_reads_back() {
        let mut writer = Writer::default();
        writer.uint(1, 0);
        writer.uint(2, 300);
        writer.int(3, -1);
        writer.sint(4, -2);
        writer.bool(5, true);
        writer.fixed64(6, 1 << 40);
        writer.fixed32(7, 9);
        writer.double(8, 1.5);
        writer.float(9, 2.5);
        writer.string(10, "");
        writer.string(11, "text");
        writer.element(12, b"");
        writer.packed(13, [1, 128, u64::MAX]);
        writer.message(14, |inner| inner.message(1, |deep| deep.string(2, &"x".repeat(200))));
        let bytes = writer.into_bytes();
        let fields: Vec<_> = Fields::new(&bytes).map(Result::unwrap).collect();
        let numbers: Vec<u32> = fields.iter().map(|field| field.0).collect();
        assert_eq!(numbers, [2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14], "zero and empty are left out");
        assert_eq!(fields[0].1, Value::Varint(300));
        assert_eq!(fields[1].1, Value::Varint(u64::MAX));
        assert_eq!(fields[2].1, Value::Varint(3), "zigzag");
        assert_eq!(fields[6].1, Value::Fixed64(1.5f64.to_bits()));
        assert_eq!(fields[9].1, Value::Bytes(b""));
        let list: Vec<u64> = integers(fields[10].1).map(Result::unwrap).collect();
        assert_eq!(list, [1, 128, u64::MAX]);
        let Value::Bytes(inner) = fields[11].1 else { panic!("not a message") };
        assert_eq!(inner.len(), 206, "two nested lengths of two bytes each");
    }

    #[test]
    fn bad_bytes_are_named_with_their_place() {
        let wrong = |bytes: &[u8]| Fields::new(bytes).find_map(Result::err).unwrap().to_string();
        assert_eq!(wrong(&[0x08]), "an integer that is cut off at byte 1");
        assert_eq!(wrong(&[0x08, 0x80]), "an integer that is cut off at byte 1");
        assert_eq!(wrong(&[0x08, 1, 0x12, 5, 0]), "a field that ends after its message at byte 4");
        assert_eq!(wrong(&[0x0b]), "a wire type that protobuf 3 does not have at byte 0");
        assert_eq!(wrong(&[0x00, 0x00]), "not a field number at byte 0");
        assert_eq!(wrong(&[&[0x08][..], &[0xff; 10]].concat()), "an integer of more than 64 bits at byte 1");
        assert_eq!(Fields::new(&[0x0b, 0x0b]).count(), 1, "an error ends the message");
    }
}
