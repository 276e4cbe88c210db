//! Allocations in code whose call-frame information was not read yet: of a library with more code than is looked through before
//! anybody asks, and of one that was loaded a moment ago.

use std::ffi::{CString, c_char, c_void};
use std::hint::black_box;

use everprof::profile::Kind;

use super::c::{Library, compile};
use super::{common, start, total};

/// There is room for the stacks of some dozens.
const BLOCKS: i64 = 40;
const SIZE: usize = 1_000_000;

type Allocate = extern "C" fn(i64, usize, *mut *mut c_void);
type Copy = extern "C" fn(*const c_char) -> *mut c_void;

/// The first samples of each have their stack, to the root: at a moment at which our thread cannot have read it.
pub(super) fn first_samples() {
    let dir = common::directory("malloc-early");
    let [known, new] = ["known", "new"].map(|name| {
        let source = LIBRARY.replace("NAME", name);
        compile(&dir, name, &source, &["-fomit-frame-pointer"])
    });
    let mut blocks = vec![std::ptr::null_mut(); 2 * BLOCKS as usize];
    let (first, second) = blocks.split_at_mut(BLOCKS as usize);
    let open = |path: &_, name: &str| {
        let library = Library::open(path, libc::RTLD_NOW);
        // SAFETY: the function has this type.
        unsafe { library.find::<Allocate>(&format!("{name}_allocates")) }
    };
    let of_known = open(&known, "known");
    let profiler = start(&dir, 4096, &[]);
    program_allocates(of_known, first);
    // It is hooked where our thread sees it: until then it is not this that is told.
    let of_new = open(&new, "new");
    // At once: what it calls in the C library is hooked already, and nobody has seen yet that it is there.
    // SAFETY: the function has this type.
    let copies = unsafe { Library::open(&new, libc::RTLD_NOW).find::<Copy>("new_copies") };
    let text = CString::new(vec![b'x'; SIZE - 1]).unwrap();
    let copy = copies(text.as_ptr());
    let hooked = profiler.stats().alloc_slots;
    let seen = || {
        std::thread::sleep(std::time::Duration::from_micros(200));
        profiler.flush().unwrap();
        profiler.stats().alloc_slots > hooked
    };
    assert!((0..1000).any(|_| seen()));
    program_allocates(of_new, second);
    common::stop(profiler);
    let truth = BLOCKS * SIZE as i64;
    for name in ["known_allocates", "new_allocates", "known_inner", "new_inner"] {
        let told = total(&dir, Kind::Alloc, name)[1];
        println!("{name}: {told} of {truth}");
        assert_eq!(told, truth, "{name}");
    }
    let told = total(&dir, Kind::Alloc, "program_allocates")[1];
    assert_eq!(told, 2 * truth);
    let told = total(&dir, Kind::Alloc, "lang_start_internal")[1];
    assert!(told >= 2 * truth, "to the root: {told}");
    assert_eq!(total(&dir, Kind::Alloc, "new_copies")[1], SIZE as i64);
    for block in blocks.into_iter().chain([copy]) {
        // SAFETY: each block is freed once.
        unsafe { libc::free(block) };
    }
    common::remove(&dir);
}

#[inline(never)]
fn program_allocates(allocates: Allocate, blocks: &mut [*mut c_void]) {
    allocates(BLOCKS, SIZE, blocks.as_mut_ptr());
    black_box(blocks);
}

const LIBRARY: &str = r#"
#include <stdlib.h>
#include <string.h>

/* Code that nobody runs. */
__asm__(".text\n.skip 6000000, 0x90\n");

__attribute__((noinline)) static void *NAME_inner(long n, size_t size) {
    volatile char local[200];
    local[n % 200] = 1;
    void *block = malloc(size);
    return local[n % 200] ? block : 0;
}

__attribute__((noinline)) void NAME_allocates(long count, size_t size, void **blocks) {
    for (long n = 0; n < count; n++)
        blocks[n] = NAME_inner(n, size);
}

__attribute__((noinline)) static char *NAME_copy(const char *text) {
    volatile char local[100];
    local[1] = 1;
    char *copy = strdup(text);
    return local[1] ? copy : 0;
}

char *NAME_copies(const char *text) {
    volatile char local[100];
    local[1] = 1;
    char *copy = NAME_copy(text);
    return local[1] ? copy : 0;
}
"#;
