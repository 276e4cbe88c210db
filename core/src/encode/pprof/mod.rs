//! pprof: profile.proto, gzip-compressed, the format that `go tool pprof` and every backend reads.
//!
//! | of the model | in the file |
//! |---|---|
//! | tags | `comment` lines `key=value`, sorted by key |
//! | comments | `comment` lines after them |
//! | mappings, functions, locations | ids 1, 2, 3… in the order of their handles, the main binary's mapping first |
//! | labels | as they are; a number always has a unit |
//! | everything else | the field of the same name |
//!
//! Our own files read back without loss. Of foreign files, `drop_frames`, `keep_frames`, `doc_url` and
//! `is_folded` are not kept, and samples of the same stack and labels are summed.

mod read;
mod tables;
mod write;

pub use read::{Limits, decode, decode_within};
pub(crate) use read::{Read, decode_loose};
pub(crate) use tables::{Locations, Tables, cut};
pub(crate) use write::{Content, tables};
pub use write::{encode, encode_uncompressed};
