//! gzip, as all profiles leave us: whole files, and files that begin alike.

use std::io::Write;

use flate2::write::{DeflateEncoder, GzEncoder};
use flate2::{Compression, Crc};

/// The compression level: 1 takes a third of the time of the usual 6 and its files are a fifth larger.
const LEVEL: Compression = Compression::new(1);

/// What stands before the data: deflate, nothing told of the file but that it was made fast, on no system.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff];

/// A writer of a file.
pub(super) fn writer() -> GzEncoder<Vec<u8>> {
    GzEncoder::new(Vec::new(), LEVEL)
}

/// These bytes as a file.
pub(super) fn compress(bytes: &[u8]) -> Vec<u8> {
    compress_all([bytes].into_iter(), bytes.len())
}

/// These pieces, of so many bytes in all, as a file.
pub(super) fn compress_all(mut pieces: impl Iterator<Item = impl AsRef<[u8]>>, bytes: usize) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::with_capacity(room(bytes)), LEVEL);
    // A vector takes whatever is written to it: neither of the two can fail.
    let written = pieces.try_for_each(|piece| gzip.write_all(piece.as_ref()));
    let mut file = written.and_then(|()| gzip.finish()).unwrap_or_default();
    // It may wait for a server for hours.
    file.shrink_to_fit();
    file
}

/// What a profile of so many bytes rarely exceeds.
fn room(bytes: usize) -> usize {
    bytes / 2 + bytes / 8 + 64
}

/// How many files begin, compressed once for all of them: nothing that comes later refers to it, so that it can be copied.
pub(super) struct Beginning {
    /// The head, and blocks that end with a byte.
    file: Vec<u8>,
    sum: Crc,
}

impl Beginning {
    /// With these pieces, of so many bytes in all.
    pub(super) fn new(pieces: impl Iterator<Item = impl AsRef<[u8]>>, bytes: usize) -> Self {
        let mut file = Vec::with_capacity(room(bytes));
        file.extend_from_slice(&HEAD);
        let mut deflate = DeflateEncoder::new(file, LEVEL);
        let sum = append(&mut deflate, pieces);
        // Into a vector, as above. It ends a block and fills its last byte.
        let flushed = deflate.flush();
        let file = flushed.map(|()| std::mem::take(deflate.get_mut())).unwrap_or_default();
        Self { file, sum }
    }

    /// The file that goes on with these pieces, and ends.
    pub(super) fn with(&self, pieces: impl Iterator<Item = impl AsRef<[u8]>>, bytes: usize) -> Vec<u8> {
        let mut file = Vec::with_capacity(self.file.len() + room(bytes));
        file.extend_from_slice(&self.file);
        let mut deflate = DeflateEncoder::new(file, LEVEL);
        let of_rest = append(&mut deflate, pieces);
        let mut file = deflate.finish().unwrap_or_default();
        let mut sum = Crc::new();
        sum.combine(&self.sum);
        sum.combine(&of_rest);
        file.extend_from_slice(&sum.sum().to_le_bytes());
        file.extend_from_slice(&sum.amount().to_le_bytes());
        file.shrink_to_fit();
        file
    }
}

/// Compresses these pieces, and returns their check.
fn append(to: &mut DeflateEncoder<Vec<u8>>, pieces: impl Iterator<Item = impl AsRef<[u8]>>) -> Crc {
    let mut sum = Crc::new();
    for piece in pieces {
        sum.update(piece.as_ref());
        // As above.
        to.write_all(piece.as_ref()).unwrap_or_default();
    }
    sum
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn read(file: &[u8]) -> Vec<u8> {
        let (mut bytes, mut gzip) = (Vec::new(), GzDecoder::new(file));
        gzip.read_to_end(&mut bytes).unwrap();
        assert!(gzip.into_inner().is_empty(), "one member, and nothing behind it");
        bytes
    }

    #[test]
    fn files_that_begin_alike_are_files() {
        let text = |seed: usize, length: usize| -> Vec<u8> {
            (0..length).map(|at| ((at * at / 7 + seed) % 251) as u8).collect()
        };
        for shared in [0, 1, 100, 300_000] {
            let beginning = Beginning::new([text(1, shared)].iter(), shared);
            for rest in [0, 1, 100, 300_000] {
                let whole = [text(1, shared), text(2, rest)].concat();
                let (first, second) = whole[shared..].split_at(rest / 3);
                let file = beginning.with([first, second].iter(), rest);
                assert_eq!(read(&file), whole, "{shared} and {rest}");
                assert_eq!(file, beginning.with([first, second].iter(), rest), "the same each time");
                assert_eq!(read(&compress(&whole)), whole);
            }
        }
        assert_eq!(compress(b"")[..10], HEAD, "the head that the library writes");
    }
}
