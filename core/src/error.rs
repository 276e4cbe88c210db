//! The one error type, with a kind that says what the caller can do about it.
//!
//! everprof's own failures never fail the host: they are values, they are reported once through `log` and counted in
//! `stats()`. What a user typed wrong is an error of kind [`ErrorKind::InvalidOption`] that names the option, the value
//! and what would be right.

use std::fmt;

/// What the caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Correct the option that the message names.
    InvalidOption,
    /// Correct the file or bytes that the message names: they are not what they should be.
    InvalidData,
    /// Make room, or grant access: a file or directory could not be read or written.
    Storage,
    /// Start once only, or use the guard that exists: a profiler runs in this process already.
    AlreadyRunning,
    /// Nothing here: the kernel, the platform or its policy does not offer what was asked for.
    Unsupported,
    /// Try again later: the other side could not be reached or did not accept.
    Unavailable,
    /// Report it to us: everprof itself went wrong.
    Internal,
}

impl ErrorKind {
    /// Every kind, in the order of declaration: bindings make one exception class of each.
    pub const ALL: [ErrorKind; 7] = [
        ErrorKind::InvalidOption,
        ErrorKind::InvalidData,
        ErrorKind::Storage,
        ErrorKind::AlreadyRunning,
        ErrorKind::Unsupported,
        ErrorKind::Unavailable,
        ErrorKind::Internal,
    ];

    /// What the caller can do about errors of this kind, in one sentence.
    ///
    /// ```
    /// assert_eq!(everprof::ErrorKind::InvalidOption.advice(), "Correct the option that the message names.");
    /// ```
    pub const fn advice(self) -> &'static str {
        match self {
            ErrorKind::InvalidOption => "Correct the option that the message names.",
            ErrorKind::InvalidData => {
                "Correct the file or bytes that the message names: they are not what they should be."
            }
            ErrorKind::Storage => {
                "Make room, or grant access: a file or directory could not be read or written."
            }
            ErrorKind::AlreadyRunning => {
                "Start once only, or stop first: a profiler runs in this process already."
            }
            ErrorKind::Unsupported => {
                "Nothing here: the kernel, the platform or its policy does not offer what was asked for."
            }
            ErrorKind::Unavailable => {
                "Try again later: the other side could not be reached or did not accept."
            }
            ErrorKind::Internal => "Report it to us: everprof itself went wrong.",
        }
    }

    /// The kind's stable name, in snake_case.
    pub const fn name(self) -> &'static str {
        match self {
            ErrorKind::InvalidOption => "invalid_option",
            ErrorKind::InvalidData => "invalid_data",
            ErrorKind::Storage => "storage",
            ErrorKind::AlreadyRunning => "already_running",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Internal => "internal",
        }
    }
}

/// An error: its [`ErrorKind`], one sentence, and the operating system's error where there was one.
///
/// ```
/// use everprof::{Error, ErrorKind};
/// let error = Error::new(ErrorKind::InvalidOption, "rate_hz is 0: give 1 to 10000");
/// assert_eq!(error.kind(), ErrorKind::InvalidOption);
/// assert_eq!(error.to_string(), "rate_hz is 0: give 1 to 10000");
/// ```
#[derive(thiserror::Error)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    #[source]
    source: Option<std::io::Error>,
}

impl Error {
    /// An error of `kind`, told in one sentence that names what was wrong and what would be right.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// An error of `kind` caused by the operating system's `source`, which the message then ends in.
    pub fn io(kind: ErrorKind, message: impl Into<String>, source: std::io::Error) -> Self {
        Self { kind, message: message.into(), source: Some(source) }
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            None => f.write_str(&self.message),
            Some(source) => write!(f, "{}: {source}", self.message),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({self})", self.kind)
    }
}

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;
