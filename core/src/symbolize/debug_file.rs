//! Where debug information is that was split off its program: by build ID, by `.gnu_debuglink`, and what several
//! files share by `.gnu_debugaltlink` or `.debug_sup`.
//!
//! A candidate is taken only when it proves to belong: by its build ID, or by the checksum in the link.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::dwarf::Cursor;
use super::elf::{Bytes, Elf};
use super::header::{le32, to_hex};
use super::inflate::debug_section;
use super::stats::Reason;

/// Links longer than this are not names of files.
const LINK_LIMIT: u64 = 4096 + 64;

/// The debug file of a program or library that was mapped from `path`; None where there is none.
pub(crate) fn separate(elf: &Elf, path: &Path, directories: &[PathBuf]) -> Option<Elf> {
    by_build_id(&elf.build_id, directories).or_else(|| by_link(elf, path, directories))
}

/// The file that the debug information in `elf` refers to; an error where it refers to one that is not there.
pub(crate) fn alternate(elf: &Elf, directories: &[PathBuf]) -> Result<Option<Elf>, Reason> {
    let Some((name, build_id)) = shared(elf)? else { return Ok(None) };
    if let Some(found) = by_build_id(&build_id, directories) {
        return Ok(Some(found));
    }
    let path = elf.path.as_ref().and_then(|path| std::fs::canonicalize(path).ok());
    let beside = path.as_deref().and_then(Path::parent).map(|folder| folder.join(&name));
    let found =
        beside.and_then(|path| Elf::open(&path).ok()).filter(|found| is_shared_file(found, &build_id));
    found.map(Some).ok_or(Reason::Missing)
}

/// The name and the build ID of the file that `elf` shares with others.
fn shared(elf: &Elf) -> Result<Option<(OsString, String)>, Reason> {
    if let Some((name, rest)) = link(elf, ".gnu_debugaltlink") {
        return Ok(Some((name, to_hex(&rest))));
    }
    // The standard's own, since version 5.
    let Some(section) = elf.section(".debug_sup").filter(|section| section.size <= LINK_LIMIT) else {
        return Ok(None);
    };
    let content = elf.bytes.take(section.offset, section.size)?;
    let mut cursor = Cursor::new(&content);
    let (version, is_shared, name) = (cursor.u16()?, cursor.u8()?, cursor.text()?);
    let size = cursor.uleb()?;
    let build_id = to_hex(cursor.take(size)?);
    let refers = version == 5 && is_shared == 0 && !name.is_empty();
    Ok(refers.then(|| (OsStr::from_bytes(name).to_owned(), build_id)))
}

/// What a shared file is known by, where it has no build ID: its own number in `.debug_sup`.
fn is_shared_file(elf: &Elf, build_id: &str) -> bool {
    let number = || {
        let section = elf.section(".debug_sup").filter(|section| section.size <= LINK_LIMIT)?;
        let content = elf.bytes.take(section.offset, section.size).ok()?;
        let mut cursor = Cursor::new(&content);
        cursor.take(3).ok()?;
        cursor.text().ok()?;
        let size = cursor.uleb().ok()?;
        Some(to_hex(cursor.take(size).ok()?))
    };
    elf.build_id == build_id || number().is_some_and(|number| number == build_id)
}

fn by_build_id(build_id: &str, directories: &[PathBuf]) -> Option<Elf> {
    let (first, rest) = build_id.split_at_checked(2).filter(|(_, rest)| !rest.is_empty())?;
    directories.iter().find_map(|directory| {
        let path = directory.join(".build-id").join(first).join(format!("{rest}.debug"));
        Elf::open(&path).ok().filter(|found| found.build_id == build_id && has_more(found))
    })
}

fn by_link(elf: &Elf, path: &Path, directories: &[PathBuf]) -> Option<Elf> {
    let (name, rest) = link(elf, ".gnu_debuglink")?;
    // A name, not a path: it must not lead anywhere else.
    let name = Path::new(&name).file_name()?.to_owned();
    // The checksum is aligned to four, counted from the start of the section.
    let padding = (name.len() + 1).next_multiple_of(4) - (name.len() + 1);
    let checksum = le32(rest.get(padding..).filter(|rest| rest.len() >= 4)?, 0);
    let path = std::fs::canonicalize(path).unwrap_or(path.to_owned());
    let folder = path.parent()?;
    let below = folder.strip_prefix("/").unwrap_or(folder);
    let beside = [folder.join(&name), folder.join(".debug").join(&name)];
    let central = directories.iter().map(|directory| directory.join(below).join(&name));
    beside.into_iter().chain(central).find_map(|candidate| {
        let found = Elf::open(&candidate).ok().filter(has_more)?;
        let same = match (elf.build_id.is_empty(), found.build_id.is_empty()) {
            (false, false) => elf.build_id == found.build_id,
            _ => checksum_of(&found.bytes).ok()? == checksum,
        };
        same.then_some(found)
    })
}

/// The name in a link section, and the bytes behind its end.
fn link(elf: &Elf, section: &str) -> Option<(OsString, Vec<u8>)> {
    let section = elf.section(section).filter(|section| section.size <= LINK_LIMIT)?;
    let content = elf.bytes.take(section.offset, section.size).ok()?;
    let end = content.iter().position(|&byte| byte == 0).filter(|&end| end > 0)?;
    Some((OsStr::from_bytes(&content[..end]).to_owned(), content[end + 1..].to_vec()))
}

/// Whether a file has what a stripped one lacks.
fn has_more(elf: &Elf) -> bool {
    debug_section(elf, "info").is_some() || elf.section(".symtab").is_some()
}

/// The CRC-32 of a whole file, read in pieces.
fn checksum_of(bytes: &Bytes) -> Result<u32, Reason> {
    let mut crc = flate2::Crc::new();
    let mut piece = vec![0; 64 * 1024];
    let mut done = 0;
    while done < bytes.len() {
        let size = (bytes.len() - done).min(piece.len() as u64) as usize;
        bytes.read(done, &mut piece[..size])?;
        crc.update(&piece[..size]);
        done += size as u64;
    }
    Ok(crc.sum())
}
