//! Agent strings: `name=value,name=value`, as a `-javaagent` argument or a command line carries options.
//!
//! A value that holds a comma stands in double quotes, or parts its entries by `;`: `tags=team=a;region=eu`.

use super::{Options, invalid};
use crate::error::Result;

impl Options {
    /// Options from an agent string, over the defaults.
    ///
    /// ```
    /// use everprof::Options;
    /// let options = Options::parse("service=checkout,rate_hz=250,tags=\"team=a,region=eu\"").unwrap();
    /// assert_eq!(options.rate_hz.hz(), 250);
    /// assert_eq!(options.get("tags").as_deref(), Some("region=eu,team=a"));
    /// ```
    pub fn parse(text: &str) -> Result<Options> {
        let mut options = Options::default();
        options.apply(text)?;
        Ok(options)
    }

    /// Sets what an agent string says and leaves the other options. On an error nothing changes.
    pub fn apply(&mut self, text: &str) -> Result<()> {
        let mut changed = self.clone();
        let mut seen: Vec<&str> = Vec::new();
        for (place, part) in parts(text)?.into_iter().enumerate() {
            // The part itself is not shown: it may be the rest of a secret that holds a comma.
            let Some((name, value)) = part.split_once('=') else {
                return Err(invalid(format!(
                    "part {} of the option string has no `=`: write name=value, and put a value with a comma in double quotes",
                    place + 1
                )));
            };
            let name = name.trim();
            if seen.contains(&name) {
                return Err(invalid(format!("{name} is given twice in the option string: give it once")));
            }
            seen.push(name);
            changed.set(name, &unquoted(value.trim()))?;
        }
        *self = changed;
        Ok(())
    }
}

/// The text between commas that stand outside of quotes; empty parts are left out.
fn parts(text: &str) -> Result<Vec<&str>> {
    let mut parts = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if quoted {
        return Err(invalid(
            "a double quote in the option string is not closed: close it with `\"`".to_string(),
        ));
    }
    parts.push(&text[start..]);
    parts.retain(|part| !part.trim().is_empty());
    Ok(parts)
}

/// A value without its double quotes; within them `\"` is a quote and `\\` a backslash.
pub(super) fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else {
        return value.to_string();
    };
    let mut out = String::with_capacity(inner.len());
    let mut letters = inner.chars();
    while let Some(letter) = letters.next() {
        match (letter, letter == '\\') {
            (_, true) => out.extend(letters.next()),
            (letter, false) => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_part_changes_nothing() {
        let mut options = Options::default();
        options.apply("rate_hz=250").unwrap();
        assert!(options.apply("rate_hz=500,period_s=never").is_err());
        assert_eq!(options.rate_hz.hz(), 250);
    }

    #[test]
    fn quotes_hold_commas_quotes_and_backslashes() {
        let options = Options::parse(r#" dir = "/a, \"b\" \\c" , service=x,, "#).unwrap();
        assert_eq!(options.get("dir").unwrap(), r#"/a, "b" \c"#);
        assert_eq!(options.service.as_str(), "x");
        assert!(Options::parse(r#"dir="/a"#).unwrap_err().to_string().contains("not closed"));
    }
}
