//! Call-frame information: any bytes in the place of a module's `.eh_frame_hdr` and `.eh_frame` make a table or none.
//!
//! Input: the length of the header in two bytes, the header, and the section right behind it.
#![no_main]

use everprof_probe::unwind::{Section, check};
use libfuzzer_sys::fuzz_target;

const HEADER: u64 = 0x2000;

fuzz_target!(|input: &[u8]| {
    let Some((length, bytes)) = input.split_first_chunk::<2>() else { return };
    let length = usize::from(u16::from_le_bytes(*length)).min(bytes.len());
    let (header, section) = bytes.split_at(length);
    let header = Section { bytes: header, address: HEADER };
    let section = Section { bytes: section, address: HEADER + length as u64 };
    let _ = check(0x1000..0x2_0000, header, section);
});
