//! What is asked of the interpreter by name, once, off the handler: a wheel for all versions links none of it.

use core::ffi::{CStr, c_void};
use core::ops::Range;

use pyo3::Python;

use super::cold;
use super::tls::Variable;

/// Functions and objects of the interpreter.
#[derive(Clone, Debug)]
pub(super) struct Symbols {
    /// The calling thread's state, 0 where there is none. Before 3.15, a call of `pthread_getspecific`.
    pub(super) thread_state: Variable,
    /// The state of the thread that holds the interpreter's lock, as the calling thread sees it; that of its own, where it does. `None`
    /// where the handler cannot tell.
    pub(super) holder: Option<Variable>,
    /// Whether the interpreter is about to end: then states of threads are freed that still run.
    pub(super) is_finalizing: extern "C" fn() -> i32,
    /// The main interpreter, and the function that tells the newest of its threads' states.
    pub(super) interpreter: u64,
    pub(super) newest_state: extern "C" fn(u64) -> u64,
    /// The code of the interpreter's loop, and of its rare parts, where they are elsewhere.
    pub(super) eval: Vec<Range<u64>>,
    pub(super) code_type: u64,
    pub(super) text_type: u64,
    pub(super) bytes_type: u64,
    pub(super) frame_type: u64,
    pub(super) generator_types: [u64; 3],
    /// `_PyRuntime`, which begins with what the interpreter says of itself from 3.13 on.
    pub(super) runtime: Option<u64>,
    /// The whole of it, in which the main interpreter's lock is; empty where its size is not known.
    pub(super) runtime_words: Range<u64>,
}

impl Symbols {
    /// Those of the interpreter of this process, CPython 3.`minor`.
    pub(super) fn find(py: Python<'_>, minor: u8) -> Result<Self, String> {
        let need = |name: &CStr| {
            address(name).ok_or_else(|| format!("the interpreter has no {}", name.to_string_lossy()))
        };
        let first = |names: &[&CStr]| names.iter().find_map(|name| address(name));
        let finalizing = first(&[c"Py_IsFinalizing", c"_Py_IsFinalizing"])
            .ok_or("the interpreter does not say whether it ends")?;
        // Of 3.13 and newer, and of those before.
        let holder = first(&[c"PyThreadState_GetUnchecked", c"_PyThreadState_UncheckedGet"])
            .ok_or("the interpreter does not say who holds its lock")?;
        let thread_state = function(need(c"PyGILState_GetThisThreadState")?);
        let thread_state = match minor {
            ..15 => Variable::Asked(thread_state),
            _ => Variable::find(py, thread_state, true)?,
        };
        Ok(Self {
            thread_state,
            // Before 3.12, a word of the interpreter's.
            holder: Variable::find(py, function(holder), false).ok(),
            is_finalizing: flag(finalizing),
            interpreter: function(need(c"PyInterpreterState_Main")?)(),
            newest_state: member(need(c"PyInterpreterState_ThreadHead")?),
            eval: eval(need(c"_PyEval_EvalFrameDefault")?)?,
            code_type: need(c"PyCode_Type")?,
            text_type: need(c"PyUnicode_Type")?,
            bytes_type: need(c"PyBytes_Type")?,
            frame_type: need(c"PyFrame_Type")?,
            generator_types: [need(c"PyGen_Type")?, need(c"PyCoro_Type")?, need(c"PyAsyncGen_Type")?],
            runtime: address(c"_PyRuntime"),
            runtime_words: address(c"_PyRuntime").and_then(sized).map_or(0..0, |(words, _)| words),
        })
    }
}

fn address(name: &CStr) -> Option<u64> {
    // SAFETY: the name is a C string.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found as u64)
}

fn function(address: u64) -> extern "C" fn() -> u64 {
    // SAFETY: the interpreter's functions of these names take nothing and return a pointer.
    unsafe { core::mem::transmute::<usize, extern "C" fn() -> u64>(address as usize) }
}

fn member(address: u64) -> extern "C" fn(u64) -> u64 {
    // SAFETY: the interpreter's functions of these names take a pointer and return one.
    unsafe { core::mem::transmute::<usize, extern "C" fn(u64) -> u64>(address as usize) }
}

fn flag(address: u64) -> extern "C" fn() -> i32 {
    // SAFETY: the interpreter's functions of these names take nothing and return an int.
    unsafe { core::mem::transmute::<usize, extern "C" fn() -> i32>(address as usize) }
}

/// The code of the function at `address`, by the symbol's size.
fn eval(address: u64) -> Result<Vec<Range<u64>>, String> {
    let (main, base) = sized(address).ok_or("the size of the interpreter's loop is not known")?;
    let parts = cold::parts(&main, base);
    Ok(core::iter::once(main).chain(parts).collect())
}

/// What is at `address`, by the symbol's size, and where its object begins.
fn sized(address: u64) -> Option<(Range<u64>, u64)> {
    /// `RTLD_DL_SYMENT`.
    const SYMBOL: libc::c_int = 1;
    unsafe extern "C" {
        fn dladdr1(
            address: *const c_void,
            info: *mut libc::Dl_info,
            extra: *mut *const c_void,
            flags: libc::c_int,
        ) -> libc::c_int;
    }
    let mut info = core::mem::MaybeUninit::<libc::Dl_info>::uninit();
    let mut symbol = core::ptr::null::<c_void>();
    // SAFETY: both places are there to be written to.
    let found = unsafe { dladdr1(address as *const c_void, info.as_mut_ptr(), &raw mut symbol, SYMBOL) };
    if found == 0 || symbol.is_null() {
        return None;
    }
    // SAFETY: where it says so, the loader has stored the address of a symbol of an object that stays loaded.
    let size = unsafe { (*symbol.cast::<libc::Elf64_Sym>()).st_size };
    if size == 0 {
        return None;
    }
    // SAFETY: the loader has written to it, as it says.
    let base = unsafe { info.assume_init() }.dli_fbase as u64;
    Some((address..address + size, base))
}
