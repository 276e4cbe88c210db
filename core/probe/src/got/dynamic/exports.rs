//! The functions that an object has for others, found by name as the loader finds them: by the hash table of GNU, or that
//! of the specification where there is no other.

use super::{Dynamic, Symbol};

/// The kind of a symbol that is a function, in the low half of `st_info`.
const FUNCTION: u8 = 2;
/// Names with one hash that are looked at: tables that go on for longer make no sense.
const LONGEST_CHAIN: u32 = 10_000;

impl Dynamic {
    /// The address of the function of this name that the object defines.
    pub(in super::super) fn export(&self, name: &[u8]) -> Option<u64> {
        let [of_gnu, of_system] = self.hashes;
        if of_gnu != 0 { self.by_gnu(of_gnu, name) } else { self.by_system(of_system, name) }
    }

    /// A head of four numbers, a filter that is not asked here, the first symbol of each bucket, and for each symbol its hash,
    /// whose last bit says that the bucket ends.
    fn by_gnu(&self, table: u64, name: &[u8]) -> Option<u64> {
        let hash =
            name.iter().fold(5381_u32, |hash, byte| hash.wrapping_mul(33).wrapping_add((*byte).into()));
        let [buckets, first, filter, _] = self.read::<[u32; 4]>(table)?;
        let start = table + 16 + 8 * u64::from(filter);
        let begin: u32 = self.read(start + 4 * u64::from(hash.checked_rem(buckets)?))?;
        let hashes = start + 4 * u64::from(buckets);
        for number in begin..begin.saturating_add(LONGEST_CHAIN) {
            let of_symbol: u32 = self.read(hashes + 4 * u64::from(number.checked_sub(first)?))?;
            if of_symbol | 1 == hash | 1
                && let Some(found) = self.defined(number, name)
            {
                return Some(found);
            }
            if of_symbol & 1 != 0 {
                return None;
            }
        }
        None
    }

    /// How many buckets and symbols, the first symbol of each bucket, and after each symbol the next.
    fn by_system(&self, table: u64, name: &[u8]) -> Option<u64> {
        let hash = name.iter().fold(0_u32, |hash, byte| {
            let hash = (hash << 4).wrapping_add((*byte).into());
            (hash ^ (hash & 0xf000_0000) >> 24) & 0x0fff_ffff
        });
        let [buckets, _] = self.read::<[u32; 2]>(table)?;
        let mut number: u32 = self.read(table + 8 + 4 * u64::from(hash.checked_rem(buckets)?))?;
        let chains = table + 8 + 4 * u64::from(buckets);
        for _ in 0..LONGEST_CHAIN {
            if number == 0 {
                return None;
            }
            if let Some(found) = self.defined(number, name) {
                return Some(found);
            }
            number = self.read(chains + 4 * u64::from(number))?;
        }
        None
    }

    fn defined(&self, number: u32, name: &[u8]) -> Option<u64> {
        let symbol: Symbol = self.symbol(number.into())?;
        let is_it = symbol.section != 0 && symbol.info & 15 == FUNCTION && self.name(&symbol) == Some(name);
        is_it.then(|| self.bias.wrapping_add(symbol.value))
    }
}
