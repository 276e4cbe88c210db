//! Functions by their names, as the dynamic loader knows them. Off the handler, and not while the loader's lock is held.

use core::ffi::{CStr, c_char, c_void};

/// The longest name that is asked for.
const LONGEST: usize = 64;

/// The address of a function in the version that the program would get by linking with it now, or in a version by name; 0
/// where there is none.
pub(crate) fn symbol(name: &[u8], version: Option<&[u8]>) -> usize {
    let Some(name) = terminated(name) else { return 0 };
    let Some(version) = version else { return find(libc::RTLD_DEFAULT, &name) };
    let Some(version) = terminated(version) else { return 0 };
    // By name: musl has no versions, and no such function.
    match symbol(b"dlvsym", None) {
        0 => find(libc::RTLD_DEFAULT, &name),
        with_version => {
            type WithVersion = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char) -> *mut c_void;
            // SAFETY: the C library's function of this name.
            let with_version: WithVersion = unsafe { core::mem::transmute(with_version) };
            // SAFETY: both are C strings.
            unsafe {
                with_version(libc::RTLD_DEFAULT, name.as_ptr().cast(), version.as_ptr().cast()) as usize
            }
        }
    }
}

/// The address of a function that the C library itself defines, whatever the executable has in its place; 0 where there is
/// none.
pub(crate) fn symbol_of_libc(name: &[u8]) -> usize {
    const NAMES: [&CStr; 5] =
        [c"libc.so.6", c"libpthread.so.0", c"libc.so", c"libc.musl-x86_64.so.1", c"libc.musl-aarch64.so.1"];
    let Some(name) = terminated(name) else { return 0 };
    for library in NAMES {
        // SAFETY: a C string; nothing is loaded.
        let handle = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        if handle.is_null() {
            continue;
        }
        let found = find(handle, &name);
        // SAFETY: the handle of above. The library stays, since the program uses it.
        unsafe { libc::dlclose(handle) };
        if found != 0 {
            return found;
        }
    }
    0
}

/// The version of the C library where that is GNU's, as in 2.36.
pub(crate) fn glibc() -> Option<(u32, u32)> {
    type Version = unsafe extern "C" fn() -> *const c_char;
    let version = symbol(b"gnu_get_libc_version", None);
    if version == 0 {
        return None;
    }
    // SAFETY: the C library's function of this name.
    let version: Version = unsafe { core::mem::transmute(version) };
    // SAFETY: no preconditions.
    let version = unsafe { version() };
    // SAFETY: a C string that stays.
    let text = unsafe { CStr::from_ptr(version) }.to_str().ok()?;
    let mut numbers = text.split('.').map_while(|number| number.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

fn find(handle: *mut c_void, name: &[u8; LONGEST]) -> usize {
    // SAFETY: a handle that is live or stands for all objects, and a C string.
    unsafe { libc::dlsym(handle, name.as_ptr().cast()) as usize }
}

fn terminated(name: &[u8]) -> Option<[u8; LONGEST]> {
    let mut with_end = [0; LONGEST];
    with_end.get_mut(..name.len()).filter(|_| name.len() < LONGEST)?.copy_from_slice(name);
    Some(with_end)
}
