//! Options from a file: one `name = value` a line.
//!
//! Blank lines and lines that start with `#` say nothing; a `#` after white space ends a value. A value may stand in
//! double quotes, within which `#` is a character, `\"` a quote and `\\` a backslash. A flat TOML file with quoted
//! strings and bare numbers is read as TOML means it; tables and arrays are refused.

use std::fmt;
use std::io::Read;
use std::path::Path;

use super::text::unquoted;
use super::{Options, invalid, spell, table};
use crate::error::{Error, ErrorKind, Result};

/// A configuration of these few options is not longer; a wrong path might be.
pub(super) const MOST_BYTES: u64 = 64 << 10;

impl Options {
    /// Options from a file, over the defaults.
    ///
    /// Errors: kind [`ErrorKind::Storage`] where it cannot be read, [`ErrorKind::InvalidOption`] with the file and the
    /// line where it is wrong.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Options> {
        let mut options = Options::default();
        options.apply_file(path)?;
        Ok(options)
    }

    /// Sets what a file says and leaves the other options. On an error nothing changes.
    pub fn apply_file(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let unreadable = |source| {
            Error::io(ErrorKind::Storage, format!("options file {} not read", path.display()), source)
        };
        let file = std::fs::File::open(path).map_err(unreadable)?;
        let mut bytes = Vec::new();
        file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(invalid(format!(
                "options file {} is longer than 64 KiB: name another one",
                path.display()
            )));
        }
        let Ok(text) = String::from_utf8(bytes) else {
            return Err(invalid(format!("options file {} is not UTF-8: name another one", path.display())));
        };
        self.apply_lines(&text, &path.display().to_string())
    }

    /// Sets what the lines of a file say; `file` names it in errors. On an error nothing changes.
    ///
    /// ```
    /// let mut options = everprof::Options::default();
    /// options.apply_lines("# all of them\nrate_hz = 250  # more\ndir = \"/var/a #1\"\n", "x.conf").unwrap();
    /// assert_eq!(options.get("dir").as_deref(), Some("/var/a #1"));
    /// ```
    pub fn apply_lines(&mut self, text: &str, file: &str) -> Result<()> {
        let mut changed = self.clone();
        for Entry { name, value, place, .. } in entries(text, file)? {
            changed.set_from(&name, &value, &place)?;
        }
        *self = changed;
        Ok(())
    }
}

/// What one line says.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) value: String,
    line: usize,
    /// The file and the line, for errors.
    pub(super) place: String,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_secret = table::find(&self.name).is_none_or(|spec| spec.secret);
        write!(f, "{}: {} = {}", self.place, self.name, spell::shown(&self.value, is_secret))
    }
}

/// What all lines say, each name once.
pub(super) fn entries(text: &str, file: &str) -> Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let (number, line) = (number + 1, line.trim());
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = format!("{file} line {number}");
        let Some((name, value)) = line.split_once('=') else {
            return Err(invalid(format!("{place} has no `=`: write name = value")));
        };
        let name = name.trim();
        let Some(value) = value_of(value.trim()) else {
            return Err(invalid(format!(
                "{place}: {name} has text after its closing quote, or none: write name = \"value\""
            )));
        };
        if table::find(name).is_none() {
            return Err(invalid(format!("{place}: {}", spell::unknown(name))));
        }
        if let Some(first) = entries.iter().find(|known| known.name == name) {
            let first = first.line;
            return Err(invalid(format!("{place}: {name} is given on line {first} already: give it once")));
        }
        entries.push(Entry { name: name.to_string(), value, line: number, place });
    }
    Ok(entries)
}

/// A value without its comment and quotes; none where the quotes do not fit.
fn value_of(value: &str) -> Option<String> {
    if !value.starts_with('"') {
        let comment =
            value.match_indices('#').find(|(at, _)| *at == 0 || value[..*at].ends_with(char::is_whitespace));
        let end = comment.map_or(value.len(), |(at, _)| at);
        return Some(value[..end].trim_end().to_string());
    }
    let mut escaped = false;
    let close = value.char_indices().skip(1).find(|(_, letter)| {
        let closes = *letter == '"' && !escaped;
        escaped = *letter == '\\' && !escaped;
        closes
    })?;
    let (quoted, rest) = value.split_at(close.0 + 1);
    let rest = rest.trim_start();
    (rest.is_empty() || rest.starts_with('#')).then(|| unquoted(quoted))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn values_lose_comments_and_quotes() {
        for (line, value) in [
            ("a # b", Some("a")),
            ("a#b", Some("a#b")),
            ("# b", Some("")),
            (r#""a # b" # c"#, Some("a # b")),
            (r#""a \" \\" "#, Some(r#"a " \"#)),
            (r#""a" b"#, None),
            (r#""a"#, None),
        ] {
            assert_eq!(value_of(line).as_deref(), value, "{line}");
        }
    }

    #[test]
    fn an_error_names_the_file_and_the_line_and_changes_nothing() {
        let mut options = Options::default();
        let error = options.apply_lines("rate_hz = 250\n\nperiod_s = never\n", "a.conf").unwrap_err();
        assert!(error.to_string().starts_with("a.conf line 3: period_s is \"never\": give"), "{error}");
        assert_eq!(options, Options::default());
    }

    #[test]
    fn no_secret_of_a_line_is_shown() {
        let lines =
            entries("push_token = s3cret\npush=http://ann:s3cret@host\nrate_hz=19", "a.conf").unwrap();
        let shown = format!("{lines:?}");
        assert!(!shown.contains("s3cret") && shown.contains("a.conf line 3: rate_hz = \"19\""), "{shown}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = Options::from_file("/nonexistent/everprof.conf").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert!(error.to_string().contains("/nonexistent/everprof.conf"), "{error}");
    }
}
