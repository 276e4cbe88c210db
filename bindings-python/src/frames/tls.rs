//! Variables of the interpreter's that each thread has its own of, read in the handler.
//!
//! To call the interpreter's function for one is safe there only where the function finds it by itself. In a shared library it asks
//! the loader, and that takes memory when a thread asks for the first time, or for the first time after libraries came: in a
//! handler that has interrupted `malloc`, a deadlock. So where the variable lies is learnt at start: at one distance from
//! every thread's pointer, where the library was there when the program began; and where it came later (a server that loads an
//! interpreter), by the thread's own table of such libraries (`dtv` in glibc's `tls.h`), which says whether it has the variable yet.

use core::ffi::{c_int, c_void};

use everprof_probe::memory;
use everprof_probe::regs::thread_pointer;

use pyo3::Python;

use super::raw::Piece;

/// From a thread's pointer to what refers to its table: `tcbhead_t` in glibc's `tls.h`.
const TABLE: u64 = if cfg!(target_arch = "x86_64") { 8 } else { 0 };
/// Of the table: bytes of an entry. How many there are is in the one before the first.
const ENTRY: u64 = 16;
/// Variables that are looked through.
const LARGEST: u64 = 64 * 1024;

/// Where a variable is, for any thread.
#[derive(Clone, Copy, Debug)]
pub(super) enum Variable {
    /// Where the function says, which needs nobody for it.
    Asked(extern "C" fn() -> u64),
    /// So far from the thread's pointer.
    Fixed(u64),
    /// In the memory that the library of this number has for the thread, if it has.
    Late { library: u64, offset: u64 },
}

/// What a library has for the calling thread.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// An address of the library, by which it is found.
    code: u64,
    is_found: bool,
    /// It is the program itself.
    is_program: bool,
    /// The library's number; 0 where it has no such variables.
    library: u64,
    start: u64,
    len: u64,
}

impl Variable {
    /// Its value on the calling thread; 0 where the thread does not have it yet. Async-signal-safe.
    #[inline]
    pub(super) fn read(self) -> u64 {
        match self {
            Self::Asked(function) => function(),
            Self::Fixed(distance) => {
                // SAFETY: every thread has this part of its memory from its start to its end.
                unsafe { Piece::new(thread_pointer().wrapping_add(distance), 8) }.word(0)
            }
            Self::Late { library, offset } => late(library, offset).unwrap_or(0),
        }
    }

    /// The variable that `function` tells, by its value: it is 0 while the thread is detached from the interpreter, or `stays` the same.
    /// Off the handler.
    ///
    /// # Errors
    ///
    /// Why it is not found.
    pub(super) fn find(
        py: Python<'_>,
        function: extern "C" fn() -> u64,
        stays: bool,
    ) -> Result<Self, String> {
        let block = Block::of(function as usize as u64);
        if !block.is_found {
            return Err("the interpreter's library is not known to the loader".into());
        }
        if block.is_program || block.library == 0 || cfg!(not(target_env = "gnu")) {
            return Ok(Self::Asked(function));
        }
        let value = function();
        let (attached, detached) = (block.words(), py.detach(|| block.words()));
        let meanwhile = if stays { value } else { 0 };
        let mut places =
            (0..).zip(attached.iter().zip(&detached)).filter(|(_, words)| *words == (&value, &meanwhile));
        let (Some((place, _)), None) = (places.next(), places.next()) else {
            return Err("the interpreter's variable of this thread is in no place, or in several".into());
        };
        let (offset, at) = (place * 8, block.start + place * 8);
        let fixed = Self::Fixed(at.wrapping_sub(thread_pointer()));
        if block.is_everywhere() {
            return Ok(fixed);
        }
        let found = Self::Late { library: block.library, offset };
        if found.read() == value {
            Ok(found)
        } else {
            Err("the thread's table of libraries is not as it was".into())
        }
    }
}

