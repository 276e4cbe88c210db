//! What a program can notice: nothing.

use std::ffi::c_void;
use std::thread;

use everprof::profile::Kind;

use super::c::{Library, compile};
use super::{common, is_about, start, total};

const CHECKS: &str = include_str!("checks.c");
const SITES: &str = include_str!("sites.c");
const USER: &str = include_str!("user.c");

/// The same answers, `errno`, alignment and contents: without hooks, with each allocation a sample, and after the stop.
pub(super) fn answer_as_ever() {
    let dir = common::directory("malloc-calls");
    let library = Library::open(&compile(&dir, "checks", CHECKS, &[]), libc::RTLD_NOW);
    // SAFETY: the function has this type.
    let check: extern "C" fn() -> i32 = unsafe { library.find("check") };
    let check = move || assert_eq!(check(), 0, "checks.c, line");
    check();
    let profiler = start(&dir, 1024, &[("mmap", "on")]);
    check();
    thread::spawn(check).join().unwrap();
    common::flush(&profiler);
    assert!(profiler.stats().alloc_samples > 100, "{:?}", profiler.stats());
    common::stop(profiler);
    check();
    common::remove(&dir);
}

pub(super) fn slots_are_given_back() {
    let dir = common::directory("malloc-slots");
    let [now, lazy] = [("now", libc::RTLD_NOW), ("lazy", libc::RTLD_LAZY)]
        .map(|(name, flags)| Library::open(&compile(&dir, name, SITES, &["-Wl,-z,lazy"]), flags));
    // SAFETY: the functions have this type.
    let slots =
        [now, lazy].map(|library| unsafe { library.find::<extern "C" fn() -> *const c_void>("slot") });
    let before = slots.map(|slot| slot());
    for _ in 0..3 {
        let profiler = start(&dir, 65_536, &[]);
        let during = slots.map(|slot| slot());
        assert!(during[0] != before[0] && during[1] != before[1], "{before:?} {during:?}");
        common::stop(profiler);
        assert_eq!(slots.map(|slot| slot()), before);
        let mark = everprof_probe::heap::mark();
        drop(std::hint::black_box(vec![1_u8; 1000]));
        assert_eq!(everprof_probe::heap::mark(), mark, "nothing is counted any more");
    }
    common::remove(&dir);
}

/// Addresses that lie among code, which nobody can write to once the loader has.
pub(super) fn words_among_code() {
    const SOURCE: &str = r#"
        __asm__(".section .rodata\n.balign 8\n.hidden table\n.globl table\ntable: .quad malloc, free\n.text");
        extern const void *const table[] __attribute__((visibility("hidden")));
        const void *word(void) { return table[0]; }
        void *allocates(unsigned long size) { return ((void *(*)(unsigned long))table[0])(size); }
        void frees(void *block) { ((void (*)(void *))table[1])(block); }
    "#;
    let dir = common::directory("malloc-code");
    let library = Library::open(&compile(&dir, "code", SOURCE, &["-Wl,-z,notext"]), libc::RTLD_NOW);
    // SAFETY: the functions have these types.
    let word: extern "C" fn() -> *const c_void = unsafe { library.find("word") };
    // SAFETY: as above.
    let allocate: extern "C" fn(usize) -> *mut c_void = unsafe { library.find("allocates") };
    // SAFETY: as above.
    let free: extern "C" fn(*mut c_void) = unsafe { library.find("frees") };
    let before = word();
    let profiler = start(&dir, 1024, &[]);
    assert_eq!(word(), before);
    free(allocate(5000));
    common::stop(profiler);
    free(allocate(5000));
    common::remove(&dir);
}

/// Libraries that are loaded while everprof runs, whose slots are filled at once or at the first call; again and again.
pub(super) fn later() {
    let dir = common::directory("malloc-later");
    let flags = [("lazy", libc::RTLD_LAZY, "-Wl,-z,lazy"), ("now", libc::RTLD_NOW, "-Wl,-z,relro,-z,now")];
    let libraries = flags.map(|(name, flags, linked)| (compile(&dir, name, USER, &[linked]), flags));
    let profiler = start(&dir, 16_384, &[]);
    let mut allocated = 0;
    for round in 0..4 {
        for (path, flags) in &libraries {
            let library = Library::open(path, *flags);
            // SAFETY: the functions have these types.
            let allocate: extern "C" fn(usize) -> *mut c_void = unsafe { library.find("user_allocates") };
            // SAFETY: as above.
            let free: extern "C" fn(*mut c_void) = unsafe { library.find("user_frees") };
            // Its first calls may come before the hooks: they fill a slot that has none yet.
            if round % 2 == 0 {
                free(allocate(1));
            }
            let mark = everprof_probe::heap::mark;
            let is_hooked = || {
                let before = mark();
                let block = allocate(1);
                let is_counted = mark() != before;
                free(block);
                is_counted
            };
            assert!((0..600).any(|_| is_hooked() || {
                thread::sleep(std::time::Duration::from_millis(20));
                false
            }));
            let blocks: Vec<_> = (0..500).map(|_| allocate(5000)).collect();
            allocated += 500;
            blocks.into_iter().for_each(|block| free(block));
            library.close();
        }
    }
    common::flush(&profiler);
    let told = total(&dir, Kind::Alloc, "user_allocates");
    assert!(is_about(told[1], allocated, 5000, 16_384.0), "{told:?}");
    common::stop(profiler);
    common::remove(&dir);
}

