//! C code that is compiled now, and loaded by `dlopen`.

use std::ffi::{CString, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles `source`, of this folder, into a library in `dir`. Panics without a compiler: `cargo` needs one as well.
pub(crate) fn compile(dir: &Path, name: &str, source: &str, flags: &[&str]) -> PathBuf {
    std::fs::create_dir_all(dir).unwrap();
    let is_c = !source.contains("#include <new>");
    let (compiler, end) = if is_c { ("cc", "c") } else { ("c++", "cpp") };
    let (file, library) = (dir.join(format!("{name}.{end}")), dir.join(format!("lib{name}.so")));
    std::fs::write(&file, source).unwrap();
    let made = Command::new(compiler)
        .args(["-O1", "-g", "-shared", "-fPIC", "-fno-builtin", "-o"])
        .arg(&library)
        .arg(&file)
        .args(flags)
        .status();
    assert!(made.unwrap().success());
    library
}

/// A loaded library; it stays loaded unless it is closed.
#[derive(Clone, Copy)]
pub(crate) struct Library(*mut c_void);

// SAFETY: a handle of the loader's is for any thread.
unsafe impl Send for Library {}

impl Library {
    pub(crate) fn open(path: &Path, flags: i32) -> Library {
        let path = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the libraries of these tests have no constructors.
        let handle = unsafe { libc::dlopen(path.as_ptr(), flags) };
        assert!(!handle.is_null());
        Library(handle)
    }

    /// A function of the library.
    ///
    /// # Safety
    ///
    /// It has to be of the type `F`.
    pub(crate) unsafe fn find<F: Copy>(self, name: &str) -> F {
        let name = CString::new(name).unwrap();
        // SAFETY: the handle is live, the name is a C string.
        let function = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!function.is_null(), "{name:?}");
        assert_eq!(size_of::<F>(), size_of::<*mut c_void>());
        // SAFETY: the caller's promise; both are one address.
        unsafe { std::mem::transmute_copy(&function) }
    }

    /// Unloads it. Nobody may call it any more.
    pub(crate) fn close(self) {
        // SAFETY: the handle is live.
        unsafe { libc::dlclose(self.0) };
    }
}
