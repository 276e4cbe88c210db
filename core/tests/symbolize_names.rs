//! Names of code that runs in this very process: the test binary, libc, the vDSO.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use everprof::symbolize::{Mode, Module, ModuleKind, Options, Symbolizer, Symbols, maps};

fn resolve(symbolizer: &mut Symbolizer, address: u64) -> Symbols {
    let modules = maps::own().unwrap();
    let module = modules.iter().find(|module| module.contains(address)).expect("a module holds the address");
    symbolizer.resolve(module, &[address]).remove(0)
}

fn names() -> Symbolizer {
    Symbolizer::new(Options { mode: Mode::Names, ..Options::default() })
}

#[inline(never)]
fn generic<T: std::fmt::Debug>(value: T) -> String {
    format!("{value:?}")
}

#[test]
fn functions_of_the_main_binary() {
    let symbols = resolve(&mut names(), generic::<u8> as *const () as u64 + 3);
    assert_eq!(symbols.len(), 1);
    assert!(symbols[0].name.starts_with("symbolize_names::generic"), "{}", symbols[0].name);
    assert!(symbols[0].system_name.starts_with("_R") || symbols[0].system_name.starts_with("_ZN"));
}

#[test]
fn functions_of_libc_by_the_name_that_people_use() {
    for (address, name) in [
        (libc::malloc as *const () as u64, "malloc"),
        (libc::qsort as *const () as u64, "qsort"),
        (libc::pthread_mutex_lock as *const () as u64, "pthread_mutex_lock"),
    ] {
        let symbols = resolve(&mut names(), address + 1);
        assert_eq!(&*symbols.first().expect("has a name").name, name);
    }
}

#[test]
fn functions_of_the_vdso() {
    let modules = maps::own().unwrap();
    let vdso: &Module = modules.iter().find(|module| module.kind == ModuleKind::Vdso).unwrap();
    let addresses: Vec<u64> = (vdso.start..vdso.end).step_by(16).collect();
    let symbols = names().resolve(vdso, &addresses);
    let named: Vec<&str> =
        symbols.iter().flat_map(|symbols| symbols.iter()).map(|frame| &*frame.name).collect();
    assert!(named.iter().any(|name| name.ends_with("clock_gettime")), "{named:?}");
}

#[test]
fn the_cache_answers_what_was_asked_before() {
    let mut symbolizer = names();
    let address = generic::<u8> as *const () as u64;
    let first = resolve(&mut symbolizer, address);
    let again = resolve(&mut symbolizer, address);
    assert_eq!(first, again);
    let stats = symbolizer.stats();
    assert_eq!((stats.addresses, stats.cached, stats.named, stats.files), (2, 1, 2, 1));
}

#[test]
fn off_names_nothing() {
    let mut symbolizer = Symbolizer::new(Options { mode: Mode::Off, ..Options::default() });
    assert!(resolve(&mut symbolizer, off_names_nothing as *const () as u64).is_empty());
}
