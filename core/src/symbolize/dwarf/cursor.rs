//! A reader of little-endian numbers that knows where the bytes end.

use crate::symbolize::stats::Reason;

/// The rest of some bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn take(&mut self, size: u64) -> Result<&'a [u8], Reason> {
        let size = usize::try_from(size).map_err(|_| Reason::Malformed)?;
        let (head, rest) = self.rest.split_at_checked(size).ok_or(Reason::Malformed)?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Reason> {
        let (&byte, rest) = self.rest.split_first().ok_or(Reason::Malformed)?;
        self.rest = rest;
        Ok(byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Reason> {
        Ok(self.word(2)? as u16)
    }

    /// A number of `size` bytes, 1 to 8.
    pub(crate) fn word(&mut self, size: u8) -> Result<u64, Reason> {
        let bytes = self.take(u64::from(size))?;
        Ok(bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)))
    }

    /// The length of a unit, and the size of offsets in it: 4, or 8 after an escape.
    pub(crate) fn initial_length(&mut self) -> Result<(u64, u8), Reason> {
        match self.word(4)? {
            0xffff_ffff => Ok((self.word(8)?, 8)),
            0xffff_fff0.. => Err(Reason::Malformed),
            length => Ok((length, 4)),
        }
    }

    #[inline]
    pub(crate) fn uleb(&mut self) -> Result<u64, Reason> {
        let mut value = 0u64;
        let mut shift = 0;
        loop {
            let byte = self.u8()?;
            if shift < 64 {
                value |= u64::from(byte & 0x7f) << shift;
            }
            shift += 7;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
    }

    pub(crate) fn sleb(&mut self) -> Result<i64, Reason> {
        let mut value = 0i64;
        let mut shift = 0;
        loop {
            let byte = self.u8()?;
            if shift < 64 {
                value |= i64::from(byte & 0x7f) << shift;
            }
            shift += 7;
            if byte & 0x80 == 0 {
                let negative = byte & 0x40 != 0 && shift < 64;
                return Ok(if negative { value | -1 << shift } else { value });
            }
        }
    }

    /// The bytes before the next zero, which is passed over.
    pub(crate) fn text(&mut self) -> Result<&'a [u8], Reason> {
        let end = self.rest.iter().position(|&byte| byte == 0).ok_or(Reason::Malformed)?;
        let text = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn numbers_of_variable_length() {
        let uleb = |bytes: &[u8]| Cursor::new(bytes).uleb();
        let sleb = |bytes: &[u8]| Cursor::new(bytes).sleb();
        assert_eq!(uleb(&[0xe5, 0x8e, 0x26]).unwrap(), 624_485);
        assert_eq!(uleb(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]).unwrap(), u64::MAX);
        assert!(uleb(&[0x80]).is_err());
        assert_eq!(sleb(&[0xc0, 0xbb, 0x78]).unwrap(), -123_456);
        assert_eq!(sleb(&[0x7f]).unwrap(), -1);
        assert_eq!(sleb(&[0x3f]).unwrap(), 63);
        assert_eq!(sleb(&[0x80; 40]).err(), Some(Reason::Malformed));
        assert_eq!(Cursor::new(&[1, 2, 3]).word(3).unwrap(), 0x030201);
    }
}
