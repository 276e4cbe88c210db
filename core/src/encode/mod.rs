//! The encoders: the profile model into bytes that a viewer or a backend reads, and back.
//!
//! Called on everprof's own thread at the end of a period, and by whoever reads profiles. pprof is the master
//! format: nothing of the model is lost in it, and [`pprof::decode`] reads it back. The others are for
//! viewers and write only. What leaves towards a backend is [`Encoded`], gathered in a [`Set`]: the exporters
//! never see the model.

pub mod collapsed;
pub(crate) mod dialect;
pub mod flamegraph;
mod frames;
mod gzip;
pub(crate) mod json;
pub(crate) mod kept;
mod otlp;
pub mod pprof;
pub(crate) mod protobuf;
mod set;
mod sha256;
pub mod speedscope;

pub use dialect::Dialect;
pub use set::{Encoded, Format, ProfileId, Set};
pub(crate) use sha256::sha256;
