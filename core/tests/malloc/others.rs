//! Allocators of others, and processes that are made of this one.

use std::ffi::c_void;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use everprof::profile::Kind;

use super::c::{Library, compile};
use super::{common, is_about, profiles, start, sums, total};

const OWN: &str = include_str!("own.c");
const USER: &str = include_str!("user.c");
const NEW: &str = include_str!("new.cpp");

/// A library with an allocator of its own, one that gets that by the way it is loaded, and one that gets the program's. What
/// goes back to the wrong one ends the process.
pub(super) fn own_allocator() {
    let dir = common::directory("malloc-own");
    let own = compile(&dir, "own", OWN, &[]);
    let link = format!("-L{}", dir.display());
    let rpath = format!("-Wl,-rpath,{}", dir.display());
    // Slots that are filled at the first call, before and after there are hooks, and at once.
    let user = |name, binding, flags| {
        let flags = flags | libc::RTLD_LOCAL;
        Library::open(
            &compile(&dir, name, USER, &[&link, &rpath, "-Wl,--no-as-needed", "-lown", binding]),
            flags,
        )
    };
    let bound = libc::RTLD_DEEPBIND;
    let users = [
        user("a", "-Wl,-z,lazy", libc::RTLD_LAZY | bound),
        user("b", "-Wl,-z,now", libc::RTLD_NOW | bound),
        user("c", "-Wl,-z,lazy", libc::RTLD_LAZY),
        user("d", "-Wl,-z,now", libc::RTLD_NOW),
    ];
    let own = Library::open(&own, libc::RTLD_NOW);
    // SAFETY: the functions have these types.
    let counts = ["own_given", "own_taken"].map(|name| unsafe { own.find::<extern "C" fn() -> u64>(name) });
    // SAFETY: as above.
    let inside: extern "C" fn() -> i32 = unsafe { own.find("own_inside") };
    // SAFETY: as above.
    let works = users.map(|user| unsafe { user.find::<extern "C" fn(i32) -> i32>("user_works") });
    // SAFETY: as above.
    let allocates =
        users.map(|user| unsafe { user.find::<extern "C" fn(usize) -> *mut c_void>("user_allocates") });
    // SAFETY: as above.
    let frees = users.map(|user| unsafe { user.find::<extern "C" fn(*mut c_void)>("user_frees") });
    // From before the start, to be freed during it.
    let early = allocates.map(|allocate| allocate(1000));
    let profiler = start(&dir, 1024, &[]);
    let late = allocates.map(|allocate| allocate(1000));
    for (free, block) in frees.iter().zip(early) {
        free(block);
    }
    for round in 0..3 {
        for work in works {
            assert_eq!(work(500), 0);
        }
        assert_eq!(inside(), 0);
        if round == 1 && std::env::var_os("LD_PRELOAD").is_none() {
            // Slots that were not filled are looked at a second time.
            std::thread::sleep(Duration::from_secs(3));
        }
    }
    common::stop(profiler);
    for (free, block) in frees.iter().zip(late) {
        free(block);
    }
    for work in works {
        assert_eq!(work(100), 0);
    }
    let [given, taken] = counts.map(|count| count());
    assert!(given == taken && given > 6000, "{given} {taken}");
    common::remove(&dir);
}

/// Allocators that this machine has to be loaded into any program.
fn allocators() -> Vec<PathBuf> {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];
    let names = ["libjemalloc.so.2", "libtcmalloc_minimal.so.4", "libmimalloc.so.2"];
    let all = folders.iter().flat_map(|folder| names.map(|name| Path::new(folder).join(name)));
    let found: Vec<PathBuf> = all.filter(|path| path.exists()).collect();
    if found.is_empty() {
        common::skip(
            "allocators of others",
            "libjemalloc2, libtcmalloc-minimal4 and libmimalloc2.0 are not installed",
        );
    }
    found
}

fn under(allocator: &Path, case: &str) {
    let mut command: Command = common::this_program();
    let status = command.env("EVERPROF_TEST_CASE", case).env("LD_PRELOAD", allocator).status().unwrap();
    println!("{case} under {}: {status}", allocator.display());
    assert!(status.success());
}

/// The slots hold its functions then, those of the C library for itself too.
pub(super) fn preloaded() {
    for allocator in allocators() {
        under(&allocator, "rust_on_the_systems_allocator_is_told_once");
        under(&allocator, "calls_of_the_c_library_and_tables_are_seen");
        under(&allocator, "slots_are_given_back");
        under(&allocator, "blocks_go_back_to_their_allocator");
    }
}

