//! The executable parts of this process' address space, from the text of `/proc/self/maps`.
//!
//! Called on everprof's own thread, once a period. [`parse`] is a pure function over bytes: a line that is not as the
//! kernel writes it is passed over, never an error. [`identify`] then looks at the ELF headers *in memory*, because the
//! file behind a path may have been replaced since it was mapped: what is in memory is what runs.
//!
//! It refuses to guess: a range without a file and without an ELF header is code that somebody generated
//! ([`ModuleKind::Jit`]).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::header;

/// What kind of code a module holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModuleKind {
    /// A mapped ELF file.
    Elf,
    /// The kernel's `[vdso]`, an ELF image without a file.
    Vdso,
    /// Code generated at run time: anonymous executable memory, or a file that is not ELF.
    Jit,
}

/// One executable mapping of this process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Module {
    /// First address.
    pub start: u64,
    /// Address after the last one.
    pub end: u64,
    /// Offset in the file of `start`.
    pub file_offset: u64,
    /// Path of the file as it was when it was mapped, or a name in brackets such as `[vdso]` or `[jit]`.
    pub path: PathBuf,
    /// GNU build ID in lower-case hex, read from memory; empty where there is none, and before [`identify`].
    pub build_id: String,
    /// What kind of code it holds.
    pub kind: ModuleKind,
    /// The file had no name any more when the map was read.
    pub deleted: bool,
    /// The file's inode number; 0 without a file.
    pub inode: u64,
    /// Where the ELF header of the file is mapped, if it is.
    pub header: Option<u64>,
    /// A hash of the ELF header and program headers in memory, to notice a replaced file that has no build ID; 0 where
    /// they could not be read, and before [`identify`].
    pub fingerprint: u64,
}

impl Module {
    /// Whether an address lies in the module.
    pub fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// Offset in the module's file of an address within it: with the build ID it names the instruction for ever.
    pub fn offset(&self, address: u64) -> u64 {
        address.wrapping_sub(self.start).wrapping_add(self.file_offset)
    }

    /// The last part of the path: `libc.so.6`, `[vdso]`.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }
}

/// The executable mappings in the text of a maps file, by address, but those of `main` first.
///
/// Neighbours that continue each other in the same file are one module.
///
/// ```
/// use everprof::symbolize::maps::{ModuleKind, parse};
/// let text = b"1000-2000 r--p 00000000 08:01 7 /bin/app\n2000-3000 r-xp 00001000 08:01 7 /bin/app\n";
/// let modules = parse(text, None);
/// assert_eq!(modules.len(), 1);
/// assert_eq!((modules[0].start, modules[0].end, modules[0].file_offset), (0x2000, 0x3000, 0x1000));
/// assert_eq!((modules[0].kind, modules[0].header), (ModuleKind::Elf, Some(0x1000)));
/// ```
pub fn parse(text: &[u8], main: Option<&Path>) -> Vec<Module> {
    let mut modules: Vec<Module> = Vec::new();
    // The last mapping of a file's first bytes: the dynamic loader maps a file's parts in ascending order.
    let mut header: Option<(Vec<u8>, u64, u64)> = None;
    for line in text.split(|&byte| byte == b'\n').filter_map(Entry::parse) {
        if line.inode != 0 && line.offset == 0 {
            header = Some((line.name.to_vec(), line.inode, line.start));
        }
        if !line.executable || line.name == b"[vsyscall]" {
            continue;
        }
        let own = header.as_ref().filter(|(name, inode, _)| name == line.name && *inode == line.inode);
        let module = line.module(own.map(|(.., start)| *start));
        match modules.last_mut() {
            Some(last) if continues(last, &module) => last.end = module.end,
            _ => modules.push(module),
        }
    }
    if let Some(main) = main {
        modules.sort_by_key(|module| module.path != main);
    }
    modules
}

