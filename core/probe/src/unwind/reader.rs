//! A cursor over bytes that may be anything: every read is bounded and says `None` at the end.

/// What is left to read of a run of little-endian bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// A reader that starts `position` bytes into `bytes`.
    pub(super) fn at(bytes: &'a [u8], position: usize) -> Self {
        Self { bytes, position }
    }

    /// How far into the bytes it is.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let end = self.position.checked_add(len)?;
        let taken = self.bytes.get(self.position..end)?;
        self.position = end;
        Some(taken)
    }

    /// What is left.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.position..).unwrap_or_default()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.position)?;
        self.position += 1;
        Some(byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    /// An unsigned LEB128 number; `None` as well where it does not fit 64 bits.
    pub(super) fn uleb(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A signed LEB128 number; `None` as well where it does not fit 64 bits.
    pub(super) fn sleb(&mut self) -> Option<i64> {
        let mut value = 0_i64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= i64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                let negative = byte & 0x40 != 0 && shift + 7 < 64;
                return Some(if negative { value | i64::MAX.wrapping_shl(shift + 7) } else { value });
            }
        }
        None
    }

    /// The bytes up to the next zero, which is skipped.
    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let len = self.rest().iter().position(|&byte| byte == 0)?;
        let string = self.take(len)?;
        self.position += 1;
        Some(string)
    }
}

#[cfg(test)]
mod tests {
    use super::Reader;

    #[test]
    fn numbers_of_variable_length() {
        for (bytes, expected) in [(&[0x7f][..], 127), (&[0xe5, 0x8e, 0x26], 624_485), (&[0x80, 0x00], 0)] {
            assert_eq!(Reader::new(bytes).uleb(), Some(expected));
        }
        for (bytes, expected) in [
            (&[0x78][..], -8),
            (&[0x08], 8),
            (&[0x80, 0x7f], -128),
            (&[0xc0, 0xbb, 0x78], -123_456),
            (&[0x7f], -1),
        ] {
            assert_eq!(Reader::new(bytes).sleb(), Some(expected));
        }
        assert_eq!(Reader::new(&[0xff; 20]).uleb(), None);
        assert_eq!(Reader::new(&[0xff; 20]).sleb(), None);
        assert_eq!(Reader::new(&[0x80]).uleb(), None);
    }

    #[test]
    fn nothing_is_read_past_the_end() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u32(), None);
        assert_eq!(reader.u16(), Some(0x0201));
        assert_eq!(reader.take(usize::MAX), None);
        assert_eq!(reader.string(), None);
        assert_eq!(reader.u8(), Some(3));
        assert_eq!(reader.u8(), None);
        assert_eq!(Reader::at(&[1], 9).u8(), None);
    }
}
