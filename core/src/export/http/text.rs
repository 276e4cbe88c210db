//! Text on its way to a server, and from there into a log.

use std::collections::HashSet;

/// What stands in a secret's place.
const HIDDEN: &str = "[hidden]";
/// The first words of what a server said are enough.
const MOST_WORDS: usize = 200;

/// Base64 with padding.
pub(in super::super) fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let at = |place: usize| u32::from(three.get(place).copied().unwrap_or_default());
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place)) as usize & 63];
            out.push(if place <= three.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

/// What such a text stands for, with padding or without; none where it is not base64.
#[cfg(feature = "grpc")]
pub(super) fn unbase64(text: &str) -> Option<Vec<u8>> {
    let (mut bits, mut bytes) = (0u32, Vec::with_capacity(text.len() / 4 * 3));
    for (place, letter) in text.trim_end_matches('=').bytes().enumerate() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        if place % 4 != 0 {
            bytes.push((bits >> (6 - 2 * (place % 4))) as u8);
        }
    }
    Some(bytes)
}

/// `text` with each `{name}` that `value` knows replaced; others stay.
pub(in super::super) fn filled(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        out += before;
        let known = after.split_once('}').and_then(|(name, behind)| Some((value(name)?, behind)));
        match known {
            Some((value, behind)) => {
                out += &value;
                rest = behind;
            }
            None => {
                out.push('{');
                rest = after;
            }
        }
    }
    out + rest
}

/// So many bytes of a secret are one: servers quote parts of what they were sent, and we read a part of what they say.
const PART: usize = 8;
/// What is looked at: more than is shown of it.
const MOST_LOOKED_AT: usize = 4 << 10;

/// Without these secrets, and parts of them, in whatever the other side sends back.
pub(super) fn without(text: &str, secrets: &[String]) -> String {
    let text = text.get(..text.floor_char_boundary(MOST_LOOKED_AT)).unwrap_or_default();
    let whole = secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), HIDDEN));
    let mut is_secret = vec![false; whole.len()];
    for secret in secrets.iter().filter(|secret| secret.len() >= PART) {
        let parts: HashSet<&[u8]> = secret.as_bytes().windows(PART).collect();
        for (at, part) in whole.as_bytes().windows(PART).enumerate() {
            if parts.contains(part) {
                is_secret.iter_mut().skip(at).take(PART).for_each(|byte| *byte = true);
            }
        }
    }
    let mut out = String::with_capacity(whole.len());
    let mut hides = false;
    for (at, letter) in whole.char_indices() {
        let hide = (at..at + letter.len_utf8()).any(|at| is_secret.get(at).copied().unwrap_or_default());
        match (hide, hides) {
            (true, false) => out += HIDDEN,
            (true, true) => {}
            (false, _) => out.push(letter),
        }
        hides = hide;
    }
    out
}

/// One line of visible characters, cut.
pub(super) fn harmless(text: &str) -> String {
    let visible: String = text
        .chars()
        .map(|letter| if letter.is_control() || letter == '\u{fffd}' { ' ' } else { letter })
        .take(MOST_WORDS * 4)
        .collect();
    let words: Vec<&str> = visible.split_whitespace().collect();
    words.join(" ").chars().take(MOST_WORDS).collect()
}

/// The longest first, so that none leaves its end behind; and none that is in every text.
pub(super) fn arrange(secrets: &mut Vec<String>) {
    secrets.retain(|secret| secret.len() >= 4);
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
        #[cfg(feature = "grpc")]
        for bytes in [&b""[..], b"f", b"fo", b"foobar", &[0xff, 0xfe, 0xfd, 0]] {
            let text = base64(bytes);
            assert_eq!(unbase64(&text).as_deref(), Some(bytes));
            assert_eq!(unbase64(text.trim_end_matches('=')).as_deref(), Some(bytes));
            assert_eq!(unbase64(&format!("{text}!")), None);
        }
    }

    #[test]
    fn templates_are_filled_in() {
        let value = |name: &str| (name == "kind").then(|| "cpu".to_string());
        assert_eq!(filled("/{kind}/a{b}{kind", value), "/cpu/a{b}{kind");
    }

    #[test]
    fn what_servers_say_is_made_harmless() {
        assert_eq!(harmless("a\r\n\u{1b}[31mb\u{0}"), "a [31mb");
        assert!(harmless(&"x".repeat(10_000)).len() <= 200);
        assert_eq!(without("Bearer sesame!", &["sesame".into()]), "Bearer [hidden]!");
    }

    /// A user of a proxy may have no password.
    #[test]
    fn what_is_in_every_text_is_no_secret() {
        let mut secrets: Vec<String> = ["", "abc", "sesame", "sesame-open"].map(String::from).into();
        arrange(&mut secrets);
        assert_eq!(secrets, ["sesame-open", "sesame"]);
        assert_eq!(without("no: sesame-open is wrong", &secrets), "no: [hidden] is wrong");
    }

    /// A token longer than what is read of an answer, and servers that quote the first letters of one.
    #[test]
    fn parts_of_secrets_are_secrets() {
        let token: String = (0..4_000).map(|n: u32| char::from(b'a' + (n * n % 23) as u8)).collect();
        let secrets = [token.clone(), "sesame".into()];
        for said in [&token[..2_000], &token[100..140], &token[3_000..]] {
            let told = without(&format!("no: {said} is wrong"), &secrets);
            assert_eq!(told, "no: [hidden] is wrong");
        }
        assert_eq!(without("ä sesamesesame ö", &secrets), "ä [hidden][hidden] ö");
        assert_eq!(without(&"ä".repeat(5_000), &secrets).len(), 4_096);
    }
}