/// The modules of this process, identified, the main binary first.
///
/// # Errors
///
/// The system's own, where `/proc` is not mounted or not readable.
pub fn own() -> std::io::Result<Vec<Module>> {
    let mut text = std::fs::read("/proc/self/maps")?;
    if text.is_empty() {
        // The process's first thread has ended before the others, and its memory is ours alone.
        text = std::fs::read("/proc/thread-self/maps")?;
    }
    let main =
        ["/proc/self/exe", "/proc/thread-self/exe"].into_iter().find_map(|exe| std::fs::read_link(exe).ok());
    let mut modules = parse(&text, main.as_deref().map(without_deleted).as_deref());
    identify(&mut modules, everprof_probe::memory::copy);
    Ok(modules)
}

/// Reads each module's ELF header with `memory`, which copies bytes at an address and says how many it could.
///
/// Fills in `build_id` and `fingerprint`, and turns file mappings that are not ELF into [`ModuleKind::Jit`].
pub fn identify(modules: &mut [Module], mut memory: impl FnMut(u64, &mut [u8]) -> usize) {
    for module in modules.iter_mut().filter(|module| module.kind != ModuleKind::Jit) {
        let Some(header) = module.header else { continue };
        match header::inspect(header, &mut memory) {
            header::Inspected::Unreadable => {}
            header::Inspected::NotElf => module.kind = ModuleKind::Jit,
            header::Inspected::Elf { build_id, fingerprint } => {
                module.build_id = build_id;
                module.fingerprint = fingerprint;
            }
        }
    }
}

fn continues(last: &Module, next: &Module) -> bool {
    last.end == next.start
        && last.path == next.path
        && last.kind == next.kind
        && last.inode == next.inode
        && (last.inode == 0 || last.file_offset.wrapping_add(last.end - last.start) == next.file_offset)
}

fn without_deleted(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_encoded_bytes();
    PathBuf::from(OsString::from_vec(bytes.strip_suffix(DELETED).unwrap_or(bytes).to_vec()))
}

const DELETED: &[u8] = b" (deleted)";

/// One line of the file.
struct Entry<'a> {
    start: u64,
    end: u64,
    executable: bool,
    offset: u64,
    inode: u64,
    name: &'a [u8],
}

impl<'a> Entry<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let (range, rest) = field(line)?;
        let (permissions, rest) = field(rest)?;
        let (offset, rest) = field(rest)?;
        let (_device, rest) = field(rest)?;
        let (inode, rest) = field(rest)?;
        let dash = range.iter().position(|&byte| byte == b'-')?;
        let (start, end) = (hex(&range[..dash])?, hex(&range[dash + 1..])?);
        let inode = std::str::from_utf8(inode).ok()?.parse().ok()?;
        let name = rest.trim_ascii_start();
        (start < end && permissions.len() == 4).then_some(Self {
            start,
            end,
            executable: permissions.get(2) == Some(&b'x'),
            offset: hex(offset)?,
            inode,
            name,
        })
    }

    fn module(&self, header: Option<u64>) -> Module {
        let deleted = self.inode != 0 && self.name.ends_with(DELETED);
        let stem = if deleted { &self.name[..self.name.len() - DELETED.len()] } else { self.name };
        let (kind, path) = match stem {
            b"[vdso]" => (ModuleKind::Vdso, stem.to_vec()),
            _ if self.inode != 0 => (ModuleKind::Elf, unescape(stem)),
            b"" => (ModuleKind::Jit, b"[jit]".to_vec()),
            _ => (ModuleKind::Jit, stem.to_vec()),
        };
        Module {
            start: self.start,
            end: self.end,
            file_offset: if kind == ModuleKind::Elf { self.offset } else { 0 },
            path: PathBuf::from(OsString::from_vec(path)),
            build_id: String::new(),
            kind,
            deleted,
            inode: self.inode,
            header: if kind == ModuleKind::Vdso { Some(self.start) } else { header },
            fingerprint: 0,
        }
    }
}

fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.trim_ascii_start();
    let end = line.iter().position(|&byte| byte == b' ').unwrap_or(line.len());
    (end > 0).then(|| line.split_at(end))
}

fn hex(digits: &[u8]) -> Option<u64> {
    // from_str_radix would take a sign as well.
    let digits = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
    u64::from_str_radix(digits, 16).ok()
}

