//! Key and value of a tag or a label: what they may be, and how text that is not gets made so.
//!
//! What the user typed is checked, and refused with a reason; what the host or its scheduler says is sanitised. Used by
//! `options`, `tags` and `labels` on any thread outside of handlers.

/// Longest key.
pub(crate) const MAX_KEY_BYTES: usize = 128;
/// Longest value.
pub(crate) const MAX_VALUE_BYTES: usize = 256;
/// Most tags that the user may add.
pub(crate) const MAX_USER_TAGS: usize = 64;

/// Whether `key` can be a tag or a label; else what would be right.
pub(crate) fn check_key(key: &str) -> Result<(), String> {
    let right = || {
        format!(
            "the key {:?} needs 1 to {MAX_KEY_BYTES} of the characters A-Z a-z 0-9 _ . - /, a letter or _ first",
            cut(key, 40)
        )
    };
    let first = key.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    let valid = first && key.len() <= MAX_KEY_BYTES && key.bytes().all(is_key_byte);
    if valid { Ok(()) } else { Err(right()) }
}

/// Whether `value` can be the value of a tag or a label; else what would be right.
pub(crate) fn check_value(value: &str) -> Result<(), String> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(format!("give at most {MAX_VALUE_BYTES} bytes of text"));
    }
    if value.contains(char::is_control) {
        return Err("give text without control characters".to_string());
    }
    Ok(())
}

/// The nearest valid key, or none where nothing is left of it.
pub(crate) fn sanitised_key(key: &str) -> Option<String> {
    let letters = key.trim().chars().map(|letter| match letter {
        letter if letter.is_ascii() && is_key_byte(letter as u8) => letter,
        _ => '_',
    });
    let mut clean: String = letters.take(MAX_KEY_BYTES - 1).collect();
    if clean.starts_with(|letter: char| !letter.is_ascii_alphabetic() && letter != '_') {
        clean.insert(0, '_');
    }
    (!clean.trim_matches('_').is_empty()).then_some(clean)
}

/// The nearest valid value.
pub(crate) fn sanitised_value(value: &str) -> String {
    let clean: String =
        value.trim().chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    cut(&clean, MAX_VALUE_BYTES).to_string()
}

/// Decodes `%XX`, as `OTEL_RESOURCE_ATTRIBUTES` writes commas, equals signs and what is not ASCII.
pub(crate) fn percent_decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = after.get(..2).and_then(|digits| Some(hex(digits[0])? << 4 | hex(digits[1])?));
        bytes.push(digits.ok_or("write a percent sign as %25")?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| "give percent-encoded UTF-8".to_string())
}

/// Encodes what would end a value in a list of `key=value` pairs, so that [`percent_decode`] gives it back.
pub(crate) fn percent_encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let (mut letters, mut outermost) = (value.chars().peekable(), true);
    while let Some(letter) = letters.next() {
        // White space at either end would be trimmed.
        let edge = letter.is_whitespace() && (outermost || letters.peek().is_none());
        if edge || matches!(letter, '%' | ',' | ';' | '"') {
            let mut buffer = [0; 4];
            letter.encode_utf8(&mut buffer).bytes().for_each(|byte| out.push_str(&format!("%{byte:02X}")));
        } else {
            out.push(letter);
        }
        outermost = false;
    }
    out
}

fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'/')
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_bounded() {
        for key in ["service", "k8s.pod.name", "app.kubernetes.io/name", "_x", "a-b"] {
            check_key(key).unwrap();
        }
        for key in ["", "1a", "a b", "ä", "a=b", &"a".repeat(129)] {
            assert!(check_key(key).is_err(), "{key:?}");
        }
        check_value("").unwrap();
        check_value("Grüße, 100 %").unwrap();
        assert!(check_value("a\nb").is_err());
        assert!(check_value(&"a".repeat(257)).is_err());
    }

    #[test]
    fn anything_can_be_sanitised() {
        assert_eq!(sanitised_key(" 1 a=b ").as_deref(), Some("_1_a_b"));
        assert_eq!(sanitised_key("ü"), None);
        for wild in ["\u{0}\u{7f}é", &"é".repeat(300), &"9".repeat(300)] {
            check_value(&sanitised_value(wild)).unwrap();
            sanitised_key(wild).map_or(Ok(()), |key| check_key(&key)).unwrap();
        }
    }

    #[test]
    fn percent_encoding_goes_there_and_back() {
        for value in ["a,b=c;d%e\"f", "", "ü €", "plain", " edges ", "\u{3000}"] {
            assert_eq!(percent_decode(&percent_encode(value)).unwrap(), value);
            assert_eq!(percent_encode(value).trim(), percent_encode(value));
        }
        assert_eq!(percent_decode("a%2Cb%3d%C3%BC").unwrap(), "a,b=ü");
        for wrong in ["%", "%2", "%zz", "%ff"] {
            assert!(percent_decode(wrong).is_err(), "{wrong}");
        }
    }
}
