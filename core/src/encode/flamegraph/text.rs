//! Writing text that a browser reads: JSON strings that are harmless inside HTML, HTML text and base64.
//!
//! Names of functions, files, threads and tags come from the profiled program, so they are hostile until proven
//! otherwise: nothing here lets one of them end a `<script>` element, open a comment or start a tag.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends `text` as a JSON string. Everything that HTML could take for markup is written as `\uXXXX`, which JSON
/// reads back as the same character.
pub(super) fn json_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '<' | '>' | '&' | '\'' | '\u{2028}' | '\u{2029}' => unicode_escape(out, c),
            c if c.is_control() => unicode_escape(out, c),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Appends `text` so that HTML shows it as it is, in an element or in a quoted attribute.
pub(super) fn html_text(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
}

fn unicode_escape(out: &mut String, c: char) {
    // Every character that is escaped lies in the basic plane: four digits are enough.
    out.push_str(&format!("\\u{:04x}", c as u32));
}

/// Base64 of a stream of bytes, appended to a string as the bytes come.
pub(super) struct Base64<'s> {
    out: &'s mut String,
    bits: u32,
    held: u8,
}

impl<'s> Base64<'s> {
    pub(super) fn new(out: &'s mut String) -> Self {
        Self { out, bits: 0, held: 0 }
    }

    pub(super) fn byte(&mut self, byte: u8) {
        self.bits = self.bits << 8 | u32::from(byte);
        self.held += 1;
        if self.held == 3 {
            self.digits(4);
            self.bits = 0;
            self.held = 0;
        }
    }

    /// Writes what is held back, and the padding.
    pub(super) fn finish(mut self) {
        let held = usize::from(self.held);
        if held > 0 {
            self.bits <<= 8 * (3 - held);
            self.digits(held + 1);
            self.out.push_str(&"=="[..3 - held]);
        }
    }

    /// The first `count` of the four digits of the three bytes.
    fn digits(&mut self, count: usize) {
        for place in 0..count {
            let digit = self.bits >> (18 - 6 * place) & 63;
            self.out.push(char::from(ALPHABET[digit as usize]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base64(bytes: &[u8]) -> String {
        let mut out = String::new();
        let mut writer = Base64::new(&mut out);
        bytes.iter().for_each(|&byte| writer.byte(byte));
        writer.finish();
        out
    }

    #[test]
    fn base64_agrees_with_the_vectors_of_rfc_4648() {
        for (bytes, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), expected);
        }
    }

    #[test]
    fn markup_cannot_leave_a_json_string() {
        let mut out = String::new();
        json_string(&mut out, "</script><!--<script>'\"\\\u{2028}\n&");
        for forbidden in ["<", ">", "&", "'", "\n", "\u{2028}"] {
            assert!(!out.contains(forbidden), "{out}");
        }
        assert!(out.contains("\\u003c/script\\u003e\\u003c!--"), "{out}");
    }

    #[test]
    fn markup_is_shown_not_obeyed() {
        let mut out = String::new();
        html_text(&mut out, "<b a=\"'\">&");
        assert_eq!(out, "&lt;b a=&quot;&#39;&quot;&gt;&amp;");
    }
}
