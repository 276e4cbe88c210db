//! JSON: a writer for the formats that need it, and a reader for the small files beside the profiles.
//!
//! Two hundred lines instead of five crates. The writer escapes; commas and brackets are its caller's
//! business. The reader never panics and bounds its nesting; it keeps what our files hold, and skips over the
//! rest.

/// Appends `text` as a JSON string, quotes included.
pub(crate) fn push_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // The two line separators are legal here, but not in JavaScript that such a text is pasted into.
            '\0'..='\u{1f}' | '\u{7f}' | '\u{2028}' | '\u{2029}' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

/// `text` as a JSON string, quotes included.
pub(crate) fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_string(&mut out, text);
    out
}

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// `null`, `true` or `false`: nothing that we read depends on which.
    Word,
    /// A number, where it is whole and fits.
    Integer(i64),
    /// Any other number: nothing that we read has one.
    Number,
    Text(String),
    List(Vec<Value>),
    Object(Vec<(String, Value)>),
}

impl Value {
    /// The value of a key, where this is an object that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Object(members) => members.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    pub(crate) fn integer(&self) -> Option<i64> {
        match self {
            Value::Integer(integer) => Some(*integer),
            _ => None,
        }
    }
}

/// Nesting that no file of ours comes near; deeper input is refused, so that it cannot exhaust our stack.
const DEEPEST: usize = 32;

/// Reads a JSON text; `None` where it is not one.
pub(crate) fn parse(text: &str) -> Option<Value> {
    let mut parser = Parser { rest: text };
    let value = parser.value(0)?;
    parser.space();
    parser.rest.is_empty().then_some(value)
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    /// Takes `token` after white space, where it is next.
    fn take(&mut self, token: &str) -> Option<()> {
        self.space();
        self.rest = self.rest.strip_prefix(token)?;
        Some(())
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        self.space();
        if depth > DEEPEST {
            return None;
        }
        match self.rest.as_bytes().first()? {
            b'"' => self.text().map(Value::Text),
            b'{' => self.object(depth),
            b'[' => self.list(depth),
            b'-' | b'0'..=b'9' => self.number(),
            _ => ["null", "true", "false"].into_iter().find_map(|word| self.take(word)).map(|()| Value::Word),
        }
    }

    fn object(&mut self, depth: usize) -> Option<Value> {
        let mut members = Vec::new();
        self.take("{")?;
        if self.take("}").is_some() {
            return Some(Value::Object(members));
        }
        loop {
            self.space();
            let key = self.text()?;
            self.take(":")?;
            members.push((key, self.value(depth + 1)?));
            if self.take(",").is_none() {
                return self.take("}").map(|()| Value::Object(members));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Option<Value> {
        let mut values = Vec::new();
        self.take("[")?;
        if self.take("]").is_some() {
            return Some(Value::List(values));
        }
        loop {
            values.push(self.value(depth + 1)?);
            if self.take(",").is_none() {
                return self.take("]").map(|()| Value::List(values));
            }
        }
    }

    fn number(&mut self) -> Option<Value> {
        let end = self.rest.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E'));
        let (number, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        match number.parse::<i64>() {
            Ok(integer) => Some(Value::Integer(integer)),
            Err(_) => number.parse::<f64>().ok().map(|_| Value::Number),
        }
    }

    fn text(&mut self) -> Option<String> {
        self.rest = self.rest.strip_prefix('"')?;
        let mut text = String::new();
        loop {
            let (plain, rest) = self.rest.split_at(self.rest.find(['"', '\\'])?);
            text.push_str(plain);
            let mut chars = rest.chars();
            if chars.next() == Some('"') {
                self.rest = chars.as_str();
                return Some(text);
            }
            let escape = chars.next()?;
            self.rest = chars.as_str();
            text.push(match escape {
                '"' | '\\' | '/' => escape,
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'u' => self.unicode()?,
                _ => return None,
            });
        }
    }

    /// The character after `\u`; half of a pair alone becomes the replacement character.
    fn unicode(&mut self) -> Option<char> {
        let high = self.hex()?;
        if (0xd800..0xdc00).contains(&high) && self.rest.starts_with("\\u") {
            let before = self.rest;
            self.rest = self.rest.get(2..)?;
            let low = self.hex()?;
            if (0xdc00..0xe000).contains(&low) {
                return char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00));
            }
            self.rest = before;
        }
        Some(char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex(&mut self) -> Option<u32> {
        let digits =
            self.rest.get(..4).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        self.rest = self.rest.get(4..)?;
        u32::from_str_radix(digits, 16).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for text in ["", "plain", "\"\\/\n\r\t\u{1}\u{7f}\u{2028}", "ü 🦀 α"] {
            assert_eq!(parse(&string(text)), Some(Value::Text(text.into())), "{}", string(text));
        }
        assert!(string("\u{1}\u{2028}").is_ascii());
    }

    #[test]
    fn json_of_others_is_read() {
        let value = parse(r#" {"a" : [1, -2.5e3, true, null, "\ud83e\udd80\u00fc\b"], "b":{}, "c" : -7 } "#);
        let Some(value) = value else { unreachable!("not read") };
        assert_eq!(value.get("c").and_then(Value::integer), Some(-7));
        assert_eq!(value.get("b"), Some(&Value::Object(vec![])));
        let list =
            [Value::Integer(1), Value::Number, Value::Word, Value::Word, Value::Text("🦀ü\u{8}".into())];
        assert_eq!(value.get("a"), Some(&Value::List(list.into())));
        assert_eq!(parse(r#""\ud83ex""#), Some(Value::Text("\u{fffd}x".into())));
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in [
            "",
            "{",
            "[1,]",
            "{\"a\"}",
            "\"",
            "\"\\x\"",
            "1 2",
            "nul",
            "\"\\u12",
            "--",
            "{\"a\":1,}",
            "\"\\u+123\"",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse(&"[".repeat(100_000)), None, "nesting is bounded");
    }
}
