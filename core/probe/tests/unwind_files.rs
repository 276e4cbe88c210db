//! The tables of whatever large files this machine has: what compilers really write is supported, down to a few rows of
//! `longjmp` and its kind.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr)]

use std::ops::Range;
use std::path::{Path, PathBuf};

use everprof_probe::unwind::{Count, Section, check};

fn check_file(bytes: &[u8]) -> Option<Count> {
    let (text, eh_frame_hdr, eh_frame) = sections(bytes)?;
    check(text, eh_frame_hdr, eh_frame)
}

/// Code, `.eh_frame_hdr` and `.eh_frame` of an ELF file as the loader would map them at address 0.
fn sections(bytes: &[u8]) -> Option<(Range<u64>, Section<'_>, Section<'_>)> {
    let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let headers = usize::try_from(word(32)?).ok()?;
    let mut text: Option<Range<u64>> = None;
    let mut loads = Vec::new();
    let mut eh_frame_hdr = None;
    for index in 0..usize::from(half(56)?) {
        let at = headers + index * 56;
        let kind = word(at)?;
        let (offset, address, len) = (word(at + 8)?, word(at + 16)?, word(at + 32)?);
        match kind as u32 {
            libc::PT_LOAD => {
                loads.push((offset, address..address + len));
                if kind >> 32 & u64::from(libc::PF_X) != 0 {
                    let text = text.get_or_insert(address & !0xfff..address + len);
                    text.end = text.end.max(address + len);
                }
            }
            libc::PT_GNU_EH_FRAME => eh_frame_hdr = Some((address, address + len)),
            _ => {}
        }
    }
    let section = |address: u64, end: Option<u64>| {
        let (offset, range) = loads.iter().find(|(_, range)| range.contains(&address))?;
        let end = end.unwrap_or(range.end);
        let start = usize::try_from(offset + (address - range.start)).ok()?;
        let bytes = bytes.get(start..start + usize::try_from(end - address).ok()?)?;
        Some(Section { bytes, address })
    };
    let (start, end) = eh_frame_hdr?;
    let hdr = section(start, Some(end))?;
    let relative = i32::from_le_bytes(hdr.bytes.get(4..8)?.try_into().ok()?);
    let eh_frame = (start + 4).wrapping_add_signed(i64::from(relative));
    Some((text?, hdr, section(eh_frame, None)?))
}

fn files() -> Vec<PathBuf> {
    let mut files = vec![std::env::current_exe().unwrap()];
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    files.extend(maps.lines().filter_map(|line| line.split_whitespace().nth(5)).map(PathBuf::from));
    let libraries = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64"];
    for name in ["libstdc++.so.6", "libcrypto.so.3", "libgcc_s.so.1", "libm.so.6"] {
        files.extend(libraries.iter().map(|library| Path::new(library).join(name)));
    }
    files.push("/usr/bin/node".into());
    // Further files to measure, separated by colons.
    let more = std::env::var_os("UNWIND_FILES").unwrap_or_default();
    files.extend(std::env::split_paths(&more));
    files.retain(|file| file.is_absolute() && file.is_file());
    files.sort();
    files.dedup();
    files
}

#[test]
fn what_compilers_write_is_supported() {
    let mut checked = 0;
    for file in files() {
        let bytes = std::fs::read(&file).unwrap();
        let machine: [u8; 2] = if cfg!(target_arch = "aarch64") { [183, 0] } else { [62, 0] };
        if bytes.get(..5) != Some(b"\x7fELF\x02") || bytes.get(18..20) != Some(&machine) {
            continue;
        }
        let start = std::time::Instant::now();
        let Some(count) = check_file(&bytes) else { panic!("{} has no table", file.display()) };
        let each = start.elapsed().as_nanos() as usize / count.read.max(1);
        eprintln!("{}: {count:?}, {each} ns a row", file.display());
        assert!(count.unsupported * 2000 <= count.read + 30_000, "{}: {count:?}", file.display());
        assert!(count.refused * 1000 <= count.read, "{}: {count:?}", file.display());
        checked += 1;
    }
    assert!(checked >= 3, "only {checked} files");
}

/// Damaged information gives fewer or wrong rows, but never a panic, an overflow or a loop. The fuzz target of the same
/// function looks further.
#[test]
fn damage_does_no_harm() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let loader =
        maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.contains("/ld-"));
    let bytes = std::fs::read(loader.map_or(std::env::current_exe().unwrap(), PathBuf::from)).unwrap();
    let (text, hdr, eh_frame) = sections(&bytes).unwrap();
    let whole = check(text.clone(), hdr, eh_frame).unwrap();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % below
    };
    let mut fewer = 0;
    for round in 0..400 {
        let (mut hdr_bytes, mut frame_bytes) = (hdr.bytes.to_vec(), eh_frame.bytes.to_vec());
        for _ in 0..=round % 40 {
            let at = random(frame_bytes.len().min(whole.read * 12));
            frame_bytes[at] = [0, 0xff, 0x80, 0x7f, random(256) as u8][random(5)];
            if round % 3 == 0 {
                let at = random(hdr_bytes.len());
                hdr_bytes[at] = random(256) as u8;
            }
        }
        frame_bytes.truncate(if round % 7 == 0 { random(frame_bytes.len()) } else { usize::MAX });
        let hdr = Section { bytes: &hdr_bytes, address: hdr.address };
        let count = check(text.clone(), hdr, Section { bytes: &frame_bytes, address: eh_frame.address });
        fewer += usize::from(count.is_none_or(|count| count != whole));
    }
    assert!(fewer > 200, "the damage shows in {fewer} of 400 rounds");
}
