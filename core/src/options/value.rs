//! What a value of an option is, and the plain types: switches, text and paths.
//!
//! A type of these modules cannot hold a value out of its range, so nothing behind the options checks again.

use std::path::PathBuf;

use crate::tags;

/// A value of an option: made of text, and shown as the text that makes it again.
pub(super) trait Setting: Sized {
    /// What is accepted, for the documentation.
    fn accepts() -> String;
    /// The value, or a clause that says what would be right.
    fn parse(text: &str) -> Result<Self, String>;
    /// The canonical text.
    fn text(&self) -> String;
}

impl Setting for bool {
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

/// Text that goes into a tag.
impl Setting for String {
    fn accepts() -> String {
        format!("text, at most {} bytes", tags::MAX_VALUE_BYTES)
    }

    fn parse(text: &str) -> Result<Self, String> {
        tags::check_value(text).map(|()| text.to_string())
    }

    fn text(&self) -> String {
        self.clone()
    }
}

impl Setting for PathBuf {
    fn accepts() -> String {
        "path".to_string()
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains(char::is_control) {
            return Err("give the path of a directory".to_string());
        }
        Ok(PathBuf::from(text))
    }

    fn text(&self) -> String {
        self.display().to_string()
    }
}
