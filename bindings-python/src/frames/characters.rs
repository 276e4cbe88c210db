//! What the interpreter keeps of a string, as text.

/// A string of characters of 1, 2 or 4 bytes. What is no character, as half of a pair, is shown by its sign.
pub(super) fn text(bytes: &[u8], width: u8) -> String {
    let character = |number: u32| char::from_u32(number).unwrap_or(char::REPLACEMENT_CHARACTER);
    match width {
        2 => bytes.as_chunks().0.iter().map(|pair| character(u16::from_le_bytes(*pair).into())).collect(),
        4 => bytes.as_chunks().0.iter().map(|four| character(u32::from_le_bytes(*four))).collect(),
        _ => bytes.iter().map(|byte| char::from(*byte)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn characters_of_every_width() {
        assert_eq!(text(b"caf\xe9", 1), "café");
        assert_eq!(text(&[0x16, 0x04, 0x00, 0xd8], 2), "Ж\u{fffd}");
        assert_eq!(text(&[0x1e, 0xd1, 0x01, 0], 4), "𝄞");
    }
}