/// The kernel writes a newline in a path as `\012`, and nothing else in another way than it is.
fn unescape(name: &[u8]) -> Vec<u8> {
    const NEWLINE: &[u8] = b"\\012";
    let mut path = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(NEWLINE) {
            path.push(b'\n');
            rest = tail;
        } else {
            path.push(byte);
            rest = tail;
        }
    }
    path
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: &[u8] = b"\
55d0c0000000-55d0c0001000 r--p 00000000 08:01 42                         /opt/my app/bin\\012x
55d0c0001000-55d0c0002000 r-xp 00001000 08:01 42                         /opt/my app/bin\\012x
55d0c0002000-55d0c0003000 r-xp 00002000 08:01 42                         /opt/my app/bin\\012x
55d0c0003000-55d0c0004000 rw-p 00003000 08:01 42                         /opt/my app/bin\\012x
7f0000000000-7f0000010000 rwxp 00000000 00:00 0
7f0000010000-7f0000020000 rwxp 00000000 00:00 0
7f0000020000-7f0000030000 r--p 00000000 08:01 43                         /lib/a.so (deleted)
7f0000030000-7f0000040000 r-xp 00010000 08:01 43                         /lib/a.so (deleted)
7f0000050000-7f0000060000 r-xs 00000000 00:01 99                         /memfd:code (deleted)
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";

    #[test]
    fn reads_what_the_kernel_writes() {
        let modules = parse(TEXT, Some(Path::new("/lib/a.so")));
        let seen: Vec<_> = modules.iter().map(|m| (m.path.to_str().unwrap(), m.kind, m.deleted)).collect();
        assert_eq!(
            seen,
            [
                ("/lib/a.so", ModuleKind::Elf, true),
                ("/opt/my app/bin\nx", ModuleKind::Elf, false),
                ("[jit]", ModuleKind::Jit, false),
                ("/memfd:code", ModuleKind::Elf, true),
                ("[vdso]", ModuleKind::Vdso, false),
            ]
        );
        assert_eq!(
            (modules[1].start, modules[1].end),
            (0x55d0c0001000, 0x55d0c0003000),
            "neighbours are one"
        );
        assert_eq!(modules[1].header, Some(0x55d0c0000000));
        assert_eq!(modules[1].offset(0x55d0c0002010), 0x2010);
        assert_eq!(modules[2].end - modules[2].start, 0x20000);
        assert_eq!(modules[0].header, Some(0x7f0000020000));
        assert_eq!(modules[4].header, Some(0x7ffd00000000));
        assert_eq!(modules[1].name(), "bin\nx");
    }

    #[test]
    fn passes_over_what_is_not_a_mapping() {
        for line in [
            "",
            " ",
            "-",
            "x-y r-xp 0 0:0 0",
            "2000-1000 r-xp 0 08:01 1 /a",
            "1000-2000 r-xp 0 08:01",
            "1000-2000 x",
            "1000-2000 r-xp zz 08:01 1 /a",
            "+1000-2000 r-xp 0 08:01 1 /a",
            "1000-2000 rx 0 08:01 1 /a",
            "11111111111111111-22222222222222222 r-xp 0 08:01 1 /a",
            "1000-2000 r-xp 0 08:01 -1 /a",
        ] {
            assert_eq!(parse(line.as_bytes(), None), [], "{line:?}");
        }
        let mut noise = 0x9e3779b97f4a7c15u64;
        for _ in 0..2000 {
            let mut text = TEXT.to_vec();
            for _ in 0..8 {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                let place = noise as usize % text.len();
                text[place] = (noise >> 32) as u8;
            }
            for module in parse(&text, None) {
                assert!(module.start < module.end);
            }
        }
    }

    #[test]
    fn finds_this_process() {
        let modules = own().unwrap();
        let here = finds_this_process as *const () as u64;
        assert!(modules[0].contains(here), "the main binary comes first: {:x?}", modules[0]);
        let vdso = modules.iter().find(|module| module.kind == ModuleKind::Vdso).unwrap();
        assert_eq!(vdso.build_id.len(), 40, "{vdso:?}");
        let libc = modules.iter().find(|module| module.name().starts_with("libc.so")).unwrap();
        assert!(libc.fingerprint != 0 && libc.build_id.len() == 40, "{libc:?}");
    }
}
