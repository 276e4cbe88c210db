//! A small shop: search over 50,000 products, product pages with stock from a slow upstream service, orders and a
//! report. JSON in and out, compressed answers, a cache behind a mutex: the ordinary things, to have something real to
//! profile.

pub mod cache;
pub mod catalogue;
pub mod client;
pub mod pprof;
pub mod routes;
pub mod text;
pub mod upstream;

/// A small generator of repeatable numbers (xorshift), for made-up products and made-up load.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }
}