/// `operator new` calls `malloc`, or is the allocator's itself: one allocation either way.
pub(super) fn operators() {
    if std::env::var_os("LD_PRELOAD").is_none() {
        for allocator in allocators() {
            under(&allocator, "an_allocators_operators_are_counted_once");
        }
    }
    let dir = common::directory("malloc-new");
    std::fs::create_dir_all(&dir).unwrap();
    let library = compile(&dir, "new", NEW, &["-std=c++17"]);
    let library = Library::open(&library, libc::RTLD_NOW);
    let profiler = start(&dir, 16_384, &[]);
    everprof_probe::heap::seed(15);
    for (name, size, count) in
        [("new_plain", 3000, 3000), ("new_aligned", 256, 20_000), ("new_nothrow", 3000, 3000)]
    {
        // SAFETY: the functions have this type.
        let allocate: extern "C" fn(i32) -> i32 = unsafe { library.find(name) };
        assert_eq!(allocate(count), count);
        common::flush(&profiler);
        let told = total(&dir, Kind::Alloc, name);
        assert!(is_about(told[1], count as u64, size, 16_384.0), "{name}: {told:?}");
    }
    // SAFETY: the function has this type.
    let throws: extern "C" fn() -> i32 = unsafe { library.find("new_throws") };
    // Where mimalloc was built as C, it ends the process instead.
    if !std::env::var("LD_PRELOAD").is_ok_and(|allocator| allocator.contains("mimalloc")) {
        assert!((0..1000).all(|_| throws() == 1));
    }
    common::flush(&profiler);
    assert_eq!(total(&dir, Kind::Alloc, "new_throws")[2..], [0; 2]);
    let live = profiles(&dir, Kind::Heap).pop().unwrap();
    for name in ["new_plain", "new_aligned", "new_nothrow"] {
        assert_eq!(sums(&live, name)[2..], [0; 2], "{name}");
    }
    common::stop(profiler);
    common::remove(&dir);
}

#[inline(never)]
fn parent_keeps(count: usize) -> Vec<Vec<u8>> {
    black_box((0..count).map(|_| black_box(vec![1_u8; 5000])).collect())
}

#[inline(never)]
fn child_keeps(count: usize) -> Vec<Vec<u8>> {
    black_box((0..count).map(|_| black_box(vec![1_u8; 5000])).collect())
}

/// A fork's child has an account of its own, that begins empty; what it does to its copies is nothing to the parent.
pub(super) fn child() {
    let dir = common::directory("malloc-child");
    let profiler = start(&dir, 4096, &[]);
    everprof_probe::heap::seed(16);
    let kept = parent_keeps(1000);
    for round in 0..4 {
        // SAFETY: the child runs ordinary code, as programs that fork do.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            while !profiler.stats().running {
                std::thread::sleep(Duration::from_millis(20));
            }
            everprof_probe::heap::set_interval(4096);
            let own = child_keeps(500);
            drop(kept);
            common::flush(&profiler);
            if round == 3 {
                // What it has not given back is told at the end as well.
                std::mem::forget(own);
            }
            // SAFETY: runs the handlers of exit.
            unsafe { libc::exit(0) };
        }
        let mut status = 0;
        // SAFETY: the pointer is to a live value.
        unsafe { libc::waitpid(pid, &mut status, 0) };
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:x}");
    }
    common::flush(&profiler);
    let mut of = [0; 2];
    for heap in profiles(&dir, Kind::Heap) {
        let (parent, child) = (sums(&heap, "parent_keeps"), sums(&heap, "child_keeps"));
        assert!(parent == [0; 4] || child == [0; 4], "one account for two: {parent:?} {child:?}");
        if child[1] > 0 {
            assert!(is_about(child[1] - 12_000, 500, 5000, 4096.0) && child[3] == child[1], "{child:?}");
            of[1] += 1;
        }
        if parent[3] > 0 {
            assert!(is_about(parent[3] - 24_000, 1000, 5000, 4096.0), "{parent:?}");
            of[0] += 1;
        }
    }
    assert!(of[0] == 1 && of[1] == 4, "{of:?}");
    drop(kept);
    common::stop(profiler);
    common::remove(&dir);
}
