//! What a value of an option is, and the plain types: switches, text and paths.
//!
//! A type of these modules cannot hold a value out of its range, so nothing behind the options checks again.

use std::path::PathBuf;

use super::spell::HIDDEN;
use crate::error::{Error, ErrorKind};
use crate::pairs;

/// What the values of an option are like, for languages whose documentation has types. Text is right for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Shape {
    /// On or off.
    Flag,
    /// A whole number.
    Whole,
    /// A number that need not be whole.
    Number,
    /// A whole number, or words that say something else.
    NumberOrText,
    /// One of a few words, which [`crate::options::OptionSpec::accepts`] lists.
    Word,
    /// Text.
    Text,
    /// The path of a file or directory.
    Path,
    /// Entries parted by commas.
    List,
    /// Entries `key=value` parted by commas.
    Pairs,
}

/// A value of an option: made of text, and shown as the text that makes it again.
pub(super) trait Setting: Sized {
    /// Whether the value is hidden in output and errors.
    const SECRET: bool = false;
    /// What the value is like.
    const SHAPE: Shape = Shape::Text;
    /// What is accepted, for the documentation.
    fn accepts() -> String;
    /// The value, or a clause that says what would be right.
    fn parse(text: &str) -> Result<Self, String>;
    /// The canonical text.
    fn text(&self) -> String;
    /// What output shows of it.
    fn shown(&self) -> String {
        match self.text() {
            text if Self::SECRET && !text.is_empty() => HIDDEN.to_string(),
            text => text,
        }
    }
}

impl Setting for bool {
    const SHAPE: Shape = Shape::Flag;

    fn accepts() -> String {
        "on, off".to_string()
    }

    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "on" | "true" | "yes" | "1" => Ok(true),
            "off" | "false" | "no" | "0" => Ok(false),
            _ => Err("give on or off".to_string()),
        }
    }

    fn text(&self) -> String {
        if *self { "on" } else { "off" }.to_string()
    }
}

/// Text that goes into a tag: at most 256 bytes, no control characters. Empty where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagValue(String);

impl TagValue {
    /// The value, or an error of kind [`ErrorKind::InvalidOption`] that says what would be right.
    pub fn new(text: impl Into<String>) -> crate::Result<Self> {
        let text = text.into();
        match pairs::check_value(&text) {
            Ok(()) => Ok(Self(text)),
            Err(right) => {
                Err(Error::new(ErrorKind::InvalidOption, format!("not the value of a tag: {right}")))
            }
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for TagValue {
    fn accepts() -> String {
        format!("text, at most {} bytes", pairs::MAX_VALUE_BYTES)
    }

    fn parse(text: &str) -> Result<Self, String> {
        pairs::check_value(text).map(|()| Self(text.to_string()))
    }

    fn text(&self) -> String {
        self.0.clone()
    }
}

/// A file, or none where the text is empty.
impl Setting for Option<PathBuf> {
    const SHAPE: Shape = Shape::Path;

    fn accepts() -> String {
        "path of a file".to_string()
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(None);
        }
        PathBuf::parse(text).map(Some).map_err(|right| right.replace("directory", "file"))
    }

    fn text(&self) -> String {
        self.as_ref().map_or(String::new(), Setting::text)
    }
}

impl Setting for PathBuf {
    const SHAPE: Shape = Shape::Path;

    fn accepts() -> String {
        "path".to_string()
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains(char::is_control) {
            return Err("give the path of a directory, without control characters".to_string());
        }
        if text == "~" || text.starts_with("~/") {
            return Err("give the path of a directory; only a shell knows what `~` stands for".to_string());
        }
        Ok(PathBuf::from(text))
    }

    fn text(&self) -> String {
        self.display().to_string()
    }
}
