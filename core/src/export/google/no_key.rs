//! In the place of service accounts' keys where this build cannot sign: the same names, and nothing comes of them.

use crate::options::Url;

/// There is none.
pub(super) struct Key {
    pub(super) server: Url,
    pub(super) project: Option<String>,
}

pub(super) fn read(path: &str) -> Result<Key, String> {
    Err(format!("this build of everprof cannot sign by the key in {path}: build it with its feature `tls`"))
}

impl Key {
    pub(super) fn request(&self) -> Result<String, String> {
        Err("this build of everprof cannot sign".to_string())
    }
}
