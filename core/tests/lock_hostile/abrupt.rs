//! Waits that end abruptly, and mutexes that tell more than that they are free.

use everprof_probe::lock;

use super::c::{Library, compile};
use super::waits::{drain, prepare};
use super::{config, directory, remove};

pub(crate) fn ends_are_as_without_hooks() {
    let dir = directory("abrupt");
    let library = compile(&dir, "abrupt", include_str!("abrupt.cpp"), &["-pthread"]);
    let library = Library::open(&library, libc::RTLD_NOW);
    let ring = prepare();
    let patched = lock::start(config(1), ring);
    assert!(patched.changed > 0);
    for name in ["cancelled", "robust", "special_kinds"] {
        // SAFETY: the type that it has there.
        let function: extern "C" fn() -> i32 = unsafe { library.find(name) };
        assert_eq!(function(), 0, "{name}: the line that failed");
        let told = drain(ring);
        assert!(!told.waits.is_empty(), "{name}");
        // Each wait for a mutex of the first kind ended by who gave it back; of those for others most.
        assert!(name != "special_kinds" || told.releases > 10, "{name}: {} releases", told.releases);
    }
    lock::stop();
    remove(&dir);
}
