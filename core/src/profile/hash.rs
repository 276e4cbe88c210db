//! The hash of the interning tables: keyed, since profiles are also read from files that anyone may have made, and made for
//! short keys, since reading a directory is little else. The standard library's takes several times as long for them.

use std::hash::{BuildHasher, Hasher, RandomState};

/// Two secret numbers. A clone has the same, as the index that was made with them.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    state: u64,
    factor: u64,
}

impl Default for Keys {
    fn default() -> Self {
        let random = RandomState::new();
        Self { state: random.hash_one(0u8), factor: random.hash_one(1u8) | 1 }
    }
}

impl Keys {
    /// The hash of a list of numbers.
    pub(super) fn hash_numbers(&self, numbers: impl ExactSizeIterator<Item = u32>) -> u64 {
        let mut hash = self.build_hasher();
        hash.word(numbers.len() as u64);
        let mut half = None;
        for number in numbers {
            match half.take() {
                None => half = Some(number),
                Some(first) => hash.word(u64::from(first) << 32 | u64::from(number)),
            }
        }
        if let Some(last) = half {
            hash.word(last.into());
        }
        hash.finish()
    }
}

impl BuildHasher for Keys {
    type Hasher = Folding;

    fn build_hasher(&self) -> Folding {
        Folding { state: self.state, factor: self.factor }
    }
}

/// Each word is mixed in by a multiplication whose two halves are folded into one.
pub(super) struct Folding {
    state: u64,
    factor: u64,
}

impl Folding {
    fn word(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.factor);
        // The word is added once more: a state that it has turned to 0 does not stay so.
        self.state = (product as u64 ^ (product >> 64) as u64).wrapping_add(word.rotate_left(32));
    }
}

impl Hasher for Folding {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.word(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        // The length tells what is text from what fills up.
        self.word(u64::from_le_bytes(last) ^ (bytes.len() as u64) << 56);
    }

    fn write_u8(&mut self, number: u8) {
        self.word(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.word(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.word(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.word(number as u64);
    }

    fn write_i64(&mut self, number: i64) {
        self.word(number as u64);
    }

    fn finish(&self) -> u64 {
        let product = u128::from(self.state) * u128::from(self.factor);
        product as u64 ^ (product >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_that_are_alike_spread_evenly() {
        let keys = Keys::default();
        let lists = (0..10_000u32).flat_map(|n| [vec![n], vec![n, 0], vec![0, n + 1], vec![n << 18, 1]]);
        let hashes: HashSet<u32> =
            lists.map(|list| (keys.hash_numbers(list.into_iter()) >> 32) as u32).collect();
        // Of 40,000 draws of 32 bits chance makes some 0.2 pairs; lists that are the same are none of them.
        assert!(hashes.len() > 39_980, "{}", hashes.len());
        let mut slots = [0u32; 256];
        (0..25_600u64).for_each(|n| slots[(keys.hash_one(n * 4096) >> 32) as usize % 256] += 1);
        assert!(slots.iter().all(|count| (40..180).contains(count)), "{slots:?}");
    }

    #[test]
    fn texts_of_other_lengths_differ() {
        let keys = Keys::default();
        let texts = ["", "\0", "\0\0", "a", "a\0", "aaaaaaaa", "aaaaaaaa\0", "aaaaaaaaa"];
        assert_eq!(texts.iter().map(|text| keys.hash_one(text)).collect::<HashSet<_>>().len(), texts.len());
    }

    #[test]
    fn every_table_has_its_own_keys() {
        assert_ne!(Keys::default().hash_one("a"), Keys::default().hash_one("a"));
    }
}