/// The variable at `offset` in what the thread has of a library that came late. By copies that the kernel makes: the table may be
/// about to be made larger.
fn late(library: u64, offset: u64) -> Option<u64> {
    let word = |address: u64| {
        let mut bytes = [0; 8];
        (memory::copy(address, &mut bytes) == 8).then(|| u64::from_ne_bytes(bytes))
    };
    let table = word(thread_pointer().wrapping_add(TABLE))?;
    if library > word(table.checked_sub(ENTRY)?)? {
        return None;
    }
    let start = word(table.checked_add(library.checked_mul(ENTRY)?)?)?;
    // What is not there yet is written as all ones.
    if start == 0 || start == u64::MAX { None } else { word(start.checked_add(offset)?) }
}

impl Block {
    /// That of the library in which that code lies.
    fn of(code: u64) -> Self {
        let mut block = Self { code, ..Self::default() };
        // SAFETY: `visit` takes what is passed here, and nobody else has it meanwhile.
        unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut block).cast()) };
        block
    }

    /// Whether all threads have it at one distance from their pointers: in the part of a thread's memory that the loader has set aside for
    /// what is there from the start. Where the loader does not say how large that is, another thread is asked.
    fn is_everywhere(self) -> bool {
        let distance = self.start.wrapping_sub(thread_pointer());
        if let Some(size) = set_aside() {
            // Before the pointer, or behind it.
            let from = if cfg!(target_arch = "x86_64") { distance.wrapping_neg() } else { distance };
            return from != 0 && from <= size;
        }
        let other = std::thread::Builder::new().name("everprof".into()).spawn(move || {
            let there = Self::of(self.code);
            there.start != 0 && there.start.wrapping_sub(thread_pointer()) == distance
        });
        other.ok().and_then(|thread| thread.join().ok()).unwrap_or(false)
    }

    fn words(&self) -> Vec<u64> {
        let len = self.len.min(LARGEST);
        // SAFETY: the loader has said so, and a thread keeps what it has of a library that stays.
        let piece = unsafe { Piece::new(self.start, len) };
        if self.start == 0 || self.start & 7 != 0 {
            Vec::new()
        } else {
            (0..len / 8).map(|at| piece.word(at * 8)).collect()
        }
    }
}

/// How many bytes of each thread's memory the loader has set aside; glibc's has said it to sanitizers since 2.1.
fn set_aside() -> Option<u64> {
    // SAFETY: the name is a C string.
    let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"_dl_get_tls_static_info".as_ptr()) };
    if function.is_null() {
        return None;
    }
    // SAFETY: glibc's function of this name writes two sizes.
    let tell =
        unsafe { core::mem::transmute::<*mut c_void, extern "C" fn(*mut usize, *mut usize)>(function) };
    let (mut size, mut alignment) = (0, 0);
    tell(&raw mut size, &raw mut alignment);
    (size != 0).then_some(size as u64)
}

/// Called for each object that is loaded.
unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _: usize, block: *mut c_void) -> c_int {
    // SAFETY: the loader passes a whole record.
    let info = unsafe { &*info };
    // SAFETY: `Block::of` passes its block, which nobody else has meanwhile.
    let block = unsafe { &mut *block.cast::<Block>() };
    // SAFETY: an object has so many headers there.
    let headers = unsafe { core::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let has_code = headers.iter().any(|header| {
        header.p_type == libc::PT_LOAD
            && block.code.wrapping_sub(info.dlpi_addr.wrapping_add(header.p_vaddr)) < header.p_memsz
    });
    if !has_code {
        return 0;
    }
    let len = headers.iter().find(|header| header.p_type == libc::PT_TLS).map_or(0, |header| header.p_memsz);
    // SAFETY: names are C strings, that of the program is empty.
    let is_program = info.dlpi_name.is_null() || unsafe { *info.dlpi_name } == 0;
    *block = Block {
        code: block.code,
        is_found: true,
        is_program,
        library: if len == 0 { 0 } else { info.dlpi_tls_modid as u64 },
        start: info.dlpi_tls_data.expose_provenance() as u64,
        len,
    };
    1
}