/// Blocks that are given back by C23's functions, which say how large they were. This C library may not have them: then a
/// library has, by a function of the C library's that is not hooked.
pub(super) fn sized() {
    const SOURCE: &str = r#"
        #include <stdlib.h>
        extern void __libc_free(void *);
        void free_sized(void *block, size_t size) { (void)size; __libc_free(block); }
        void free_aligned_sized(void *block, size_t alignment, size_t size) {
            (void)alignment; (void)size; __libc_free(block);
        }
    "#;
    const CALLER: &str = r#"
        #include <stdlib.h>
        void free_sized(void *, size_t);
        void free_aligned_sized(void *, size_t, size_t);
        __attribute__((noinline)) void *caller_allocates(void) { void *volatile block = malloc(1000000); return block; }
        __attribute__((noinline)) void *caller_aligns(void) { void *volatile block = aligned_alloc(64, 1000000); return block; }
        void caller_frees(void *block, void *aligned) {
            free_sized(block, 1000000);
            free_aligned_sized(aligned, 64, 1000000);
        }
    "#;
    let dir = common::directory("malloc-sized");
    let functions = compile(&dir, "functions", SOURCE, &[]);
    Library::open(&functions, libc::RTLD_NOW | libc::RTLD_GLOBAL);
    let caller = Library::open(&compile(&dir, "caller", CALLER, &[]), libc::RTLD_NOW);
    // SAFETY: the functions have these types.
    let allocate = ["caller_allocates", "caller_aligns"]
        .map(|name| unsafe { caller.find::<extern "C" fn() -> *mut c_void>(name) });
    // SAFETY: as above.
    let free: extern "C" fn(*mut c_void, *mut c_void) = unsafe { caller.find("caller_frees") };
    let profiler = start(&dir, 1024, &[]);
    let live = |name| super::profiles(&dir, Kind::Heap).last().map_or(0, |heap| super::sums(heap, name)[3]);
    let [block, aligned] = allocate.map(|allocate| allocate());
    common::flush(&profiler);
    assert_eq!(["caller_allocates", "caller_aligns"].map(live), [1_000_000; 2]);
    free(block, aligned);
    common::flush(&profiler);
    assert_eq!(["caller_allocates", "caller_aligns"].map(live), [0; 2]);
    common::stop(profiler);
    common::remove(&dir);
}

/// Many libraries, each with slots that are read-only by now: how long it takes to hook them all.
pub(super) fn many() {
    const SOURCE: &str = r#"
        #include <stdlib.h>
        #include <malloc.h>
        void *many_allocates(size_t n) {
            void *block = malloc(n), *other = calloc(n, 1);
            block = realloc(block, 2 * n);
            free(other);
            other = aligned_alloc(64, 64 * n);
            free(other);
            free(memalign(64, n));
            free(valloc(n));
            free(reallocarray(0, n, 2));
            if (posix_memalign(&other, 64, n) == 0) free(other);
            return block;
        }
    "#;
    const LIBRARIES: usize = 200;
    let dir = common::directory("malloc-many");
    let first = compile(&dir, "many", SOURCE, &["-Wl,-z,relro,-z,now"]);
    let libraries: Vec<Library> = (0..LIBRARIES)
        .map(|number| {
            let path = dir.join(format!("lib{number}.so"));
            std::fs::copy(&first, &path).unwrap();
            Library::open(&path, libc::RTLD_NOW)
        })
        .collect();
    let config = everprof_probe::malloc::Config { mappings: false };
    for _ in 0..3 {
        let begin = std::time::Instant::now();
        let patched = everprof_probe::malloc::start(config);
        println!("{patched:?} in {:?}", begin.elapsed());
        assert!(patched.changed >= 9 * LIBRARIES && patched.refused == 0);
        for library in libraries.iter().take(3) {
            // SAFETY: the function has this type.
            let allocate: extern "C" fn(usize) -> *mut c_void = unsafe { library.find("many_allocates") };
            let mark = everprof_probe::heap::mark();
            let block = allocate(100);
            assert!(everprof_probe::heap::mark().wrapping_sub(mark) >= 8);
            // SAFETY: it was just allocated.
            unsafe { libc::free(block) };
        }
        let begin = std::time::Instant::now();
        let removed = everprof_probe::malloc::stop();
        println!("{removed:?} out {:?}", begin.elapsed());
        assert_eq!(removed.changed, patched.changed);
        // What was read-only is so again.
        assert_eq!(writable_slots(&dir), 0);
    }
    common::remove(&dir);
}

/// How many mappings of libraries in `dir` can be written to, beside the one that each has for its data.
fn writable_slots(dir: &std::path::Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let of_dir = maps.lines().filter(|line| line.contains(&*dir.to_string_lossy()));
    let mut writable = std::collections::HashMap::new();
    for line in of_dir.filter(|line| line.split(' ').nth(1).is_some_and(|flags| flags.contains('w'))) {
        *writable.entry(line.rsplit(' ').next().unwrap()).or_insert(0_usize) += 1;
    }
    writable.values().map(|count| count.saturating_sub(1)).sum()
}
